"""Linear merges: the result is the pivot plus weighted differences, in an order and precision anybody can repeat."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from quidnunc.gossip.jobs import PPB
from quidnunc.gossip.rules import compiled
from quidnunc.gossip.rules.blocks import square_distances

CHUNK = 1 << 14
"""Coordinates at a time, so that what a step leaves for the next is still in a core's own cache."""

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
    spare = np.empty(min(CHUNK, len(pivot)), np.float32)
    for at in range(0, len(pivot), CHUNK):
        own, sum_ = pivot[at : at + CHUNK], result[at : at + CHUNK]
        step = spare[: len(own)]
        for state, effective in rows:
            if effective:
                np.subtract(state[at : at + CHUNK], own, out=step)
                np.multiply(np.float32(effective / PPB), step, out=step)
                np.add(sum_, step, out=sum_)
    return result


def recompute_stack(pivot: Vector, stack: Stack, effective: Sequence[int]) -> Vector:
    """:func:`recompute` of the rows of ``stack`` [k, d] with ``effective`` weights in ppb, bit for bit."""
    factors = (np.array(effective) / PPB).astype(np.float32)
    found = compiled.recompute(pivot, stack, factors)
    return recompute(pivot, list(zip(stack, effective, strict=True))) if found is None else found


def distances(pivot: Vector, stack: Stack) -> Reals:
    """||stack_j - pivot||, float64 [..., k], for ``pivot`` [..., d] and ``stack`` [..., k, d]."""
    return np.sqrt(square_distances(pivot, stack))


def mean(stack: Stack, weights: Reals) -> Stack:
    """The weighted mean [..., d] of ``stack`` [..., k, d]; ``weights`` [..., k] sum to one, own row included."""
    result: Stack = np.einsum("...kd,...k->...d", stack, weights.astype(stack.dtype))
    return result
