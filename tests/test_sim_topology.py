"""Topologies of the simulator: edges, weights, changing graphs, and what is measured of them."""

from __future__ import annotations

import math
from xml.etree import ElementTree

import numpy as np
import pytest

from quidnunc.crypto.errors import ConfigError
from quidnunc.gossip.federation.mixing import metropolis as rounded_metropolis
from quidnunc.gossip.jobs import PPB
from quidnunc.sim.topology import catalog, edges
from quidnunc.sim.topology.catalog import build_topology
from quidnunc.sim.topology.measure import SHRINK, measure
from quidnunc.sim.topology.picture import svg, terminal_picture
from quidnunc.sim.topology.spec import RANDOM, TopologySpec

STATIC = ("ring", "torus", "complete", "star", "hypercube", *RANDOM)
DIRECTED = ("exponential", "one-peer-exponential", "epidemic")


@pytest.mark.parametrize("kind", STATIC)
def test_undirected_graphs_mix_by_metropolis_weights(kind: str) -> None:
    topology = build_topology(TopologySpec(kind=kind), 16, 3)
    mixing = topology.at(0)
    dense = mixing.dense()
    assert np.allclose(dense, dense.T)
    assert np.allclose(dense.sum(axis=1), 1)
    pairs = topology.edges()
    assert (pairs[:, 0] < pairs[:, 1]).all()
    for i, row in enumerate(rounded_metropolis(map(tuple, pairs.tolist()), 16)):
        for j, weight in row.items():
            assert abs(weight / PPB - dense[i, j]) < 20 / PPB


@pytest.mark.parametrize("kind", DIRECTED)
def test_directed_graphs_keep_what_everybody_has(kind: str) -> None:
    topology = build_topology(TopologySpec(kind=kind), 12, 3)
    for r in range(5):
        dense = topology.at(r).dense()
        assert np.allclose(dense.sum(axis=1), 1)
        if kind != "epidemic":
            assert np.allclose(dense.sum(axis=0), 1)


def test_one_peer_exponential_agrees_exactly_after_a_period_on_a_power_of_two() -> None:
    topology = build_topology(TopologySpec(kind="one-peer-exponential"), 32)
    states = np.arange(32.0)[:, None]
    for r in range(topology.period):
        states = topology.at(r).apply(states)
    assert topology.period == 5
    assert np.allclose(states, 15.5)


def test_epidemic_draws_distinct_others_anew_in_every_round_and_repeats_by_seed() -> None:
    spec = TopologySpec(kind="epidemic", degree=5)
    topology, again = build_topology(spec, 20, 7), build_topology(spec, 20, 7)
    seen = []
    for r in range(12):
        mixing = topology.at(r)
        arcs = list(zip(mixing.indices.tolist(), mixing.receivers.tolist(), strict=True))
        assert len(set(arcs)) == len(arcs) == 100
        assert all(a != b for a, b in arcs)
        assert [sum(a == i for a, _ in arcs) for i in range(20)] == [5] * 20
        assert np.array_equal(mixing.indices, again.at(r).indices)
        seen.append(tuple(arcs))
    assert len(set(seen)) == 12
    assert seen[0] == tuple(zip(topology.at(0).indices.tolist(), topology.at(0).receivers.tolist(), strict=True))


def test_epidemic_picks_everybody_equally_often() -> None:
    topology = build_topology(TopologySpec(kind="epidemic", degree=3), 8, 1)
    counts = sum(np.bincount(topology.at(r).receivers, minlength=8) for r in range(700))
    assert counts.sum() == 700 * 24
    assert abs(counts - 2100).max() < 200


def test_a_redrawn_graph_stays_for_its_rounds_and_changes_after_them() -> None:
    topology = build_topology(TopologySpec(kind="random-regular", redraw_every=3), 20, 1)
    first = [topology.at(r).indices.tolist() for r in range(6)]
    assert first[0] == first[1] == first[2] != first[3] == first[4] == first[5]
    assert topology.period == 0


def test_a_sequence_goes_through_its_kinds() -> None:
    topology = build_topology(TopologySpec(kind="sequence", of=("ring", "complete"), every=2), 6)
    degrees = [int(np.diff(topology.at(r).indptr)[0]) for r in range(8)]
    assert degrees == [2, 2, 5, 5, 2, 2, 5, 5]
    assert topology.period == 4


def test_a_changing_part_of_a_sequence_goes_on_where_it_stopped() -> None:
    topology = build_topology(TopologySpec(kind="sequence", of=("ring", "one-peer-exponential")), 8)
    jumps = [int((topology.at(r).receivers[0] - topology.at(r).indices[0]) % 8) for r in (1, 3, 5)]
    assert jumps == [1, 2, 4]


@pytest.mark.parametrize(
    ("spec", "peers", "says"),
    [
        (TopologySpec(kind="torus"), 13, "torus on 13"),
        (TopologySpec(kind="hypercube"), 12, "power of two"),
        (TopologySpec(kind="random-regular", degree=16), 16, "below the number"),
        (TopologySpec(kind="random-regular", degree=3), 15, "even"),
        (TopologySpec(kind="small-world", degree=3), 16, "even"),
        (TopologySpec(kind="scale-free", degree=16), 16, "below"),
        (TopologySpec(kind="epidemic", degree=16), 16, "below"),
        (TopologySpec(kind="erdos-renyi", probability=0.001), 64, "connected"),
        (TopologySpec(kind="ring", redraw_every=1), 8, "not random"),
        (TopologySpec(kind="ring", of=("ring",)), 8, "topology.of"),
        (TopologySpec(kind="sequence"), 8, "at least one kind"),
        (TopologySpec(kind="sequence", of=("sequence",)), 8, "none of them"),
        (TopologySpec(kind="complete"), 10_000, "edges, at most"),
        (TopologySpec(kind="file"), 8, "topology.file is empty"),
        (TopologySpec(), 1, "must be 2"),
        (TopologySpec(), 1_000_001, "must be 2 to 1,000,000"),
    ],
)
def test_impossible_graphs_are_refused_with_a_remedy(spec: TopologySpec, peers: int, says: str) -> None:
    with pytest.raises(ConfigError, match=says) as refused:
        build_topology(spec, peers, 1)
    assert refused.value.hint


def test_the_cap_on_edges_holds_at_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edges, "EDGES_MAX", 28)
    assert len(edges.complete(8)) == 28
    with pytest.raises(ConfigError, match="36 edges"):
        edges.complete(9)


def test_measures_of_a_ring_are_those_of_the_formula() -> None:
    found = measure(build_topology(TopologySpec(kind="ring"), 40))
    second = 1 / 3 + 2 / 3 * math.cos(2 * math.pi / 40)
    assert found.gap == pytest.approx(1 - second)
    assert found.rounds == math.ceil(math.log(SHRINK) / -math.log(second))
    assert (found.degree_min, found.degree_max, found.diameter, found.redundancy) == (2, 2, 20, 1)


def test_measures_of_a_star_and_a_complete_graph() -> None:
    star, complete = (measure(build_topology(TopologySpec(kind=kind), 9)) for kind in ("star", "complete"))
    assert (star.diameter, star.redundancy, star.degree_max) == (2, 0, 8)
    assert (complete.diameter, complete.redundancy, complete.rounds) == (1, 4, 1)
    assert complete.gap == pytest.approx(1)


def test_predicted_rounds_are_those_that_states_take() -> None:
    topology = build_topology(TopologySpec(kind="torus"), 36)
    found = measure(topology)
    assert found.rounds is not None
    states = np.cos(2 * np.pi * (np.arange(36) % 6) / 6)[:, None]
    begin = np.linalg.norm(states)
    for r in range(found.rounds):
        assert np.linalg.norm(states) * SHRINK > begin
        states = topology.at(r).apply(states)
    assert np.linalg.norm(states) * SHRINK <= begin


def test_the_gap_by_lanczos_is_the_dense_one(monkeypatch: pytest.MonkeyPatch) -> None:
    topology = build_topology(TopologySpec(kind="random-regular"), 200, 5)
    dense = measure(topology).gap
    monkeypatch.setattr("quidnunc.sim.topology.measure.DENSE_UP_TO", 10)
    assert measure(topology).gap == pytest.approx(dense, abs=1e-5)


def test_a_cut_vertex_bears_no_attacker_whatever_the_size(monkeypatch: pytest.MonkeyPatch) -> None:
    # Two complete graphs of 5 that share peer 4.
    pairs = [(a, b) for part in (range(5), range(4, 9)) for a in part for b in part if a < b]
    both = np.array(pairs)
    topology = catalog.Topology("file", 9, lambda r: catalog.metropolis(9, both))
    assert measure(topology).redundancy == 0
    monkeypatch.setattr("quidnunc.sim.topology.measure.EXACT_CONNECTIVITY_UP_TO", 4)
    assert measure(topology).redundancy == 0


def test_reordering_names_peers_anew_and_changes_nothing_else() -> None:
    mixing = build_topology(TopologySpec(kind="scale-free", degree=2), 15, 2).at(0)
    order = np.random.Generator(np.random.PCG64(1)).permutation(15)
    assert np.allclose(mixing.reordered(order).dense(), mixing.dense()[np.ix_(order, order)])


@pytest.mark.parametrize("kind", [*STATIC, *DIRECTED])
def test_pictures_show_every_graph(kind: str) -> None:
    topology = build_topology(TopologySpec(kind=kind), 16, 3)
    lines = terminal_picture(topology)
    assert len(lines) == 18
    assert any(line.strip("\u2800") for line in lines)
    document = svg([(topology, measure(topology))])
    root = ElementTree.fromstring(document)
    assert len(root.findall(".//{http://www.w3.org/2000/svg}circle")) == 16
    assert "nan" not in document
