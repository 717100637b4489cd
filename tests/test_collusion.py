"""Colluding attackers do what the papers say they do to the rule they aim at."""

from __future__ import annotations

import numpy as np
import pytest

from quidnunc.crypto.errors import ConfigError
from quidnunc.crypto.noise import NoiseStream
from quidnunc.gossip.learning import collusion
from quidnunc.gossip.rules.registry import apply

GENERATOR = np.random.Generator(np.random.PCG64(7))
HONEST = (3 + GENERATOR.normal(size=(6, 40))).astype(np.float32)
VICTIM = (3 + GENERATOR.normal(size=40)).astype(np.float32)


def answer(name: str, options: dict[str, float], bad: int = 2) -> collusion.Answer:
    def merged(message: np.ndarray) -> np.ndarray:
        stack = np.concatenate([VICTIM[None], HONEST, np.tile(message, (bad, 1))])
        return apply(name, stack, np.full(len(stack), 1 / len(stack)), options)

    return merged


def harm(rule: collusion.Answer, message: np.ndarray) -> float:
    return float(np.linalg.norm(rule(message) - HONEST.mean(axis=0)))


def test_isolation_cancels_every_honest_pull_under_mixing() -> None:
    weights = np.full(6, 1 / 9)
    message = collusion.dissensus(VICTIM, HONEST, weights, bad_weight=2 / 9)
    np.testing.assert_allclose(answer("mean", {})(message), VICTIM, atol=1e-5)


def test_replacement_puts_its_goal_into_the_victim_under_mixing() -> None:
    goal = np.full(40, -1, np.float32)
    rest = VICTIM[None].repeat(8, axis=0)
    stack = np.concatenate([rest, collusion.replacement(VICTIM, goal, 1 / 9)[None]])
    np.testing.assert_allclose(apply("mean", stack, np.full(9, 1 / 9), {}), goal, atol=1e-5)


@pytest.mark.parametrize(("name", "options"), [("krum", {"bad": 2}), ("monna", {"bad": 2}), ("median", {})])
def test_the_line_search_harms_at_least_as_much_as_fixed_factors_on_its_grid(
    name: str, options: dict[str, float]
) -> None:
    rule = answer(name, options)
    best = harm(rule, collusion.optimized_little(HONEST, rule))
    assert all(best >= harm(rule, collusion.little_is_enough(HONEST, z)) - 1e-6 for z in range(1, 11))
    best = harm(rule, collusion.optimized_inner_product(HONEST, rule))
    assert all(best >= harm(rule, collusion.inner_product(HONEST, e)) - 1e-6 for e in range(1, 11))


@pytest.mark.parametrize("evaluations", [2, 3, 20])
def test_the_line_search_keeps_to_its_evaluations_and_range(evaluations: int) -> None:
    seen = []

    def family(factor: float) -> np.ndarray:
        seen.append(factor)
        return np.full(40, factor, np.float32)

    collusion.strongest(family, lambda message: message, HONEST, 10.0, evaluations)
    assert len(seen) <= evaluations
    assert all(0 < factor <= 10 for factor in seen)


def test_alie_by_hand() -> None:
    assert collusion.usual_deviations(50, 24) == pytest.approx(1.426, abs=1e-3)
    assert collusion.usual_deviations(16, 3) == 1.0
    honest = np.array([[0], [2]], np.float32)
    assert collusion.little_is_enough(honest, 1.5).tolist() == [-0.5]
    for n, bad in [(6, 3), (6, 0)]:
        with pytest.raises(ConfigError, match="fewer than half"):
            collusion.usual_deviations(n, bad)


def test_slow_drift_stays_inside_the_honest_spread() -> None:
    message = collusion.slow_drift(VICTIM, HONEST, -VICTIM)
    usual = np.median(np.linalg.norm(HONEST - VICTIM, axis=1))
    assert np.linalg.norm(message - VICTIM) == pytest.approx(usual, rel=1e-5)
    assert (message - VICTIM) @ -VICTIM > 0


def test_spectral_pushes_the_two_sides_apart() -> None:
    fiedler = np.array([1, 1, 1, -1, -1, -1]) / np.sqrt(6)
    left = collusion.spectral(VICTIM, HONEST, fiedler, fiedler[0], 2.0) - VICTIM
    right = collusion.spectral(VICTIM, HONEST, fiedler, fiedler[-1], 2.0) - VICTIM
    np.testing.assert_allclose(left, -right, atol=1e-5)
    assert np.linalg.norm(left) == pytest.approx(2, rel=1e-5)
    assert (collusion.spectral(VICTIM, np.zeros_like(HONEST), fiedler, 1.0, 2.0) == VICTIM).all()


def test_mimic_copies() -> None:
    assert (collusion.mimic(HONEST, 2) == HONEST[2]).all()


def test_a_replay_is_what_was_sent_some_rounds_ago() -> None:
    past = np.arange(6, dtype=np.float32).reshape(3, 2)
    assert collusion.replay(past, 0).tolist() == [4, 5]
    assert collusion.replay(past, 2).tolist() == [0, 1]
    assert collusion.replay(past, 9).tolist() == [0, 1]


def test_sybils_say_one_thing_in_voices_that_differ() -> None:
    voices = collusion.sybils(VICTIM, 3, 0.5, NoiseStream(bytes(32), b"sybil"))
    assert voices.shape == (3, 40)
    assert voices.dtype == np.float32
    away = np.linalg.norm(voices - VICTIM, axis=1)
    assert ((away > 0.25) & (away < 1.0)).all()
    assert len({voice.tobytes() for voice in voices}) == 3
