"""Metropolis weights: symmetric, rows of exactly one, averaging."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quidnunc.crypto.errors import LocalProtocolError
from quidnunc.gossip.federation.mixing import metropolis
from quidnunc.gossip.jobs import PPB


@st.composite
def graphs(draw: st.DrawFn) -> tuple[int, list[tuple[int, int]]]:
    n = draw(st.integers(1, 12))
    pairs = list(combinations(range(n), 2))
    return n, draw(st.lists(st.sampled_from(pairs), unique=True)) if pairs else []


@settings(deadline=None, max_examples=100)
@given(graphs())
def test_rows_sum_to_one_and_weights_are_symmetric(graph: tuple[int, list[tuple[int, int]]]) -> None:
    n, edges = graph
    rows = metropolis(edges, n)
    for i, row in enumerate(rows):
        assert sum(row.values()) == PPB
        assert all(weight > 0 for weight in row.values())
        assert all(rows[j][i] == weight for j, weight in row.items())
        assert set(row) - {i} == {a + b - i for a, b in edges if i in (a, b)}


def test_a_ring_of_four_and_a_star() -> None:
    assert metropolis([(0, 1), (1, 2), (2, 3), (3, 0)], 4)[0] == {1: 333333333, 3: 333333333, 0: 333333334}
    assert metropolis([(0, 1), (0, 2), (0, 3)], 4)[1] == {0: 250000000, 1: 750000000}


def test_a_ring_of_16_reaches_consensus_in_the_known_number_of_rounds() -> None:
    rows = metropolis([(i, (i + 1) % 16) for i in range(16)], 16)
    matrix = np.zeros((16, 16))
    for i, row in enumerate(rows):
        for j, weight in row.items():
            matrix[i, j] = weight / PPB
    values, rounds = np.eye(16)[0], 0
    while np.linalg.norm(values - 1 / 16) > 1e-6 * np.linalg.norm(np.eye(16)[0] - 1 / 16):
        values, rounds = matrix @ values, rounds + 1
    assert values.sum() == pytest.approx(1, abs=1e-6)
    # Second eigenvalue 1/3 + 2/3 cos(2 pi/16).
    assert rounds == pytest.approx(np.log(1e-6) / np.log(1 / 3 + 2 / 3 * np.cos(np.pi / 8)), rel=0.1)


@pytest.mark.parametrize("edges", [[(0, 0)], [(0, 1), (1, 0)], [(0, 2)], [(-1, 0)]])
def test_bad_edges_are_refused(edges: list[tuple[int, int]]) -> None:
    with pytest.raises(LocalProtocolError, match="edge"):
        metropolis(edges, 2)
