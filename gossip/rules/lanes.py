"""A sorting network as straight-line vector instructions: what numba is told to make of k rows at one place.

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
_ZEROS = ir.Constant(_FLOATS, [0.0] * LANES)
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

        def address(data: Any, place: Any) -> Any:
            return builder.bitcast(builder.gep(data, [place]), _FLOATS.as_pointer())

        def read(data: Any, place: Any) -> Any:
            # Adding 0 turns -0 into +0: the two compare equal, and the order of the rows would show.
            return builder.fadd(builder.load(address(data, place), align=_UNALIGNED), _ZEROS)

        wires, place = [read(own.data, args[2])], args[2]
        _, dim = cgutils.unpack_tuple(builder, others.shape)
        for _ in range(k - 1):
            wires.append(read(others.data, place))
            place = builder.add(place, dim)
        found = _ranked(builder, list(wires), first, last, ordered)
        found = [_total(builder, found)] if summed else found
        found += [_total(builder, wires)] if seen else []
        _, width = cgutils.unpack_tuple(builder, into.shape)
        place = args[4]
        for values in found:
            builder.store(values, address(into.data, place), align=_UNALIGNED)
            place = builder.add(place, width)
        return context.get_dummy_value()

    return intrinsic(typed)


def _total(builder: Any, terms: list[Any]) -> Any:
    """Instructions for the float32 sum of the vectors ``terms``, in order."""
    total = terms[0]
    for term in terms[1:]:
        total = builder.fadd(total, term)
    return total


def _ranked(builder: Any, wires: list[Any], first: int, last: int, ordered: bool) -> list[Any]:
    """Instructions for ranks ``first`` to ``last`` of the vectors ``wires``."""
    for low, high, _ in plan(len(wires), first, last, ordered):
        a, b = wires[low], wires[high]
        # What no later comparator wants is dropped by the compiler.
        wires[low] = builder.select(builder.fcmp_ordered("<", a, b), a, b)
        wires[high] = builder.select(builder.fcmp_ordered(">", a, b), a, b)
    return wires[first : last + 1]
