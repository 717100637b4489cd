"""Who is connected with whom: edges are pairs (i, j), i < j, of places in the sorted list of members."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator

from quidnunc.crypto.encoding import Value
from quidnunc.crypto.errors import CharterError, Malformed

Edges = tuple[tuple[int, int], ...]


def read_edge(value: Value) -> tuple[int, int]:
    """An edge as it stands in a charter; raises Malformed."""
    if isinstance(value, list) and len(value) == 2:
        i, j = value
        if type(i) is int and type(j) is int:
            return i, j
    raise Malformed("an edge is not a pair of integers")


def check_edges(edges: Edges, n: int) -> None:
    """Raise CharterError unless ``edges`` are sorted and connect all ``n`` members."""
    for i, j in edges:
        if not 0 <= i < j < n:
            raise CharterError(f"edge ({i}, {j}) must be (i, j) with 0 <= i < j <= {n - 1}")
    if any(a >= b for a, b in itertools.pairwise(edges)):
        raise CharterError("edges are not in strictly ascending order")
    reached = _reachable(edges, n)
    if len(reached) < n:
        raise CharterError(f"the graph is not connected: {len(reached)} of {n} members can be reached from the first")


def _reachable(edges: Iterable[tuple[int, int]], n: int) -> set[int]:
    near: list[list[int]] = [[] for _ in range(n)]
    for i, j in edges:
        near[i].append(j)
        near[j].append(i)
    reached, frontier = {0}, [0]
    while frontier:
        for k in near[frontier.pop()]:
            if k not in reached:
                reached.add(k)
                frontier.append(k)
    return reached


def outward(edges: Edges, n: int, start: int) -> Iterator[tuple[int, int]]:
    """(member, links from ``start``) of all ``n`` members, the nearest first."""
    adjacent: dict[int, list[int]] = {i: [] for i in range(n)}
    for i, j in edges:
        adjacent[i].append(j)
        adjacent[j].append(i)
    seen, ring, distance = {start}, [start], 0
    while ring:
        yield from ((i, distance) for i in ring)
        ring = sorted({j for i in ring for j in adjacent[i]} - seen)
        seen.update(ring)
        distance += 1
