"""The undirected graphs: their edges as arrays, each edge once with the smaller end first.

The regular patterns are numpy; the random ones are networkx generators under a seed of their own. A random graph that
is not connected is drawn again, a fixed number of times.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import networkx as nx
import numpy as np

from quidnunc.crypto.errors import ConfigError
from quidnunc.crypto.identity import tagged_hash
from quidnunc.sim.topology.mixing import Indices
from quidnunc.sim.topology.spec import EDGES_MAX, TopologySpec

ATTEMPTS = 100
_REWIRE = 0.1


def ring(n: int) -> Indices:
    """Everybody between two others; a single edge for two peers."""
    at = np.arange(n)
    return normalized(np.stack([at, (at + 1) % n], axis=1))


def torus(n: int) -> Indices:
    """A grid that wraps around, as square as ``n`` allows, 4 neighbors each. Raises ConfigError for a bad ``n``."""
    rows, columns = torus_shape(n)
    at = np.arange(n).reshape(rows, columns)
    across = np.stack([at, np.roll(at, -1, axis=1)], axis=-1)
    down = np.stack([at, np.roll(at, -1, axis=0)], axis=-1)
    return normalized(np.concatenate([across.reshape(-1, 2), down.reshape(-1, 2)]))


def torus_shape(n: int) -> tuple[int, int]:
    """Rows and columns of the torus on ``n`` peers, at least 3 each."""
    for rows in range(math.isqrt(n), 2, -1):
        if n % rows == 0:
            return rows, n // rows
    side = max(3, round(math.sqrt(n)))
    raise ConfigError(
        f"topology torus on {n} peers: must be a product of two numbers of at least 3",
        hint=f"use {side * side} or {side * (side + 1)} peers",
    )


def complete(n: int) -> Indices:
    """Everybody with everybody."""
    check_count("complete", n * (n - 1) // 2)
    one, other = np.triu_indices(n, 1)
    return np.stack([one, other], axis=1).astype(np.int64)


def star(n: int) -> Indices:
    """Peer 0 with everybody: a coordinator in all but name, for comparison."""
    others = np.arange(1, n)
    return np.stack([np.zeros_like(others), others], axis=1)


def hypercube(n: int) -> Indices:
    """Peers whose numbers differ in one bit. Raises ConfigError unless ``n`` is a power of two."""
    if n & (n - 1):
        low = 1 << (n.bit_length() - 1)
        raise ConfigError(
            f"topology hypercube on {n} peers: must be a power of two", hint=f"use {low} or {2 * low} peers"
        )
    at = np.arange(n)
    pairs = [np.stack([at, at ^ (1 << bit)], axis=1) for bit in range(n.bit_length() - 1)]
    return normalized(np.concatenate(pairs))


FIXED: Mapping[str, Callable[[int], Indices]] = {
    "ring": ring,
    "torus": torus,
    "complete": complete,
    "star": star,
    "hypercube": hypercube,
}
"""Graphs that the number of peers determines."""


def draw(spec: TopologySpec, n: int, seed: int, epoch: int = 0) -> Indices:
    """The edges of a connected random graph; ``epoch`` numbers the drawings of one that changes.

    Raises ConfigError for a degree that ``n`` peers cannot have, or when no drawing was connected.
    """
    maker = _RANDOM[spec.kind](spec, n)
    for attempt in range(ATTEMPTS):
        # A hash spreads neighboring seeds, epochs and attempts; networkx wants a small integer.
        name = b"%d/%d/%d" % (seed, epoch, attempt)
        graph = maker(int.from_bytes(tagged_hash("sim-topology", name)[:4], "big"))
        if nx.is_connected(graph):
            return normalized(np.array(list(graph.edges), dtype=np.int64).reshape(-1, 2))
    hint = "raise topology.probability" if spec.kind == "erdos-renyi" else "raise topology.degree, or change the seed"
    raise ConfigError(f"topology {spec.kind} on {n} peers: none of {ATTEMPTS} drawings was connected", hint=hint)


_Maker = Callable[[int], nx.Graph]


def _erdos_renyi(spec: TopologySpec, n: int) -> _Maker:
    probability = spec.probability or min(1.0, 2 * math.log(n) / n)
    check_count(spec.kind, int(probability * n * (n - 1) / 2))
    return lambda seed: nx.fast_gnp_random_graph(n, probability, seed=seed)


def _random_regular(spec: TopologySpec, n: int) -> _Maker:
    _check_degree(spec, n, "below the number of peers", spec.degree < n)
    _check_degree(spec, n, "even when the number of peers is odd", n * spec.degree % 2 == 0)
    check_count(spec.kind, n * spec.degree // 2)
    return lambda seed: nx.random_regular_graph(spec.degree, n, seed=seed)


def _small_world(spec: TopologySpec, n: int) -> _Maker:
    _check_degree(spec, n, "even, at least 2 and below the number of peers", spec.degree % 2 == 0 and spec.degree < n)
    check_count(spec.kind, n * spec.degree // 2)
    return lambda seed: nx.watts_strogatz_graph(n, spec.degree, spec.probability or _REWIRE, seed=seed)


def _scale_free(spec: TopologySpec, n: int) -> _Maker:
    _check_degree(spec, n, "below the number of peers", spec.degree < n)
    check_count(spec.kind, n * spec.degree)
    return lambda seed: nx.barabasi_albert_graph(n, spec.degree, seed=seed)


_RANDOM: Mapping[str, Callable[[TopologySpec, int], _Maker]] = {
    "erdos-renyi": _erdos_renyi,
    "random-regular": _random_regular,
    "small-world": _small_world,
    "scale-free": _scale_free,
}


def _check_degree(spec: TopologySpec, n: int, bound: str, valid: bool) -> None:
    if not valid:
        raise ConfigError(
            f"topology.degree = {spec.degree} with {n} peers: for {spec.kind} it must be {bound}",
            hint="lower topology.degree, or change the number of peers",
        )


def check_count(kind: str, edges: int) -> None:
    """Raise ConfigError for a graph with more than EDGES_MAX ``edges``, before it is built."""
    if edges > EDGES_MAX:
        raise ConfigError(
            f"topology {kind}: {edges:,} edges, at most {EDGES_MAX:,}", hint="use fewer peers or a sparser graph"
        )


def normalized(edges: Indices) -> Indices:
    """``edges`` [m, 2] sorted, smaller end first, each once."""
    return np.unique(np.sort(edges, axis=1), axis=0).astype(np.int64)
