"""Weighted sums of a merge's rows in vector instructions: sums stay in registers, and memory is read and written once.

STEP coordinates at a time all rows are added, one after the other; what comes next is asked for ahead, because memory's
own foresight loses sight of so many rows. Imported only where numba is installed
(:mod:`quidnunc.gossip.rules.compiled`).
"""

from __future__ import annotations

from typing import Any

from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from quidnunc.gossip.rules.registers import (
    FLOATS,
    LANES,
    LONG,
    WIDE,
    added,
    ask_for,
    before,
    everywhere,
    read,
    write,
)

_TOGETHER = 8 if WIDE else 4
"""Registers that sum side by side; each has a second one that holds the own row."""
STEP = _TOGETHER * LANES
_AHEAD = 256
"""How many coordinates ahead of their use rows are asked for."""


def mix(*, differences: bool, some: bool = False) -> Any:
    """For use in compiled code: ``mix(own, others, at, stop, chosen, factors, share, result)`` makes STEP coordinates
    of ``result`` [d] from ``at`` on.

    With ``differences`` they are own + factor * (x - own) for the rows x of ``others`` [k, d] that ``chosen`` names,
    one after the other and nothing fused; without, share * own + factor * x in multiply-adds. They go past
    the caches: ``result`` and ``at`` are at lines. With ``some`` they are the LANES from ``at`` on of
    which those from ``stop`` on are neither read nor written. Float32, C-contiguous; nobody checks bounds.
    """
    count = 1 if some else _TOGETHER

    def typed(
        typing: Any, own: Any, others: Any, at: Any, stop: Any, chosen: Any, factors: Any, share: Any, result: Any
    ) -> Any:
        return types.void(own, others, at, stop, chosen, factors, share, result), build

    def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        own, others, chosen, factors, result = (
            context.make_array(signature.args[n])(context, builder, args[n]) for n in (0, 1, 4, 5, 7)
        )
        at, share = args[2], args[6]
        _, dim = cgutils.unpack_tuple(builder, others.shape)
        (rows,) = cgutils.unpack_tuple(builder, chosen.shape)
        mask = before(builder, builder.sub(args[3], at)) if some else None

        def registers(data: Any, place: Any) -> list[Any]:
            places = [builder.gep(data, [builder.add(place, LONG(n * LANES))]) for n in range(count)]
            return [builder.bitcast(pointer, FLOATS.as_pointer()) for pointer in places]

        def vectors(data: Any, place: Any) -> list[Any]:
            if not some:
                ask_for(builder, data, builder.add(place, LONG(_AHEAD)), STEP)
            return [read(builder, pointer, mask) for pointer in registers(data, place)]

        mine = vectors(own.data, at)
        firsts = mine if differences else [builder.fmul(everywhere(builder, share), here) for here in mine]
        sums = [cgutils.alloca_once_value(builder, first) for first in firsts]
        with cgutils.for_range(builder, rows, intp=LONG) as loop:
            row = builder.load(builder.gep(chosen.data, [loop.index]))
            factor = everywhere(builder, builder.load(builder.gep(factors.data, [loop.index])))
            for held, here, x in zip(
                sums, mine, vectors(others.data, builder.add(builder.mul(row, dim), at)), strict=True
            ):
                total = builder.load(held)
                if differences:
                    total = builder.fadd(total, builder.fmul(factor, builder.fsub(x, here)))
                else:
                    total = added(builder, total, factor, x)
                builder.store(total, held)
        for held, pointer in zip(sums, registers(result.data, at), strict=True):
            write(builder, builder.load(held), pointer, mask, past=not some)
        return context.get_dummy_value()

    return intrinsic(typed)
