"""Params between one peer's and each neighbor's, which is where a neighbor's harm is probed."""

from __future__ import annotations

import torch
from torch import Tensor


def between(states: Tensor, parts: Tensor) -> Tensor:
    """Own params, and those at ``parts`` [k, c] of each step from them; ``states`` [k+1, c, ...] are own and steps."""
    own, steps = states[:1], states[1:]
    factors = parts.view(*parts.shape, *(1 for _ in states.shape[2:]))
    return torch.cat([own, torch.addcmul(own, steps, factors)])


def repeated(tensor: Tensor | None, copies: int) -> Tensor | None:
    """``tensor`` [c, ...] ``copies`` times below itself."""
    return None if tensor is None else tensor.repeat(copies, *(1 for _ in tensor.shape[1:]))
