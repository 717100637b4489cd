"""The params of a plain stack as the products of its private steps take them, in memory that is kept for them.

Cutting and filling them up anew took a tenth of a small net's step. What is held is one float32 copy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from quidnunc.gossip.learning.codec import Vector

if TYPE_CHECKING:
    from quidnunc.gossip.learning.functional import Functional

COLUMNS = 16
"""Outputs of a layer are filled up to a multiple of this: with fewer MKL takes rows in pairs, unlike each other, and a
softmax takes many times as long.
"""
TOGETHER = 64
"""Rows of a product whose sum is float32."""


class Step(NamedTuple):
    """One layer with its params as products take them, ``weight`` [out, in] and ``bias`` [out], filled up.

    ``turned`` is ``weight`` transposed, ``width`` the layer's own number of inputs, ``cut`` whether its inputs are
    filled up beyond them, and ``unit`` 1 if it has a bias, else 0.
    """

    kind: str
    weight: Tensor
    turned: Tensor
    bias: Tensor | None
    width: int
    cut: bool
    unit: float


class Sum(NamedTuple):
    """Where the sum of a linear layer's gradients goes: ``weight`` [out, in] and ``bias`` [out] or None."""

    weight: Tensor
    bias: Tensor | None


class Stack:
    """The layers of one net in order; ``ones`` [64] adds rows up."""

    def __init__(self, net: Functional) -> None:
        assert net.layers is not None
        # A tensor made in inference mode could not be written outside of it.
        with torch.inference_mode(mode=False):
            params = torch.zeros(net.dim)
            self._params = params.numpy()
            self._filled: list[tuple[Tensor, Tensor]] = []
            self.steps = self._steps(net, net.views(params))
            self.ones = torch.ones(TOGETHER)
        linear = [layer for layer in net.layers if layer.kind == "linear"]
        starts = [slot.start for slot in net.slots]
        self._places = [
            (*net.slots[layer.weight].shape, starts[layer.weight], starts[layer.bias] if layer.bias >= 0 else -1)
            for layer in linear
        ]

    def load(self, vector: Vector) -> list[Step]:
        """The layers with params ``vector`` [d]; those of the last call change with it."""
        self._params[:] = vector
        for room, own in self._filled:
            room.copy_(own)
        return self.steps

    def sums(self, total: Tensor) -> list[Sum]:
        """The parts of ``total`` [d] that belong to the linear layers."""
        return [
            Sum(
                total.as_strided((high, wide), (wide, 1), at),
                total.as_strided((high,), (1,), bias) if bias >= 0 else None,
            )
            for high, wide, at, bias in self._places
        ]

    def _steps(self, net: Functional, tensors: list[Tensor]) -> list[Step]:
        """A class that was filled in has the logit minus infinity, and so no probability and no gradient."""
        assert net.layers is not None
        steps, behind = [], 0
        for layer in net.layers:
            if layer.kind == "flatten":
                continue
            if layer.kind != "linear":
                nothing = tensors[0][:0]
                steps.append(Step(layer.kind, nothing, nothing, None, 0, False, 0.0))
                continue
            weight, bias = tensors[layer.weight], tensors[layer.bias] if layer.bias >= 0 else None
            (height, width), more = weight.shape, -len(weight) % COLUMNS
            if more and (bias is not None or layer is net.layers[-1]):
                room = weight.new_zeros(height + more)
                room[height:] = -torch.inf if layer is net.layers[-1] else 0.0
                bias = room if bias is None else self._fill(room, room[:height], bias)
            if more or behind:
                room = weight.new_zeros((height + more, width + behind))
                weight = self._fill(room, room[:height, :width], weight)
            steps.append(Step("linear", weight, weight.mT, bias, width, behind > 0, float(layer.bias >= 0)))
            behind = more
        return steps

    def _fill(self, room: Tensor, part: Tensor, own: Tensor) -> Tensor:
        self._filled.append((part, own))
        return room
