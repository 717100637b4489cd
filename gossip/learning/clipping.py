"""What every way of clipping shares: gradients of the loss one example at a time, and factors from norms."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.func import grad_and_value, vmap

from quidnunc.gossip.learning.losses import row_cross_entropy, row_cross_entropy_gradient

if TYPE_CHECKING:
    from quidnunc.gossip.learning.functional import Functional

ROUNDING = 1 - 1e-9
"""Clipped norms are so much below the clip that rounding cannot lift them above it."""


def output_gradients(net: Functional, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Each example's loss and its gradient by that example's outputs, float64 [n, ...]."""
    if net.loss is row_cross_entropy and outputs.ndim == 2 and targets.dtype == torch.int64 and targets.ndim == 1:
        net.evaluations += 1
        return row_cross_entropy_gradient(outputs, targets)
    with torch.inference_mode(mode=False):
        errors, losses = vmap(grad_and_value(lambda out, y: net.losses(out.unsqueeze(0), y.unsqueeze(0))[0]))(
            outputs.to(torch.float32, copy=True), targets
        )
    return errors.double(), losses


def clip_factors(square: Tensor, clip: float) -> tuple[Tensor, Tensor | None]:
    """min(1, clip/norm) from squared norms [n], a hair less so that rounding cannot exceed it.

    And a mask [n, 1] of the examples whose gradient is not finite, or None: their factor is 0, and what it meets has to
    be blanked, because zero times infinity is not zero.
    """
    # numpy takes half of torch's time for so few numbers, and both round as IEEE 754 has it.
    values = square.numpy()
    factors = np.sqrt(values)
    np.maximum(factors, 1e-300, out=factors)
    np.divide(clip * ROUNDING, factors, out=factors)
    np.minimum(factors, 1.0, out=factors)
    if math.isfinite(values.sum()):
        return torch.from_numpy(factors), None
    broken = ~np.isfinite(values)
    factors[broken] = 0.0
    return torch.from_numpy(factors), torch.from_numpy(broken).unsqueeze(1)


def blanked(rows: Tensor, broken: Tensor | None) -> Tensor:
    """``rows`` [n, ...] with those of ``broken`` [n, 1] zero."""
    return rows if broken is None else rows.masked_fill(broken, 0.0)
