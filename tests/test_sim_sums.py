"""Mixing in compiled code gives what torch's bags of rows give."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from quidnunc.sim.batched import compiled, merging
from quidnunc.sim.batched.conditions import Links
from quidnunc.sim.topology.catalog import build_topology
from quidnunc.sim.topology.mixing import metropolis
from quidnunc.sim.topology.spec import TopologySpec

needs_numba = pytest.mark.skipif(compiled.sums() is None, reason="numba (extra [fast]) is not installed")
SHAPES = ((7, 13), (7,), (4100,), (1,), (129, 48), (320,))
"""Of odd widths and of whole lines, some longer than a block of columns."""


def mixed(topology: TopologySpec, peers: int, depth: int, ages: NDArray[np.int64] | None = None) -> list[torch.Tensor]:
    """What everybody has after one mixing of random states; the place that is written was filled with noise."""
    generator = torch.Generator().manual_seed(peers)
    ring = [torch.randn(depth, peers + 2, *shape, generator=generator) for shape in SHAPES]
    weights = metropolis(peers, build_topology(topology, peers, 0).edges())
    merging.mix(ring, Links(weights, ages), 0, 1)
    return ring


@needs_numba
class TestCompiledMixing:
    @pytest.mark.parametrize(("kind", "peers"), [("ring", 3), ("star", 9), ("complete", 8), ("random-regular", 16)])
    def test_it_equals_bags(self, monkeypatch: pytest.MonkeyPatch, kind: str, peers: int) -> None:
        spec = TopologySpec(kind=kind, degree=5) if kind == "random-regular" else TopologySpec(kind=kind)
        plain = mixed(spec, peers, 2)
        monkeypatch.setattr(compiled, "LEAST_PARAMS", 0)
        for found, tensor in zip(mixed(spec, peers, 2), plain, strict=True):
            torch.testing.assert_close(found, tensor, rtol=1e-6, atol=1e-6)

    def test_what_is_written_past_the_caches_is_the_same(self, monkeypatch: pytest.MonkeyPatch) -> None:
        spec = TopologySpec(kind="random-regular", degree=4)
        monkeypatch.setattr(compiled, "LEAST_PARAMS", 0)
        within = mixed(spec, 16, 2)
        monkeypatch.setattr(compiled.sums(), "PAST_BYTES", 0)
        for past, tensor in zip(mixed(spec, 16, 2), within, strict=True):
            assert torch.equal(past, tensor)

    @pytest.mark.parametrize("shift", [0, 1, 4])
    def test_results_that_begin_in_the_middle_of_a_line_are_written_within(
        self, monkeypatch: pytest.MonkeyPatch, shift: int
    ) -> None:
        sums = compiled.sums()
        assert sums is not None
        monkeypatch.setattr(sums, "PAST_BYTES", 0)
        space = np.arange(4 * 6 * 128 + 32, dtype=np.float32)
        start = shift + (-space.ctypes.data // 4) % 16
        rows = space[start : start + 6 * 128].reshape(6, 128)
        twice = np.full(2, 2, np.float32)
        expected = rows[[1, 2]] * np.float32(2) + rows[[3, 0]] * np.float32(2)
        sums.weighted_sums(rows, 1, twice, np.array([3, 0]), np.arange(3), twice, rows[4:])
        np.testing.assert_array_equal(rows[4:], expected)

    def test_old_states_are_read_where_they_lie(self, monkeypatch: pytest.MonkeyPatch) -> None:
        spec = TopologySpec(kind="ring")
        ages = np.arange(12) % 2
        plain = mixed(spec, 6, 3, ages)
        monkeypatch.setattr(compiled, "LEAST_PARAMS", 0)
        for found, tensor in zip(mixed(spec, 6, 3, ages), plain, strict=True):
            torch.testing.assert_close(found, tensor, rtol=1e-6, atol=1e-6)

    @pytest.mark.parametrize("below", [0, 1])
    def test_it_is_used_from_the_threshold_on(self, monkeypatch: pytest.MonkeyPatch, below: int) -> None:
        size = 3 * sum(int(np.prod(shape)) for shape in SHAPES)
        monkeypatch.setattr(compiled, "LEAST_PARAMS", size + below)
        called = []
        monkeypatch.setattr(merging, "_bags", lambda *args: called.append(args))
        mixed(TopologySpec(kind="ring"), 3, 2)
        assert bool(called) == bool(below)
