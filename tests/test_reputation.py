"""REPUTE's fold: the published sequences, bounds and forgiveness."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quidnunc.gossip.jobs import Standing
from quidnunc.gossip.reputation import (
    BAD_CAP,
    FOUNDER,
    GOOD_CAP,
    JOINER,
    StandingClass,
    classify,
    mean_reputation,
    observe,
    punish,
    standing_weight,
    uncertainty,
)


def sequence(standing: Standing, evidence: list[bool]) -> list[float]:
    weights = []
    for bad in evidence:
        standing = observe(standing, bad)
        weights.append(standing_weight(standing))
    return weights


def test_betrayal_by_a_peer_with_the_best_possible_past() -> None:
    best = Standing(GOOD_CAP, 0.0, 0.0)
    weights = sequence(best, [True] * 8)
    assert weights[:7] == pytest.approx([1, 0.74, 0.50, 0.32, 0.19, 0.08, 0], abs=0.006)
    assert sum(weights) < 2.85


@settings(deadline=None, max_examples=100)
@given(st.lists(st.booleans(), max_size=120))
def test_no_past_protects_better_than_the_best_past(past: list[bool]) -> None:
    standing = FOUNDER
    for bad in past:
        standing = observe(standing, bad)
        assert 0 <= standing.good <= GOOD_CAP
        assert 0 <= standing.bad <= BAD_CAP
    best = sequence(Standing(GOOD_CAP, 0.0, 0.0), [True] * 8)
    assert all(mine <= bound + 1e-12 for mine, bound in zip(sequence(standing, [True] * 8), best, strict=True))


def test_founders_count_in_full_after_two_clean_rounds() -> None:
    assert standing_weight(FOUNDER) == pytest.approx(0.5)
    assert sequence(FOUNDER, [False, False])[1] == 1.0
    assert sequence(FOUNDER, [True])[0] == 0.0


def test_joiners_earn_their_weight_in_twelve_rounds() -> None:
    weights = [standing_weight(JOINER), *sequence(JOINER, [False] * 12)]
    assert weights[:7] == pytest.approx([0, 0, 0.04, 0.21, 0.36, 0.49, 0.59], abs=0.006)
    assert weights[11] < 1.0
    assert weights[12] == 1.0


def test_the_worst_standing_is_forgiven_after_47_clean_rounds() -> None:
    weights = sequence(Standing(0.0, BAD_CAP, 0.0), [False] * 60)
    assert weights.index(1.0) + 1 == 47


def test_attacking_now_and_then_costs_weight() -> None:
    weights = sequence(FOUNDER, [i % 5 == 0 for i in range(2000)])
    assert sum(weights[500:]) / 1500 == pytest.approx(0.42, abs=0.03)


@pytest.mark.parametrize(
    ("duty", "weight"), [(0.05, 0.93), (0.06, 0.90), (0.1, 0.77), (0.125, 0.68), (0.2, 0.42), (0.3, 0.18), (0.4, 0.05)]
)
def test_the_cost_of_bad_evidence_at_a_duty_is_the_published_curve(duty: float, weight: float) -> None:
    """B3: the same curve bounds what an on-off attacker keeps and what false alarms cost an honest peer."""
    generator = np.random.Generator(np.random.PCG64(1))
    weights = sequence(FOUNDER, [bool(bad) for bad in generator.random(20_000) < duty])
    assert sum(weights) / len(weights) == pytest.approx(weight, abs=0.03)


@settings(deadline=None, max_examples=100)
@given(st.floats(0, GOOD_CAP), st.floats(0, BAD_CAP), st.lists(st.booleans(), max_size=30))
def test_more_bad_evidence_never_raises_a_weight(good: float, bad: float, evidence: list[bool]) -> None:
    before = Standing(good, bad, 0.0)
    for at in range(len(evidence)):
        worse = [*evidence[:at], True, *evidence[at + 1 :]]
        assert sequence(before, worse)[-1] <= sequence(before, evidence)[-1] + 1e-12


def test_classes_show_no_numbers() -> None:
    assert classify(FOUNDER) is StandingClass.NORMAL
    assert classify(JOINER) is StandingClass.EXCLUDED
    assert classify(Standing(4.0, 4.0, 0.0)) is StandingClass.REDUCED
    assert classify(Standing(GOOD_CAP, 0.0, 0.0)) is StandingClass.NORMAL


def test_a_proven_offense_quarantines() -> None:
    assert classify(punish(FOUNDER)) is StandingClass.EXCLUDED
    assert punish(punish(punish(punish(punish(FOUNDER))))).bad == BAD_CAP


def test_unknown_is_told_from_mixed() -> None:
    mixed = Standing(10.0, 10.0, 0.0)
    assert mean_reputation(mixed) == mean_reputation(FOUNDER)
    assert uncertainty(mixed) < 0.1 < uncertainty(FOUNDER) == 1.0
