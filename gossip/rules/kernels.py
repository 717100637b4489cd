"""The passes over stacks that are worth compiling, as numba compiles them.

Each does in one read what numpy does in several. Kernels that rank work on whole blocks; the caller pads. Rows are
finite. Elementwise results have the bits of the numpy path: nothing is fused or reordered there. Sums of squares and
products are float64 throughout, in whatever order is fastest. Imported only where numba is installed
(:mod:`quidnunc.gossip.rules.compiled`).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import TypeVar, cast

import numpy as np
from numba import njit
from numpy.typing import NDArray

from quidnunc.gossip.rules.lanes import LANES, straight

BLOCK = 64 * LANES
"""Coordinates ranked before the ranks are used: all that belongs to them stays in the nearest cache."""
_CHUNK = 1 << 14
_HALF = np.float32(0.5)

Floats = NDArray[np.float32]
Sums = NDArray[np.float64]
Indices = NDArray[np.int64]
Compiled = TypeVar("Compiled", bound=Callable[..., object])


def compiled(function: Compiled) -> Compiled:
    """``function`` in machine code, made at its first call; it lets other threads run meanwhile."""
    return cast(Compiled, njit(nogil=True)(function))


def compiled_sum(function: Compiled) -> Compiled:
    """Like :func:`compiled` for sums, whose terms may be added in any order, in several lanes."""
    return cast(Compiled, njit(nogil=True, fastmath={"reassoc", "contract"})(function))


@cache
def median_of(k: int) -> Callable[[Floats, Floats, int, Floats], bool]:
    """``median(own, others, count, result)``: of k rows, for ``count`` coordinates, a multiple of BLOCK.

    Returns whether sums of all rows are finite at every coordinate; then all of them are.
    """
    rank, middle = straight(k, (k - 1) // 2, k // 2, ordered=True, seen=True), 2 - k % 2

    @compiled
    def median(own: Floats, others: Floats, count: int, result: Floats) -> bool:
        work, seen = np.empty((middle + 1, BLOCK), np.float32), np.zeros(BLOCK, np.float32)
        low, high, every = work[0], work[middle - 1], work[middle]
        for at in range(0, count, BLOCK):
            for lane in range(0, BLOCK, LANES):
                rank(own, others, at + lane, work, lane)
            found = result[at : at + BLOCK]
            for i in range(BLOCK):
                found[i] = low[i] if middle == 1 else low[i] + _HALF * (high[i] - low[i])
                seen[i] += every[i]
        return bool(np.isfinite(seen).all())

    return median


@cache
def trimmed_mean_of(k: int, bad: int) -> Callable[[Floats, Floats, int, Floats], bool]:
    """``trimmed_mean(own, others, count, result)``: like :func:`median_of`, ``bad`` values left out at either end."""
    rank = straight(k, bad, k - bad - 1, ordered=False, summed=True, seen=True)
    factor = np.float32(1 / (k - 2 * bad))

    @compiled
    def trimmed_mean(own: Floats, others: Floats, count: int, result: Floats) -> bool:
        work, seen = np.empty((2, BLOCK), np.float32), np.zeros(BLOCK, np.float32)
        total, every = work[0], work[1]
        for at in range(0, count, BLOCK):
            for lane in range(0, BLOCK, LANES):
                rank(own, others, at + lane, work, lane)
            found = result[at : at + BLOCK]
            for i in range(BLOCK):
                found[i] = total[i] * factor
                seen[i] += every[i]
        return bool(np.isfinite(seen).all())

    return trimmed_mean


@cache
def geometry_of(k: int) -> Callable[[Floats, Floats, int, Sums], None]:
    """``geometry(own, others, count, sums)``: add to ``sums`` [4, k] what REPUTE's geometry is made of.

    Of each state x, ``own`` being the first: its squared distance to the median of all, its product with the median of
    all others, the square of that median (both times the number of middle ranks but one), and its squared distance to
    ``own``.
    """
    half, odd = k // 2, k % 2
    rank = straight(k, half - 1, half + odd, ordered=True)

    @compiled
    def geometry(own: Floats, others: Floats, count: int, sums: Sums) -> None:
        work, center, total = (
            np.empty((2 + odd, BLOCK), np.float32),
            np.empty(BLOCK, np.float32),
            np.empty(BLOCK, np.float32),
        )
        low, middle, high = work[0], work[1], work[1 + odd]
        for at in range(0, count, BLOCK):
            for lane in range(0, BLOCK, LANES):
                rank(own, others, at + lane, work, lane)
            for i in range(BLOCK):
                total[i] = low[i] + high[i]
                center[i] = middle[i] if odd else _HALF * total[i]
                total[i] = total[i] + center[i] if odd else total[i]
            here = own[at : at + BLOCK]
            _add_place(here, here, center, total, low, high, sums[:, 0])
            for row in range(k - 1):
                _add_place(others[row, at : at + BLOCK], here, center, total, low, high, sums[:, row + 1])

    return geometry


@compiled_sum
def _add_place(
    state: Floats, own: Floats, center: Floats, total: Floats, low: Floats, high: Floats, sums: Sums
) -> None:
    square, inner, size, apart = 0.0, 0.0, 0.0, 0.0
    for i in range(BLOCK):
        x = state[i]
        away = np.float64(x - center[i])
        square += away * away
        inside = x if x > low[i] else low[i]
        inside = inside if inside < high[i] else high[i]
        median = np.float64(total[i] - inside)
        inner += median * np.float64(x)
        size += median * median
        step = np.float64(x - own[i])
        apart += step * step
    sums[0] += square
    sums[1] += inner
    sums[2] += size
    sums[3] += apart


@compiled
def add_squares(own: Floats, others: Floats, sums: Sums) -> None:
    """Add ||x_j - own||^2 to ``sums`` [k] for every row x_j of ``others`` [k, d]; differences are float32."""
    k, dim = others.shape
    fours = k - k % 4
    for at in range(0, dim, _CHUNK):
        stop = min(dim, at + _CHUNK)
        here = own[at:stop]
        for row in range(0, fours, 4):
            # One index per row, or numba forgets that a row is contiguous.
            a, b, c = others[row, at:stop], others[row + 1, at:stop], others[row + 2, at:stop]
            _add_four_squares(here, a, b, c, others[row + 3, at:stop], sums[row : row + 4])
        for row in range(fours, k):
            sums[row] += _square(here, others[row, at:stop])


@compiled_sum
def _square(own: Floats, row: Floats) -> float:
    total = 0.0
    for i in range(len(own)):
        step = np.float64(row[i] - own[i])
        total += step * step
    return total


@compiled_sum
def _add_four_squares(own: Floats, a: Floats, b: Floats, c: Floats, d: Floats, sums: Sums) -> None:
    # Four rows come from memory side by side, which is nearly twice as fast as one after the other.
    of_a, of_b, of_c, of_d = 0.0, 0.0, 0.0, 0.0
    for i in range(len(own)):
        here = own[i]
        by_a, by_b = np.float64(a[i] - here), np.float64(b[i] - here)
        by_c, by_d = np.float64(c[i] - here), np.float64(d[i] - here)
        of_a += by_a * by_a
        of_b += by_b * by_b
        of_c += by_c * by_c
        of_d += by_d * by_d
    sums[0] += of_a
    sums[1] += of_b
    sums[2] += of_c
    sums[3] += of_d


@compiled
def weighted_differences(own: Floats, others: Floats, chosen: Indices, factors: Floats, result: Floats) -> None:
    """Make ``result`` [d] ``own`` plus factor * (x - own) for the ``chosen`` rows x of ``others``, one by one."""
    count, dim = len(chosen), len(own)
    fours = count - count % 4
    for at in range(0, dim, _CHUNK):
        stop = min(dim, at + _CHUNK)
        here, found = own[at:stop], result[at:stop]
        found[:] = here
        for n in range(0, fours, 4):
            a, b, c = others[chosen[n], at:stop], others[chosen[n + 1], at:stop], others[chosen[n + 2], at:stop]
            _add_four(here, a, b, c, others[chosen[n + 3], at:stop], factors[n : n + 4], found)
        for n in range(fours, count):
            _add_one(here, others[chosen[n], at:stop], factors[n], found)


@compiled
def _add_one(own: Floats, row: Floats, factor: np.float32, result: Floats) -> None:
    for i in range(len(own)):
        result[i] += factor * (row[i] - own[i])


@compiled
def _add_four(own: Floats, a: Floats, b: Floats, c: Floats, d: Floats, factors: Floats, result: Floats) -> None:
    by_a, by_b, by_c, by_d = factors[0], factors[1], factors[2], factors[3]
    for i in range(len(own)):
        here, found = own[i], result[i]
        found = found + by_a * (a[i] - here)
        found = found + by_b * (b[i] - here)
        found = found + by_c * (c[i] - here)
        found = found + by_d * (d[i] - here)
        result[i] = found
