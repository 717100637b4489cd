"""How much of each neighbor goes into a merge when everybody is in good standing.

Metropolis-Hastings weights (Xiao and Boyd 2004): w_ij = 1 / (1 + max(deg_i, deg_j)), the rest to self. They
need only the degrees of the two ends, are symmetric, and every row sums to one, so that merging preserves the
average of all peers. Weights are integers in parts per billion and rounded down: a row can then never exceed
one.
"""

from __future__ import annotations

from collections.abc import Iterable

from quidnunc.crypto.errors import LocalProtocolError
from quidnunc.gossip.jobs import PPB


def metropolis(edges: Iterable[tuple[int, int]], n: int) -> list[dict[int, int]]:
    """Row i maps every neighbor j of peer i, in ascending order, and i itself to its weight in ppb.

    Every row sums to exactly 10**9 and w_ij equals w_ji. Raises LocalProtocolError for an edge that is a
    loop, stands twice or names a peer outside 0 to n-1.
    """
    neighbors: list[set[int]] = [set() for _ in range(n)]
    for i, j in edges:
        if not (0 <= i < n and 0 <= j < n) or i == j or j in neighbors[i]:
            raise LocalProtocolError(f"edge ({i}, {j}) is a loop, a repetition or outside 0 to {n - 1}")
        neighbors[i].add(j)
        neighbors[j].add(i)
    rows = []
    for i, near in enumerate(neighbors):
        row = {j: PPB // (1 + max(len(near), len(neighbors[j]))) for j in sorted(near)}
        row[i] = PPB - sum(row.values())
        rows.append(row)
    return rows
