"""Models and batches whose clipped gradient sums Opacus has computed: see tools/make_opacus_vectors.py.

Everything is made from a formula, so that nothing depends on a generator.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

CLIPS = (0.05, 0.5, 50.0)
EXAMPLES = 7


class Gated(nn.Module):
    """A module that is no stack: two branches multiplied, one of them used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(6, 5)
        self.gate = nn.Linear(6, 5, bias=False)
        self.out = nn.Linear(5, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = torch.tanh(self.inner(inputs)) * torch.sigmoid(self.gate(inputs))
        outputs: Tensor = self.out(hidden)
        return outputs


def _mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))


def _cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2), nn.Conv2d(4, 2, 3), nn.Flatten(), nn.Linear(8, 3)
    )


def _normed() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 4, 3, stride=2), nn.GroupNorm(2, 4), nn.ReLU(), nn.Flatten(), nn.Linear(36, 3))


CASES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "mlp": (_mlp, (6,)),
    "cnn": (_cnn, (1, 8, 8)),
    "groupnorm": (_normed, (1, 8, 8)),
    "gated": (Gated, (6,)),
}


def wave(size: int, step: float) -> Tensor:
    """float32 [size] that looks irregular and is the same everywhere to about a rounding."""
    return torch.sin(torch.arange(1, size + 1, dtype=torch.float64) * step).float()


def batch(shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Inputs [7, *shape], of growing size so that some are clipped and some not, and their classes [7]."""
    rows = wave(EXAMPLES * torch.Size(shape).numel(), 1.7).reshape(EXAMPLES, *shape)
    scale = torch.arange(1, EXAMPLES + 1).reshape(-1, *([1] * len(shape))) / 4
    return rows * scale, torch.arange(EXAMPLES) % 3
