"""Inner products of the differences from one's own row: all that a distance-based rule has to know of its stack.

Models of neighbors lie close together and far from the origin. Differences from row 0 keep the digits that
||x||^2 - 2<x, y> + ||y||^2 would lose. How they are summed: :mod:`quidnunc.gossip.rules.blocks`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from quidnunc.crypto.errors import Reason, RemoteProtocolError
from quidnunc.gossip.rules import compiled
from quidnunc.gossip.rules.blocks import differences, float32_held, square_distances
from quidnunc.gossip.rules.linear import Reals, Stack, Vector

Matrix = NDArray[np.float64]
"""One number per pair of rows, float64 [..., k, k]."""


class RefusedRows(RemoteProtocolError):
    """A stack holds a value no rule may see: not a number, infinite, or too far from the own row for float32."""

    def __init__(self) -> None:
        super().__init__(Reason.NON_FINITE, "a row of the stack is not finite or too far from the own row for float32")


def squares(stack: Stack) -> Reals:
    """||x_j - x_0||^2, float64 [..., k], for ``stack`` [..., k, d]. Raises RefusedRows."""
    total: Reals = np.zeros(stack.shape[:-1])
    total[..., 1:] = square_distances(stack[..., 0, :], stack[..., 1:, :])
    return _checked(total)


def gram(stack: Stack) -> Matrix:
    """<x_i - x_0, x_j - x_0>, float64 [..., k, k], for ``stack`` [..., k, d]. Raises RefusedRows."""
    k, own, others = stack.shape[-2], stack[..., 0, :], stack[..., 1:, :]
    total: Matrix = np.zeros((*stack.shape[:-1], k))
    if (products := compiled.gram(own, others)) is not None:
        total[1:, 1:] = products
    else:
        for difference in differences(own, others):
            with np.errstate(over="ignore", invalid="ignore"):
                # Row by row: for so few rows that is faster than a product of matrices, and only half of it is needed.
                for row in range(k - 1):
                    above = difference[..., : row + 1, :] @ difference[..., row, :, None]
                    total[..., row + 1, 1 : row + 2] += above[..., 0]
    if float32_held(np.einsum("...kk->...k", total)[..., 1:]):
        return total + np.swapaxes(np.tril(total, -1), -1, -2)
    total[...] = 0.0
    for difference in differences(own, others, np.float64):
        with np.errstate(invalid="ignore"):
            total[..., 1:, 1:] += difference @ np.swapaxes(difference, -1, -2)
    return _checked(total)


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
    """sum_j point_j x_j with point_0 = 1 - sum of the others, float32 [..., d], for ``stack`` [..., k, d]; the given
    point_0 has no say.
    """
    factors = point.astype(np.float32)
    factors[..., 0] = 1 - factors[..., 1:].astype(np.float64).sum(axis=-1)
    if (found := compiled.weighted_sum(stack, factors)) is not None:
        return found
    result: Vector = (factors[..., None, :] @ stack)[..., 0, :]
    return result
