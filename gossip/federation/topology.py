"""Who talks to whom: drawn once, when a federation is founded, and written into its charter edge by edge."""

from __future__ import annotations

from itertools import combinations

import networkx as nx

from quidnunc.crypto.errors import ConfigError
from quidnunc.crypto.identity import tagged_hash

COMPLETE_UP_TO = 7
DEGREE = 6

_ATTEMPTS = 100


def founding_edges(n: int, seed: int) -> tuple[tuple[int, int], ...]:
    """The edges of a connected graph on 0 to n-1: complete up to 7 peers, else random 6-regular drawn from ``seed``.

    Edges are (i, j) with i < j, sorted. Random regular graphs are expanders with high probability (Friedman
    2008): news crosses the federation in a number of rounds that grows with log n only. The same networkx
    version draws the same graph from the same seed; nobody has to, because the charter holds the edges.
    """
    if n < 2:
        raise ConfigError(f"{n} peers have nobody to talk to, must be 2 or more", hint="name at least two cards")
    if n <= COMPLETE_UP_TO:
        return tuple(combinations(range(n), 2))
    for attempt in range(_ATTEMPTS):
        # networkx wants a small integer; a hash spreads neighboring seeds and attempts.
        draw = int.from_bytes(tagged_hash("topology", seed.to_bytes(8, "big"), bytes([attempt]))[:4], "big")
        graph = nx.random_regular_graph(DEGREE, n, seed=draw)
        if nx.is_connected(graph):
            return tuple(sorted((min(i, j), max(i, j)) for i, j in graph.edges))
    raise ConfigError(f"no connected {DEGREE}-regular graph on {n} peers in {_ATTEMPTS} attempts", hint="change --seed")
