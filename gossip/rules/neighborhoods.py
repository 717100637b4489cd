"""REPUTE for many peers side by side: the same numbers as for one, computed for whole batches in few passes.

Batches are [b, k]: b peers with k neighbors each. Geometry works on float32 rows that stay in a core's cache; where one
peer alone merges (``gossip/rules/repute.py``) it is summed in float64 instead, so that the two agree to rounding.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from quidnunc.gossip.reputation import BAD_CAP, DECAY, FLOOR, FULL, GOOD_CAP, PENALTY
from quidnunc.gossip.rules.linear import Reals, Stack
from quidnunc.gossip.rules.network import MOST_ROWS, ranks
from quidnunc.gossip.rules.repute import Flags, Geometry


def standing_weights(good: Reals, bad: Reals) -> Reals:
    """:func:`quidnunc.gossip.reputation.standing_weight` of arrays of good and bad mass."""
    mean = (good + 1) / (good + bad + 2)
    found: Reals = np.minimum(1.0, np.maximum(0.0, (mean - FLOOR) / (FULL - FLOOR)))
    return found


def observed(good: Reals, bad: Reals, suspect: Flags) -> tuple[Reals, Reals]:
    """:func:`quidnunc.gossip.reputation.observe` of arrays: good and bad mass after one more piece of evidence."""
    more = np.minimum(GOOD_CAP, DECAY * good + np.where(suspect, 0.0, 1.0))
    worse = np.minimum(BAD_CAP, DECAY * bad + np.where(suspect, PENALTY, 0.0))
    return more, worse


def weighted_medians(values: Reals, weights: Reals) -> Reals:
    """:func:`quidnunc.gossip.rules.median.weighted_median` of every row of ``values`` [b, k]: [b]."""
    last = values.shape[-1] - 1
    rows = np.arange(len(values))
    order = np.argsort(values, axis=-1, kind="stable")
    ranked = values[rows[:, None], order]
    mass = np.cumsum(weights[rows[:, None], order], axis=-1)
    total = mass[:, -1]
    at = np.minimum((mass < (0.5 * (1 - 1e-12)) * total[:, None]).sum(axis=-1), last)
    here = mass[rows, at]
    tie = (np.abs(here - 0.5 * total) <= 1e-12 * total) & (at < last)
    found: Reals = ranked[rows, at]
    if tie.any():
        # The next row that carries any weight; the last one where none does.
        after = np.maximum(at + 1, np.minimum((mass <= here[:, None]).sum(axis=-1), last))
        found = np.where(tie, (found + ranked[rows, np.minimum(after, last)]) / 2, found)
    nothing = total <= 0
    return np.where(nothing, np.median(values, axis=-1), found) if nothing.any() else found


def geometries(rows: Sequence[Stack]) -> Geometry:
    """:func:`quidnunc.gossip.rules.repute.geometry` of b peers: ``rows`` are their own states and each neighbor's,
    k+1 arrays [b, d]; away and share are [b, k+1].

    The median of all but x is the middle of the others, and is had from the middle ranks r of all: with S their sum,
    (S - clip(x, lowest r, highest r)) / (one less than there are of them).
    """
    count = len(rows)
    half = count // 2
    first, last = (half - 1, half + 1) if count % 2 else (half - 1, half)
    middle = _middle(rows, first, last)
    low, high = middle[0], middle[-1]
    total, spare, other = sum(middle[1:], middle[0]), np.empty_like(low), np.empty_like(low)
    center = middle[1] if len(middle) == 3 else low + np.float32(0.5) * (high - low)
    away, share = np.empty((len(low), count)), np.empty((len(low), count))
    for at, row in enumerate(rows):
        np.subtract(row, center, out=spare)
        away[:, at] = np.sqrt(dots(spare, spare))
        np.minimum(np.maximum(row, low, out=other), high, out=other)
        np.subtract(total, other, out=other)
        # Here ``other`` is the median times the number of middle ranks less one.
        share[:, at] = (len(middle) - 1) * dots(other, row) / np.maximum(dots(other, other), 1e-300)
    return Geometry(away, share)


def dots(a: Stack, b: Stack) -> Reals:
    """The inner products of the rows of ``a`` and ``b`` [b, d], summed in float32: [b]."""
    # As products of one row and one column they go to the fastest kernel there is.
    found: Reals = np.matmul(a[:, None, :], b[:, :, None])[:, 0, 0].astype(np.float64)
    return found


def _middle(rows: Sequence[Stack], first: int, last: int) -> list[Stack]:
    # Adding 0 turns -0 into +0 and makes the copies that the network overwrites.
    copies = [row + np.float32(0) for row in rows]
    if len(rows) <= MOST_ROWS:
        return ranks(copies, first, last)
    ranked = np.sort(np.stack(copies), axis=0)
    return list(ranked[first : last + 1])
