"""From a specification to a :class:`Topology`: what every round's mixing matrix is, static or changing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from quidnunc.crypto.errors import ConfigError
from quidnunc.crypto.identity import tagged_hash
from quidnunc.sim.topology.edges import FIXED, check_count, draw
from quidnunc.sim.topology.mixing import Indices, Mixing, metropolis, uniform
from quidnunc.sim.topology.read import read_graph
from quidnunc.sim.topology.spec import PEERS_MAX, PEERS_MIN, RANDOM, TopologySpec

KEPT = 8


@dataclass(frozen=True, slots=True, eq=False)
class Topology:
    """Who reads whom in every round. ``at(r)`` is the mixing of round r, from 0.

    ``period`` is the number of rounds after which it repeats, 1 for a graph that stays, 0 for one that never repeats.
    ``directed`` ones have no mutual edges.
    """

    kind: str
    peers: int
    at: Callable[[int], Mixing]
    period: int = 1
    directed: bool = False

    def edges(self, rounds: int = 1) -> Indices:
        """The arcs (reader, read) of the first ``rounds`` rounds [m, 2]; of undirected graphs each edge once."""
        found = []
        for r in range(rounds):
            mixing = self.at(r)
            arcs = np.stack([mixing.receivers, mixing.indices], axis=1)
            found.append(arcs if self.directed else arcs[arcs[:, 0] < arcs[:, 1]])
        return np.unique(np.concatenate(found), axis=0)


def build_topology(spec: TopologySpec, peers: int, seed: int = 0, base: Path | None = None) -> Topology:
    """The topology on ``peers`` peers; the same arguments give the same one. A relative file is looked for in ``base``.

    Raises ConfigError for numbers that do not fit together and for a file that is no graph of as many peers.
    """
    if not PEERS_MIN <= peers <= PEERS_MAX:
        raise ConfigError(f"{peers} peers, must be {PEERS_MIN} to {PEERS_MAX:,}", hint="change peers")
    if spec.kind == "sequence":
        return _sequence(spec, peers, seed)
    if spec.file and spec.kind != "file":
        raise ConfigError(
            f"topology.file = {spec.file[:80]!r} with kind {spec.kind!r}", hint='set kind = "file", or leave file out'
        )
    if spec.of:
        raise ConfigError(f"topology.of with kind {spec.kind!r}", hint='set kind = "sequence", or leave of out')
    if spec.redraw_every and spec.kind not in RANDOM:
        raise ConfigError(
            f"topology.redraw_every = {spec.redraw_every}: {spec.kind} is not random",
            hint=f"it is for {', '.join(RANDOM)}",
        )
    if spec.kind == "file":
        edges = _from_file(spec, peers, base or Path())
        return _static("file", peers, metropolis(peers, edges))
    if spec.kind == "exponential":
        return _static(spec.kind, peers, _exponential(peers), directed=True)
    if spec.kind == "one-peer-exponential":
        hops = [_hop(peers, 1 << k) for k in range(_hops(peers))]
        return Topology(spec.kind, peers, lambda r: hops[r % len(hops)], len(hops), directed=True)
    if spec.kind == "epidemic":
        return _epidemic(spec, peers, seed)
    if spec.kind in FIXED:
        return _static(spec.kind, peers, metropolis(peers, FIXED[spec.kind](peers)))
    if not spec.redraw_every:
        return _static(spec.kind, peers, metropolis(peers, draw(spec, peers, seed)))
    drawn = lru_cache(maxsize=KEPT)(lambda epoch: metropolis(peers, draw(spec, peers, seed, epoch)))
    drawn(0)
    return Topology(spec.kind, peers, lambda r: drawn(r // spec.redraw_every), 0)


def _static(kind: str, peers: int, mixing: Mixing, *, directed: bool = False) -> Topology:
    return Topology(kind, peers, lambda r: mixing, 1, directed)


def _sequence(spec: TopologySpec, peers: int, seed: int) -> Topology:
    if not spec.of or "sequence" in spec.of or "file" in spec.of:
        raise ConfigError(
            f"topology.of = {list(spec.of)}: a sequence goes through at least one kind, none of them sequence or file",
            hint='for example of = ["ring", "random-regular"]',
        )
    parts = [
        build_topology(TopologySpec(kind=kind, degree=spec.degree, probability=spec.probability), peers, seed + at)
        for at, kind in enumerate(spec.of)
    ]
    every, count = spec.every, len(parts)

    def at_round(r: int) -> Mixing:
        turn, inside = divmod(r // every, count)
        # The rounds a part has had, so that a changing one goes on where it stopped.
        return parts[inside].at(turn * every + r % every)

    period = 0 if any(part.period != 1 for part in parts) else every * count
    return Topology("sequence", peers, at_round, period, any(part.directed for part in parts))


def _hops(peers: int) -> int:
    return max(1, (peers - 1).bit_length())


def _hop(peers: int, distance: int) -> Mixing:
    at = np.arange(peers)
    return uniform(peers, (at + distance) % peers, at)


def _exponential(peers: int) -> Mixing:
    """Peer i is read by i+1, i+2, i+4, ... (Ying et al. 2021): doubly stochastic, log2 n neighbors."""
    at = np.arange(peers)
    jumps = sorted({(1 << k) % peers for k in range(_hops(peers))} - {0})
    check_count("exponential", peers * len(jumps))
    receivers = np.concatenate([(at + jump) % peers for jump in jumps])
    return uniform(peers, receivers, np.tile(at, len(jumps)))


def _epidemic(spec: TopologySpec, peers: int, seed: int) -> Topology:
    """Every peer sends to ``degree`` others drawn anew in every round (De Vos et al. 2023, EL-Local)."""
    if spec.degree >= peers:
        raise ConfigError(
            f"topology.degree = {spec.degree} with {peers} peers: for epidemic it must be below the number of peers",
            hint="lower topology.degree",
        )
    check_count(spec.kind, peers * spec.degree)

    def drawn(r: int) -> Mixing:
        key = int.from_bytes(tagged_hash("sim-epidemic", b"%d/%d" % (seed, r))[:16], "big")
        generator = np.random.Generator(np.random.PCG64(key))
        senders = np.repeat(np.arange(peers), spec.degree)
        jumps = _distinct(generator, peers, spec.degree)
        return uniform(peers, (senders + 1 + jumps.reshape(-1)) % peers, senders)

    return Topology(spec.kind, peers, lru_cache(maxsize=KEPT)(drawn), 0, directed=True)


def _distinct(generator: np.random.Generator, peers: int, count: int) -> Indices:
    """``count`` different numbers of 0 to peers-2 in each of ``peers`` rows (Floyd 1987, all rows at once)."""
    chosen = np.empty((peers, count), dtype=np.int64)
    for k in range(count):
        top = peers - 1 - count + k
        drawn = generator.integers(0, top + 1, size=peers)
        taken = (chosen[:, :k] == drawn[:, None]).any(axis=1)
        chosen[:, k] = np.where(taken, top, drawn)
    return chosen


def _from_file(spec: TopologySpec, peers: int, base: Path) -> Indices:
    if not spec.file:
        raise ConfigError("topology.file is empty with kind 'file'", hint="name a GraphML file or an edge list")
    graph = read_graph(base / Path(spec.file).expanduser())
    if graph.peers != peers:
        raise ConfigError(
            f"topology.file = {spec.file!r} has {graph.peers} nodes, the scenario {peers} peers",
            hint=f"set peers = {graph.peers}",
        )
    return graph.edges
