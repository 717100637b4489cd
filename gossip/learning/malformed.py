"""Deltas that break the wire format, signed like any other: a receiver refuses them and blames their signer."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from quidnunc.gossip.learning.codec import FLOAT32, MAX_EXPONENT


def non_finite(delta: bytes, code: int) -> bytes:
    """NaN in every place of a float32 delta; an int8 one cannot say NaN, and has the scale that leads to infinity."""
    if code == FLOAT32:
        return np.full(len(delta) // 4, np.nan, "<f4").tobytes()
    return (MAX_EXPONENT + 1).to_bytes(1, "big", signed=True) + b"\x7f" * (len(delta) - 1)


def wrong_shape(delta: bytes, code: int) -> bytes:
    """One param less than the schema has."""
    return delta[: -4 if code == FLOAT32 else -1]


def wrong_dtype(delta: bytes, code: int) -> bytes:
    """As many params in another type: float64 in place of float32 or int8."""
    count = len(delta) // 4 if code == FLOAT32 else len(delta) - 1
    return np.ones(count, "<f8").tobytes()


MALFORMED: Mapping[str, Callable[[bytes, int], bytes]] = {
    "non_finite": non_finite,
    "wrong_shape": wrong_shape,
    "wrong_dtype": wrong_dtype,
}
"""What is sent in place of an encoded delta, given the codec's code, by name."""
