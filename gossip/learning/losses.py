"""Losses that are known to look at one example at a time."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import cross_entropy, log_softmax


def row_cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    """The cross entropy of each row of logits ``outputs`` [n, classes] with its class ``targets`` [n]: [n]."""
    return cross_entropy(outputs, targets, reduction="none")


def row_cross_entropy_gradient(outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """The gradient of each row's :func:`row_cross_entropy` by its own logits [n, classes], and the losses [n].

    softmax(z) - one_hot(y). A row depends on no other, which a gradient by autograd cannot show of any loss.
    """
    logs = log_softmax(outputs, 1)
    classes = targets.unsqueeze(1)
    losses = logs.gather(1, classes).squeeze(1).neg_()
    return logs.exp_().scatter_(1, classes, -1.0, reduce="add"), losses
