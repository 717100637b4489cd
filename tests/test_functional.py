"""A module as a function of a vector: the fast path is the module, and many vectors at once are each on their own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from learners import blobs_task
from torch import Tensor, nn

from quidnunc.crypto.errors import ConfigError
from quidnunc.crypto.noise import NoiseStream
from quidnunc.gossip.learning.functional import Functional
from quidnunc.gossip.learning.params import load_vector, to_vector


class Residual(nn.Module):
    """Not a plain stack."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(5, 5)
        self.last = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(x + self.first(x).tanh())


def frozen_bias() -> nn.Module:
    module = nn.Sequential(nn.Linear(5, 4), nn.Sigmoid(), nn.Linear(4, 3))
    module[0].bias.requires_grad_(False)
    return module


def hooked() -> nn.Module:
    module = nn.Sequential(nn.Linear(5, 3))
    module[0].register_forward_hook(lambda _m, _i, out: 2 * out)
    return module


def tied() -> nn.Module:
    layer = nn.Linear(5, 5)
    return nn.Sequential(layer, nn.ReLU(), layer, nn.Linear(5, 3))


STACKS: list[Callable[[], nn.Module]] = [
    lambda: nn.Linear(5, 3),
    lambda: nn.Sequential(nn.Linear(5, 4, bias=False), nn.ReLU(inplace=True), nn.Linear(4, 3)),
    lambda: nn.Sequential(nn.Flatten(), nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 4), nn.Sigmoid(), nn.Linear(4, 3)),
]
GENERAL: list[Callable[[], nn.Module]] = [
    Residual,
    frozen_bias,
    hooked,
    tied,
    lambda: nn.Sequential(nn.Linear(5, 4), nn.LayerNorm(4), nn.Linear(4, 3)),
]


@pytest.mark.parametrize("make", STACKS + GENERAL)
def test_outputs_gradients_and_losses_are_the_modules_own(make: Callable[[], nn.Module]) -> None:
    task = replace(blobs_task(), model=make)
    module = make()
    net = Functional(make(), task)
    assert (net.layers is not None) == (make in STACKS)
    # Frozen tensors are not in the vector: the two modules must share them.
    net.module.load_state_dict(module.state_dict())
    stream = NoiseStream(bytes(32), b"vectors")
    stack = np.stack([stream.gaussian(net.dim).astype(np.float32) for _ in range(3)])
    inputs, targets = task.holdout
    losses = net.mean_losses(stack, inputs, targets)
    for row, vector in enumerate(stack):
        load_vector(module, vector)
        expected = task.loss(module(inputs), targets).mean()
        torch.testing.assert_close(net.predict(vector, inputs), module(inputs).detach(), atol=1e-5, rtol=1e-5)
        assert losses[row] == pytest.approx(expected.item(), rel=1e-5)
        module.zero_grad()
        expected.backward()
        gradient, loss = net.gradient(torch.tensor(vector), inputs, targets)
        named = {name: p.grad for name, p in module.named_parameters() if p.requires_grad}
        flat = torch.cat([named[name].reshape(-1) for name in sorted(named)])
        torch.testing.assert_close(gradient, flat, atol=1e-5, rtol=1e-4)
        assert loss == pytest.approx(expected.item(), rel=1e-5)
    assert (to_vector(net.module) == to_vector(net.module)).all()


def test_a_loss_that_is_not_per_example_is_refused() -> None:
    task = replace(blobs_task(), loss=lambda outputs, targets: nn.functional.cross_entropy(outputs, targets))
    net = Functional(task.model(), task)
    with pytest.raises(ConfigError, match=r"shape \[\], must be one loss per example \[20\]") as caught:
        net.mean_losses(np.zeros((1, net.dim), np.float32), *task.holdout)
    assert caught.value.hint == "use reduction='none'"


def test_dropout_is_off_when_judging() -> None:
    task = replace(blobs_task(), model=lambda: nn.Sequential(nn.Linear(5, 8), nn.Dropout(0.9), nn.Linear(8, 3)))
    net = Functional(task.model(), task)
    vector = to_vector(net.module)
    assert (net.predict(vector, task.test[0]) == net.predict(vector, task.test[0])).all()
