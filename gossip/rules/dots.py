"""Sums of products of rows in vector instructions. Imported only where numba is installed
(:mod:`quidnunc.gossip.rules.compiled`).
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from quidnunc.gossip.rules.blocks import TERMS, WIDTH
from quidnunc.gossip.rules.registers import FLOATS, LANES, LONG, UNALIGNED, ZEROS, added, ask_for

_DOUBLES = ir.VectorType(ir.DoubleType(), LANES)
_AHEAD = 256
TILE = 4
"""Rows by rows of which all products are summed side by side: each value that is read is used so often."""


def _vector(builder: Any, data: Any, place: Any, kind: Any = FLOATS) -> Any:
    """Where the LANES values of ``data`` from ``place`` on are."""
    return builder.bitcast(builder.gep(data, [place]), kind.as_pointer())


def _read(builder: Any, data: Any, place: Any) -> Any:
    return builder.load(_vector(builder, data, place), align=UNALIGNED)


def _add_wide(builder: Any, total: Any, sums: Any, place: Any) -> None:
    """Add ``total`` to LANES float64 values of ``sums`` from ``place`` on."""
    pointer = _vector(builder, sums, place, _DOUBLES)
    wide = builder.fadd(builder.load(pointer, align=UNALIGNED), builder.fpext(total, _DOUBLES))
    builder.store(wide, pointer, align=UNALIGNED)


def products(rows: int, odd: bool) -> Any:
    """For use in compiled code: ``add(states, at, own, here, work, to, sums, into)`` adds LANES sums of TERMS products.

    ``rows`` states begin at coordinate ``at`` of the first, the own state at ``here``, what
    :func:`quidnunc.gossip.rules.lanes.middles` wrote for an ``odd`` or even number of rows at ``to`` of ``work``
    [4, c]; to ``sums``, flat float64, four sums for each state are added from ``into`` on: of its squared distance to
    the median of all, its product with twice the median of all others, the square of that, and its squared distance to
    the own state. Float32 up to TERMS terms, which are WIDTH coordinates apart and are added one by one: see
    :mod:`quidnunc.gossip.rules.blocks`.
    """

    def typed(typing: Any, states: Any, at: Any, own: Any, here: Any, work: Any, to: Any, sums: Any, into: Any) -> Any:
        return types.void(states, at, own, here, work, to, sums, into), build

    def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        states, own, work, sums = (
            context.make_array(signature.args[n])(context, builder, args[n]) for n in (0, 2, 4, 6)
        )
        dim, column = (cgutils.unpack_tuple(builder, each.shape)[-1] for each in (states, work))
        totals = [[cgutils.alloca_once_value(builder, ZEROS) for _ in range(4)] for _ in range(rows)]
        with cgutils.for_range_slice(builder, LONG(0), LONG(TERMS * WIDTH), LONG(WIDTH), intp=LONG) as (step, _):
            place, there, home = (builder.add(args[n], step) for n in (1, 5, 3))
            pivot, held = _read(builder, own.data, home), []
            for _ in range(4):
                held.append(_read(builder, work.data, there))
                there = builder.add(there, column)
            for four in totals:
                terms = _terms(builder, _read(builder, states.data, place), pivot, held, odd)
                place = builder.add(place, dim)
                for total, term in zip(four, terms, strict=True):
                    builder.store(builder.fadd(builder.load(total), term), total)
        for n, total in enumerate(each for four in totals for each in four):
            _add_wide(builder, builder.load(total), sums.data, builder.add(args[7], LONG(n * LANES)))
        return context.get_dummy_value()

    return intrinsic(typed)


def _terms(builder: Any, x: Any, own: Any, held: list[Any], odd: bool) -> list[Any]:
    """Instructions for one coordinate's term of each of the four sums of a state ``x``."""
    if odd:
        low, high, total, center = held
        inside = builder.select(builder.fcmp_ordered(">", x, low), x, low)
        inside = builder.select(builder.fcmp_ordered("<", inside, high), inside, high)
        median = builder.fsub(total, inside)
    else:
        low, above, below, center = held
        median = builder.select(builder.fcmp_ordered("<=", x, low), above, below)
    away, apart = builder.fsub(x, center), builder.fsub(x, own)
    return [builder.fmul(a, b) for a, b in ((away, away), (median, x), (median, median), (apart, apart))]


def squares(rows: int) -> Any:
    """For use in compiled code: ``add(own, others, first, begin, stop, sums)`` adds to ``sums`` [k, LANES], float64,
    the squares of x - own for ``rows`` rows x of ``others`` from row ``first`` on, at coordinates ``begin`` to
    ``stop``, some LANES of them. Differences are float32, squares float64.
    """

    def typed(typing: Any, own: Any, others: Any, first: Any, begin: Any, stop: Any, sums: Any) -> Any:
        return types.void(own, others, first, begin, stop, sums), build

    def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        own, others, sums = (context.make_array(signature.args[n])(context, builder, args[n]) for n in (0, 1, 5))
        _, dim = cgutils.unpack_tuple(builder, others.shape)
        nothing = ir.Constant(_DOUBLES, [0.0] * LANES)
        totals = [cgutils.alloca_once_value(builder, nothing) for _ in range(rows)]
        start = builder.mul(args[2], dim)
        with cgutils.for_range_slice(builder, args[3], args[4], LONG(LANES), intp=LONG) as (at, _):
            here, place = _read(builder, own.data, at), builder.add(start, at)
            for total in totals:
                ask_for(builder, others.data, builder.add(place, LONG(_AHEAD)), LANES)
                step = builder.fpext(builder.fsub(_read(builder, others.data, place), here), _DOUBLES)
                square = builder.fmul(step, step, flags=("contract",))
                builder.store(builder.fadd(builder.load(total), square, flags=("contract",)), total)
                place = builder.add(place, dim)
        for n, total in enumerate(totals):
            place = builder.mul(builder.add(args[2], LONG(n)), LONG(LANES))
            pointer = _vector(builder, sums.data, place, _DOUBLES)
            builder.store(builder.fadd(builder.load(pointer, align=UNALIGNED), builder.load(total)), pointer, align=8)
        return context.get_dummy_value()

    return intrinsic(typed)


def _tile(typing: Any, rows: Any, first: Any, second: Any, sums: Any) -> Any:
    def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        rows, sums = (context.make_array(signature.args[n])(context, builder, args[n]) for n in (0, 3))
        _, width = cgutils.unpack_tuple(builder, rows.shape)
        _, column = cgutils.unpack_tuple(builder, sums.shape)
        totals = [[cgutils.alloca_once_value(builder, ZEROS) for _ in range(TILE)] for _ in range(TILE)]

        def places(begin: Any, at: Any, width: Any) -> list[Any]:
            return [builder.add(builder.mul(builder.add(begin, LONG(n)), width), at) for n in range(TILE)]

        with cgutils.for_range_slice(builder, LONG(0), width, LONG(LANES), intp=LONG) as (at, _):
            left, right = (
                [_read(builder, rows.data, place) for place in places(begin, at, width)] for begin in (args[1], args[2])
            )
            for x, line in zip(left, totals, strict=True):
                for y, total in zip(right, line, strict=True):
                    builder.store(added(builder, builder.load(total), x, y), total)
        for line, place in zip(totals, places(args[1], args[2], column), strict=True):
            for n, total in enumerate(line):
                pointer = builder.gep(sums.data, [builder.add(place, LONG(n))])
                found = _across(builder, builder.load(total))
                builder.store(builder.fadd(builder.load(pointer), builder.fpext(found, ir.DoubleType())), pointer)
        return context.get_dummy_value()

    return types.void(rows, first, second, sums), build


def _across(builder: Any, values: Any) -> Any:
    """The sum of all lanes, halves added to halves."""
    width = LANES
    while width > 1:
        width //= 2
        nothing = ir.Constant(values.type, ir.Undefined)
        halves = [
            builder.shuffle_vector(values, nothing, ir.Constant(ir.VectorType(ir.IntType(32), width), list(lanes)))
            for lanes in (range(width), range(width, 2 * width))
        ]
        values = builder.fadd(*halves)
    return builder.extract_element(values, ir.IntType(32)(0))


tile: Any = intrinsic(_tile)
"""For use in compiled code: ``tile(rows, first, second, sums)`` adds <x, y> to ``sums`` [m, m], float64, for TILE rows
x of ``rows`` [m, c], float32, from ``first`` and TILE rows y from ``second`` on; c is some LANES."""


def _soon(typing: Any, rows: Any, place: Any) -> Any:
    def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, args[0]).data
        ask_for(builder, data, args[1], TERMS * WIDTH)
        return context.get_dummy_value()

    return types.void(rows, place), build


soon: Any = intrinsic(_soon)
"""For use in compiled code: ``soon(rows, place)`` says that TERMS * WIDTH values from ``place`` on will be read."""
