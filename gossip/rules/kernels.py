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

from quidnunc.gossip.rules.blocks import TERMS, WIDTH
from quidnunc.gossip.rules.lanes import LANES, fetch, middles, mix, products, straight

BLOCK = TERMS * WIDTH
"""Coordinates ranked before the ranks are used: all that belongs to them stays in the nearest cache."""
_CHUNK = 1 << 14
_MIXED = 1 << 13
_RUN = 512
"""Coordinates of differences that stay in a core's cache while all of their products are taken."""
_TOGETHER = 8
"""Rows that are added in one go: more of them than a few come from memory no faster."""
_LINE = 16
"""Values in a line of a cache."""
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
def median_of(k: int) -> Callable[[Floats, Floats, int, int, Floats], bool]:
    """``median(own, others, begin, stop, result)``: of k rows, for coordinates ``begin`` to ``stop``, which are some
    multiples of BLOCK.

    Returns whether sums of all rows are finite at every coordinate; then all of them are.
    """
    rank, middle = straight(k, (k - 1) // 2, k // 2, ordered=True, seen=True), 2 - k % 2

    @compiled
    def median(own: Floats, others: Floats, begin: int, stop: int, result: Floats) -> bool:
        work, seen = np.empty((middle + 1, BLOCK), np.float32), np.zeros(BLOCK, np.float32)
        low, high, every = work[0], work[middle - 1], work[middle]
        for at in range(begin, stop, BLOCK):
            for lane in range(0, BLOCK, LANES):
                rank(own, others, at + lane, work, lane)
            found = result[at : at + BLOCK]
            for i in range(BLOCK):
                found[i] = low[i] if middle == 1 else low[i] + _HALF * (high[i] - low[i])
                seen[i] += every[i]
        return bool(np.isfinite(seen).all())

    return median


@cache
def trimmed_mean_of(k: int, bad: int) -> Callable[[Floats, Floats, int, int, Floats], bool]:
    """``trimmed_mean(own, others, begin, stop, result)``: like :func:`median_of`, ``bad`` values left out at
    either end."""
    rank = straight(k, bad, k - bad - 1, ordered=False, summed=True, seen=True)
    factor = np.float32(1 / (k - 2 * bad))

    @compiled
    def trimmed_mean(own: Floats, others: Floats, begin: int, stop: int, result: Floats) -> bool:
        work, seen = np.empty((2, BLOCK), np.float32), np.zeros(BLOCK, np.float32)
        total, every = work[0], work[1]
        for at in range(begin, stop, BLOCK):
            for lane in range(0, BLOCK, LANES):
                rank(own, others, at + lane, work, lane)
            found = result[at : at + BLOCK]
            for i in range(BLOCK):
                found[i] = total[i] * factor
                seen[i] += every[i]
        return bool(np.isfinite(seen).all())

    return trimmed_mean


@cache
def geometry_of(k: int) -> Callable[[Floats, Floats, int, int, Sums], None]:
    """``geometry(own, others, begin, stop, sums)``: set ``sums`` [k, 4] to what REPUTE's geometry is made of.

    Of each state x, ``own`` being the first, over the coordinates from ``begin`` to ``stop``, some multiples of BLOCK
    apart: its squared distance to the median of all, its product with the median of all others, the square of that
    median (both times the number of middle ranks but one), and its squared distance to ``own``.
    """
    odd, pairs = k % 2 == 1, (k - 1) // 2
    middle, add_one, add_two = middles(k), products(1, odd), products(2, odd)
    four = 4 * LANES

    @compiled
    def geometry(own: Floats, others: Floats, begin: int, stop: int, sums: Sums) -> None:
        work, lanes, dim = np.empty((4, BLOCK), np.float32), np.zeros((k, 4, LANES)), others.shape[1]
        flat = lanes.reshape(-1)
        for at in range(begin, stop, BLOCK):
            for lane in range(0, BLOCK, LANES):
                middle(own, others, at + lane, work, lane)
            for lane in range(0, WIDTH, LANES):
                add_one(own, at + lane, own, at + lane, work, lane, flat, 0)
            for pair in range(pairs):
                soon = 2 * pair * dim + at + 2 * BLOCK
                for line in range(soon, soon + BLOCK, _LINE):
                    # Memory is slower than what is done in between, and its own foresight ends where that begins.
                    fetch(others, line)
                    fetch(others, line + dim)
                for lane in range(0, WIDTH, LANES):
                    place = 2 * pair * dim + at + lane
                    add_two(others, place, own, at + lane, work, lane, flat, (2 * pair + 1) * four)
            if not odd:
                for lane in range(0, WIDTH, LANES):
                    add_one(others, (k - 2) * dim + at + lane, own, at + lane, work, lane, flat, (k - 1) * four)
        for row in range(k):
            for which in range(4):
                sums[row, which] = lanes[row, which].sum()

    return geometry


@compiled
def squares(own: Floats, others: Floats, begin: int, stop: int, sums: Sums) -> None:
    """Add ||x_j - own||^2 to ``sums`` [k] for every row x_j of ``others`` [k, d], over coordinates ``begin`` to
    ``stop``; differences are float32.
    """
    k = len(others)
    fours = k - k % 4
    for at in range(begin, stop, _CHUNK):
        end = min(stop, at + _CHUNK)
        here = own[at:end]
        for row in range(0, fours, 4):
            # One index per row, or numba forgets that a row is contiguous.
            a, b, c = others[row, at:end], others[row + 1, at:end], others[row + 2, at:end]
            _add_four_squares(here, a, b, c, others[row + 3, at:end], sums[row : row + 4])
        for row in range(fours, k):
            sums[row] += _square(here, others[row, at:end])


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
def gram(own: Floats, others: Floats, begin: int, stop: int, sums: Sums) -> None:
    """Add <x_i - own, x_j - own>, j <= i, to ``sums`` [k, k] for rows x of ``others`` [k, d], over coordinates
    ``begin`` to ``stop``; float32 within a run of _RUN coordinates.
    """
    k = len(others)
    away = np.empty((k, _RUN), np.float32)
    for at in range(begin, stop, _RUN):
        end = min(stop, at + _RUN)
        here = own[at:end]
        for row in range(k):
            _subtract(others[row, at:end], here, away[row])
        for row in range(k):
            fours = row + 1 - (row + 1) % 4
            for n in range(0, fours, 4):
                _add_four_products(away[row], away[n], away[n + 1], away[n + 2], away[n + 3], sums[row, n : n + 4])
            for n in range(fours, row + 1):
                sums[row, n] += _product(away[row], away[n])


@compiled
def _subtract(row: Floats, own: Floats, result: Floats) -> None:
    for i in range(len(own)):
        result[i] = row[i] - own[i]
    result[len(own) :] = 0


@compiled_sum
def _product(x: Floats, y: Floats) -> np.float32:
    total = np.float32(0)
    for i in range(_RUN):
        total += x[i] * y[i]
    return total


@compiled_sum
def _add_four_products(x: Floats, a: Floats, b: Floats, c: Floats, d: Floats, sums: Sums) -> None:
    of_a, of_b, of_c, of_d = np.float32(0), np.float32(0), np.float32(0), np.float32(0)
    for i in range(_RUN):
        here = x[i]
        of_a += here * a[i]
        of_b += here * b[i]
        of_c += here * c[i]
        of_d += here * d[i]
    sums[0] += of_a
    sums[1] += of_b
    sums[2] += of_c
    sums[3] += of_d


@cache
def weighted_differences_of(count: int) -> Callable[[Floats, Floats, int, int, Indices, Floats, Floats], None]:
    """``weighted_differences(own, others, begin, stop, chosen, factors, result)``, of some eights of rows and as many
    as ``count`` is more: make ``result`` [d] ``own`` plus factor * (x - own) for the ``chosen`` rows x of ``others``,
    one by one, at coordinates ``begin`` to ``stop``.
    """
    rest = count % _TOGETHER
    all_of, last = mix(_TOGETHER), mix(rest)

    @compiled
    def weighted_differences(
        own: Floats, others: Floats, begin: int, stop: int, chosen: Indices, factors: Floats, result: Floats
    ) -> None:
        eights = len(chosen) - rest
        # From the end on: what was read last by whoever looked at the rows before may still be in a cache.
        for end in range(stop, begin, -_MIXED):
            at = max(begin, end - _MIXED)
            whole = end - (end - at) % LANES
            result[at:end] = own[at:end]
            for first in range(0, eights, _TOGETHER):
                for lane in range(at, whole, LANES):
                    all_of(own, others, lane, chosen, first, factors, result)
            if rest > 0:
                for lane in range(at, whole, LANES):
                    last(own, others, lane, chosen, eights, factors, result)
            for n in range(len(chosen)):
                for i in range(whole, end):
                    result[i] += factors[n] * (others[chosen[n], i] - own[i])

    return weighted_differences
