"""Built-in data: fixed splits, shards that depend on the site only, and defaults that learn."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from learners import Scenario, run

from quidnunc.crypto.errors import ConfigError
from quidnunc.gossip import Site
from quidnunc.gossip.jobs import PrivacyStep
from quidnunc.gossip.learning.accountant import noise_for
from quidnunc.gossip.learning.builtin import BUILTIN, DEFAULTS, breast_cancer_rows, digits_rows
from quidnunc.gossip.learning.params import layout


def rows(part: tuple[torch.Tensor, torch.Tensor]) -> set[bytes]:
    return {row.numpy().tobytes() for row in part[0]}


@pytest.mark.parametrize(
    ("name", "shared", "tested", "least", "most"), [("digits", 1437, 360, 0, 1), ("breast-cancer", 455, 114, -1, 3)]
)
def test_shards_are_disjoint_complete_and_share_one_test_split(
    name: str, shared: int, tested: int, least: float, most: float
) -> None:
    tasks = [BUILTIN[name](Site(index=i, peers=5, seed=4)) for i in range(5)]
    sizes = [len(task.train[0]) + len(task.holdout[0]) for task in tasks]
    assert sum(sizes) == shared
    assert max(sizes) - min(sizes) <= 1
    for task in tasks:
        assert len(task.test[0]) == tested
        assert torch.equal(task.test[0], tasks[0].test[0])
        assert len(task.holdout[0]) == max(8, round(0.15 * (len(task.train[0]) + len(task.holdout[0]))))
        assert least <= float(task.train[0].min()) <= float(task.train[0].max()) <= most
    together = [row for task in tasks for row in rows(task.train) | rows(task.holdout)]
    assert len(set(together)) == len(together) == shared
    assert not set(together) & rows(tasks[0].test)


def test_the_rows_are_what_scikit_learn_loads() -> None:
    from sklearn.datasets import load_breast_cancer, load_digits

    pixels, digits = load_digits(return_X_y=True)
    assert np.array_equal(digits_rows().inputs, pixels / 16)
    assert np.array_equal(digits_rows().labels, digits)
    measured, kinds = load_breast_cancer(return_X_y=True)
    for scaled, column in zip(breast_cancer_rows().inputs.T, measured.T, strict=True):
        assert np.all(np.diff(scaled[np.argsort(column)]) >= 0)
        assert -1 <= scaled.min() < 0 < 1 < scaled.max() <= 3
    assert np.array_equal(breast_cancer_rows().labels, kinds)
    with pytest.raises(ValueError, match="read-only"):
        digits_rows().inputs[0, 0] = 1


def test_a_site_always_gets_the_same_shard() -> None:
    one, same = (BUILTIN["digits"](Site(index=2, peers=4, seed=1)) for _ in range(2))
    other = BUILTIN["digits"](Site(index=2, peers=4, seed=2))
    assert torch.equal(one.train[0], same.train[0])
    assert one.train[0].shape != other.train[0].shape or not torch.equal(one.train[0], other.train[0])


@pytest.mark.parametrize(
    ("name", "model", "dim"),
    [
        ("digits", "softmax", 650),
        ("digits", "mlp", 2410),
        ("breast-cancer", "softmax", 62),
        ("breast-cancer", "mlp", 530),
    ],
)
def test_models_have_the_documented_size(name: str, model: str, dim: int) -> None:
    task = BUILTIN[name](Site(options={"model": model}))
    assert layout(task.model())[-1].stop == dim


def test_mistakes_are_named() -> None:
    with pytest.raises(ConfigError, match="option model is 'cnn', must be 'softmax' or 'mlp'"):
        BUILTIN["digits"](Site(options={"model": "cnn"}))
    with pytest.raises(ConfigError, match="site index is 3, must be 0 to 2"):
        BUILTIN["digits"](Site(index=3, peers=3))
    with pytest.raises(ConfigError, match="below 20 each"):
        BUILTIN["breast-cancer"](Site(peers=23))


def test_every_task_has_defaults() -> None:
    """``csv`` has some too, though its task is found by peer/task_loader.py: it reads files."""
    assert set(DEFAULTS) == {*BUILTIN, "csv"}


def test_columns_are_scaled_by_public_ranges_not_by_local_statistics() -> None:
    whole = BUILTIN["breast-cancer"](Site())
    part = BUILTIN["breast-cancer"](Site(index=1, peers=10))
    assert rows(part.train) | rows(part.holdout) <= rows(whole.train) | rows(whole.holdout)
    assert np.median(whole.train[0].numpy()) < 0.5


def private(name: str) -> PrivacyStep:
    return PrivacyStep(DEFAULTS[name].clip, noise_for(8.0, 50, 1e-5))


@pytest.mark.parametrize(
    ("name", "peers", "alpha", "epsilon_8", "least", "gain"),
    [
        ("digits", 4, 0.5, False, 0.93, 0.05),
        ("digits", 8, 0.1, False, 0.91, 0.15),
        ("digits", 4, 0.5, True, 0.88, 0.05),
        ("digits", 8, 0.1, True, 0.88, 0.15),
        ("breast-cancer", 4, 0.5, False, 0.96, 0.05),
        ("breast-cancer", 4, 0.5, True, 0.95, 0.05),
    ],
)
def test_the_defaults_learn_and_exchanging_pays(
    name: str, peers: int, alpha: float, epsilon_8: bool, least: float, gain: float
) -> None:
    """Mean test accuracy after 50 rounds, alone with the same training and privacy, and together."""
    defaults = DEFAULTS[name]
    scenario = Scenario(
        training=defaults.private if epsilon_8 else defaults.plain,
        task=name,
        peers=peers,
        alpha=alpha,
        privacy=private(name) if epsilon_8 else None,
    )
    together = run(scenario, seed=0)
    alone = run(replace(scenario, exchange=False), seed=0)
    assert together.mean >= least
    assert together.mean >= alone.mean + gain
