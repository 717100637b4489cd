"""How far neighbors are from a peer and from their coordinate median, peer by peer in compiled code.

Rows are read where they are, a run of coordinates of all of them at a time, which stays in the nearest cache while it
is ranked by comparators and measured. Sums are float32 within a run and float64 beyond. Imported only where numba is
installed.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray
from torch import Tensor

from quidnunc.gossip.rules.linear import Reals
from quidnunc.gossip.rules.network import plan
from quidnunc.gossip.rules.registers import Floats, floats
from quidnunc.sim.batched.draws import Indices

RUN = 1024
"""Coordinates of every row that are worked on at a time."""
_HALF = np.float32(0.5)
_SUMS = {"reassoc", "contract"}
"""Terms of a sum may be added in several lanes."""


class Apart(NamedTuple):
    """Of b peers with k neighbors: the norms of the own states [b], the distances of the neighbors' from them [b, k],
    and those of all to their coordinate median, the own first, [b, k+1].
    """

    norms: Reals
    away: Reals
    spreads: Reals


@njit(nogil=True, fastmath=_SUMS)  # type: ignore[untyped-decorator]
def _kept(row: Floats, own: Floats, into: Floats) -> np.float32:
    """Copy a row; its squared distance to the own one."""
    total = np.float32(0)
    for k in range(len(row)):
        step = row[k] - own[k]
        into[k] = row[k]
        total += step * step
    return total


@njit(nogil=True, fastmath=_SUMS)  # type: ignore[untyped-decorator]
def _kept_own(own: Floats, into: Floats) -> np.float32:
    """Copy the own row; its square."""
    total = np.float32(0)
    for k in range(len(own)):
        into[k] = own[k]
        total += own[k] * own[k]
    return total


@njit(nogil=True)  # type: ignore[untyped-decorator]
def _ordered(low: Floats, high: Floats) -> None:
    for k in range(len(low)):
        a, b = low[k], high[k]
        low[k] = a if a < b else b
        high[k] = a if a > b else b


@njit(nogil=True, fastmath=_SUMS)  # type: ignore[untyped-decorator]
def _off(row: Floats, low: Floats, high: Floats) -> np.float32:
    """A row's squared distance to the middle of two others."""
    total = np.float32(0)
    for k in range(len(row)):
        step = row[k] - _HALF * (low[k] + high[k])
        total += step * step
    return total


@njit(nogil=True)  # type: ignore[untyped-decorator]
def _measure(
    params: Indices, widths: Indices, index: Indices, wires: Indices, norms: Reals, away: Reals, spreads: Reals
) -> None:
    """Add squares to ``norms`` [b], ``away`` [b, k], ``spreads`` [b, k+1]; rows of ``index`` [k+1, b] in every slot."""
    rows, peers = index.shape
    work = np.empty((rows, RUN), np.float32)
    starts = np.empty(rows, np.int64)
    first, last = (rows - 1) // 2, rows // 2
    for peer in range(peers):
        for slot in range(len(widths)):
            for n in range(rows):
                starts[n] = params[slot] + 4 * widths[slot] * index[n, peer]
            for left in range(0, widths[slot], RUN):
                size = min(RUN, widths[slot] - left)
                own = floats(starts[0] + 4 * left, size)
                norms[peer] += _kept_own(own, work[0, :size])
                for n in range(1, rows):
                    away[peer, n - 1] += _kept(floats(starts[n] + 4 * left, size), own, work[n, :size])
                for at in range(len(wires)):
                    _ordered(work[wires[at, 0], :size], work[wires[at, 1], :size])
                for n in range(rows):
                    row = floats(starts[n] + 4 * left, size)
                    spreads[peer, n] += _off(row, work[first, :size], work[last, :size])


def apart(params: list[Tensor], index: Indices) -> Apart:
    """Of b peers whose own states and neighbors' are the rows ``index`` [k+1, b] of ``params``, one contiguous float32
    tensor [m, *shape] per slot, on the CPU.
    """
    many, peers = index.shape
    places = np.array([tensor.data_ptr() for tensor in params], dtype=np.int64)
    widths = np.array([tensor[0].numel() for tensor in params], dtype=np.int64)
    wires = plan(many, (many - 1) // 2, many // 2, True)
    pairs: NDArray[np.int64] = np.array([wire[:2] for wire in wires], dtype=np.int64).reshape(-1, 2)
    sums = np.zeros(peers), np.zeros((peers, many - 1)), np.zeros((peers, many))
    _measure(places, widths, np.ascontiguousarray(index, dtype=np.int64), pairs, *sums)
    return Apart(*(np.sqrt(each) for each in sums))
