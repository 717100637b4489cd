"""A pool of examples that peers draw from, with a test set that judges all of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from quidnunc.crypto.errors import ConfigError
from quidnunc.gossip.learning.builtin import Rows, breast_cancer_rows, digits_rows, split_test
from quidnunc.sim.data.images import read_images
from quidnunc.sim.data.spec import DataSpec
from quidnunc.sim.data.tables import read_tables

Inputs = NDArray[np.float32]
Labels = NDArray[np.int64]

_SYNTHETIC_BYTES_MAX = 4 << 30


@dataclass(frozen=True, slots=True, eq=False)
class Pool:
    """Examples to learn from, float32 [n, f] and int64 [n] below ``classes``, and the same for testing.

    ``shape`` is what one row of inputs was before it was made flat. ``groups`` int64 [n] says which site of
    ``group_names`` an example comes from; None where a source has no sites.
    """

    name: str
    inputs: Inputs
    labels: Labels
    test_inputs: Inputs
    test_labels: Labels
    classes: int
    shape: tuple[int, ...]
    groups: Labels | None = None
    group_names: tuple[str, ...] = ()

    @property
    def features(self) -> int:
        return int(self.inputs.shape[1])


def load_pool(spec: DataSpec, seed: int = 0, base: Path | None = None) -> Pool:
    """The pool that ``spec`` names; relative paths are looked for in ``base``. ``seed`` draws synthetic examples only.

    Raises ConfigError for a file that is missing or no such data.
    """
    needs_path = spec.source in ("csv", "images")
    if needs_path and not spec.path:
        raise ConfigError(f"data.path is empty with source {spec.source!r}", hint="name a file or a directory")
    if spec.path and not needs_path:
        raise ConfigError(f"data.path = {spec.path[:80]!r} with source {spec.source!r}", hint="leave path out")
    for name, value, source in (
        ("labels", spec.labels, "images"),
        ("schema", spec.schema, "csv"),
        ("target", spec.target, "csv"),
    ):
        if value and spec.source != source:
            raise ConfigError(
                f"data.{name} = {value[:80]!r} with source {spec.source!r}",
                hint=f"it is for {source}: leave {name} out",
            )
    return _LOADERS[spec.source](spec, seed, base or Path())


def _builtin(name: str, rows: Rows, shape: tuple[int, ...] = ()) -> Pool:
    shared, tested = split_test(len(rows.labels), rows.test)
    inputs = rows.inputs.astype(np.float32)
    labels = rows.labels.astype(np.int64)
    return Pool(
        name,
        inputs[shared],
        labels[shared],
        inputs[tested],
        labels[tested],
        int(labels.max()) + 1,
        shape or inputs.shape[1:],
    )


def _images(spec: DataSpec, seed: int, base: Path) -> Pool:
    path = base / Path(spec.path).expanduser()
    images, labels = read_images(path, base / Path(spec.labels).expanduser() if spec.labels else None)
    flat = images.reshape(len(images), -1)
    test = max(1, round(spec.test_share * len(flat)))
    if test >= len(flat):
        raise ConfigError(f"{path}: {len(flat)} images, too few to test with", hint="use at least 2 images")
    shared, tested = split_test(len(flat), test)
    return Pool(
        path.name,
        flat[shared],
        labels[shared],
        flat[tested],
        labels[tested],
        int(labels.max()) + 1,
        images.shape[1:],
    )


def _csv(spec: DataSpec, seed: int, base: Path) -> Pool:
    schema = base / Path(spec.schema).expanduser() if spec.schema else None
    sites = read_tables(base / Path(spec.path).expanduser(), schema, spec.target)
    trained = [site.train for site in sites]
    tested = [site.test for site in sites]
    groups = [np.full(len(part[1]), at, dtype=np.int64) for at, part in enumerate(trained)]
    inputs = np.concatenate([part[0] for part in trained])
    test_inputs = np.concatenate([part[0] for part in tested])
    if not len(test_inputs):
        raise ConfigError(f"{spec.path}: no rows are left for testing", hint="use larger tables")
    return Pool(
        Path(spec.path).name,
        inputs,
        np.concatenate([part[1] for part in trained]),
        test_inputs,
        np.concatenate([part[1] for part in tested]),
        2,
        inputs.shape[1:],
        np.concatenate(groups),
        tuple(site.name for site in sites),
    )


def _synthetic(spec: DataSpec, seed: int, base: Path) -> Pool:
    """Gaussian clouds around centers of independent standard normal coordinates."""
    size = 4 * spec.pool * spec.features
    if size > _SYNTHETIC_BYTES_MAX:
        raise ConfigError(
            f"data.pool = {spec.pool} with {spec.features} features: {size:,} bytes, at most {_SYNTHETIC_BYTES_MAX:,}",
            hint="lower data.pool or data.features",
        )
    generator = np.random.Generator(np.random.PCG64([seed, 0x5EED]))
    centers = generator.standard_normal((spec.classes, spec.features), dtype=np.float32)
    labels = generator.integers(0, spec.classes, size=spec.pool)
    inputs = generator.standard_normal((spec.pool, spec.features), dtype=np.float32)
    inputs = inputs * np.float32(spec.spread) + centers[labels]
    test = min(spec.pool - 1, max(1, round(spec.test_share * spec.pool)))
    return Pool(
        "synthetic",
        inputs[test:],
        labels[test:],
        inputs[:test],
        labels[:test],
        spec.classes,
        (spec.features,),
    )


_LOADERS: Mapping[str, Callable[[DataSpec, int, Path], Pool]] = {
    "digits": lambda spec, seed, base: _builtin("digits", digits_rows(), (8, 8)),
    "breast-cancer": lambda spec, seed, base: _builtin("breast-cancer", breast_cancer_rows()),
    "csv": _csv,
    "images": _images,
    "synthetic": _synthetic,
}
