"""Linear merges: the result is the pivot plus weighted differences, in an order and precision anybody can repeat."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from quidnunc.gossip.jobs import PPB

CHUNK = 1 << 18
"""Coordinates at a time, so that float64 copies of large models stay small."""

Vector = NDArray[np.float32]
"""Params, float32 [d]."""
Stack = NDArray[np.float32]
"""Params of k peers, float32 [..., k, d]."""
Reals = NDArray[np.float64]
"""Weights, distances or scores, float64 [..., k]."""


def recompute(pivot: Vector, rows: Sequence[tuple[Vector, int]]) -> Vector:
    """``pivot`` [d] plus effective/1e9 * (state - pivot) over ``rows``, in order: what a ledger's merge must
    hash to.

    ``rows`` are (state [d], effective weight in ppb). The arithmetic is part of the wire format: the factor
    is effective/1e9 in float64 rounded once to float32; each row is three float32 elementwise steps
    (subtract, multiply, add), never fused; rows of weight 0 are skipped.
    """
    result = pivot.copy()
    for state, effective in rows:
        if effective:
            result = result + np.float32(effective / PPB) * (state - pivot)
    return result


def distances(pivot: Vector, stack: Stack) -> Reals:
    """||stack_j - pivot||, float64 [..., k], for ``pivot`` [..., d] and ``stack`` [..., k, d]."""
    squares: Reals = np.zeros(stack.shape[:-1])
    for at in range(0, stack.shape[-1], CHUNK):
        part = slice(at, at + CHUNK)
        difference = (stack[..., part] - pivot[..., None, part]).astype(np.float64)
        squares = squares + np.einsum("...kd,...kd->...k", difference, difference)
    return np.sqrt(squares)


def mean(stack: Stack, weights: Reals) -> Stack:
    """The weighted mean [..., d] of ``stack`` [..., k, d]; ``weights`` [..., k] sum to one, own row included."""
    result: Stack = np.einsum("...kd,...k->...d", stack, weights.astype(stack.dtype))
    return result
