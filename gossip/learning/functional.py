"""A module as a pure function of a flat vector: losses, gradients, and the losses of many vectors at once.

Plain stacks (a Linear, or a Sequential of Flatten, Linear, ReLU, Tanh, Sigmoid) are evaluated on views of the
vector; any other module goes through ``torch.func.functional_call``. Both give the module's own function.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import linear

from quidnunc.crypto.errors import ConfigError
from quidnunc.gossip.learning.codec import Vector
from quidnunc.gossip.learning.convolved import conv_stack, hooked
from quidnunc.gossip.learning.params import layout
from quidnunc.gossip.task import Task

if TYPE_CHECKING:
    from quidnunc.gossip.learning.stack import Stack

_ROWS = 4096


class Layer(NamedTuple):
    """One step of a plain stack; ``weight`` and ``bias`` are slot numbers, -1 for none."""

    kind: str
    weight: int = -1
    bias: int = -1


_KINDS: dict[type[nn.Module], str] = {
    nn.Linear: "linear",
    nn.ReLU: "relu",
    nn.Tanh: "tanh",
    nn.Sigmoid: "sigmoid",
    nn.Flatten: "flatten",
}


class Functional:
    """The model and loss of a task as functions of params [d].

    ``slots`` is the layout, ``dim`` its length, ``layers`` the plain stack or None, ``convolutions`` the layers of a
    stack with convolutions or None. ``loops`` is set once vmap was found unable to take the module, ``alone`` by number
    of threads once it was tried whether float32 rows depend on others, ``stack`` the room that is kept for them
    (``blocks.py``). ``evaluations`` counts how often losses were asked for, which every local step does: it tells a
    long job from one that hangs.
    """

    def __init__(self, module: nn.Module, task: Task) -> None:
        self.module = module
        self.loss = task.loss
        self.slots = layout(module)
        self.dim = self.slots[-1].stop
        self._sizes = [slot.stop - slot.start for slot in self.slots]
        self.layers = plain_stack(module, {slot.name: at for at, slot in enumerate(self.slots)})
        self.convolutions = conv_stack(module) if self.layers is None else None
        self.loops = False
        self.alone: dict[int, bool] = {}
        self.stack: Stack | None = None
        self.evaluations = 0

    def views(self, flat: Tensor) -> list[Tensor]:
        """The tensors of ``flat`` [..., d], in slot order, each [..., *shape]; no copies."""
        lead = flat.shape[:-1]
        parts = flat.split_with_sizes(self._sizes, dim=-1)
        return [
            part if len(slot.shape) == 1 else part.view(*lead, *slot.shape)
            for slot, part in zip(self.slots, parts, strict=True)
        ]

    def outputs(self, tensors: list[Tensor], inputs: Tensor, *, training: bool = False) -> Tensor:
        """The module's outputs on ``inputs`` [n, ...] with the params ``tensors`` (see :meth:`views`)."""
        if self.layers is None:
            self.module.train(training)
            named = {slot.name: tensor for slot, tensor in zip(self.slots, tensors, strict=True)}
            result: Tensor = functional_call(self.module, named, (inputs,))
            return result
        hidden = inputs
        for layer in self.layers:
            if layer.kind == "linear":
                hidden = linear(hidden, tensors[layer.weight], tensors[layer.bias] if layer.bias >= 0 else None)
            else:
                hidden = activate(layer.kind, hidden)
        return hidden

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The task's loss, one per example [n]. Raises ConfigError if it returns another shape."""
        self.evaluations += 1
        losses = self.loss(outputs, targets)
        if losses.shape != (len(targets),):
            raise ConfigError(
                f"task loss returned shape {list(losses.shape)}, must be one loss per example [{len(targets)}]",
                hint="use reduction='none'",
            )
        return losses

    def gradient(self, flat: Tensor, inputs: Tensor, targets: Tensor) -> tuple[Tensor, float]:
        """Gradient [d] of the mean loss on a batch at ``flat`` [d], and that loss."""
        leaves = [view.detach().requires_grad_() for view in self.views(flat)]
        loss = self.losses(self.outputs(leaves, inputs, training=True), targets).mean()
        parts = torch.autograd.grad(loss, leaves, allow_unused=True, materialize_grads=True)
        return torch.cat([part.reshape(-1) for part in parts]), float(loss.detach())

    def predict(self, vector: Vector, inputs: Tensor) -> Tensor:
        """Outputs on all ``inputs``, in evaluation mode and without gradients."""
        tensors = self.views(torch.tensor(vector))
        with torch.inference_mode():
            parts = [self.outputs(tensors, inputs[at : at + _ROWS]) for at in range(0, len(inputs), _ROWS)]
            return parts[0] if len(parts) == 1 else torch.cat(parts)

    def mean_losses(self, stack: NDArray[np.float32], inputs: Tensor, targets: Tensor) -> NDArray[np.float64]:
        """Mean loss of each row of ``stack`` [k, d] on the examples given, float64 [k], in evaluation mode."""
        totals = np.zeros(len(stack))
        flat = torch.tensor(stack)
        with torch.inference_mode():
            for at in range(0, len(inputs), _ROWS):
                part, goal = inputs[at : at + _ROWS], targets[at : at + _ROWS]
                for row, outputs in enumerate(self._stack_outputs(flat, part)):
                    totals[row] += float(self.losses(outputs, goal).sum())
        return totals / len(inputs)

    def _stack_outputs(self, flat: Tensor, inputs: Tensor) -> list[Tensor]:
        if self.layers is None or inputs.ndim != 2:
            return [self.outputs(self.views(row), inputs) for row in flat]
        tensors = self.views(flat)
        hidden = inputs.expand(len(flat), *inputs.shape)
        for layer in self.layers:
            if layer.kind == "flatten":
                continue
            if layer.kind != "linear":
                hidden = activate(layer.kind, hidden)
            elif layer.bias >= 0:
                hidden = torch.baddbmm(tensors[layer.bias].unsqueeze(1), hidden, tensors[layer.weight].mT)
            else:
                hidden = torch.bmm(hidden, tensors[layer.weight].mT)
        return list(hidden.unbind(0))


def activate(kind: str, hidden: Tensor) -> Tensor:
    """Apply the parameterless layer ``kind`` to a batch [n, ...]."""
    if kind == "relu":
        return hidden.relu()
    if kind == "tanh":
        return hidden.tanh()
    if kind == "sigmoid":
        return hidden.sigmoid()
    return hidden.flatten(1)


def plain_stack(module: nn.Module, slots: dict[str, int]) -> tuple[Layer, ...] | None:
    """The layers of ``module`` if it is a plain stack with no hooks, ties or frozen tensors, else None."""
    parts: list[tuple[str, nn.Module]]
    if type(module) is nn.Linear:
        parts = [("", module)]
    elif type(module) is nn.Sequential and not hooked(module):
        parts = [(f"{name}.", part) for name, part in module.named_children()]
        if len(parts) != len(module):
            return None
    else:
        return None
    layers = []
    for prefix, part in parts:
        kind = _KINDS.get(type(part))
        if kind is None or hooked(part):
            return None
        if isinstance(part, nn.Flatten) and (part.start_dim, part.end_dim) != (1, -1):
            return None
        if not isinstance(part, nn.Linear):
            layers.append(Layer(kind))
            continue
        weight = slots.get(prefix + "weight", -1)
        bias = slots.get(prefix + "bias", -1)
        if weight < 0 or (part.bias is not None and bias < 0):
            return None
        layers.append(Layer(kind, weight, bias))
    return tuple(layers)
