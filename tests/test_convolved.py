"""Clipped sums of stacks with convolutions: what vmap gives, whatever the layers, and nothing that mixes examples."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from learners import blobs_task
from opacus_cases import batch
from torch import nn

from quidnunc.crypto.noise import NoiseStream
from quidnunc.gossip.learning.convolved import conv_stack
from quidnunc.gossip.learning.functional import Functional
from quidnunc.gossip.learning.losses import row_cross_entropy
from quidnunc.gossip.learning.privacy import clipped_sum, per_example

SHAPE = (2, 9, 8)


def _strided() -> nn.Module:
    first = nn.Conv2d(2, 3, (3, 2), stride=(2, 1), padding=(1, 2), dilation=(1, 2))
    return nn.Sequential(first, nn.Tanh(), nn.Conv2d(3, 4, 2, bias=False), nn.Flatten(), nn.LazyLinear(3))


def _nested() -> nn.Module:
    block = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))
    head = nn.Sequential(nn.Flatten(), nn.Linear(64, 5, bias=False), nn.Sigmoid(), nn.Linear(5, 3))
    return nn.Sequential(block, head)


def _only() -> nn.Module:
    return nn.Sequential(nn.Conv2d(2, 3, (9, 8)), nn.Flatten())


MODELS: list[Callable[[], nn.Module]] = [_strided, _nested, _only]


def setup(make: Callable[[], nn.Module], *, known: bool = False) -> tuple[Functional, np.ndarray]:
    module = make()
    module(torch.zeros(1, *SHAPE))
    task = blobs_task()
    net = Functional(module, replace(task, model=make, **({"loss": row_cross_entropy} if known else {})))
    return net, (NoiseStream(bytes(32), b"at").gaussian(net.dim) / 3).astype(np.float32)


@pytest.mark.parametrize("make", MODELS)
@pytest.mark.parametrize("clip", [0.01, 0.5, 1e6])
@pytest.mark.parametrize("known", [False, True])
def test_patches_give_what_vmap_gives(make: Callable[[], nn.Module], clip: float, known: bool) -> None:
    net, vector = setup(make, known=known)
    assert net.convolutions is not None
    inputs, targets = batch(SHAPE)
    ours, loss = clipped_sum(net, vector, inputs, targets, clip)
    general, same_loss = per_example(net, torch.tensor(vector), inputs, targets, clip)
    assert np.abs(ours - general.numpy()).max() <= 2e-6 * np.linalg.norm(ours)
    assert loss == pytest.approx(same_loss, rel=1e-5)


@pytest.mark.parametrize("make", MODELS)
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e6])
def test_removing_one_image_moves_the_sum_by_at_most_the_clip(make: Callable[[], nn.Module], scale: float) -> None:
    net, vector = setup(make)
    inputs, targets = batch(SHAPE)
    inputs[2] *= scale
    kept = torch.arange(len(inputs)) != 2
    moved = clipped_sum(net, vector, inputs, targets, 0.3)[0]
    moved = moved - clipped_sum(net, vector, inputs[kept], targets[kept], 0.3)[0]
    assert np.linalg.norm(moved) <= 0.3 * (1 + 1e-5)


@pytest.mark.parametrize("make", MODELS)
@pytest.mark.parametrize("bad", [torch.inf, torch.nan])
def test_an_image_whose_gradient_is_not_finite_counts_as_zero(make: Callable[[], nn.Module], bad: float) -> None:
    net, vector = setup(make)
    inputs, targets = batch(SHAPE)
    inputs[3, 0, 4, 4] = bad
    kept = torch.arange(len(inputs)) != 3
    broken = clipped_sum(net, vector, inputs, targets, 0.5)[0]
    assert np.isfinite(broken).all()
    whole = clipped_sum(net, vector, inputs[kept], targets[kept], 0.5)[0]
    np.testing.assert_allclose(broken, whole, atol=1e-6)


def test_no_images_sum_to_zero() -> None:
    net, vector = setup(_nested)
    inputs, targets = batch(SHAPE)
    total, loss = clipped_sum(net, vector, inputs[:0], targets[:0], 0.5)
    assert not total.any()
    assert loss == 0.0


class Mixing(nn.Tanh):
    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return torch.tanh(input - input.mean(0))


def _hooked_stack() -> nn.Module:
    module = nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU())
    module[0].register_forward_hook(lambda *_: None)
    return module


def _reused() -> nn.Module:
    conv = nn.Conv2d(2, 2, 1)
    return nn.Sequential(conv, nn.ReLU(), conv)


def _frozen() -> nn.Module:
    module = nn.Sequential(nn.Conv2d(2, 3, 3), nn.Conv2d(3, 3, 1))
    module[0].weight.requires_grad_(False)
    return module


@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.Sequential(nn.Conv2d(2, 3, 3), Mixing()),
        lambda: nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3)),
        lambda: nn.Sequential(nn.Conv2d(2, 3, 3), nn.Dropout(0.5)),
        lambda: nn.Sequential(nn.Conv2d(2, 4, 3, groups=2)),
        lambda: nn.Sequential(nn.Conv2d(2, 3, 3, padding_mode="circular", padding=1)),
        lambda: nn.Sequential(nn.Conv2d(2, 3, 3, padding="same")),
        lambda: nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(inplace=True)),
        lambda: nn.Sequential(nn.Conv2d(2, 3, 3), nn.Flatten(0, 1)),
        lambda: nn.Sequential(nn.Conv2d(2, 3, 3), nn.Linear(6, 2), nn.Flatten()),
        lambda: nn.Sequential(nn.Linear(5, 3)),
        lambda: nn.Conv2d(2, 3, 3),
        _hooked_stack,
        _reused,
        _frozen,
    ],
)
def test_whatever_is_not_known_to_take_examples_one_by_one_is_left_to_vmap(make: Callable[[], nn.Module]) -> None:
    assert conv_stack(make()) is None
