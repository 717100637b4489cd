"""Weighted sums of rows as numba compiles them: sums stay in registers, and memory is read once and written once.

Rows are added in their order, the first one to zero, each by one multiply-add: these are torch's bits where its kernel
does the same, and next to them elsewhere. Written as vector instructions, because numpy-like loops store what they have
after every two rows. Imported only where numba is installed (extra ``[fast]``).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic
from numpy.typing import NDArray

from quidnunc.gossip.rules.registers import (
    FLOATS,
    LANES,
    LONG,
    ZEROS,
    added,
    ask_for,
    before,
    everywhere,
    read,
    settle,
    write,
)
from quidnunc.sim.batched.draws import Indices

Floats = NDArray[np.float32]

COLUMNS = 1024
"""So many columns of everybody's rows at a time: what several peers read stays in a cache, and what comes next is asked
for ahead."""
WHOLE_COLUMNS = 4096
"""Rows up to this length are not cut: the processor itself sees what comes next."""
TOGETHER = 8
"""Registers that sum side by side."""
PAST_BYTES = 4 << 20
"""Results below this size are left in the caches, for those who train next."""


def _summing(past: bool, some: bool) -> Any:
    """For use in compiled code: ``sum(rows, own, share, reads, factors, at, end, column, right, result, i)`` writes
    TOGETHER * LANES coordinates of result[i] from ``column`` on, with ``past`` past the caches.

    With ``some`` these are LANES of which those from ``right`` on are neither read nor written.
    """

    def typed(
        typing: Any,
        rows: Any,
        own: Any,
        share: Any,
        reads: Any,
        factors: Any,
        at: Any,
        end: Any,
        column: Any,
        right: Any,
        result: Any,
        i: Any,
    ) -> Any:
        return types.void(rows, own, share, reads, factors, at, end, column, right, result, i), build

    def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        rows, reads, factors, result = (
            context.make_array(signature.args[n])(context, builder, args[n]) for n in (0, 3, 4, 9)
        )
        own, share, at, end, column, right, i = args[1], args[2], args[5], args[6], args[7], args[8], args[10]
        _, width = cgutils.unpack_tuple(builder, rows.shape)
        count = 1 if some else TOGETHER
        mask = before(builder, builder.sub(right, column)) if some else None

        def vectors(data: Any, row: Any) -> list[Any]:
            place = builder.add(builder.mul(row, width), column)
            places = [builder.gep(data, [builder.add(place, LONG(n * LANES))]) for n in range(count)]
            return [builder.bitcast(pointer, FLOATS.as_pointer()) for pointer in places]

        factor = everywhere(builder, share)
        firsts = [added(builder, ZEROS, factor, read(builder, each, mask)) for each in vectors(rows.data, own)]
        sums = [cgutils.alloca_once_value(builder, first) for first in firsts]
        with cgutils.for_range_slice(builder, at, end, LONG(1), intp=LONG, inc=True) as (link, _):
            row = builder.load(builder.gep(reads.data, [link]))
            factor = everywhere(builder, builder.load(builder.gep(factors.data, [link])))
            for held, each in zip(sums, vectors(rows.data, row), strict=True):
                builder.store(added(builder, builder.load(held), factor, read(builder, each, mask)), held)
        for held, each in zip(sums, vectors(result.data, i), strict=True):
            write(builder, builder.load(held), each, mask, past=past)
        return context.get_dummy_value()

    return intrinsic(typed)


@intrinsic  # type: ignore[untyped-decorator]
def _ask(typing: Any, rows: Any, row: Any, column: Any) -> Any:
    """``_ask(rows, row, column)``: the next TOGETHER registers from there on will be read."""

    def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        array = context.make_array(rows)(context, builder, args[0])
        _, width = cgutils.unpack_tuple(builder, array.shape)
        ask_for(builder, array.data, builder.add(builder.mul(args[1], width), args[2]), TOGETHER * LANES)
        return context.get_dummy_value()

    return types.void(rows, row, column), build


_sum, _sum_past, _sum_some = _summing(False, False), _summing(True, False), _summing(False, True)


@njit(nogil=True)  # type: ignore[untyped-decorator]
def _sums(
    rows: Floats,
    first: int,
    shares: Floats,
    reads: Indices,
    starts: Indices,
    factors: Floats,
    result: Floats,
    past: bool,
) -> None:
    peers, width = result.shape
    step = TOGETHER * LANES
    columns = width if width <= WHOLE_COLUMNS else COLUMNS
    for left in range(0, width, columns):
        right = min(width, left + columns)
        whole = right - (right - left) % step
        for i in range(peers):
            at, end, own, share = starts[i], starts[i + 1], first + i, shares[i]
            for column in range(left, whole, step):
                if right < width:
                    _ask(rows, own, column + columns)
                if past:
                    _sum_past(rows, own, share, reads, factors, at, end, column, right, result, i)
                else:
                    _sum(rows, own, share, reads, factors, at, end, column, right, result, i)
            for column in range(whole, right, LANES):
                _sum_some(rows, own, share, reads, factors, at, end, column, right, result, i)
    settle()


def weighted_sums(
    rows: Floats,
    first: int,
    shares: Floats,
    reads: Indices,
    starts: Indices,
    factors: Floats,
    result: Floats,
) -> None:
    """result[i] = shares[i] * rows[first+i] + sum of factors[at] * rows[reads[at]] over starts[i] <= at < starts[i+1].

    ``rows`` [m, d], ``result`` [n, d], ``starts`` [n+1]. All are C-contiguous. Nobody checks bounds.
    """
    # Whole lines can be written without reading them first, past the caches, as a large copy is.
    lines = result.ctypes.data % (4 * LANES) == 0 and result.shape[1] % LANES == 0
    past = lines and result.nbytes >= PAST_BYTES
    _sums(rows, first, shares, reads, starts, factors, result, past)
