"""Inner products of the differences from one's own row: all that a distance-based rule has to know of its stack.

Models of neighbors lie close together and far from the origin. Differences from row 0, summed in float64, keep the
digits that ||x||^2 - 2<x, y> + ||y||^2 in float32 would lose.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from quidnunc.crypto.errors import Reason, RemoteProtocolError
from quidnunc.gossip.rules.linear import Reals, Stack, Vector

Matrix = NDArray[np.float64]
"""One number per pair of rows, float64 [..., k, k]."""

BLOCK_BYTES = 1 << 18
"""Bytes of a stack worked on at a time: with its copies it stays in a core's own cache."""


class RefusedRows(RemoteProtocolError):
    """A stack holds a value no rule may see: not a number, infinite, or too far from the own row for float32."""

    def __init__(self) -> None:
        super().__init__(Reason.NON_FINITE, "a row of the stack is not finite or too far from the own row for float32")


def blocks(stack: Stack) -> Iterator[slice]:
    """Ranges of coordinates whose part of ``stack`` [..., k, d] is about BLOCK_BYTES, never under 64 coordinates."""
    rows = max(1, int(np.prod(stack.shape[:-1])))
    width = max(64, BLOCK_BYTES // (4 * rows))
    for at in range(0, stack.shape[-1], width):
        yield slice(at, at + width)


def squares(stack: Stack) -> Reals:
    """||x_j - x_0||^2, float64 [..., k], for ``stack`` [..., k, d]. Raises RefusedRows."""
    total: Reals = np.zeros(stack.shape[:-1])
    for part in blocks(stack):
        difference = _differences(stack, part)
        total += np.einsum("...kd,...kd->...k", difference, difference)
    return _checked(total)


def gram(stack: Stack) -> Matrix:
    """<x_i - x_0, x_j - x_0>, float64 [..., k, k], for ``stack`` [..., k, d]. Raises RefusedRows."""
    total: Matrix = np.zeros((*stack.shape[:-1], stack.shape[-2]))
    for part in blocks(stack):
        difference = _differences(stack, part)
        with np.errstate(invalid="ignore"):
            total += difference @ np.swapaxes(difference, -1, -2)
    return _checked(total)


def _differences(stack: Stack, part: slice) -> Matrix:
    # An overflow is refused by the sum's check and needs no warning.
    with np.errstate(over="ignore", invalid="ignore"):
        return (stack[..., part] - stack[..., :1, part]).astype(np.float64)


def _checked(total: Reals) -> Reals:
    if not np.isfinite(total).all():
        raise RefusedRows
    return total


def pairwise(products: Matrix) -> Matrix:
    """||x_i - x_j||^2, [..., k, k], from Gram ``products`` of any common origin; 0 on the diagonal."""
    own = np.einsum("...kk->...k", products)
    apart: Matrix = np.maximum(own[..., :, None] + own[..., None, :] - 2 * products, 0.0)
    return apart


def from_point(products: Matrix, point: Reals) -> Reals:
    """||x_j - sum_i point_i x_i||^2, [..., k], for affine coordinates ``point`` [..., k] that sum to one."""
    across = np.einsum("...ij,...j->...i", products, point)
    own = np.einsum("...kk->...k", products)
    here = np.einsum("...i,...i->...", point, across)
    away: Reals = np.maximum(own - 2 * across + here[..., None], 0.0)
    return away


def combine(stack: Stack, point: Reals) -> Vector:
    """x_0 + sum_j point_j (x_j - x_0), float32 [..., d], in blocks, for ``stack`` [..., k, d]; point_0 has no say."""
    result: Vector = np.empty((*stack.shape[:-2], stack.shape[-1]), np.float32)
    factors = point[..., None, 1:].astype(np.float32)
    for part in blocks(stack):
        own = stack[..., 0, part]
        difference = stack[..., 1:, part] - own[..., None, :]
        result[..., part] = own + (factors @ difference)[..., 0, :]
    return result
