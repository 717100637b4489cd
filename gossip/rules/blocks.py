"""Passes over stacks in blocks of coordinates that stay in a core's cache, and sums of squares in such passes.

Products are summed in float32 within a block, by the fastest kernel numpy has, and in float64 from block to block: the
error is about 1e-7 of a sum of squares. Where float32 cannot hold the squares, because they are huge or tiny, whoever
sums them does it again in float64 (:func:`float32_held`).
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quidnunc.gossip.rules import compiled

BLOCK_BYTES = 1 << 16
"""Bytes of one row worked on at a time, in all leading dimensions: enough that calls cost little, and with its copies
a block of a few rows stays in a core's own cache."""

WIDTH, TERMS = 32, 16
"""How many coordinates lie between two products that :func:`total_of` adds in float32, and how many it adds."""

_LEAST_SQUARE = 1e-20
"""Below this sum the squares of single coordinates may be too small for float32."""

Rows = NDArray[np.float32]
Sums = NDArray[np.float64]


def width_of(stack: Rows) -> int:
    """How many coordinates of ``stack`` [..., k, d] make a block: about BLOCK_BYTES of a row, never under 64."""
    peers = max(1, prod(stack.shape[:-2]))
    dim: int = stack.shape[-1]
    return min(dim, max(64, BLOCK_BYTES // (4 * peers)))


def blocks(stack: Rows) -> Iterator[slice]:
    """Ranges of coordinates of ``stack`` [..., k, d], :func:`width_of` it each."""
    dim, width = stack.shape[-1], max(1, width_of(stack))
    for at in range(0, dim, width):
        yield slice(at, min(dim, at + width))


def differences(pivot: Rows, stack: Rows, kind: type[np.floating[Any]] = np.float32) -> Iterator[NDArray[Any]]:
    """x_j - pivot, [..., k, c], for ``pivot`` [..., d] and ``stack`` [..., k, d], taken in float32, given as ``kind``.

    Each block overwrites the last.
    """
    work = np.empty((*stack.shape[:-1], width_of(stack)), np.float32)
    for part in blocks(stack):
        found = work[..., : part.stop - part.start]
        # An overflow is seen in the sum and needs no warning.
        with np.errstate(over="ignore", invalid="ignore"):
            np.subtract(stack[..., part], pivot[..., None, part], out=found)
        yield found.astype(kind, copy=False)


def square_distances(pivot: Rows, stack: Rows) -> Sums:
    """||x_j - pivot||^2, float64 [..., k], for ``pivot`` [..., d] and ``stack`` [..., k, d]; not finite where a
    difference is not.
    """
    if (sums := compiled.square_distances(pivot, stack)) is not None:
        return sums
    total: Sums = np.zeros(stack.shape[:-1])
    for part in differences(pivot, stack):
        with np.errstate(over="ignore", invalid="ignore"):
            total += (part[..., None, :] @ part[..., :, None])[..., 0, 0]
    if float32_held(total):
        return total
    total[...] = 0.0
    for part in differences(pivot, stack, np.float64):
        total += np.einsum("...kd,...kd->...k", part, part)
    return total


def total_of(a: Rows, b: Rows, room: Rows) -> float:
    """<a, b> of two rows [c], products summed in float32 up to TERMS of them and in float64 beyond: off by at most
    TERMS * 2^-24 of the sum of their sizes.

    Which are summed in float32 and in what order is fixed, so that compiled code does the same: in every block of
    TERMS * WIDTH those that are a multiple of WIDTH apart, one after the other. ``room`` is overwritten: c floats,
    filled up to whole blocks.
    """
    np.multiply(a, b, out=room[: len(a)])
    room[len(a) :] = 0
    # One after the other as well, in half of the time that np.add.reduce takes for rows so short.
    parts = np.einsum("btw->bw", room.reshape(-1, TERMS, WIDTH))
    return float(np.add.reduce(parts, axis=None, dtype=np.float64))


def float32_held(squares: Sums) -> bool:
    """Whether sums of squares are such that float32 held every square."""
    return bool(np.isfinite(squares).all() and (squares > _LEAST_SQUARE).all())
