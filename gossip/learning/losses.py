"""Losses that are known to look at one example at a time."""

from __future__ import annotations

from torch import Tensor, arange
from torch.nn.functional import cross_entropy, log_softmax


def row_cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    """The cross entropy of each row of logits ``outputs`` [n, classes] with its class ``targets`` [n]: [n]."""
    return cross_entropy(outputs, targets, reduction="none")


def row_cross_entropy_gradient(outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """The gradient of each row's :func:`row_cross_entropy` by its own logits [n, classes], and the losses [n].

    softmax(z) - one_hot(y). A row depends on no other, which a gradient by autograd cannot show of any loss.
    """
    log_probabilities = log_softmax(outputs, dim=1)
    losses = -log_probabilities.gather(1, targets.unsqueeze(1)).squeeze(1)
    gradient = log_probabilities.exp()
    gradient[arange(len(targets)), targets] -= 1
    return gradient, losses
