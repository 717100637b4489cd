"""How much of each neighbor goes into a merge when everybody is in good standing.

Metropolis-Hastings weights (Xiao and Boyd 2004): w_ij = 1 / (1 + max(deg_i, deg_j)), the rest to self. They
need only the degrees of the two ends, are symmetric, and every row sums to one, so that merging preserves the
average of all peers. Weights are integers in parts per billion and rounded down: a row can then never exceed
one.

Members of very different size may be weighed by it: w_ij * min(1, size_j / size_i), the chain of Hastings (1970) whose
stationary distribution is proportional to the sizes, so that merging preserves the average of all examples' worth. A
small member then moves a large one little, and what it lacks goes to self: weights are only ever shrunk.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import median_low

from quidnunc.crypto.errors import LocalProtocolError
from quidnunc.gossip.federation.terms import MICRO
from quidnunc.gossip.jobs import PPB


def metropolis(edges: Iterable[tuple[int, int]], n: int, sizes: Sequence[int] | None = None) -> list[dict[int, int]]:
    """Row i maps every neighbor j of peer i, in ascending order, and i itself to its weight in ppb.

    Every row sums to exactly 10**9, and w_ij equals w_ji; with ``sizes`` (positive, in any unit) size_i * w_ij equals
    size_j * w_ji up to rounding, and w_ij is never above what it is without. Raises LocalProtocolError for an edge
    that is a loop, stands twice or names a peer outside 0 to n-1.
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
        if sizes is not None:
            row = {j: weight * min(sizes[i], sizes[j]) // sizes[i] for j, weight in row.items()}
        row[i] = PPB - sum(row.values())
        rows.append(row)
    return rows


def capped_sizes(buckets: Sequence[int], cap_u: int) -> list[int]:
    """Sizes in millionths of an example from ``buckets``, floor(log2(examples)), none above the cap.

    The cap is ``cap_u`` millionths of the lower median of all sizes: whoever claims to be huge weighs no more than that
    against the median member. A bucket of 0 was not told and counts as the smallest one that was.
    """
    least = min((bucket for bucket in buckets if bucket), default=0)
    sizes = [2 ** (bucket or least) for bucket in buckets]
    most = cap_u * median_low(sizes)
    return [min(MICRO * size, most) for size in sizes]
