"""Where to put the peers of a graph on a page: x and y in [0, 1], the same for the same graph."""

from __future__ import annotations

import networkx as nx
import numpy as np

from quidnunc.sim.topology.catalog import Topology
from quidnunc.sim.topology.edges import torus_shape
from quidnunc.sim.topology.mixing import Indices, Reals

DRAWN_PEERS_MAX = 400
"""More dots than that are a cloud; :func:`layout` then puts everybody on a circle."""
_SEED = 3
_STEPS = 80
_MARGIN = 0.04


def layout(topology: Topology, edges: Indices) -> Reals:
    """Positions [n, 2]: grids as grids, stars as stars, random graphs by springs, all others on a circle."""
    n = topology.peers
    if topology.kind == "torus":
        _, columns = torus_shape(n)
        at = np.arange(n)
        # Each row a little aside, or links that wrap around would lie on the others.
        return _fitted(np.stack([at % columns + 0.15 * (at // columns % 2), at // columns], axis=1).astype(np.float64))
    if topology.kind == "star" and n > 2:
        return np.concatenate([[[0.5, 0.5]], _circle(n - 1)])
    springs = topology.kind in ("erdos-renyi", "random-regular", "scale-free", "file") and n <= DRAWN_PEERS_MAX
    if springs:
        graph = nx.Graph()
        graph.add_nodes_from(range(n))
        graph.add_edges_from(edges.tolist())
        start = dict(enumerate(_circle(n)))
        placed = nx.spring_layout(graph, pos=start, iterations=_STEPS, seed=_SEED)
        return _fitted(np.array([placed[i] for i in range(n)]))
    return _circle(n)


def _circle(n: int) -> Reals:
    angle = 2 * np.pi * np.arange(n) / n - np.pi / 2
    half = 0.5 - _MARGIN
    return np.stack([0.5 + half * np.cos(angle), 0.5 + half * np.sin(angle)], axis=1)


def _fitted(positions: Reals) -> Reals:
    low, high = positions.min(axis=0), positions.max(axis=0)
    scaled: Reals = (positions - low) / np.where(high > low, high - low, 1.0)
    return _MARGIN + scaled * (1 - 2 * _MARGIN)
