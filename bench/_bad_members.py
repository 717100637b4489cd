"""Bad members that no robust rule is for: a key that signs two histories, and a site far smaller than the others that
scales its update by a thousand.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from itertools import combinations
from statistics import fmean

import numpy as np
from common import Row
from numpy.typing import NDArray

from quidnunc.crypto.entry import EntryType, parse_header
from quidnunc.gossip.events import Send
from quidnunc.gossip.federation.mixing import capped_sizes, metropolis
from quidnunc.gossip.jobs import Standing
from quidnunc.gossip.learning.builtin import DEFAULTS, digits
from quidnunc.gossip.learning.merge import merge
from quidnunc.gossip.learning.merged import Inputs
from quidnunc.gossip.message import Hello, Snapshot, Unavailable, Update, Want
from quidnunc.gossip.message_codec import parse_message
from quidnunc.gossip.reputation import FOUNDER
from quidnunc.sim.disk import Disk
from quidnunc.sim.federation import Scenario, build
from quidnunc.sim.topology.catalog import build_topology
from quidnunc.sim.topology.measure import measure
from quidnunc.sim.topology.spec import TopologySpec
from quidnunc.sim.trials import PACE
from quidnunc.sim.world import Peer, World

GRAPHS = {
    "complete 8": TopologySpec("complete"),
    "4-regular 16": TopologySpec("random-regular", degree=4),
    "ring 12": TopologySpec("ring"),
}
ALONE_S = 5.3
"""When the copy starts, in virtual seconds; a round takes one."""
ENOUGH_S = 30.0
MODELS = Update | Snapshot | Hello | Want | Unavailable
SITES = (190, 362, 692, 1322, 2525, 4823, 9211, 17_834)
"""Examples of eight sites of a published federation (the study's MediSwarm case)."""
SCALE = 1000
CAP_U = 1_000_000_000


def equivocation(seeds: range) -> Iterator[Row]:
    """Rounds until everybody has frozen a log of which two instances have each published an update."""
    for name, spec in GRAPHS.items():
        peers = int(name.rpartition(" ")[2])
        topology = build_topology(spec, peers)
        edges = tuple((int(a), int(b)) for a, b in topology.edges(1))
        diameter = measure(topology).diameter
        found = [frozen_after(peers, edges, seed) for seed in seeds]
        if any(each is None for each in found):
            yield Row(
                f"equivocation, {name}: frozen by all", None, "rounds", at_most=diameter, note=f"not in {ENOUGH_S} s"
            )
            continue
        times = [each for each in found if each is not None]
        note = f"diameter {diameter}, mean of {len(times)} seeds {fmean(times):.2f}"
        yield Row(f"equivocation, {name}: frozen by all", max(times), "rounds", at_most=diameter, note=note)


def frozen_after(peers: int, edges: tuple[tuple[int, int], ...], seed: int) -> float | None:
    """Real nodes; None if somebody honest has not frozen the log in time."""
    scenario = Scenario(
        *(digits, DEFAULTS["digits"].plain, peers),
        rounds=1000,
        edges=edges,
        seed=seed,
        settings=PACE,
    )
    world = build(scenario)
    for peer in world.peers:
        world.start(peer.index)
    world.run(ALONE_S)
    culprit = world.peers[seed % peers]
    twin = _copied(world, build(scenario).peers[culprit.index], culprit)
    had = len(twin.disk.entries)
    world.start(twin.index, current=True)
    both = (culprit, twin)
    world.run(ALONE_S + ENOUGH_S, stop=lambda: all(_published(each, had) for each in both))
    begun = world.now
    honest = [peer for peer in world.peers if peer.log_id != culprit.log_id]
    world.run(begun + ENOUGH_S, stop=lambda: all(_freezes(peer, culprit) for peer in honest))
    return world.now - begun if all(_freezes(peer, culprit) for peer in honest) else None


def _copied(world: World, empty: Peer, culprit: Peer) -> Peer:
    """A second instance of ``culprit`` in ``world``. From then on both hear of models alone, and nothing of what their
    log has come to, at which this program stops.
    """
    disk: Disk = copy.deepcopy(culprit.disk)
    empty.disk.blobs.data.update(disk.blobs.data)
    disk.blobs = empty.disk.blobs
    twin = world.twin(culprit.index, disk, empty.worker)

    def deaf(_: Peer, receiver: Peer, send: Send, body: bytes) -> tuple[bytes, bytes] | None:
        told = parse_message(send.frame.header, world.charter.federation_id)
        return (send.frame.header, body) if receiver.log_id != twin.log_id or isinstance(told, MODELS) else None

    world.hooks.tamper = deaf
    return twin


def _published(peer: Peer, had: int) -> bool:
    """Whether an instance has published an update of its own after the ``had`` entries that both have."""
    return any(parse_header(entry.header).type == EntryType.UPDATE_PUBLISHED for entry in peer.disk.entries[had:])


def _freezes(peer: Peer, culprit: Peer) -> bool:
    return peer.node is not None and peer.node.exposure.frozen(culprit.log_id)


def sizes() -> Iterator[Row]:
    """How far the smallest and the largest of eight very unequal sites move the others by scaling what they learned."""
    for attacker, who in ((0, "smallest"), (7, "largest")):
        plain = moved("mean", attacker)
        value = moved("repute", attacker)
        most = 0.05 if attacker == 0 else None
        note = f"{SITES[attacker]:,} of {sum(SITES):,} examples"
        name = f"eight sites, the {who} scales by {SCALE:,}: normalized error"
        yield Row(name, value, "", "mean, weighted by size", plain, at_most=most, note=note)


def moved(rule: str, attacker: int, rounds: int = 3) -> float:
    """||x - what honest sites would have|| / ||that||, the worst of all honest sites, after some rounds."""
    buckets = [each.bit_length() - 1 for each in SITES]
    weights = metropolis(tuple(combinations(range(len(SITES)), 2)), len(SITES), capped_sizes(buckets, CAP_U))
    usual, scaled = (_rounds(rule, weights, attacker, factor, rounds) for factor in (1, SCALE))
    away: NDArray[np.float64] = np.linalg.norm(scaled - usual, axis=1) / np.linalg.norm(usual, axis=1)
    return float(away.max())


def _rounds(rule: str, weights: list[dict[int, int]], attacker: int, factor: int, rounds: int) -> NDArray[np.float64]:
    n = len(SITES)
    states = np.zeros((n, 400), np.float32)
    standings: list[list[Standing]] = [[FOUNDER] * n for _ in range(n)]
    for number in range(rounds):
        generator = np.random.Generator(np.random.PCG64(number))
        common = generator.normal(size=400)
        noise = generator.normal(size=(n, 400)) / np.sqrt(np.array(SITES)[:, None] / SITES[0])
        learned = (common + noise).astype(np.float32)
        learned[attacker] *= factor
        before = states + learned
        merged = []
        for i in range(n):
            others = [j for j in range(n) if j != i]
            rows = before[others], [weights[i][j] for j in others], [standings[i][j] for j in others]
            result = merge(rule, before[i], Inputs(*rows, [True] * len(others)), None, {})
            merged.append(result.result)
            for j, row in zip(others, result.rows, strict=True):
                standings[i][j] = row.standing
        states = np.stack(merged)
    return np.delete(states, attacker, axis=0).astype(np.float64)
