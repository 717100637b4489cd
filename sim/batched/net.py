"""One model, many peers: what the engine asks of a net, and the choice between the three kinds.

Params are a list of tensors [c, *shape], one per slot of the layout (:mod:`quidnunc.gossip.learning.params`), for c
peers that work side by side. Every step changes them in place.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from quidnunc.gossip.learning.params import Slot, layout
from quidnunc.sim.batched.loops import CONVOLUTIONS, LoopNet
from quidnunc.sim.batched.modules import ModuleNet
from quidnunc.sim.batched.stacks import StackNet, stack_of

Tensors = list[Tensor]


class Net(Protocol):
    """A model whose params of many peers are trained at once: ``chunk_max`` at most, 0 for as many as caches hold."""

    slots: tuple[Slot, ...]
    chunk_max: int

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
        """One SGD step on batches x [c, b, f], y [c, b]; the loss before it, [c].

        ``counts`` [c, b] are the weights of Batches, ``velocity`` like ``params``, or None where momentum is 0.
        """
        ...

    def private(
        self, params: Tensors, x: Tensor, y: Tensor, counts: Tensor | None, clip: float
    ) -> tuple[Tensors, Tensor]:
        """Mean of per-example gradients clipped to ``clip``, without noise, and the loss, [c]."""
        ...

    def loss(self, params: Tensors, x: Tensor, y: Tensor, counts: Tensor | None) -> Tensor:
        """The loss of each peer's batch, [c], without a step; arguments as for :meth:`train`."""
        ...

    def halfway(self, states: Tensors, parts: Tensor, x: Tensor, y: Tensor, counts: Tensor | None) -> Tensor:
        """The loss on x [c, b, f] of c peers' own params, and of those at ``parts`` [k, c] of the way to k others'.

        ``states`` are [k+1, c, *shape] per slot: the own, then the steps to the others'. The result is [k+1, c].
        """
        ...

    def outputs(self, params: Tensors, x: Tensor) -> Tensor:
        """Outputs of every peer on the same inputs x [m, f]: [c, classes, m]."""
        ...


def net_of(module: nn.Module, loss: Callable[[Tensor, Tensor], Tensor] | None = None) -> Net:
    """The fast kind for stacks of linear layers under cross entropy, a loop over peers for convolutions, torch.func for
    every other module or ``loss``.

    ``loss(outputs, targets)`` gives one loss per example, as in a Task; None is cross entropy. Raises ConfigError for
    a module without trainable float32 params.
    """
    slots = layout(module)
    layers = stack_of(module, slots)
    if layers is not None and loss is None:
        return StackNet(slots, layers)
    kind = LoopNet if any(isinstance(part, CONVOLUTIONS) for part in module.modules()) else ModuleNet
    return kind(module, slots, loss or _cross_entropy)


def _cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    return cross_entropy(outputs, targets, reduction="none")
