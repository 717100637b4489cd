"""A task with a large model and next to no data: its deltas are what is measured, not its learning."""

from __future__ import annotations

import torch
from torch import nn

from quidnunc.gossip.task import Site, Task

INPUTS, HIDDEN, CLASSES = 784, (2_000, 900), 10
DIM = sum((a + 1) * b for a, b in zip((INPUTS, *HIDDEN), (*HIDDEN, CLASSES), strict=True))


def task(site: Site) -> Task:
    """Noise with labels: 3.4 million params, 13.5 MB as float32."""
    own = torch.Generator().manual_seed(1_000 + site.index)

    def split(count: int) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.randn(count, INPUTS, generator=own), torch.randint(CLASSES, (count,), generator=own)

    return Task(model, loss, split(64), split(16), split(16))


def model() -> nn.Module:
    """A perceptron."""
    return nn.Sequential(
        nn.Linear(INPUTS, HIDDEN[0]),
        nn.ReLU(),
        nn.Linear(HIDDEN[0], HIDDEN[1]),
        nn.ReLU(),
        nn.Linear(HIDDEN[1], CLASSES),
    )


def loss(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Cross-entropy per example."""
    return nn.functional.cross_entropy(outputs, targets, reduction="none")
