"""Merge rules against three-line versions and hand-worked numbers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from quidnunc.gossip.rules import repute
from quidnunc.gossip.rules.blocks import total_of
from quidnunc.gossip.rules.linear import distances, mean, recompute
from quidnunc.gossip.rules.median import coordinate_median, medians_without_each, weighted_median
from quidnunc.gossip.rules.thresholds import ReputeOptions

FLOATS = st.floats(-100, 100, width=32)


@settings(deadline=None, max_examples=100)
@given(st.integers(1, 7).flatmap(lambda k: arrays(np.float32, (k, 4), elements=FLOATS)))
def test_coordinate_median_is_numpys_and_ignores_the_order(stack: np.ndarray) -> None:
    result = coordinate_median(stack)
    np.testing.assert_allclose(result, np.median(stack.astype(np.float64), axis=0), atol=1e-4)
    assert coordinate_median(stack[::-1]).tobytes() == result.tobytes()


@settings(deadline=None, max_examples=100)
@given(st.integers(2, 8).flatmap(lambda k: arrays(np.float32, (k, 5), elements=st.integers(-3, 3).map(float))))
def test_medians_without_each_are_the_medians_of_the_others(stack: np.ndarray) -> None:
    expected = [coordinate_median(np.delete(stack, row, axis=0)) for row in range(len(stack))]
    assert medians_without_each(stack).tolist() == np.stack(expected).tolist()


def test_the_median_of_an_even_number_is_between_the_middle_two() -> None:
    assert coordinate_median(np.array([[1], [2], [3], [10]], np.float32)).tolist() == [2.5]
    assert coordinate_median(np.array([[1], [10], [3]], np.float32)).tolist() == [3]


def test_rules_take_leading_batch_dimensions() -> None:
    stack = np.random.Generator(np.random.PCG64(1)).normal(size=(3, 2, 5, 4)).astype(np.float32)
    weights = np.full((3, 2, 5), 0.2)
    assert (coordinate_median(stack)[1, 1] == coordinate_median(stack[1, 1])).all()
    np.testing.assert_allclose(mean(stack, weights), stack.mean(axis=2), atol=1e-6)
    pivot = stack[..., 0, :]
    np.testing.assert_allclose(distances(pivot, stack)[2, 0], distances(pivot[2, 0], stack[2, 0]))
    assert (distances(pivot, stack)[..., 0] == 0).all()


@pytest.mark.parametrize(
    ("values", "weights", "expected"),
    [
        ([1, 2, 3], [1, 1, 1], 2),
        ([3, 1, 2, 10], [1, 1, 1, 1], 2.5),
        ([1, 2, 100], [1, 1, 0], 1.5),
        ([1, 2, 100], [0.2, 0.2, 1], 100),
        ([1, 5, 9], [0.5, 0, 0.5], 5),
        ([4], [0], 4),
        ([4, 6], [0, 0], 5),
        ([7, 8, 9], [0, 0, 1], 9),
    ],
)
def test_weighted_median_by_hand(values: list[float], weights: list[float], expected: float) -> None:
    assert weighted_median(np.array(values, float), np.array(weights, float)) == expected


def test_recompute_by_hand_and_zero_rows_leave_every_bit() -> None:
    pivot = np.array([1.0, -0.0, 4.0], np.float32)
    other = np.array([3.0, 5.0, 4.0], np.float32)
    assert recompute(pivot, [(other, 250_000_000)]).tolist() == [1.5, 1.25, 4.0]
    assert recompute(pivot, [(other, 0)]).tobytes() == pivot.tobytes()
    assert recompute(pivot, []).tobytes() == pivot.tobytes()


def test_recompute_is_sequential_and_unfused() -> None:
    """The arithmetic is part of the wire format: compare with scalar float32 steps in row order."""
    generator = np.random.Generator(np.random.PCG64(2))
    pivot, *states = generator.normal(size=(5, 1000)).astype(np.float32)
    weights = [123456789, 333333333, 1, 200000000]
    expected = []
    for i in range(1000):
        value = pivot[i]
        for state, weight in zip(states, weights, strict=True):
            step = np.float32(weight / 1e9) * np.float32(state[i] - pivot[i])
            value = np.float32(value + step)
        expected.append(value)
    result = recompute(pivot, list(zip(states, weights, strict=True)))
    assert result.tobytes() == np.array(expected, np.float32).tobytes()


def test_the_radius_follows_trust() -> None:
    away = np.array([1.0, 1.0, 9.0, 9.0])
    assert repute.clip_radius(away, np.array([1.0, 1.0, 0.2, 0.2]), 1.5) == 1.5
    assert repute.clip_factors(away, 3.0).tolist() == [1, 1, 1 / 3, 1 / 3]
    assert repute.clip_factors(np.zeros(2), 0.0).tolist() == [1, 1]


def test_harm_is_judged_against_the_neighborhood() -> None:
    spread_out = np.array([0.5, 0.6, 0.7, 0.8])
    assert not repute.bad_by_loss(spread_out, 0.05, 4.0, 0.2).any()
    assert repute.bad_by_loss(np.array([0.0, 0.0, 0.01, 0.4]), 0.05, 4.0, 0.2).tolist() == [False] * 3 + [True]


def test_a_loss_that_is_not_finite_is_the_greatest_harm() -> None:
    assert repute.relative_harm(np.array([np.nan, np.inf, 2.0, 0.0]), 1.0, 2.0, 10.0).tolist() == [10, 10, 0.5, -0.5]


def neighborhood(noise: float = 0.5, k: int = 4, d: int = 400) -> tuple[np.ndarray, np.ndarray]:
    """An honest pivot and ``k`` honest neighbors around one common model."""
    generator = np.random.Generator(np.random.PCG64(3))
    states = (generator.normal(size=d) + noise * generator.normal(size=(k + 1, d))).astype(np.float32)
    return states[0], states[1:]


def test_distance_is_judged_from_the_center_of_the_neighborhood() -> None:
    pivot, stack = neighborhood()
    assert not repute.bad_by_distance(repute.geometry(pivot, stack), 5.0, 0.2).any()
    stack[2] *= -1
    assert repute.bad_by_distance(repute.geometry(pivot, stack), 5.0, 0.2).tolist() == [False, False, True, False]


def test_geometry_by_hand() -> None:
    places = repute.geometry(np.array([2.0, 0.0], np.float32), np.array([[2, 3], [-2, 0], [4, 0]], np.float32))
    assert places.away.tolist() == [0, 3, 4, 2]
    # The others' medians are (2, 0), (2, 0), (2, 0) and (2, 0).
    assert places.share.tolist() == [1, 1, -1, 2]


def test_geometry_in_chunks_is_the_geometry(monkeypatch: pytest.MonkeyPatch) -> None:
    pivot, stack = neighborhood()
    whole = repute.geometry(pivot, stack)
    monkeypatch.setattr(repute, "CHUNK", 7)
    parts = repute.geometry(pivot, stack)
    np.testing.assert_allclose(parts.away, whole.away)
    np.testing.assert_allclose(parts.share, whole.share)


@pytest.mark.parametrize(
    ("at", "found"), [(1, 2**24 + 1), (31, 2**24 + 1), (32, 2**24), (480, 2**24), (512, 2**24 + 1)]
)
def test_products_are_summed_in_float32_where_that_is_said(at: int, found: int) -> None:
    row = np.zeros(520, np.float32)
    row[0], row[at] = 4096, 1  # whose squares float32 cannot hold in one sum
    assert total_of(row, row, np.empty(1024, np.float32)) == found


def test_a_sum_of_products_is_off_by_no_more_than_is_said() -> None:
    a, b = np.random.Generator(np.random.PCG64(8)).normal(size=(2, 5000)).astype(np.float32)
    terms = a.astype(np.float64) * b
    assert abs(total_of(a, b, np.empty(5120, np.float32)) - terms.sum()) <= 8 * 2.0**-24 * np.abs(terms).sum()


@pytest.mark.parametrize("size", [1e18, 2e19, 1e30])
def test_a_state_whose_square_float32_cannot_hold_is_placed_as_exactly(size: float) -> None:
    """Regression: it must not look near, nor make others look far, because a float32 square overflowed."""
    pivot, stack = neighborhood()
    stack[1, 7] = size
    away, places = repute.distances_and_geometry(pivot, stack)
    np.testing.assert_allclose(away[1], size, rtol=1e-6)
    np.testing.assert_allclose(places.away[2], size, rtol=1e-6)
    assert (places.away[[0, 1, 3, 4]] < 100).all()
    assert repute.bad_by_distance(places, 5.0, 0.2).tolist() == [False, True, False, False]


@pytest.mark.parametrize("factor", [-1.0, -0.1, 0.0])
def test_direction_tells_a_flipped_or_shrunk_model_from_a_noisy_one(factor: float) -> None:
    """Privacy noise of three times the common model's norm, and of nine times for a small data set."""
    pivot, stack = neighborhood(noise=3.0, d=4000)
    generator = np.random.Generator(np.random.PCG64(4))
    stack[1] += 9 * generator.normal(size=4000).astype(np.float32)
    assert not repute.bad_by_direction(repute.geometry(pivot, stack), 0.1).any()
    stack[2] *= np.float32(factor)
    assert repute.bad_by_direction(repute.geometry(pivot, stack), 0.1).tolist() == [False, False, True, False]


def test_one_neighbor_cannot_be_told_from_oneself() -> None:
    places = repute.geometry(np.ones(3, np.float32), np.full((1, 3), -1e6, np.float32))
    assert not repute.bad_by_distance(places, 5.0, 0.2).any()
    assert not repute.bad_by_direction(places, 0.1).any()


def test_one_that_is_far_but_helps_is_no_outlier() -> None:
    """Regression: small honest sites whose labels differ were silenced by distance, though others gained from them."""
    places = repute.Geometry(np.array([1.0, 1.0, 1.1, 0.9, 3.0, 9.0]), np.ones(6))
    options = ReputeOptions()

    def found(harm: float, known: bool = True) -> list[bool]:
        return repute.bad_by_distance_and_harm(places, np.full(5, harm), known, options).tolist()

    assert found(-0.01) == [False, False, False, False, True]  # grossly far is bad anyhow
    assert found(0.0) == [False, False, False, True, True]
    assert found(-0.01, known=False) == [False, False, False, True, True]
    # A charter that lets nobody be far means it.
    options = ReputeOptions(outlier_margin=1000.0)
    assert not any(found(1.0))


def test_an_outlier_does_not_judge_the_others_direction() -> None:
    pivot, stack = neighborhood()
    assert not repute.bad_by_direction(repute.geometry(-pivot, stack), 0.1).any()


def test_the_gate_never_shuts_out_more_than_half() -> None:
    pivot = np.ones(4, np.float32)
    far, near = np.full(4, 9.0, np.float32), np.full(4, 1.1, np.float32)
    assert repute.outside_gate(pivot, np.stack([far, near, near]), 0.3).tolist() == [True, False, False]
    assert not repute.outside_gate(pivot, np.stack([far, far, near]), 0.3).any()
