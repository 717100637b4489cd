"""The bound of one-run audits: against jax_privacy, against a naive sum of fractions, and by its own laws."""

from __future__ import annotations

import json
from fractions import Fraction
from itertools import product
from math import comb, exp
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quidnunc.crypto.errors import LocalProtocolError
from quidnunc.gossip.learning.accountant import noise_for
from quidnunc.gossip.privacy_audit.bound import (
    EPSILON_MAX,
    Refutes,
    any_mechanism,
    epsilon_refuted,
    epsilon_showable,
    epsilon_shown,
    gaussian,
    guess_counts,
    p_value,
)

VECTORS = json.loads((Path(__file__).parent / "vectors" / "one_run.json").read_text())


def naive_p_value(canaries: int, guesses: int, right: int, epsilon: float, delta: float) -> float:
    """Word for word from the theorem, in exact arithmetic."""
    hit = Fraction(1 / (1 + exp(-epsilon)))
    mass = [comb(guesses, k) * hit**k * (1 - hit) ** (guesses - k) for k in range(guesses + 1)]
    beta = sum(mass[right:], Fraction(0))
    alphas = [sum(mass[right - i : right], Fraction(0)) / i for i in range(1, right + 1)]
    return min(1.0, float(beta + 2 * canaries * Fraction(delta) * max(alphas, default=Fraction(0))))


@pytest.mark.parametrize("row", VECTORS["rows"], ids=lambda row: f"{row['right']}-of-{row['guesses']}")
def test_both_bounds_equal_those_of_jax_privacy(row: dict[str, float]) -> None:
    case = int(row["canaries"]), int(row["guesses"]), int(row["right"]), row["delta"], VECTORS["level"]
    assert epsilon_refuted(*case) == pytest.approx(row["any"], abs=2e-6)
    assert epsilon_refuted(*case, gaussian) == pytest.approx(row["gaussian"], abs=2e-6)


@pytest.mark.parametrize("epsilon", [0.0, 0.5, 2.0, 12.0])
def test_the_p_value_is_the_theorem(epsilon: float) -> None:
    for (guesses, wrong), delta in product([(1, 0), (1, 1), (7, 2), (30, 0), (30, 9)], [0.0, 1e-5, 0.1]):
        ours = p_value(64, guesses, guesses - wrong, epsilon, delta)
        assert ours == pytest.approx(naive_p_value(64, guesses, guesses - wrong, epsilon, delta), rel=1e-9, abs=1e-15)


def test_counts_that_cannot_be_are_refused() -> None:
    for canaries, guesses, right in [(10, 11, 5), (10, 5, 6), (10, 5, -1)]:
        with pytest.raises(LocalProtocolError, match="cannot be"):
            p_value(canaries, guesses, right, 1.0, 1e-5)


@settings(max_examples=30)
@given(st.integers(1, 200), st.data())
def test_more_right_guesses_show_more_and_a_gaussian_claim_is_refuted_first(guesses: int, data: st.DataObject) -> None:
    right = data.draw(st.integers(0, guesses - 1))
    less, more = (epsilon_refuted(200, guesses, each, 1e-5, 0.05) for each in (right, right + 1))
    assert 0 <= less <= more <= EPSILON_MAX
    assert epsilon_refuted(200, guesses, right, 1e-5, 0.05, gaussian) >= less - 1e-6
    assert less == 0 or p_value(200, guesses, right, less + 1e-6, 1e-5) >= 0.05 - 1e-6


@pytest.mark.parametrize("refutes", [any_mechanism, gaussian])
def test_the_bound_holds_against_a_mechanism_of_known_epsilon(refutes: Refutes) -> None:
    """Randomized response with the Gaussian's own noise on every coin: no more than one audit in twenty is wrong."""
    rng = np.random.default_rng(1)
    noise, wrong = noise_for(2.0, 1, 1e-5), 0
    for _ in range(200):
        included = rng.random(60) < 0.5
        hits = (included - 0.5 + noise * rng.normal(size=60) > 0) == included
        wrong += refutes(60, 60, int(hits.sum()), 2.0, 1e-5, 0.05)
    assert wrong <= 10


def test_what_can_be_shown_grows_with_canaries_only() -> None:
    showable = [epsilon_showable(count, 1e-5, 0.05) for count in (8, 64, 300, 1000)]
    assert showable == sorted(showable)
    assert showable[2] == pytest.approx(4.203, abs=1e-3)
    right = np.arange(300) < 150
    assert epsilon_shown(right - 0.5, right, 1e-5, 0.05).epsilon == showable[2]
    assert epsilon_shown(0.5 - right, right, 1e-5, 0.05) == (0.0, 300, 0)
    assert guess_counts(300) == (37, 75, 150, 300)
    assert guess_counts(3) == (1, 3)
