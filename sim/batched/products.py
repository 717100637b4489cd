"""Products of small matrices given as lists of rows, transposition, and cross entropy, as vector instructions.

Rows are addresses, so that a batch is multiplied where the pool has it and columns of zeros are left out by shorter
lists. Nobody checks bounds. Imported only where numba is installed (extra ``[fast]``).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from quidnunc.gossip.rules.registers import (
    FLOAT,
    FLOATS,
    INT,
    INTS,
    LANES,
    LONG,
    WIDE,
    ZEROS,
    added,
    at,
    before,
    called,
    everywhere,
    read,
    write,
)
from quidnunc.sim.batched.draws import Indices

LINE = 4 * LANES
ROWS = 8 if WIDE else 6
"""Rows of a tile: two registers wide, its sums and what they are made of stay in the 32, or 16, registers."""


def _tile(wide: int) -> Any:
    """For use in compiled code: ``tile(begun, into, left, first, last, right, rows, count, shift)``.

    Row r of the result, at into[r], is the row at begun[r] plus the sum over j < ``count`` of the number at left[r] +
    right[j] times the row at rows[j]; for ROWS rows from ``first`` on (the one before ``last`` instead of later ones),
    ``wide`` registers of each from ``shift`` bytes on.
    """

    def typed(
        typing: Any,
        begun: Any,
        into: Any,
        left: Any,
        first: Any,
        last: Any,
        right: Any,
        rows: Any,
        count: Any,
        shift: Any,
    ) -> Any:
        return types.void(begun, into, left, first, last, right, rows, count, shift), build

    def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        begun, into, left, right, rows = (
            context.make_array(signature.args[n])(context, builder, args[n]).data for n in (0, 1, 2, 5, 6)
        )
        first, last, count, shift = args[3], args[4], args[7], args[8]

        def entry(data: Any, place: Any) -> Any:
            return builder.load(builder.gep(data, [place]))

        highest = builder.sub(last, LONG(1))
        places = []
        for n in range(ROWS):
            place = builder.add(first, LONG(n))
            places.append(builder.select(builder.icmp_signed("<", place, highest), place, highest))
        numbers = [entry(left, place) for place in places]
        sums = []
        for place in places:
            start = builder.add(entry(begun, place), shift)
            sums.append(
                [cgutils.alloca_once_value(builder, read(builder, at(builder, start, v * LANES))) for v in range(wide)]
            )
        with cgutils.for_range(builder, count, intp=LONG) as loop:
            offset, row = entry(right, loop.index), builder.add(entry(rows, loop.index), shift)
            values = [read(builder, at(builder, row, v * LANES)) for v in range(wide)]
            for number, held in zip(numbers, sums, strict=True):
                pointer = builder.inttoptr(builder.add(number, offset), FLOAT.as_pointer())
                factor = everywhere(builder, builder.load(pointer))
                for total, value in zip(held, values, strict=True):
                    builder.store(added(builder, builder.load(total), factor, value), total)
        for place, held in zip(places, sums, strict=True):
            end = builder.add(entry(into, place), shift)
            for v, total in enumerate(held):
                write(builder, builder.load(total), at(builder, end, v * LANES))
        return context.get_dummy_value()

    return intrinsic(typed)


_tile_of_two, _tile_of_one = _tile(2), _tile(1)


@njit(nogil=True)  # type: ignore[untyped-decorator]
def product(
    begun: Indices, into: Indices, left: Indices, many: int, right: Indices, rows: Indices, count: int, width: int
) -> None:
    """Row r < ``many`` of the result, at into[r], is the row at begun[r] plus the sum of left[r, j] times rows[j].

    All are addresses; left[r, j] is the number at left[r] + right[j], for j < ``count``. Rows have ``width`` floats,
    whole registers.
    """
    for first in range(0, many, ROWS):
        shift = 0
        while shift + 2 * LINE <= 4 * width:
            _tile_of_two(begun, into, left, first, many, right, rows, count, shift)
            shift += 2 * LINE
        if shift < 4 * width:
            _tile_of_one(begun, into, left, first, many, right, rows, count, shift)


@intrinsic  # type: ignore[untyped-decorator]
def _turn(typing: Any, source: Any, apart: Any, rows: Any, columns: Any, into: Any, spread: Any, kept: Any) -> Any:
    """A square of LANES rows ``apart`` floats from each other, transposed to rows ``spread`` floats from each other.

    Of the source only ``rows`` and ``columns`` are read, the others count as 0; of the first ``columns`` rows of the
    result ``kept`` floats are written.
    """

    def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        source, apart, rows, columns, into, spread, kept = args

        def mask(n: int, bound: Any, count: Any) -> Any:
            return before(builder, builder.select(builder.icmp_signed("<", LONG(n), bound), count, LONG(0)))

        def line(base: Any, n: int, step: Any) -> Any:
            return at(builder, builder.add(base, builder.mul(LONG(4 * n), step)))

        square = [read(builder, line(source, n, apart), mask(n, rows, columns)) for n in range(LANES)]
        bit = 1
        while bit < LANES:
            low = ir.Constant(INTS, [lane if not lane & bit else LANES + lane - bit for lane in range(LANES)])
            high = ir.Constant(INTS, [lane + bit if not lane & bit else LANES + lane for lane in range(LANES)])
            for n in range(LANES):
                if not n & bit:
                    a, b = square[n], square[n | bit]
                    square[n], square[n | bit] = (builder.shuffle_vector(a, b, lanes) for lanes in (low, high))
            bit *= 2
        for n, values in enumerate(square):
            write(builder, values, line(into, n, spread), mask(n, columns, kept))
        return context.get_dummy_value()

    return types.void(source, apart, rows, columns, into, spread, kept), build


@njit(nogil=True)  # type: ignore[untyped-decorator]
def turned(source: int, rows: int, columns: int, apart: int, into: int, spread: int, filled: bool) -> None:
    """The matrix of ``rows`` times ``columns`` at ``source`` transposed to ``into``; rows ``apart``, ``spread`` floats.

    With ``filled`` what is behind the end of a row of the result is 0, up to a whole register.
    """
    for top in range(0, rows, LANES):
        kept = LANES if filled else min(LANES, rows - top)
        for left in range(0, columns, LANES):
            _turn(
                source + 4 * (top * apart + left),
                apart,
                rows - top,
                min(LANES, columns - left),
                into + 4 * (left * spread + top),
                spread,
                kept,
            )


@intrinsic  # type: ignore[untyped-decorator]
def softmax_error(typing: Any, row: Any, width: Any, target: Any, scale: Any) -> Any:
    """The row of ``width`` floats, whole registers, becomes ``scale`` times (its softmax minus one at ``target``).

    The result is the probability of the target, a float.
    """

    def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        row, width, target, scale = args
        step = LONG(LANES)

        def lines() -> Any:
            return cgutils.for_range_slice(builder, LONG(0), width, step, intp=LONG, inc=True)

        def place(column: Any) -> Any:
            return at(builder, builder.add(row, builder.mul(column, LONG(4))))

        kind = f"v{LANES}f32"
        most = cgutils.alloca_once_value(builder, ir.Constant(FLOATS, [-3e38] * LANES))
        with lines() as (column, _):
            values, held = read(builder, place(column)), builder.load(most)
            builder.store(builder.select(builder.fcmp_unordered(">", values, held), values, held), most)
        highest = everywhere(builder, called(builder, f"llvm.vector.reduce.fmax.{kind}", FLOAT, builder.load(most)))
        total = cgutils.alloca_once_value(builder, ZEROS)
        with lines() as (column, _):
            powers = _exp(builder, builder.fsub(read(builder, place(column)), highest))
            write(builder, powers, place(column))
            builder.store(builder.fadd(builder.load(total), powers), total)
        summed = _summed(builder, builder.load(total))
        goal = builder.inttoptr(builder.add(row, builder.mul(target, LONG(4))), FLOAT.as_pointer())
        chance = builder.fdiv(builder.load(goal), summed)
        share = everywhere(builder, builder.fdiv(scale, summed))
        with lines() as (column, _):
            write(builder, builder.fmul(read(builder, place(column)), share), place(column))
        builder.store(builder.fsub(builder.load(goal), scale), goal)
        return chance

    return types.float32(row, width, target, scale), build


@intrinsic  # type: ignore[untyped-decorator]
def powers(typing: Any, outputs: Any, apart: Any, many: Any, most: Any, sums: Any, place: Any) -> Any:
    """Of LANES examples, from ``outputs`` on, ``many`` rows ``apart`` bytes from each other: the greatest output to
    ``most``, and the sum of e to what each is less than that to ``sums``, both from ``place`` on.
    """

    def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        outputs, apart, many, place = args[0], args[1], args[2], args[5]
        highs, totals = (context.make_array(signature.args[n])(context, builder, args[n]).data for n in (3, 4))

        def line(row: Any) -> Any:
            return read(builder, at(builder, builder.add(outputs, builder.mul(row, apart))))

        def room(data: Any) -> Any:
            return builder.bitcast(builder.gep(data, [place]), FLOATS.as_pointer())

        high = cgutils.alloca_once_value(builder, ir.Constant(FLOATS, [-3e38] * LANES))
        with cgutils.for_range(builder, many, intp=LONG) as loop:
            values, held = line(loop.index), builder.load(high)
            builder.store(builder.select(builder.fcmp_unordered(">", values, held), values, held), high)
        total = cgutils.alloca_once_value(builder, ZEROS)
        with cgutils.for_range(builder, many, intp=LONG) as loop:
            power = _exp(builder, builder.fsub(line(loop.index), builder.load(high)))
            builder.store(builder.fadd(builder.load(total), power), total)
        write(builder, builder.load(high), room(highs))
        write(builder, builder.load(total), room(totals))
        return context.get_dummy_value()

    return types.void(outputs, apart, many, most, sums, place), build


def _summed(builder: Any, values: Any) -> Any:
    """The sum of the lanes, by halves."""
    size = LANES
    while size > 1:
        size //= 2
        high = ir.Constant(INTS, [(lane + size) % LANES for lane in range(LANES)])
        values = builder.fadd(values, builder.shuffle_vector(values, values, high))
    return builder.extract_element(values, INT(0))


def _exp(builder: Any, x: Any) -> Any:
    """e to ``x`` <= 0 in float32, 0 below -87: Cephes' expf (Moshier 1992), to 2 units of the last place."""

    def all_of(value: float) -> Any:
        return ir.Constant(FLOATS, [float(np.float32(value))] * LANES)

    small = builder.fcmp_ordered("<", x, all_of(-87.0))
    x = builder.select(small, all_of(-87.0), x)
    whole = called(builder, f"llvm.rint.v{LANES}f32", FLOATS, builder.fmul(x, all_of(1.44269504088896341)))
    rest = added(builder, added(builder, x, whole, all_of(-0.693359375)), whole, all_of(2.12194440e-4))
    value = all_of(1.9875691500e-4)
    for term in (1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1):
        value = added(builder, all_of(term), value, rest)
    value = added(builder, builder.fadd(rest, all_of(1.0)), value, builder.fmul(rest, rest))
    power = builder.add(builder.fptosi(whole, INTS), ir.Constant(INTS, [127] * LANES))
    power = builder.bitcast(builder.shl(power, ir.Constant(INTS, [23] * LANES)), FLOATS)
    return builder.select(small, ZEROS, builder.fmul(value, power))
