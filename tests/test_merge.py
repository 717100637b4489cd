"""Merging: the bounds that hold whatever bad peers send, exact Metropolis when nobody is bad, and repeatability."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quidnunc.crypto.errors import ConfigError
from quidnunc.gossip.jobs import PPB, Doubt, Standing
from quidnunc.gossip.learning.merge import merge, merge_repute
from quidnunc.gossip.learning.merged import FULL_STEP, NO_STEP, QUARTER_STEP, Inputs, Merge
from quidnunc.gossip.reputation import FOUNDER, standing_weight
from quidnunc.gossip.rules.linear import Reals, Stack, Vector, distances, recompute
from quidnunc.gossip.rules.repute import clip_radius
from quidnunc.gossip.rules.thresholds import ReputeOptions, repute_options

TRUSTED = Standing(10.0, 0.0, 0.0)
SETTINGS = settings(deadline=None, max_examples=100)


def bowl(stack: Stack) -> Reals:
    """A holdout loss: the squared distance from the point (1, 1, ...)."""
    return np.square(stack.astype(np.float64) - 1).mean(axis=1)


def cloud(seed: int, k: int, d: int = 12, scale: float = 0.3) -> tuple[Vector, Stack]:
    generator = np.random.Generator(np.random.PCG64(seed))
    states = (1 + scale * generator.normal(size=(k + 1, d))).astype(np.float32)
    return states[0], states[1:]


def inputs(stack: Stack, standing: Standing = TRUSTED, weight: int | None = None) -> Inputs:
    k = len(stack)
    return Inputs(stack, [weight or PPB // (k + 1)] * k, [standing] * k, [True] * k)


standings = st.builds(Standing, st.floats(0, 10), st.floats(0, 40), st.floats(-1, 10))


@SETTINGS
@given(
    st.integers(0, 1000),
    st.integers(1, 7),
    st.lists(standings, min_size=7, max_size=7),
    st.lists(st.floats(-1e6, 1e6), min_size=7, max_size=7),
    st.integers(0, 6),
)
def test_influence_of_bad_peers_is_bounded_whatever_they_send(
    seed: int, k: int, past: list[Standing], poison: list[float], bad: int
) -> None:
    """B1: ||x+ - x+ without B|| <= tau * sum of w over B, tau being what the actual merge used."""
    pivot, stack = cloud(seed, k)
    bad = min(bad, k)
    stack[:bad] *= np.array(poison[:bad], np.float32)[:, None]
    given_ = Inputs(stack, [PPB // (k + 1)] * k, past[:k], [True] * k)
    result = merge_repute(pivot, given_, bowl, ReputeOptions(), 1e30)
    trust = np.array([standing_weight(s) for s in past[:k]])
    radius = clip_radius(distances(pivot, stack), trust, 1.5)
    rows = list(zip(stack, [row.effective for row in result.rows], strict=True))
    without = recompute(pivot, rows[bad:])
    moved = float(np.linalg.norm(result.result.astype(np.float64) - without))
    size = float(np.abs(result.result).max()) + float(np.abs(without).max())
    assert moved <= radius * bad / (k + 1) + 1e-6 * size * len(pivot)
    for row, standing in zip(result.rows, past[:k], strict=True):
        assert 0 <= row.effective <= PPB // (k + 1)
        assert row.standing.good <= standing.good * 0.95 + 1


@SETTINGS
@given(st.integers(0, 1000), st.integers(0, 8), st.lists(standings, min_size=8, max_size=8), st.booleans())
def test_anybody_can_recompute_a_merge_from_its_rows(seed: int, k: int, past: list[Standing], harmful: bool) -> None:
    pivot, stack = cloud(seed, k)
    if harmful:
        stack += np.float32(5)
    given_ = Inputs(stack, [PPB // (k + 2)] * k, past[:k], [bool((seed >> i) & 1) for i in range(k)])
    for rule in ("repute", "mean"):
        merged = merge(rule, pivot, given_, bowl, {})
        again = recompute(pivot, list(zip(stack, [row.effective for row in merged.rows], strict=True)))
        assert again.tobytes() == merged.result.tobytes()
        assert sum(row.effective for row in merged.rows) < PPB


@SETTINGS
@given(st.integers(0, 1000), st.integers(3, 7))
def test_honest_peers_in_good_standing_merge_by_exactly_their_mixing_weights(seed: int, k: int) -> None:
    """B4: the merge is then bit for bit the Metropolis merge, and preserves the average of all peers."""
    pivot, stack = cloud(seed, k, d=300)
    options = ReputeOptions()
    merged = merge_repute(pivot, inputs(stack), bowl, options, 1e30)
    assert [row.effective for row in merged.rows] == [PPB // (k + 1)] * k
    assert [row.clip for row in merged.rows] == [PPB] * k
    assert merged.result.tobytes() == merge("mean", pivot, inputs(stack), None, {}).result.tobytes()
    everyone = np.concatenate([pivot[None], stack])
    others = [
        merge_repute(everyone[i], inputs(np.delete(everyone, i, 0)), bowl, options, 1e30).result for i in range(k + 1)
    ]
    np.testing.assert_allclose(np.mean(others, axis=0), everyone.mean(axis=0), atol=1e-6)


def attacked(standing: Standing) -> tuple[Vector, Stack, Merge]:
    pivot, stack = cloud(1, 4, d=300)
    stack[2] = -9 * stack[2]
    return pivot, stack, merge_repute(pivot, inputs(stack, standing), bowl, ReputeOptions(), 1e30)


def test_a_far_peer_is_suspected_clipped_and_silenced_in_the_round_it_is_seen() -> None:
    _, _, merged = attacked(FOUNDER)
    assert [row.doubts > 0 for row in merged.rows] == [False, False, True, False]
    assert merged.rows[2].clip < PPB // 3
    assert merged.rows[2].effective == 0
    _, _, trusted = attacked(TRUSTED)
    assert 0 < trusted.rows[2].effective < PPB // 5 // 3


def test_one_that_still_trains_is_no_outlier_among_those_that_have_finished() -> None:
    """Regression: finished peers lie so close together that one who came back late looked far away."""
    pivot, stack = cloud(4, 2, d=300, scale=0.001)
    stack[1] = pivot + 0.1
    late = float(np.linalg.norm(stack[1] - pivot))
    options = ReputeOptions()
    alone = merge_repute(pivot, inputs(stack), None, options)
    assert [row.doubts for row in alone.rows] == [0, Doubt.DISTANCE]
    known = merge_repute(pivot, inputs(stack), None, options, stride=late)
    assert [row.doubts for row in known.rows] == [0, 0]
    # Twice as far as anybody trains in a round, and a spread more, is still far.
    short = merge_repute(pivot, inputs(stack), None, options, stride=late / 3)
    assert [row.doubts for row in short.rows] == [0, Doubt.DISTANCE]
    unknown = merge_repute(pivot, inputs(stack), None, options, stride=np.inf)
    assert [row.doubts for row in unknown.rows] == [0, 0]


def test_harm_is_smoothed_and_judged_only_for_fresh_inputs() -> None:
    pivot, stack = cloud(2, 4, d=300)
    stack[1] = pivot + 1.2 * (stack[1] - 1 - (pivot - 1) * 2)
    old = [replace(TRUSTED, harm=0.1)] * 4
    given_ = Inputs(stack, [PPB // 5] * 4, old, [True, False, True, True])
    merged = merge_repute(pivot, given_, bowl, ReputeOptions(), 1.0)
    assert merged.rows[1].standing == old[1]
    assert all(row.standing.harm != 0.1 for at, row in enumerate(merged.rows) if at != 1)
    stale = Inputs(stack, [PPB // 5] * 4, [replace(FOUNDER, harm=9.0), *[FOUNDER] * 3], [False] * 4)
    rows = merge_repute(pivot, stale, bowl, ReputeOptions(), 1.0).rows
    assert rows[0].doubts
    assert rows[0].standing == stale.standings[0]


def test_persistent_harm_makes_bad_standing() -> None:
    """A neighbor at an honest distance whose direction always hurts is found by the losses alone."""
    past = [FOUNDER] * 4
    suspected = 0
    for seed in range(12):
        pivot, stack = cloud(seed, 4, d=300, scale=0.1)
        stack[0] = pivot + 5 * (pivot - 1)
        merged = merge_repute(
            pivot,
            Inputs(stack, [PPB // 5] * 4, past, [True] * 4),
            bowl,
            repute_options({"outlier_margin": 1000.0, "least_share": 0.0, "harm_scale": 0.0}),
        )
        past = [row.standing for row in merged.rows]
        suspected += merged.rows[0].doubts
    assert suspected >= 8
    assert standing_weight(past[0]) == 0.0
    assert all(standing_weight(standing) == 1.0 for standing in past[1:])


def test_a_merge_that_hurts_is_shortened_then_dropped() -> None:
    pivot = np.ones(8, np.float32)
    options = repute_options({"outlier_margin": 1e6, "harm_margin": 1e6, "radius": 100.0})

    def at(distance: float, untrained: float = 0.0) -> Merge:
        stack = np.full((3, 8), 1 + distance, np.float32)
        return merge_repute(pivot, inputs(stack), bowl, options, untrained)

    # Own loss is 0, so the limit is .05; three quarters of the way cost (3/4 distance)^2.
    assert at(0.2).step == FULL_STEP
    quarter = at(0.5)
    assert quarter.step == QUARTER_STEP
    assert [row.effective for row in quarter.rows] == [PPB // 16] * 3
    dropped = at(5.0)
    assert dropped.step == NO_STEP
    assert dropped.result.tobytes() == pivot.tobytes()
    assert [row.effective for row in dropped.rows] == [0] * 3
    assert at(5.0, untrained=100.0).step == FULL_STEP


def test_without_a_holdout_distance_is_the_only_evidence() -> None:
    pivot, stack = cloud(1, 4, d=300)
    stack[2] = -9 * stack[2]
    merged = merge_repute(pivot, inputs(stack), None, ReputeOptions())
    assert [row.doubts > 0 for row in merged.rows] == [False, False, True, False]
    assert merged.step == FULL_STEP


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_losses_that_are_not_finite_do_not_poison_the_merge(value: float) -> None:
    pivot, stack = cloud(1, 4)

    def probe(candidates: Stack) -> Reals:
        return np.full(len(candidates), value)

    merged = merge_repute(pivot, inputs(stack), probe, ReputeOptions(), 1.0)
    assert np.isfinite(merged.result).all()
    assert all(np.isfinite(row.standing.harm) for row in merged.rows)


def test_nobody_to_merge_with_leaves_the_pivot() -> None:
    pivot, stack = cloud(1, 0)
    for rule in ("repute", "mean", "median"):
        merged = merge(rule, pivot, inputs(stack), bowl, {})
        assert merged.result.tobytes() == pivot.tobytes()
        assert merged.rows == ()


def test_the_median_rule_is_marked_approximate() -> None:
    pivot, stack = cloud(1, 2)
    merged = merge("median", pivot, inputs(stack), None, {})
    assert merged.approximate
    assert merged.result.tolist() == np.median(np.concatenate([pivot[None], stack]), axis=0).tolist()


def test_the_gate_is_an_option() -> None:
    pivot, stack = cloud(1, 4, d=300)
    stack[0] += np.float32(1)
    loose = {"outlier_margin": 1000.0, "harm_margin": 1000.0}
    assert not merge("repute", pivot, inputs(stack), bowl, loose).rows[0].doubts
    assert merge("repute", pivot, inputs(stack), bowl, {**loose, "gate": 0.6}).rows[0].doubts


@pytest.mark.parametrize(
    ("rule", "options", "message"),
    [
        ("repute", {"radios": 1.0}, "merge option radios is unknown"),
        ("repute", {"radius": -1.0}, "merge option radius is -1, must be 0 to 1000"),
        ("mean", {"radius": 1.0}, "merge rule mean has no option radius"),
        ("krumm", {}, "merge rule krumm is unknown"),
        ("krum", {}, "merge rule krum needs the option bad"),
        ("krum", {"bat": 1.0}, "merge rule krum has no option bat"),
        ("trimmed_mean", {"bad": 0.5}, "option bad of trimmed_mean is 0.5, must be a whole number"),
        ("rtc", {"mass": 0.5}, "option mass of rtc is 0.5, must be 1e-06 to 0.499"),
    ],
)
def test_unknown_rules_and_options_are_refused(rule: str, options: dict[str, float], message: str) -> None:
    pivot, stack = cloud(1, 2)
    with pytest.raises(ConfigError, match=message):
        merge(rule, pivot, inputs(stack), None, options)
