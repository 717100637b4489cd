"""Modules with convolutions, one peer after the other: batching them over peers was measured to lose.

One working copy of the module takes each peer's params in turn: a functional call per step would look up every tensor
by name again. Filters of images are copied with their channels last, which makes convolutions and maxima faster
(measured: by a fifth); the rest is taken by reference. Padding is left out before the step, so that a peer's result is
the same whoever is worked on beside it.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.func import grad_and_value, vmap

from quidnunc.gossip.learning.params import Slot
from quidnunc.sim.batched.modules import ModuleNet, Tensors

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_FILTERS = 4
"""Dimensions of a 2-d convolution's weight."""
_EXAMPLES = 512
"""Examples that are evaluated together: their activations should stay near the processor."""
_TINY = 1e-30


class LoopNet(ModuleNet):
    """A :class:`quidnunc.sim.batched.net.Net` for modules with convolutions. Raises ConfigError like ModuleNet."""

    chunk_max = 2

    def __init__(self, module: nn.Module, slots: tuple[Slot, ...], loss: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__(module, slots, loss)
        self._working = deepcopy(module)
        named = dict(self._working.named_parameters())
        self._places = [named[slot.name] for slot in slots]

    def _take(self, params: Tensors, peer: int) -> None:
        for place, tensor in zip(self._places, params, strict=True):
            if place.dim() == _FILTERS:
                place.data = torch.empty_like(tensor[peer], memory_format=torch.channels_last).copy_(tensor[peer])
            else:
                place.data = tensor[peer]

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
        self._working.train()
        losses = []
        for peer, (inputs, goals) in enumerate(_unpadded(x, y, counts)):
            self._take(params, peer)
            with torch.enable_grad():
                loss = self._loss(self._working(inputs), goals).mean()
                grads = torch.autograd.grad(loss, self._places)
            for at, grad in enumerate(grads):
                step = grad if velocity is None else velocity[at][peer].mul_(momentum).add_(grad)
                params[at][peer].sub_(step, alpha=lr)
            losses.append(loss.detach())
        return torch.stack(losses)

    def private(
        self, params: Tensors, x: Tensor, y: Tensor, counts: Tensor | None, clip: float
    ) -> tuple[Tensors, Tensor]:
        """See :class:`quidnunc.sim.batched.net.Net`; the gradients of one peer's examples are formed at a time."""
        self._module.train()

        def one_loss(own: tuple[Tensor, ...], one: Tensor, goal: Tensor) -> Tensor:
            return self._loss(self._call(own, one.unsqueeze(0)), goal.unsqueeze(0))[0]

        each = vmap(grad_and_value(one_loss), in_dims=(None, 0, 0), randomness="different")
        means: list[Tensors] = []
        losses = []
        for peer, (inputs, goals) in enumerate(_unpadded(x, y, counts)):
            grads, spent = each(tuple(tensor[peer] for tensor in params), inputs, goals)
            square = torch.stack([grad.flatten(1).square().sum(1) for grad in grads]).sum(0)
            factors = (clip / square.sqrt().clamp_min(_TINY)).clamp_max(1.0) / len(inputs)
            means.append([torch.tensordot(factors, grad, 1) for grad in grads])
            losses.append(spent.detach().mean())
        return [torch.stack(parts) for parts in zip(*means, strict=True)], torch.stack(losses)

    def loss(self, params: Tensors, x: Tensor, y: Tensor, counts: Tensor | None) -> Tensor:
        """See :class:`quidnunc.sim.batched.net.Net`; the module is in evaluation mode."""
        self._working.eval()
        losses = []
        with torch.no_grad():
            for peer, (inputs, goals) in enumerate(_unpadded(x, y, counts)):
                self._take(params, peer)
                losses.append(self._loss(self._working(inputs), goals).mean())
        return torch.stack(losses)

    def outputs(self, params: Tensors, x: Tensor) -> Tensor:
        """See :class:`quidnunc.sim.batched.net.Net`."""
        self._working.eval()
        found = []
        with torch.no_grad():
            for peer in range(len(params[0])):
                self._take(params, peer)
                found.append(torch.cat([self._working(part) for part in torch.split(x, _EXAMPLES)]).mT)
        return torch.stack(found)


def _unpadded(x: Tensor, y: Tensor, counts: Tensor | None) -> list[tuple[Tensor, Tensor]]:
    """Each peer's own examples: those that count stand first, and count alike."""
    if counts is None:
        return list(zip(x, y, strict=True))
    sizes = (counts > 0).sum(1).tolist()
    return [(inputs[:size], goals[:size]) for inputs, goals, size in zip(x, y, sizes, strict=True)]
