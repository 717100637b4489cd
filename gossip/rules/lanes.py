"""Straight-line vector instructions that numba is told to make of rows at one place: sorting networks.

Written as loops, the comparators would be loads and stores; as instructions they stay in registers, and ranking 16 rows
takes no longer than reading them. Imported only where numba is installed (:mod:`quidnunc.gossip.rules.compiled`).
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from quidnunc.gossip.rules.network import plan

LANES = 8
"""Coordinates ranked at once: one register of AVX2; wider ones were measured to gain nothing."""

_FLOATS = ir.VectorType(ir.FloatType(), LANES)
_INTS = ir.VectorType(ir.IntType(32), LANES)
_ZEROS = ir.Constant(_FLOATS, [0.0] * LANES)
_SIGN = ir.Constant(_INTS, [31] * LANES)
_OTHERS = ir.Constant(_INTS, [0x7FFFFFFF] * LANES)
_UNALIGNED = 4


def straight(k: int, first: int, last: int, *, ordered: bool, summed: bool = False, seen: bool = False) -> Any:
    """For use in compiled code: ``rank(own, others, at, into, to)`` writes LANES coordinates of ranks ``first`` to
    ``last`` of ``k`` rows.

    The rows are ``own`` [d] and ``others`` [k-1, d] from coordinate ``at`` on, the ranks the rows of ``into`` from
    ``to`` on; with ``summed`` their float32 sum in that order is one row. With ``seen`` one more row is the sum of all
    rows: finite only if they are. Arrays are float32 and C-contiguous. Nobody checks bounds. Values and order are those
    of :func:`quidnunc.gossip.rules.network.ranks`, -0 made +0.
    """

    def typed(typing: Any, own: Any, others: Any, at: Any, into: Any, to: Any) -> Any:
        return types.void(own, others, at, into, to), build

    def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        arrays = signature.args
        own, others, into = (context.make_array(arrays[n])(context, builder, args[n]) for n in (0, 1, 3))

        wires = _rows(builder, own, others, k, args[2])
        found = _ranked(builder, wires, first, last, ordered)
        found = [_total(builder, found)] if summed else found
        found += [_total(builder, wires)] if seen else []
        _write(builder, found, into, args[4])
        return context.get_dummy_value()

    return intrinsic(typed)


def _rows(builder: Any, own: Any, others: Any, k: int, place: Any) -> list[Any]:
    """Instructions that read ``own`` and k-1 rows of ``others`` at ``place``."""
    rows = [_read(builder, own.data, place)]
    _, dim = cgutils.unpack_tuple(builder, others.shape)
    for _ in range(k - 1):
        rows.append(_read(builder, others.data, place))
        place = builder.add(place, dim)
    return rows


def _write(builder: Any, found: list[Any], into: Any, place: Any) -> None:
    """Instructions that write each of ``found`` into a row of ``into``, from the first on, at ``place``."""
    _, width = cgutils.unpack_tuple(builder, into.shape)
    for values in found:
        builder.store(values, _address(builder, into.data, place, _FLOATS), align=_UNALIGNED)
        place = builder.add(place, width)


def _address(builder: Any, data: Any, place: Any, kind: Any) -> Any:
    return builder.bitcast(builder.gep(data, [place]), kind.as_pointer())


def _read(builder: Any, data: Any, place: Any) -> Any:
    return builder.load(_address(builder, data, place, _FLOATS), align=_UNALIGNED)


def _total(builder: Any, terms: list[Any]) -> Any:
    """Instructions for the float32 sum of the vectors ``terms``, in order."""
    total = terms[0]
    for term in terms[1:]:
        total = builder.fadd(total, term)
    return total


def _ranked(builder: Any, rows: list[Any], first: int, last: int, ordered: bool) -> list[Any]:
    """Instructions for ranks ``first`` to ``last`` of the vectors ``rows``."""
    # Floats are ordered like these integers, whose minima and maxima come twice as fast on some processors.
    wires = [_folded(builder, builder.bitcast(row, _INTS)) for row in rows]
    for low, high, _ in plan(len(wires), first, last, ordered):
        a, b = wires[low], wires[high]
        # What no later comparator wants is dropped by the compiler.
        wires[low] = builder.select(builder.icmp_signed("<", a, b), a, b)
        wires[high] = builder.select(builder.icmp_signed(">", a, b), a, b)
    found = [builder.bitcast(_folded(builder, wire), _FLOATS) for wire in wires[first : last + 1]]
    # Adding 0 turns -0 into +0: the two compare equal, and the order of the rows would show.
    return [builder.fadd(values, _ZEROS) for values in found]


def _folded(builder: Any, bits: Any) -> Any:
    """The bits of floats as integers of the same order, and back: where the sign is set, all others are turned."""
    return builder.xor(bits, builder.and_(builder.ashr(bits, _SIGN), _OTHERS))


def middles(k: int) -> Any:
    """For use in compiled code: ``middle(own, others, at, into, to)`` writes, for LANES coordinates of k rows, what
    REPUTE's geometry compares a row with; arguments are those of :func:`straight`.

    ``into`` has four rows. The last is the median of all. For even k they begin with the lower middle, and twice the
    median of all others for a row that is at most that, and for one that is above it; for odd k, with the least and the
    greatest of three middle ranks, and the sum of the three.
    """
    half, odd = k // 2, k % 2

    def typed(typing: Any, own: Any, others: Any, at: Any, into: Any, to: Any) -> Any:
        return types.void(own, others, at, into, to), build

    def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        own, others, into = (context.make_array(signature.args[n])(context, builder, args[n]) for n in (0, 1, 3))
        rows = _rows(builder, own, others, k, args[2])
        low, *between, high = _ranked(builder, rows, half - 1, half + odd, True)
        total = builder.fadd(low, high)
        if between:
            found = [low, high, builder.fadd(total, between[0]), between[0]]
        else:
            halved = builder.fmul(total, ir.Constant(_FLOATS, [0.5] * LANES))
            found = [low, builder.fsub(total, low), builder.fsub(total, high), halved]
        _write(builder, found, into, args[4])
        return context.get_dummy_value()

    return intrinsic(typed)
