"""Sorting networks: order statistics of k rows by straight elementwise minima and maxima, without a branch."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray

from quidnunc.gossip.rules.linear import Stack, Vector

MOST_ROWS = 64
"""Above this many rows a general sort is as good."""

_LOW, _HIGH, _BOTH = 1, 2, 3


def batcher(k: int) -> list[tuple[int, int]]:
    """The comparators (low wire, high wire) of Batcher's odd-even merge sort of ``k`` wires (Knuth, TAOCP 5.2.2 M).

    For k that is no power of two, the wires beyond k stand for +infinity, which never moves: their comparators fall
    away.
    """
    found = []
    p = 1
    while p < k:
        step = p
        while step >= 1:
            for start in range(step % p, k - step, 2 * step):
                for wire in range(start, start + min(step, k - start - step)):
                    if wire // (2 * p) == (wire + step) // (2 * p):
                        found.append((wire, wire + step))
            step //= 2
        p *= 2
    return found


@cache
def plan(k: int, first: int, last: int, ordered: bool) -> tuple[tuple[int, int, int], ...]:
    """The comparators (low wire, high wire, outputs needed) that ranks ``first`` to ``last`` of ``k`` rows need.

    With ``ordered`` false only the set of these ranks matters, so that their order among themselves is left open.
    """
    needed, loose = set(range(first, last + 1)), set() if ordered else set(range(first, last + 1))
    kept = []
    for low, high in reversed(batcher(k)):
        wants = _LOW * (low in needed) | _HIGH * (high in needed)
        if not wants or (low in loose and high in loose):
            continue
        kept.append((low, high, wants))
        needed |= {low, high}
        loose -= {low, high}
    return tuple(reversed(kept))


def ranks(
    rows: Sequence[Vector], first: int, last: int, *, ordered: bool = True, spare: Vector | None = None
) -> list[Vector]:
    """The values of rank ``first`` to ``last`` at every coordinate of ``rows``; overwrites ``rows`` and ``spare``.

    ``rows`` are k equal-shaped float32 arrays without NaN, ``spare`` one more like them. With ``ordered`` false the
    values come in any order.
    """
    wires, spare = list(rows), np.empty_like(rows[0]) if spare is None else spare
    for low, high, wants in plan(len(wires), first, last, ordered):
        a, b = wires[low], wires[high]
        if wants == _LOW:
            np.minimum(a, b, out=a)
        elif wants == _HIGH:
            np.maximum(a, b, out=b)
        else:
            np.minimum(a, b, out=spare)
            np.maximum(a, b, out=b)
            wires[low], spare = spare, a
    return wires[first : last + 1]


def ranks_into(rows: Sequence[Stack], free: Sequence[Stack], first: int, last: int) -> list[Stack]:
    """Like :func:`ranks` without overwriting ``rows``, in k+1 arrays ``free`` of their shape.

    The results are arrays of ``free``, or rows themselves where nothing had to be compared.
    """
    wires, spares = list(rows), list(free)
    fresh = [True] * len(wires)
    for low, high, wants in plan(len(wires), first, last, True):
        a, b = wires[low], wires[high]
        if wants & _LOW:
            # In place only where the other output is not wanted: it is made of the same two.
            wires[low] = np.minimum(a, b, out=spares.pop() if fresh[low] or wants & _HIGH else a)
        if wants & _HIGH:
            wires[high] = np.maximum(a, b, out=spares.pop() if fresh[high] else b)
        if not fresh[low] and wires[low] is not a:
            spares.append(a)
        fresh[low] = fresh[high] = False
    return wires[first : last + 1]


def middle(
    stack: Stack, first: int, last: int, *, ordered: bool = True, work: NDArray[np.float32] | None = None
) -> list[Vector]:
    """Like :func:`ranks` for ``stack`` [..., k, c]: arrays [..., c]; leaves ``stack`` alone.

    ``work`` [k+1, ..., c] is overwritten and holds the result; who has many blocks gives the same one each time. -0
    becomes +0: the two compare equal, so that otherwise the order of the rows would show.
    """
    k = stack.shape[-2]
    if k > MOST_ROWS:
        ranked = np.sort(stack + np.float32(0), axis=-2)
        return [ranked[..., rank, :] for rank in range(first, last + 1)]
    if work is None:
        work = np.empty((k + 1, *stack.shape[:-2], stack.shape[-1]), np.float32)
    np.add(np.moveaxis(stack, -2, 0), np.float32(0), out=work[:k])
    return ranks(list(work[:k]), first, last, ordered=ordered, spare=work[k])
