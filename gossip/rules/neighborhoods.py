"""REPUTE for many peers side by side: the same numbers as for one, computed for whole batches in few passes.

Batches are [b, k]: b peers with k neighbors each. Geometry works on float32 rows that stay in a core's cache; where one
peer alone merges (``gossip/rules/repute.py``) it is summed in float64 instead, so that the two agree to rounding.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from quidnunc.gossip.reputation import BAD_CAP, DECAY, FLOOR, FULL, GOOD_CAP, PENALTY
from quidnunc.gossip.rules.linear import Reals, Stack
from quidnunc.gossip.rules.network import MOST_ROWS, ranks_into
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


_SURE = 1.01
"""How much further than needed a bound must reach, so that rounding decides nothing."""
_TOGETHER, _COLUMNS_MIN = 1 << 16, 1 << 13
"""Params of each row that are worked on at a time, so that most of a dozen arrays of them stay in a core's own cache
(measured: twice as many took a third longer); and how few columns at least."""


class Buffers:
    """Float32 arrays by name that are used again and again: new memory of megabytes costs more than what is done in it.

    An array is good until the next one of its name is asked for.
    """

    def __init__(self) -> None:
        self._kept: dict[str, Stack] = {}

    def array(self, name: str, shape: tuple[int, ...]) -> Stack:
        """An array of that shape; what is in it is without meaning."""
        size = math.prod(shape)
        kept = self._kept.get(name)
        if kept is None or len(kept) < size:
            kept = self._kept[name] = np.empty(size, np.float32)
        return kept[:size].reshape(shape)


def geometries(rows: Sequence[Stack], buffers: Buffers | None = None) -> Geometry:
    """:func:`quidnunc.gossip.rules.repute.geometry` of b peers: ``rows`` are their own states and each neighbor's,
    k+1 arrays [b, d]; away and share are [b, k+1]. ``rows`` stay as they are.

    The median of all but x is the middle of the others, and is had from the middle ranks r of all: with S their sum,
    (S - clip(x, lowest r, highest r)) / (one less than there are of them).
    """
    buffers = buffers or Buffers()
    count, peers = len(rows), len(rows[0])
    square, inner, size = (np.zeros((peers, count)) for _ in range(3))
    for some, part in _parts(rows):
        _gather_up(part, buffers, square[some], inner[some], size[some])
    return Geometry(np.sqrt(square), inner / np.maximum(size, 1e-300))


def spreads(rows: Sequence[Stack], buffers: Buffers | None = None) -> Reals:
    """The distances of b peers' own states and each neighbor's to their coordinate median: ``away`` of
    :func:`geometries` alone, [b, k+1], in less than half of the time.
    """
    buffers = buffers or Buffers()
    count = len(rows)
    square = np.zeros((len(rows[0]), count))
    first, last = (count - 1) // 2, count // 2
    for some, part in _parts(rows):
        middle = _middle(part, first, last, buffers)
        spare, center = buffers.array("spare", part[0].shape), middle[0]
        if first < last:
            center = np.add(middle[0], middle[1], out=buffers.array("center", part[0].shape))
            center *= np.float32(0.5)
        for at, row in enumerate(part):
            np.subtract(row, center, out=spare)
            square[some, at] += dots(spare, spare)
    found: Reals = np.sqrt(square)
    return found


def _parts(rows: Sequence[Stack]) -> Iterator[tuple[slice, list[Stack]]]:
    """The ``rows`` [b, d] in parts of about _TOGETHER params, with the peers whose they are."""
    peers, dim = rows[0].shape
    columns = min(dim, max(_COLUMNS_MIN, _TOGETHER // max(1, peers)))
    step = max(1, _TOGETHER // columns)
    for top in range(0, peers, step):
        some = slice(top, top + step)
        for left in range(0, dim, columns):
            yield some, [row[some, left : left + columns] for row in rows]


def aligned(own: Reals, away: Reals, least: float) -> Flags:
    """Where distances alone rule out that a neighbor holds less than ``least`` of what the median peer holds of the
    others (:func:`quidnunc.gossip.rules.repute.bad_by_direction`): bool [b].

    ``own`` [b] are the norms of the peers' own states p, ``away`` [b, k] the neighbors' distances from them. A median
    of k values is in size below at least half of them, so that each median m of the others has |m - p| <= v with
    v^2 = sum of squares / ceil(k/2). That bounds <x, m> and <m, m>, and with them every share from both sides.
    """
    half = (away.shape[-1] + 1) // 2
    # What is not finite compares false, and is looked at.
    with np.errstate(over="ignore", invalid="ignore"):
        v = np.sqrt(np.square(away).sum(axis=-1) / half)
        u = away.max(axis=-1)
        low = own * (own - u - v) - u * v
        # low / (own + v)^2 is the least share there can be, (own + u) (own + v) / (own - v)^2 the greatest.
        found: Flags = (own > v) & (low * np.square(own - v) > _SURE * least * (own + u) * (own + v) ** 3)
    return found


def _gather_up(rows: Sequence[Stack], buffers: Buffers, square: Reals, inner: Reals, size: Reals) -> None:
    """Add what some columns come to: squared distances to the center, and <x, m> and <m, m> of the others' median."""
    count, shape = len(rows), rows[0].shape
    half = count // 2
    first, last = (half - 1, half + 1) if count % 2 else (half - 1, half)
    middle = _middle(rows, first, last, buffers)
    low, high = middle[0], middle[-1]
    total, spare, other = (buffers.array(name, shape) for name in ("total", "spare", "other"))
    np.add(low, high, out=total)
    if len(middle) == 3:
        center = middle[1]
        total += center
    else:
        center = np.subtract(high, low, out=buffers.array("center", shape))
        center *= np.float32(0.5)
        center += low
    parts = len(middle) - 1
    for at, row in enumerate(rows):
        np.subtract(row, center, out=spare)
        square[:, at] += dots(spare, spare)
        np.minimum(np.maximum(row, low, out=other), high, out=other)
        np.subtract(total, other, out=other)
        # Here ``other`` is the median times the number of middle ranks less one.
        inner[:, at] += dots(other, row) / parts
        size[:, at] += dots(other, other) / parts**2


def dots(a: Stack, b: Stack) -> Reals:
    """The inner products of the rows of ``a`` and ``b`` [b, d], summed in float32: [b]."""
    found: Reals = np.vecdot(a, b).astype(np.float64)
    return found


def _middle(rows: Sequence[Stack], first: int, last: int, buffers: Buffers) -> list[Stack]:
    """The values of rank ``first`` to ``last`` at every coordinate, in order."""
    if len(rows) > MOST_ROWS:
        ranked = np.sort(np.stack(rows), axis=0)
        return list(ranked[first : last + 1])
    # One buffer more than there are rows, so that nothing of the rows is overwritten and nothing copied either.
    own = [buffers.array(f"rank {at}", rows[0].shape) for at in range(len(rows) + 1)]
    return ranks_into(rows, own, first, last)
