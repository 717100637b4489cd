"""How a model delta becomes bytes, and how every holder of a replica advances it to the same bits.

::

    FLOAT32 (0)   d little-endian float32
    INT8    (1)   exponent e (one signed byte), then d signed bytes q, -127 <= q <= 127; the value is q * 2**e

The scale of INT8 is a power of two between 2**-100 and 2**64: then q * 2**e is exact in float32, the addition
is the only rounding of an advance, and fused, unfused and wider kernels agree on every bit.

One value has one spelling: either e = -100, or the largest abs(q) is 64 to 127 (below 64, q could be doubled
and e lowered). The decoder refuses any other.
"""

from __future__ import annotations

from io import BytesIO
from math import frexp

import numpy as np
from numpy.typing import NDArray

from quidnunc.crypto.errors import LocalProtocolError, Reason, RemoteProtocolError

Vector = NDArray[np.float32]
"""Params or a delta, float32 [d]."""

FLOAT32 = 0
INT8 = 1
CODECS = {"float32": FLOAT32, "int8": INT8}
"""Codec codes by the name they have in a charter."""

MIN_EXPONENT = -100
MAX_EXPONENT = 64
_LEVELS = 127
_NORMAL = 64


def encode_float32(vector: Vector) -> bytes:
    """Encode ``vector`` [d] without loss. Raises LocalProtocolError if it is not finite."""
    _check_finite(vector)
    return vector.astype("<f4", copy=False).tobytes()


def encode_int8(vector: Vector, uniform: NDArray[np.float64]) -> bytes:
    """Quantize ``vector`` [d] without bias: q = floor(vector / scale + uniform), ``uniform`` [d] in [0, 1).

    Stochastic rounding as in QSGD (Alistarh et al. 2017) with scale = 2**ceil(log2(max/127)). Raises
    LocalProtocolError if ``vector`` is not finite or exceeds 127 * 2**64.
    """
    _check_finite(vector)
    if uniform.shape != vector.shape:
        raise LocalProtocolError(f"uniform has shape {uniform.shape}, vector has {vector.shape}")
    largest = float(np.max(np.abs(vector), initial=np.float32(0)))
    if largest == 0.0:
        return _pack(MIN_EXPONENT, np.zeros(vector.shape, np.int8))
    mantissa, exponent = frexp(largest / _LEVELS)
    exponent = max(exponent - (mantissa == 0.5), MIN_EXPONENT)
    if exponent > MAX_EXPONENT:
        raise LocalProtocolError(f"delta reaches {largest:.3g}, codec int8 ends at {_LEVELS}*2**{MAX_EXPONENT}")
    steps = np.floor(vector.astype(np.float64) * 2.0**-exponent + uniform)
    levels = np.clip(steps, -_LEVELS, _LEVELS).astype(np.int8)
    peak = _peak(levels)
    while peak < _NORMAL and exponent > MIN_EXPONENT:
        if peak == 0:
            return _pack(MIN_EXPONENT, levels)
        levels, peak, exponent = levels * np.int8(2), 2 * peak, exponent - 1
    return _pack(exponent, levels)


def encode(code: int, vector: Vector, uniform: NDArray[np.float64] | None = None) -> bytes:
    """Encode with the codec ``code``; ``uniform`` is needed by INT8 only."""
    if code == FLOAT32:
        return encode_float32(vector)
    if code == INT8 and uniform is not None:
        return encode_int8(vector, uniform)
    raise LocalProtocolError(f"codec {code} cannot be written, known are {CODECS}")


def encoded_size(code: int, dim: int) -> int:
    """Bytes of a delta of ``dim`` params. Raises RemoteProtocolError (BAD_CODEC) for an unknown codec."""
    if code == FLOAT32:
        return 4 * dim
    if code == INT8:
        return 1 + dim
    raise RemoteProtocolError(Reason.BAD_CODEC, f"delta codec {code} is unknown, known are {CODECS}")


def decode(code: int, data: bytes, dim: int) -> Vector:
    """The values of a delta of ``dim`` params, float32 [dim].

    Raises RemoteProtocolError: BAD_CODEC for an unknown codec, a scale out of range or a second spelling,
    BAD_SHAPE for a wrong length, NON_FINITE. The length is checked before anything is allocated.
    """
    size = encoded_size(code, dim)
    if len(data) != size:
        raise RemoteProtocolError(Reason.BAD_SHAPE, f"delta has {len(data)} bytes, {dim} params take {size}")
    if code == FLOAT32:
        values = np.frombuffer(data, dtype="<f4").astype(np.float32, copy=False)
        if not np.isfinite(values).all():
            raise RemoteProtocolError(Reason.NON_FINITE, "delta holds a value that is not finite")
        return values
    exponent = int.from_bytes(data[:1], "big", signed=True)
    if not MIN_EXPONENT <= exponent <= MAX_EXPONENT:
        raise RemoteProtocolError(
            Reason.BAD_CODEC, f"delta scale is 2**{exponent}, must be 2**{MIN_EXPONENT} to 2**{MAX_EXPONENT}"
        )
    levels = np.frombuffer(data, dtype=np.int8, offset=1)
    peak = _peak(levels)
    if peak > _LEVELS:
        raise RemoteProtocolError(Reason.BAD_CODEC, f"delta holds level -128, must be -{_LEVELS} to {_LEVELS}")
    if peak < _NORMAL and exponent != MIN_EXPONENT:
        raise RemoteProtocolError(
            Reason.BAD_CODEC,
            f"delta peaks at level {peak} with scale 2**{exponent}, must be written at a finer scale",
        )
    return levels.astype(np.float32) * np.float32(2.0**exponent)


def advance(replica: Vector, data: bytes, code: int) -> Vector:
    """``replica`` [d] plus the delta ``data``, in two IEEE-exact elementwise float32 steps.

    Raises as :func:`decode`, and RemoteProtocolError (NON_FINITE) if the sum is not finite.
    """
    with np.errstate(over="ignore"):
        result = replica + decode(code, data, replica.shape[0])
    _check_sum(result)
    return result


def advance_state(state: bytes, data: bytes, dim: int, code: int) -> bytes:
    """:func:`advance` from stored params to stored params, to the same bits; raises as that and :func:`parse_state`.

    A ``state`` to which the caller keeps no reference is advanced where it is, without another vector of its size.
    """
    _check_length(state, dim)
    room = BytesIO(state)  # shares the bytes, and copies them before a change only if somebody else holds them
    del state
    _advance_in_place(np.frombuffer(room.getbuffer(), dtype="<f4"), data, code)
    return room.getvalue()


def _advance_in_place(vector: NDArray[np.float32], data: bytes, code: int) -> None:
    _check_state(vector)
    with np.errstate(over="ignore"):
        np.add(vector, decode(code, data, vector.shape[0]), out=vector)
    _check_sum(vector)


def state_bytes(vector: Vector) -> bytes:
    """Params as they are stored and hashed: little-endian float32. Their SHA-256 is the state's name."""
    return vector.astype("<f4", copy=False).tobytes()


def parse_state(data: bytes, dim: int) -> Vector:
    """The inverse of :func:`state_bytes`: read-only float32 [dim].

    Raises RemoteProtocolError: BAD_SHAPE for a wrong length, NON_FINITE.
    """
    _check_length(data, dim)
    vector = np.frombuffer(data, dtype="<f4").astype(np.float32, copy=False)
    _check_state(vector)
    return vector


def _check_length(state: bytes, dim: int) -> None:
    if len(state) != 4 * dim:
        raise RemoteProtocolError(Reason.BAD_SHAPE, f"state has {len(state)} bytes, {dim} params take {4 * dim}")


def _check_state(vector: Vector) -> None:
    if not np.isfinite(vector).all():
        raise RemoteProtocolError(Reason.NON_FINITE, "state holds a value that is not finite")


def _check_sum(vector: Vector) -> None:
    if not np.isfinite(vector).all():
        raise RemoteProtocolError(Reason.NON_FINITE, "delta leads to params that are not finite")


def _pack(exponent: int, levels: NDArray[np.int8]) -> bytes:
    return exponent.to_bytes(1, "big", signed=True) + levels.tobytes()


def _peak(levels: NDArray[np.int8]) -> int:
    """The largest absolute level; 128 if -128 occurs, which ``abs`` of an int8 would hide."""
    if levels.size == 0:
        return 0
    return max(int(levels.max()), -int(levels.min()))


def _check_finite(vector: Vector) -> None:
    if vector.dtype != np.float32 or vector.ndim != 1:
        raise LocalProtocolError(f"delta is {vector.dtype}{list(vector.shape)}, must be float32 [d]")
    if not np.isfinite(vector).all():
        raise LocalProtocolError("delta holds a value that is not finite")
