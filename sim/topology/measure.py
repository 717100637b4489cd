"""What a topology promises before anything runs on it: degrees, diameter, speed of consensus, attackers borne."""

from __future__ import annotations

import math
from dataclasses import dataclass

import networkx as nx
import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import dijkstra
from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigsh

from quidnunc.sim.topology.catalog import Topology
from quidnunc.sim.topology.mixing import Indices, Mixing, Reals

SHRINK = 100.0
"""Consensus, in predictions: everybody is this many times nearer to the average than at the start."""
DENSE_UP_TO = 512
EXACT_DIAMETER_UP_TO = 2048
EXACT_CONNECTIVITY_UP_TO = 128
_SOURCES = 32
_PROBES = 8
_PROBE_ROUNDS_MAX = 2000
_UNION_ROUNDS = 16
_PROBE_SEED = 20


@dataclass(frozen=True, slots=True)
class Measures:
    """Numbers of one topology.

    Degrees count the neighbors read in one round (in the first one where they change). ``diameter`` is in hops, for a
    changing graph over one period; a lower bound unless ``diameter_exact``. ``gap`` is 1 - |second eigenvalue| of the
    mixing matrix, or what the shrinking per round comes to where it changes; ``rounds`` the predicted rounds until
    everybody is SHRINK times nearer to the average, None where that never happens. ``redundancy`` is the number of
    attackers that may sit anywhere: they are a minority of every neighborhood (the own state counts), and, where
    ``redundancy_exact``, cannot cut the others apart. None where neighborhoods change: nobody can count on one.
    """

    kind: str
    peers: int
    edges: int
    degree_min: int
    degree_mean: float
    degree_max: int
    diameter: int
    diameter_exact: bool
    gap: float
    rounds: int | None
    redundancy: int | None
    redundancy_exact: bool


def measure(topology: Topology) -> Measures:
    """The measures of ``topology``; within a few seconds up to 10,000 peers of moderate degree."""
    first = topology.at(0)
    degrees = np.diff(first.indptr)
    edges = topology.edges(topology.period or _UNION_ROUNDS)
    diameter, exact = _diameter(topology.peers, edges, directed=topology.directed)
    gap, rounds = _static_speed(topology, first) if topology.period == 1 else _probed_speed(topology)
    redundancy, sure = None, False
    if topology.period == 1 and not topology.directed:
        redundancy, sure = _redundancy(topology.peers, edges, int(degrees.min()))
    return Measures(
        topology.kind,
        topology.peers,
        len(topology.edges(1)),
        int(degrees.min()),
        float(degrees.mean()),
        int(degrees.max()),
        diameter,
        exact,
        gap,
        rounds,
        redundancy,
        sure,
    )


def _diameter(peers: int, edges: Indices, *, directed: bool) -> tuple[int, bool]:
    if _is_complete(peers, edges, directed=directed):
        return 1, True
    graph = csr_array((np.ones(len(edges)), (edges[:, 0], edges[:, 1])), shape=(peers, peers))
    exact = peers <= EXACT_DIAMETER_UP_TO
    sources = np.arange(peers) if exact else np.linspace(0, peers - 1, _SOURCES).astype(np.int64)
    longest = 0.0
    for at in range(0, len(sources), 64):
        hops = dijkstra(graph, directed=directed, indices=sources[at : at + 64], unweighted=True)
        longest = max(longest, float(hops[np.isfinite(hops)].max()))
    return int(longest), exact


def _is_complete(peers: int, edges: Indices, *, directed: bool) -> bool:
    return len(edges) * (1 if directed else 2) == peers * (peers - 1)


def _static_speed(topology: Topology, mixing: Mixing) -> tuple[float, int | None]:
    """Gap and rounds from the spectrum; deviations from the average shrink by |second eigenvalue| a round."""
    second = _second_eigenvalue(mixing, symmetric=not topology.directed)
    gap = max(0.0, 1.0 - second)
    if second >= 1.0 - 1e-12:
        return gap, None
    return gap, 1 if second <= 1 / SHRINK else math.ceil(math.log(SHRINK) / -math.log(second))


def _second_eigenvalue(mixing: Mixing, *, symmetric: bool) -> float:
    """The spectral radius of W without the average."""
    n = mixing.peers
    if (first := _circulant(mixing)) is not None:
        return float(np.abs(np.fft.fft(first)[1:]).max())
    if n <= DENSE_UP_TO or not symmetric:
        rest = mixing.dense() - 1.0 / n
        values = np.linalg.eigvalsh(rest) if symmetric else np.linalg.eigvals(rest)
        return float(np.abs(values).max())

    def apply(x: Reals) -> Reals:
        flat = x.reshape(-1, 1)
        result: Reals = (mixing.apply(flat) - flat.mean()).reshape(-1)
        return result

    operator = LinearOperator((n, n), matvec=apply, dtype=np.float64)
    start = np.random.Generator(np.random.PCG64(_PROBE_SEED)).standard_normal(n)
    try:
        values = eigsh(operator, k=1, which="LM", v0=start, tol=1e-6, return_eigenvectors=False)
    except ArpackNoConvergence as error:
        values = error.eigenvalues if len(error.eigenvalues) else np.array([1.0])
    return float(np.abs(values).max())


def _circulant(mixing: Mixing) -> Reals | None:
    """The first row if every other one is the same shifted, as in rings and exponential graphs; their eigenvalues are
    its Fourier transform, exactly and for any number of peers.
    """
    n, count = mixing.peers, int(mixing.indptr[1])
    if (np.diff(mixing.indptr) != count).any() or (mixing.own != mixing.own[0]).any():
        return None
    offsets = (mixing.indices.reshape(n, count) - np.arange(n)[:, None]) % n
    order = np.argsort(offsets, axis=1)
    offsets = np.take_along_axis(offsets, order, axis=1)
    weights = np.take_along_axis(mixing.weights.reshape(n, count), order, axis=1)
    if (offsets != offsets[0]).any() or (weights != weights[0]).any():
        return None
    row = np.zeros(n)
    row[0] = mixing.own[0]
    row[offsets[0]] = weights[0]
    return row


def _probed_speed(topology: Topology) -> tuple[float, int | None]:
    factor, rounds = _shrinking(topology)
    return max(0.0, 1.0 - factor), rounds


def _shrinking(topology: Topology) -> tuple[float, int | None]:
    """The mean factor per round, and the rounds, in which random states come SHRINK times nearer to each other."""
    generator = np.random.Generator(np.random.PCG64(_PROBE_SEED))
    states = generator.standard_normal((topology.peers, _PROBES))
    spread = begin = _spread(states)
    for r in range(_PROBE_ROUNDS_MAX):
        states = topology.at(r).apply(states)
        spread = _spread(states)
        if spread * SHRINK <= begin:
            # A jump far below the goal in the last round would make the mean factor look better than the goal needs.
            return max(spread / begin, 1 / SHRINK) ** (1 / (r + 1)), r + 1
    return (spread / begin) ** (1 / _PROBE_ROUNDS_MAX), None


def _spread(states: Reals) -> float:
    return float(np.linalg.norm(states - states.mean(axis=0)))


def _redundancy(peers: int, edges: Indices, degree: int) -> tuple[int, bool]:
    """How many attackers leave every neighborhood a majority and the others connected, and whether both is known."""
    majority = degree // 2
    if majority == 0:
        return 0, True
    if _is_complete(peers, edges, directed=False):
        return majority, True
    graph = nx.Graph()
    graph.add_edges_from(edges.tolist())
    if peers <= EXACT_CONNECTIVITY_UP_TO:
        return min(majority, nx.node_connectivity(graph) - 1), True
    if not nx.is_biconnected(graph):
        return 0, True
    return majority, majority == 1
