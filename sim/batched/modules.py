"""Any small module for many peers at once, by ``torch.func``: slower than stacks, and without conditions on its layers.

Convolutions gain nothing from it (measured: vmap over their weights is slower than a loop over peers): see
``sim/batched/loops.py``.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap

from quidnunc.gossip.learning.params import Slot
from quidnunc.gossip.learning.privacy import refuse_batch_statistics
from quidnunc.sim.batched.halfway import between, repeated

Tensors = list[Tensor]
_TINY = 1e-30


class ModuleNet:
    """A :class:`quidnunc.sim.batched.net.Net` for a module and a loss that ``torch.func`` can differentiate.

    The module is used in training mode for steps; a random layer draws anew for every peer. Raises ConfigError for
    layers that compute statistics over a batch: with padded batches they would see examples that are none.
    """

    chunk_max = 0

    def __init__(self, module: nn.Module, slots: tuple[Slot, ...], loss: Callable[[Tensor, Tensor], Tensor]) -> None:
        refuse_batch_statistics(module)
        self.slots = slots
        self._module = module
        self._loss = loss
        self._buffers = dict(module.named_buffers())
        self._frozen = {name: p for name, p in module.named_parameters() if name not in {slot.name for slot in slots}}

    def _call(self, params: tuple[Tensor, ...], x: Tensor) -> Tensor:
        named = {slot.name: tensor for slot, tensor in zip(self.slots, params, strict=True)}
        result: Tensor = functional_call(self._module, {**self._frozen, **self._buffers, **named}, (x,))
        return result

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
        self._module.train()
        weights = torch.full(x.shape[:2], 1.0 / x.shape[1], device=x.device) if counts is None else counts

        def batch_loss(own: tuple[Tensor, ...], one: Tensor, goal: Tensor, weight: Tensor) -> Tensor:
            return (self._loss(self._call(own, one), goal) * weight).sum()

        grads, losses = vmap(grad_and_value(batch_loss), randomness="different")(tuple(params), x, y, weights)
        for at, grad in enumerate(grads):
            step = grad if velocity is None else velocity[at].mul_(momentum).add_(grad)
            params[at].sub_(step, alpha=lr)
        result: Tensor = losses.detach()
        return result

    def private(
        self, params: Tensors, x: Tensor, y: Tensor, counts: Tensor | None, clip: float
    ) -> tuple[Tensors, Tensor]:
        """See :class:`quidnunc.sim.batched.net.Net`; every example's gradient is formed."""
        self._module.train()

        def one_loss(own: tuple[Tensor, ...], one: Tensor, goal: Tensor) -> Tensor:
            return self._loss(self._call(own, one.unsqueeze(0)), goal.unsqueeze(0))[0]

        each = vmap(grad_and_value(one_loss), in_dims=(None, 0, 0), randomness="different")
        grads, losses = vmap(each, randomness="different")(tuple(params), x, y)
        square = sum(grad.flatten(2).square().sum(2) for grad in grads)
        weights = torch.full_like(losses, 1.0 / x.shape[1]) if counts is None else counts
        factors = (clip / square.sqrt().clamp_min(_TINY)).clamp_max(1.0) * weights
        means = [torch.einsum("cb,cb...->c...", factors, grad) for grad in grads]
        return means, (losses.detach() * weights).sum(1)

    def loss(self, params: Tensors, x: Tensor, y: Tensor, counts: Tensor | None) -> Tensor:
        """See :class:`quidnunc.sim.batched.net.Net`; the module is in evaluation mode."""
        self._module.eval()
        weights = torch.full(x.shape[:2], 1.0 / x.shape[1], device=x.device) if counts is None else counts

        def batch_loss(own: tuple[Tensor, ...], one: Tensor, goal: Tensor, weight: Tensor) -> Tensor:
            return (self._loss(self._call(own, one), goal) * weight).sum()

        with torch.no_grad():
            result: Tensor = vmap(batch_loss)(tuple(params), x, y, weights)
        return result

    def halfway(self, states: Tensors, parts: Tensor, x: Tensor, y: Tensor, counts: Tensor | None) -> Tensor:
        """See :class:`quidnunc.sim.batched.net.Net`."""
        copies = len(states[0])
        params = [between(tensor, parts).flatten(0, 1) for tensor in states]
        many = x.repeat(copies, 1, 1), y.repeat(copies, 1), repeated(counts, copies)
        return self.loss(params, *many).view(copies, len(x))

    def outputs(self, params: Tensors, x: Tensor) -> Tensor:
        """See :class:`quidnunc.sim.batched.net.Net`."""
        self._module.eval()
        with torch.no_grad():
            result: Tensor = vmap(self._call, in_dims=(0, None))(tuple(params), x)
        return result.mT
