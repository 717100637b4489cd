"""The passes over stacks that are worth compiling, as numba compiles them.

Each does in one read what numpy does in several. Kernels that rank work on whole blocks; the caller pads. Rows are
finite. Elementwise results have the bits of the numpy path: nothing is fused or reordered there. Squared distances are
summed in float64, products in float32 runs (:mod:`quidnunc.gossip.rules.blocks`). Imported only where numba is
installed (:mod:`quidnunc.gossip.rules.compiled`).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import TypeVar, cast

import numpy as np
from numba import njit
from numpy.typing import NDArray

from quidnunc.gossip.rules.blocks import TERMS, WIDTH
from quidnunc.gossip.rules.dots import TILE, products, soon, tile
from quidnunc.gossip.rules.dots import squares as squares_of
from quidnunc.gossip.rules.lanes import LANES, middles, straight
from quidnunc.gossip.rules.mixing import STEP, mix
from quidnunc.gossip.rules.registers import LANES as WIDE_LANES
from quidnunc.gossip.rules.registers import settle

BLOCK = TERMS * WIDTH
"""Coordinates ranked before the ranks are used: all that belongs to them stays in the nearest cache."""
_CHUNK = 1 << 14
_RUN = 1024
"""Coordinates of differences that stay in a core's cache while all of their products are taken."""
_TOGETHER = 8
"""Rows that are looked at side by side: more of them than a few come from memory no faster."""
_HALF = np.float32(0.5)

Floats = NDArray[np.float32]
Sums = NDArray[np.float64]
Indices = NDArray[np.int64]
Compiled = TypeVar("Compiled", bound=Callable[..., object])


def compiled(function: Compiled) -> Compiled:
    """``function`` in machine code, made at its first call; it lets other threads run meanwhile."""
    return cast(Compiled, njit(nogil=True)(function))


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
    four = 4 * WIDE_LANES

    @compiled
    def geometry(own: Floats, others: Floats, begin: int, stop: int, sums: Sums) -> None:
        work, lanes, dim = np.empty((4, BLOCK), np.float32), np.zeros((k, 4, WIDE_LANES)), others.shape[1]
        flat = lanes.reshape(-1)
        for at in range(begin, stop, BLOCK):
            for lane in range(0, BLOCK, LANES):
                middle(own, others, at + lane, work, lane)
            for lane in range(0, WIDTH, WIDE_LANES):
                add_one(own, at + lane, own, at + lane, work, lane, flat, 0)
            for pair in range(pairs):
                # Memory is slower than what is done in between, and its own foresight ends where that begins.
                soon(others, 2 * pair * dim + at + BLOCK)
                soon(others, 2 * pair * dim + at + BLOCK + dim)
                for lane in range(0, WIDTH, WIDE_LANES):
                    place = 2 * pair * dim + at + lane
                    add_two(others, place, own, at + lane, work, lane, flat, (2 * pair + 1) * four)
            if not odd:
                soon(others, (k - 2) * dim + at + BLOCK)
                for lane in range(0, WIDTH, WIDE_LANES):
                    add_one(others, (k - 2) * dim + at + lane, own, at + lane, work, lane, flat, (k - 1) * four)
        for row in range(k):
            for which in range(4):
                sums[row, which] = lanes[row, which].sum()

    return geometry


@cache
def squares_of_rows(k: int) -> Callable[[Floats, Floats, int, int, Sums], None]:
    """``squares(own, others, begin, stop, sums)``: add ||x_j - own||^2 to ``sums`` [k] for every row x_j of ``others``
    [k, d], over coordinates ``begin`` to ``stop``; differences are float32.
    """
    rest = k % _TOGETHER
    all_of, last = squares_of(_TOGETHER), squares_of(max(1, rest))

    @compiled
    def squares(own: Floats, others: Floats, begin: int, stop: int, sums: Sums) -> None:
        lanes = np.zeros((k, WIDE_LANES))
        for at in range(begin, stop, _CHUNK):
            end = min(stop, at + _CHUNK)
            whole = end - (end - at) % WIDE_LANES
            for row in range(0, k - rest, _TOGETHER):
                all_of(own, others, row, at, whole, lanes)
            if rest:
                last(own, others, k - rest, at, whole, lanes)
            for row in range(k):
                for i in range(whole, end):
                    step = np.float64(others[row, i] - own[i])
                    lanes[row, 0] += step * step
        for row in range(k):
            sums[row] += lanes[row].sum()

    return squares


@compiled
def gram(own: Floats, others: Floats, begin: int, stop: int, sums: Sums) -> None:
    """Add <x_i - own, x_j - own>, j <= i, to ``sums`` [m, m] for rows x of ``others`` [k, d], over coordinates
    ``begin`` to ``stop``; m is k or up to TILE - 1 more. Float32 within a run of _RUN coordinates. Above the diagonal
    is something.
    """
    k, rows = len(others), len(sums)
    away = np.zeros((rows, _RUN), np.float32)
    for at in range(begin, stop, _RUN):
        end = min(stop, at + _RUN)
        here = own[at:end]
        for row in range(k):
            _subtract(others[row, at:end], here, away[row])
        for row in range(0, rows, TILE):
            for n in range(0, row + 1, TILE):
                tile(away, row, n, sums)


@compiled
def _subtract(row: Floats, own: Floats, result: Floats) -> None:
    for i in range(len(own)):
        result[i] = row[i] - own[i]
    result[len(own) :] = 0


@cache
def mixed_by(differences: bool) -> Callable[..., None]:
    """``mixed(own, others, begin, stop, chosen, factors, share, result)``: make ``result`` [d], at coordinates
    ``begin`` to ``stop``, ``own`` plus factor * (x - own) for the ``chosen`` rows x of ``others``, one by one; or,
    without ``differences``, share * own plus factor * x. ``result`` and ``begin`` are at lines of a cache.
    """
    whole_steps, last = mix(differences=differences), mix(differences=differences, some=True)

    @compiled
    def mixed(
        own: Floats,
        others: Floats,
        begin: int,
        stop: int,
        chosen: Indices,
        factors: Floats,
        share: np.float32,
        result: Floats,
    ) -> None:
        whole = stop - (stop - begin) % STEP
        for at in range(begin, whole, STEP):
            whole_steps(own, others, at, stop, chosen, factors, share, result)
        for at in range(whole, stop, WIDE_LANES):
            last(own, others, at, stop, chosen, factors, share, result)
        settle()

    return mixed
