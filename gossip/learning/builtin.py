"""Tasks that need no data of the user's: handwritten digits and breast cancer, split among peers.

Both come with scikit-learn (Bunch, UCI), so nothing is downloaded. torch is imported by the task functions only,
scikit-learn is not imported at all. The defaults at the end of this page are what ``federation create`` writes
into a charter.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from quidnunc.crypto.errors import ConfigError
from quidnunc.gossip.learning.partition import dirichlet
from quidnunc.gossip.task import Site, Task, TaskFunction, Training

if TYPE_CHECKING:
    from torch import nn

_SPLIT_SEED = 2021
_HOLDOUT_SHARE = 0.15
_HOLDOUT_MIN = 8
_MIN_SHARD = 20

_CANCER_LOW = (
    *(6.981, 9.71, 43.79, 143.5, 0.053, 0.019, 0.0, 0.0, 0.106, 0.05),
    *(0.112, 0.36, 0.757, 6.802, 0.002, 0.002, 0.0, 0.0, 0.008, 0.001),
    *(7.93, 12.02, 50.41, 185.2, 0.071, 0.027, 0.0, 0.0, 0.156, 0.055),
)
_CANCER_HIGH = (
    *(28.11, 39.28, 188.5, 2501.0, 0.163, 0.345, 0.427, 0.201, 0.304, 0.097),
    *(2.873, 4.885, 21.98, 542.2, 0.031, 0.135, 0.396, 0.053, 0.079, 0.03),
    *(36.04, 49.54, 251.2, 4254.0, 0.223, 1.058, 1.252, 0.291, 0.664, 0.208),
)
_CANCER_SCALE = (-1.0, 3.0)


class Rows(NamedTuple):
    """A whole data set: scaled inputs [n, f], labels [n], and how many rows test (see :func:`split_test`)."""

    inputs: NDArray[np.float64]
    labels: NDArray[np.int64]
    test: int


@cache
def digits_rows() -> Rows:
    """1797 8x8 digits, pixels divided by 16; read once, the arrays are read-only."""
    table = _packaged("digits.csv.gz", header=0)
    return _rows(table[:, :-1] / 16.0, table[:, -1], 360)


@cache
def breast_cancer_rows() -> Rows:
    """569 biopsies of 30 measurements, scaled by the public ranges; see :func:`breast_cancer`. Read like digits."""
    table = _packaged("breast_cancer.csv", header=1)
    low, high = np.array(_CANCER_LOW), np.array(_CANCER_HIGH)
    least, most = _CANCER_SCALE
    return _rows(least + (most - least) * np.clip((table[:, :-1] - low) / (high - low), 0, 1), table[:, -1], 114)


def _packaged(name: str, header: int) -> NDArray[np.float64]:
    """A table among scikit-learn's files: the one place of this layer that reads any.

    Its own loaders give the same, after a second of imports in every compute process.
    """
    found = find_spec("sklearn")
    if found is None or not found.submodule_search_locations:
        raise ConfigError("scikit-learn is not installed; built-in data comes with it", hint="pip install scikit-learn")
    path = f"{found.submodule_search_locations[0]}/datasets/data/{name}"
    try:
        return np.loadtxt(path, delimiter=",", skiprows=header)
    except FileNotFoundError:
        raise ConfigError(f"scikit-learn has no {path}", hint="install the version requirements.lock names") from None


def _rows(inputs: NDArray[np.float64], labels: NDArray[np.float64], test: int) -> Rows:
    rows = Rows(inputs, labels.astype(np.int64), test)
    rows.inputs.flags.writeable = rows.labels.flags.writeable = False
    return rows


def split_test(examples: int, test: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The rows that are shared out and the ``test`` rows that test every peer, the same in every federation."""
    order = np.random.Generator(np.random.PCG64(_SPLIT_SEED)).permutation(examples)
    return order[test:], order[:test]


def digits(site: Site) -> Task:
    """1797 8x8 digits, pixels divided by 16; 1437 are shared out, the same 360 test every peer.

    ``site.options["model"]`` is ``softmax`` (default, 650 params) or ``mlp`` (64-32-10, 2410 params).
    """
    rows = digits_rows()
    return _task(site, rows.inputs, rows.labels, test=rows.test, sizes=(64, 32, 10))


def breast_cancer(site: Site) -> Task:
    """569 biopsies of 30 measurements, 455 shared out, 114 for testing; two classes.

    Columns are scaled to [-1, 3] by the ranges printed in the data set's public description, not by local
    statistics, which would have to be paid for under privacy. Sizes and textures have long upper tails, so that most
    of a range lies above most of its values: a quarter up is nearer to their middle, and a centered input needs no
    bias to undo it, which noise would drown. ``model`` is ``softmax`` (62 params) or ``mlp`` (30-16-2).
    """
    rows = breast_cancer_rows()
    return _task(site, rows.inputs, rows.labels, test=rows.test, sizes=(30, 16, 2))


BUILTIN: Mapping[str, TaskFunction] = {"digits": digits, "breast-cancer": breast_cancer}
"""Built-in tasks by the name a charter gives."""


def _task(
    site: Site, inputs: NDArray[np.float64], labels: NDArray[np.int64], test: int, sizes: tuple[int, int, int]
) -> Task:
    import torch

    from quidnunc.gossip.learning.losses import row_cross_entropy

    if not 0 <= site.index < site.peers:
        raise ConfigError(f"site index is {site.index}, must be 0 to {site.peers - 1}")
    name = str(site.options.get("model", "softmax"))
    if name not in ("softmax", "mlp"):
        raise ConfigError(f"option model is {name!r}, must be 'softmax' or 'mlp'")
    shared, tested = split_test(len(labels), test)
    shards = dirichlet(labels[shared], site.peers, site.alpha, site.seed, min_examples=_MIN_SHARD)
    mixer = np.random.Generator(np.random.PCG64([site.seed, site.index]))
    mine = shared[mixer.permutation(shards[site.index])]
    held = max(_HOLDOUT_MIN, round(_HOLDOUT_SHARE * len(mine)))

    def split(rows: NDArray[np.int64]) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.tensor(inputs[rows], dtype=torch.float32), torch.tensor(labels[rows], dtype=torch.int64)

    return Task(
        model=lambda: _model(name, sizes),
        loss=row_cross_entropy,
        train=split(mine[held:]),
        holdout=split(mine[:held]),
        test=split(tested),
    )


def _model(name: str, sizes: tuple[int, int, int]) -> nn.Module:
    from torch import nn

    if name == "softmax":
        return nn.Sequential(nn.Linear(sizes[0], sizes[2]))
    return nn.Sequential(nn.Linear(sizes[0], sizes[1]), nn.ReLU(), nn.Linear(sizes[1], sizes[2]))


@dataclass(frozen=True, slots=True)
class Defaults:
    """Training settings that suit a task: without privacy, and with it (there ``clip`` is the gradient bound)."""

    plain: Training
    private: Training
    clip: float


DEFAULTS: Mapping[str, Defaults] = {
    "digits": Defaults(
        plain=Training(learning_rate=1.0, momentum=0.0, local_steps=4, batch_size=32),
        private=Training(learning_rate=6.0),
        clip=1.0,
    ),
    "breast-cancer": Defaults(
        plain=Training(learning_rate=0.5, momentum=0.0, local_steps=4, batch_size=32),
        private=Training(learning_rate=2.0),
        clip=1.0,
    ),
    "csv": Defaults(
        plain=Training(learning_rate=0.5, momentum=0.0, local_steps=4, batch_size=32),
        private=Training(learning_rate=4.0),
        clip=1.0,
    ),
}
"""Measured for 4 to 8 peers and 50 rounds, with epsilon 8; ``tests/test_builtin.py`` holds them to their accuracy.

Those of ``csv``, whose function is in ``peer/csv_task.py`` because it reads files, on four hospitals: bench/heart.py.
"""
