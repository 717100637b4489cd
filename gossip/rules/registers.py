"""Vector instructions by which compiled sums and products of rows are written; for use where numba is installed."""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from llvmlite.binding import get_host_cpu_features
from numba import carray, njit, types
from numba.core import cgutils
from numba.extending import intrinsic
from numpy.typing import NDArray

Floats = NDArray[np.float32]
WIDE = bool(get_host_cpu_features().get("avx512f"))
LANES = 16 if WIDE else 8
"""Floats in a register: of AVX-512, or of AVX2, which are two of other processors."""
UNALIGNED = 4
_LINE = 16
"""Floats in a line of a cache."""

INT, LONG, FLOAT = ir.IntType(32), ir.IntType(64), ir.FloatType()
FLOATS = ir.VectorType(FLOAT, LANES)
INTS = ir.VectorType(INT, LANES)
ZEROS = ir.Constant(FLOATS, [0.0] * LANES)
_BITS = ir.VectorType(ir.IntType(1), LANES)
_PLACES = ir.VectorType(LONG, LANES)


def everywhere(builder: Any, value: Any) -> Any:
    """``value`` in every lane."""
    kind = ir.VectorType(value.type, LANES)
    first = builder.insert_element(ir.Constant(kind, ir.Undefined), value, INT(0))
    return builder.shuffle_vector(first, ir.Constant(kind, ir.Undefined), ir.Constant(INTS, [0] * LANES))


def before(builder: Any, count: Any) -> Any:
    """Which lanes are among the first ``count``."""
    return builder.icmp_signed("<", ir.Constant(_PLACES, list(range(LANES))), everywhere(builder, count))


def added(builder: Any, total: Any, factor: Any, values: Any) -> Any:
    """``total`` + ``factor`` * ``values``, one multiply-add where the processor has it."""
    return builder.fadd(total, builder.fmul(factor, values, flags=("contract",)), flags=("contract",))


def at(builder: Any, address: Any, floats: int = 0) -> Any:
    """The pointer to ``floats`` behind the address, an integer."""
    place = builder.add(address, LONG(4 * floats)) if floats else address
    return builder.inttoptr(place, FLOATS.as_pointer())


def read(builder: Any, pointer: Any, mask: Any = None) -> Any:
    """LANES floats; 0 where ``mask`` is not set, which is not looked at."""
    if mask is None:
        return builder.load(pointer, align=UNALIGNED)
    kind = ir.FunctionType(FLOATS, [pointer.type, INT, _BITS, FLOATS])
    load = cgutils.get_or_insert_function(builder.module, kind, f"llvm.masked.load.v{LANES}f32.p0")
    return builder.call(load, [pointer, INT(UNALIGNED), mask, ZEROS])


def write(builder: Any, values: Any, pointer: Any, mask: Any = None, *, past: bool = False) -> None:
    """LANES floats, or those where ``mask`` is set; whole lines with ``past`` past the caches."""
    if mask is None:
        store = builder.store(values, pointer, align=4 * LANES if past else UNALIGNED)
        if past:
            store.set_metadata("nontemporal", builder.module.add_metadata([INT(1)]))
        return
    kind = ir.FunctionType(ir.VoidType(), [FLOATS, pointer.type, INT, _BITS])
    store = cgutils.get_or_insert_function(builder.module, kind, f"llvm.masked.store.v{LANES}f32.p0")
    builder.call(store, [values, pointer, INT(UNALIGNED), mask])


def ask_for(builder: Any, data: Any, place: Any, floats: int) -> None:
    """The lines that have ``floats`` values of ``data`` from ``place`` on will be read; never wrong."""
    pointer = ir.IntType(8).as_pointer()
    kind = ir.FunctionType(ir.VoidType(), [pointer, INT, INT, INT])
    prefetch = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
    for n in range(0, floats, _LINE):
        address = builder.bitcast(builder.gep(data, [builder.add(place, LONG(n))]), pointer)
        # To read; into the second cache; of data.
        builder.call(prefetch, [address, INT(0), INT(2), INT(1)])


def called(builder: Any, name: str, result: Any, *args: Any) -> Any:
    """The value of an intrinsic function of LLVM."""
    kind = ir.FunctionType(result, [arg.type for arg in args])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), args)


def _settle(typing: Any) -> Any:
    def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.void(), build


settle: Any = intrinsic(_settle)
"""For use in compiled code: ``settle()``; what was written past the caches is seen by every processor."""


@intrinsic  # type: ignore[untyped-decorator]
def _pointer(typing: Any, address: Any) -> Any:
    """The address as a pointer to floats."""

    def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.inttoptr(args[0], FLOAT.as_pointer())

    return types.CPointer(types.float32)(address), build


@njit(nogil=True)  # type: ignore[untyped-decorator]
def floats(address: int, count: int) -> Floats:
    """The ``count`` floats at ``address``, as an array in compiled code."""
    return carray(_pointer(address), (count,))  # type: ignore[no-any-return]
