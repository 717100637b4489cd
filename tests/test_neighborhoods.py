"""REPUTE's evidence for many peers side by side is what each of them would find alone."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quidnunc.gossip.jobs import Standing
from quidnunc.gossip.reputation import observe, standing_weight
from quidnunc.gossip.rules import neighborhoods, repute
from quidnunc.gossip.rules.median import weighted_median
from quidnunc.gossip.rules.neighborhoods import (
    aligned,
    geometries,
    observed,
    spreads,
    standing_weights,
    weighted_medians,
)

MASS = st.floats(0, 40, allow_nan=False)


@given(
    st.lists(st.tuples(st.sampled_from([0.0, 1, 2, 2.5, 7]), st.sampled_from([0.0, 0.5, 1])), min_size=1, max_size=7)
)
def test_weighted_medians_are_those_of_each_row(pairs: list[tuple[float, float]]) -> None:
    values, weights = np.array(pairs).T
    both = weighted_medians(np.stack([values, values[::-1]]), np.stack([weights, weights[::-1]]))
    assert both.tolist() == [weighted_median(values, weights), weighted_median(values[::-1], weights[::-1])]


@given(st.lists(st.tuples(MASS, MASS, st.booleans()), min_size=1, max_size=6))
def test_standings_are_those_of_each_link(rows: list[tuple[float, float, bool]]) -> None:
    good, bad = np.array([row[0] for row in rows]), np.array([row[1] for row in rows])
    more, worse = observed(good, bad, np.array([row[2] for row in rows]))
    for at, (g, b, suspect) in enumerate(rows):
        one = Standing(g, b, 0.0)
        assert standing_weights(good, bad)[at] == standing_weight(one)
        after = observe(one, suspect)
        assert (more[at], worse[at]) == (after.good, after.bad)


@pytest.mark.parametrize("k", [1, 2, 3, 4, 5, 6, 9])
def test_geometries_are_those_of_each_peer(k: int) -> None:
    generator = np.random.Generator(np.random.PCG64(k))
    rows = [generator.normal(1, 1, size=(3, 50)).astype(np.float32).round(1) for _ in range(k + 1)]
    rows[-1] *= -1
    kept = [row.copy() for row in rows]
    found = geometries(rows)
    for peer in range(3):
        alone = repute.geometry(rows[0][peer], np.stack([row[peer] for row in rows[1:]]))
        np.testing.assert_allclose(found.away[peer], alone.away, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(found.share[peer], alone.share, rtol=1e-4, atol=1e-5)
        flags = repute.bad_by_direction(found, 0.1)[peer]
        assert flags.tolist() == repute.bad_by_direction(alone, 0.1).tolist()
        flags = repute.bad_by_distance(found, 5.0, 1.0)[peer]
        assert flags.tolist() == repute.bad_by_distance(alone, 5.0, 1.0).tolist()
    assert all(np.array_equal(row, before) for row, before in zip(rows, kept, strict=True))


@pytest.mark.parametrize("k", [1, 2, 3, 4, 6, 70])
def test_spreads_are_those_of_each_peer_whole_or_in_parts(k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.Generator(np.random.PCG64(k))
    rows = [generator.normal(1, 1, size=(5, 50)).astype(np.float32) for _ in range(k + 1)]
    whole = spreads(rows)
    for peer in range(5):
        alone = repute.geometry(rows[0][peer], np.stack([row[peer] for row in rows[1:]]))
        np.testing.assert_allclose(whole[peer], alone.away, rtol=1e-5)
    places = geometries(rows)
    for together, columns in ((60, 20), (120, 60)):
        monkeypatch.setattr(neighborhoods, "_TOGETHER", together)
        monkeypatch.setattr(neighborhoods, "_COLUMNS_MIN", columns)
        np.testing.assert_allclose(spreads(rows), whole, rtol=1e-6)
        np.testing.assert_allclose(geometries(rows).share, places.share, rtol=1e-5)


@given(
    st.integers(0, 2**32), st.integers(2, 7), st.floats(0.001, 2.0), st.floats(-1.5, 1.5), st.sampled_from([0.1, 0.6])
)
def test_nobody_is_bad_by_direction_where_distances_rule_it_out(
    seed: int, k: int, apart: float, part: float, least: float
) -> None:
    """Whatever the states: ``aligned`` may leave a case open, but never closes one that the shares decide otherwise."""
    generator = np.random.Generator(np.random.PCG64(seed))
    common = generator.normal(size=30)
    states = (common + apart * generator.normal(size=(k + 1, 30))).astype(np.float32)
    states[1] = (part * common).astype(np.float32)
    away = np.linalg.norm(states[1:] - states[0], axis=1)[None]
    if aligned(np.linalg.norm(states[0])[None], away, least)[0]:
        assert not repute.bad_by_direction(repute.geometry(states[0], states[1:]), least).any()


def test_distances_rule_it_out_among_peers_that_agree_and_not_beside_a_flipped_one() -> None:
    own, near = np.array([5.0, 5.0, 5.0, 0.0]), np.array([[0.5] * 4, [0.5, 0.5, 0.5, 10.0], [5.0] * 4, [0.5] * 4])
    assert aligned(own, near, 0.1).tolist() == [True, False, False, False]
    assert aligned(np.array([np.inf, 1.0]), np.array([[1.0, 1.0], [np.nan, 0.0]]), 0.1).tolist() == [False, False]
    assert not aligned(own[:1], near[:1], 2.0).any()


def test_medians_of_a_few_are_those_of_numpy() -> None:
    for values in ([[3.0, 1.0, 2.0], [np.nan, 1.0, 2.0]], [[4.0, 1.0, 2.0, np.inf], [-1.0, 0.25, 0.5, 0.0]], [[7.0]]):
        given_ = np.array(values)
        np.testing.assert_array_equal(repute._median(given_), np.median(given_, axis=-1, keepdims=True))


def test_harm_of_each_peer_is_judged_in_its_own_neighborhood() -> None:
    harm = np.array([[0.0, 0.0, 0.01, 0.4], [0.5, 0.6, 0.7, 0.8]])
    assert repute.bad_by_loss(harm, 0.05, 4.0, 0.2).tolist() == [[False] * 3 + [True], [False] * 4]
    losses, own = np.array([[np.nan, 2.0], [1.0, 3.0]]), np.array([[1.0], [2.0]])
    assert repute.relative_harm(losses, own, own, 10.0).tolist() == [[10, 1], [-0.5, 0.5]]
