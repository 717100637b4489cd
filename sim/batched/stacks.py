"""Stacks of linear layers under cross entropy, for many peers at once: batched matrix products and nothing else.

Activations are [c, units, batch], so that softmax runs over the middle axis and weight gradients are one in-place
product each (measured: autograd and vmap take 1.4 to 2.1 times as long).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from quidnunc.gossip.learning.functional import Layer, plain_stack
from quidnunc.gossip.learning.params import Slot
from quidnunc.sim.batched.halfway import between, repeated

Tensors = list[Tensor]
_TINY = 1e-30
_TURNED_MIN = 1 << 13
"""Entries of a weight from which on inputs times weights is faster than weights times inputs."""


def stack_of(module: nn.Module, slots: tuple[Slot, ...]) -> tuple[Layer, ...] | None:
    """The layers of a plain stack on flat inputs that ends in a linear layer, else None."""
    layers = plain_stack(module, {slot.name: at for at, slot in enumerate(slots)})
    if layers is None:
        return None
    kept = tuple(layer for layer in layers if layer.kind != "flatten")
    return kept if kept and kept[-1].kind == "linear" else None


class Linears(NamedTuple):
    """A stack of linear layers with nothing but relu between them.

    ``widths`` are the features and every layer's units, ``weights`` and ``biases`` numbers of slots, -1 for none;
    ``rectified`` tells after which layers a relu stands.
    """

    widths: tuple[int, ...]
    weights: tuple[int, ...]
    biases: tuple[int, ...]
    rectified: tuple[bool, ...]


def linears_of(layers: tuple[Layer, ...], slots: tuple[Slot, ...]) -> Linears | None:
    """The stack as such, None if there is something else in it, or relu in another place."""
    found: list[Layer] = []
    rectified: list[bool] = []
    for layer in layers:
        if layer.kind == "linear":
            found.append(layer)
            rectified.append(False)
        elif layer.kind == "relu" and found:
            rectified[-1] = True
        else:
            return None
    shapes = [slots[layer.weight].shape for layer in found]
    return Linears(
        (shapes[0][1], *(shape[0] for shape in shapes)),
        tuple(layer.weight for layer in found),
        tuple(layer.bias for layer in found),
        tuple(rectified),
    )


class StackNet:
    """A :class:`quidnunc.sim.batched.net.Net` for a plain stack."""

    chunk_max = 0

    def __init__(self, slots: tuple[Slot, ...], layers: tuple[Layer, ...]) -> None:
        self.slots = slots
        self.linears = linears_of(layers, slots)
        self._layers = layers

    def train(
        self,
        params: Tensors,
        velocity: Tensors | None,
        x: Tensor,
        y: Tensor,
        counts: Tensor | None,
        lr: float,
        momentum: float,
    ) -> Tensor:
        """See :class:`quidnunc.sim.batched.net.Net`."""
        trail, out = self._forward(params, x.mT)
        error, losses = _cross_entropy(out, y)
        if counts is None:
            share, loss = 1.0 / x.shape[1], losses.mean(1)
        else:
            share, loss = 1.0, (losses * counts).sum(1)
            error.mul_(counts.unsqueeze(1))
        for layer, before, after in self._backward(trail, out):
            if layer.kind != "linear":
                error = _through(layer.kind, error, after)
                continue
            weight = params[layer.weight]
            down = torch.bmm(weight.mT, error) if before is not trail[0] else error
            _descend(
                weight, None if velocity is None else velocity[layer.weight], error, before.mT, share, lr, momentum
            )
            if layer.bias >= 0:
                step = error.sum(2)
                if velocity is None:
                    params[layer.bias].add_(step, alpha=-lr * share)
                else:
                    params[layer.bias].sub_(velocity[layer.bias].mul_(momentum).add_(step, alpha=share), alpha=lr)
            error = down
        return loss

    def private(
        self, params: Tensors, x: Tensor, y: Tensor, counts: Tensor | None, clip: float
    ) -> tuple[Tensors, Tensor]:
        """See :class:`quidnunc.sim.batched.net.Net`; ghost norms (Goodfellow 2015) instead of per-example gradients.

        For a linear layer with input a and output gradient e, one example's squared norm is |e|^2 * (|a|^2 + 1).
        """
        trail, out = self._forward(params, x.mT)
        error, losses = _cross_entropy(out, y)
        square = torch.zeros(x.shape[0], x.shape[1], device=x.device)
        pieces = []
        for layer, before, after in self._backward(trail, out):
            if layer.kind != "linear":
                error = _through(layer.kind, error, after)
                continue
            pieces.append((layer, error, before))
            bias = 1.0 if layer.bias >= 0 else 0.0
            square += error.square().sum(1) * (before.square().sum(1) + bias)
            if before is not trail[0]:
                error = torch.bmm(params[layer.weight].mT, error)
        factors = (clip / square.sqrt().clamp_min(_TINY)).clamp_max(1.0)
        weights = torch.full_like(losses, 1.0 / x.shape[1]) if counts is None else counts
        factors *= weights
        grads: Tensors = [torch.empty(0)] * len(self.slots)
        for layer, error, before in pieces:
            scaled = error * factors.unsqueeze(1)
            grads[layer.weight] = torch.bmm(scaled, before.mT)
            if layer.bias >= 0:
                grads[layer.bias] = scaled.sum(2)
        return grads, (losses * weights).sum(1)

    def loss(self, params: Tensors, x: Tensor, y: Tensor, counts: Tensor | None) -> Tensor:
        """See :class:`quidnunc.sim.batched.net.Net`."""
        hidden = _layer(self._layers[0], params, x.mT)
        for layer in self._layers[1:]:
            hidden = _layer_over(layer, params, hidden)
        return _mean_loss(hidden, y, counts)

    def halfway(self, states: Tensors, parts: Tensor, x: Tensor, y: Tensor, counts: Tensor | None) -> Tensor:
        """See :class:`quidnunc.sim.batched.net.Net`.

        The first layer is affine in its params: what it gives halfway is halfway between what it gives at the ends, so
        that the largest params need not be formed.
        """
        first, copies = self._layers[0], len(states[0])
        if first.kind != "linear":
            params = [between(tensor, parts).flatten(0, 1) for tensor in states]
            many = x.repeat(copies, 1, 1), y.repeat(copies, 1), repeated(counts, copies)
            return self.loss(params, *many).view(copies, len(x))
        ends = _ends(first, states, x)
        own, others = ends[:1], ends[1:]
        torch.addcmul(own, others, parts[:, :, None, None], out=others)
        hidden = ends.flatten(0, 1)
        used = {layer.weight for layer in self._layers[1:]} | {layer.bias for layer in self._layers[1:]}
        later = [between(t, parts).flatten(0, 1) if at in used else t[:0] for at, t in enumerate(states)]
        for layer in self._layers[1:]:
            hidden = _layer_over(layer, later, hidden)
        return _mean_loss(hidden, y.repeat(copies, 1), repeated(counts, copies)).view(copies, len(x))

    def outputs(self, params: Tensors, x: Tensor) -> Tensor:
        """See :class:`quidnunc.sim.batched.net.Net`; all peers' first layers are one matrix product."""
        first = self._layers[0]
        if first.kind != "linear":
            return self._forward(params, x.mT.expand(len(params[0]), -1, -1))[1]
        weight = params[first.weight]
        hidden = (weight.reshape(-1, weight.shape[2]) @ x.mT).view(weight.shape[0], weight.shape[1], len(x))
        if first.bias >= 0:
            hidden = hidden + params[first.bias].unsqueeze(2)
        for layer in self._layers[1:]:
            hidden = _layer(layer, params, hidden)
        return hidden

    def _forward(self, params: Tensors, x: Tensor) -> tuple[list[Tensor], Tensor]:
        """What goes into every layer, [c, units, batch], and what comes out of the last."""
        trail, hidden = [], x
        for layer in self._layers:
            trail.append(hidden)
            hidden = _layer(layer, params, hidden)
        return trail, hidden

    def _backward(self, trail: list[Tensor], out: Tensor) -> list[tuple[Layer, Tensor, Tensor]]:
        """The layers from last to first with their inputs and outputs."""
        return list(zip(reversed(self._layers), reversed(trail), [out, *reversed(trail[1:])], strict=True))


def _mean_loss(out: Tensor, y: Tensor, counts: Tensor | None) -> Tensor:
    losses = -torch.log_softmax(out, 1).gather(1, y.unsqueeze(1)).squeeze(1)
    return losses.mean(1) if counts is None else (losses * counts).sum(1)


def _layer(layer: Layer, params: Tensors, hidden: Tensor) -> Tensor:
    if layer.kind == "linear":
        return _linear(layer, params, hidden)
    if layer.kind == "relu":
        return hidden.relu()
    return hidden.tanh() if layer.kind == "tanh" else hidden.sigmoid()


def _layer_over(layer: Layer, params: Tensors, hidden: Tensor) -> Tensor:
    """The same where ``hidden`` is not needed any more: an activation overwrites it."""
    if layer.kind == "linear":
        return _linear(layer, params, hidden)
    if layer.kind == "relu":
        return hidden.relu_()
    return hidden.tanh_() if layer.kind == "tanh" else hidden.sigmoid_()


def _ends(layer: Layer, states: Tensors, x: Tensor) -> Tensor:
    """What a linear layer makes of x [c, batch, f] by each row of ``states`` [k+1, c, *shape]: [k+1, c, units, batch].

    Of a large weight the product is taken the other way round (measured: by a quarter faster), the result is a view.
    """
    weight = states[layer.weight]
    turned = weight[0, 0].numel() >= _TURNED_MIN
    units, batch = weight.shape[2], x.shape[1]
    ends = torch.empty(*weight.shape[:2], *((batch, units) if turned else (units, batch)), device=x.device)
    for row, end in enumerate(ends):
        if not turned:
            _linear(layer, [tensor[row] for tensor in states], x.mT, end)
        elif layer.bias < 0:
            torch.bmm(x, weight[row].mT, out=end)
        else:
            torch.baddbmm(states[layer.bias][row].unsqueeze(1), x, weight[row].mT, out=end)
    return ends.mT if turned else ends


def _linear(layer: Layer, params: Tensors, hidden: Tensor, out: Tensor | None = None) -> Tensor:
    if layer.bias < 0:
        return torch.bmm(params[layer.weight], hidden, out=out)
    return torch.baddbmm(params[layer.bias].unsqueeze(2), params[layer.weight], hidden, out=out)


def _through(kind: str, error: Tensor, after: Tensor) -> Tensor:
    """The gradient before an activation, from that behind it and from the activation's own output."""
    if kind == "relu":
        masked: Tensor = torch.ops.aten.threshold_backward(error, after, 0)
        return masked
    if kind == "tanh":
        return error * (1 - after.square())
    return error * after * (1 - after)


def _cross_entropy(out: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Per example: d loss / d out [c, classes, b], and the loss [c, b]."""
    target = y.unsqueeze(1)
    error = torch.softmax(out, dim=1)
    losses = -error.gather(1, target).squeeze(1).clamp_min(_TINY).log()
    error.scatter_add_(1, target, torch.full_like(target, -1, dtype=error.dtype))
    return error, losses


def _descend(
    weight: Tensor, velocity: Tensor | None, error: Tensor, source: Tensor, share: float, lr: float, momentum: float
) -> None:
    if velocity is None:
        weight.baddbmm_(error, source, alpha=-lr * share)
    else:
        weight.sub_(velocity.baddbmm_(error, source, beta=momentum, alpha=share), alpha=lr)
