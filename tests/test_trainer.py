"""One round of local training: plain SGD is plain SGD, a private round is one step, and bits repeat."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from learners import blobs_task
from torch import nn

from quidnunc.crypto.errors import ConfigError
from quidnunc.crypto.noise import NoiseStream
from quidnunc.gossip.jobs import PrivacyStep
from quidnunc.gossip.learning.functional import Functional
from quidnunc.gossip.learning.params import load_vector, to_vector
from quidnunc.gossip.learning.privacy import clipped_sum, poisson_sample, private_gradient
from quidnunc.gossip.learning.trainer import train
from quidnunc.gossip.task import Training


def stream(name: bytes = b"round") -> NoiseStream:
    return NoiseStream(bytes(32), name)


def test_full_batches_with_momentum_equal_torch_sgd() -> None:
    task = blobs_task()
    net = Functional(task.model(), task)
    start = to_vector(net.module)
    result, loss = train(net, task.train, start, Training(0.1, 0.9, 5, 1000), None, stream())
    module = task.model()
    load_vector(module, start)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9)
    losses = []
    for _ in range(5):
        optimizer.zero_grad()
        value = task.loss(module(task.train[0]), task.train[1]).mean()
        value.backward()
        optimizer.step()
        losses.append(value.item())
    np.testing.assert_allclose(result, to_vector(module), rtol=1e-4, atol=1e-6)
    assert loss == pytest.approx(np.mean(losses), rel=1e-5)


def test_a_proximal_term_is_what_torch_sgd_makes_of_it() -> None:
    """FedProx: the loss of every step has mu/2 * |params - start|^2 added."""
    task = blobs_task()
    net = Functional(task.model(), task)
    start = to_vector(net.module)
    result, _ = train(net, task.train, start, Training(0.1, 0.9, 5, 1000, prox=0.8), None, stream())
    module = task.model()
    load_vector(module, start)
    anchors = [each.detach().clone() for each in module.parameters()]
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9)
    for _ in range(5):
        optimizer.zero_grad()
        value = task.loss(module(task.train[0]), task.train[1]).mean()
        pairs = zip(module.parameters(), anchors, strict=True)
        pulled = value + 0.4 * torch.stack([(each - anchor).square().sum() for each, anchor in pairs]).sum()
        pulled.backward()
        optimizer.step()
    np.testing.assert_allclose(result, to_vector(module), rtol=1e-4, atol=1e-6)


def test_a_proximal_term_changes_no_first_step_and_no_noise() -> None:
    """It comes after clip and noise: what one record can do to a private step stays as it was."""
    task = blobs_task()
    net = Functional(task.model(), task)
    start = to_vector(net.module)
    one, two = PrivacyStep(0.5, 1.0), PrivacyStep(0.5, 1.0, steps=2)
    plain, pulled = Training(0.7), Training(0.7, prox=0.3)
    for step in (None, one):
        first, same = (
            train(net, task.train, start, replace(each, local_steps=1), step, stream())[0] for each in (plain, pulled)
        )
        assert first.tobytes() == same.tobytes()
    noise = stream().child(b"noise")
    gradient, _ = private_gradient(net, start, *task.train, two, noise.child(b"step/0"))
    middle = start - np.float32(0.7) * gradient
    second, _ = private_gradient(net, middle, *task.train, two, noise.child(b"step/1"))
    expected = middle - np.float32(0.7) * (second + np.float32(0.3) * (middle - start))
    result, _ = train(net, task.train, start, pulled, two, stream())
    np.testing.assert_array_equal(result, expected)


def test_training_learns_and_repeats_bit_for_bit() -> None:
    task = blobs_task()
    net = Functional(task.model(), task)
    vector = to_vector(net.module)
    for _ in range(5):
        result, _ = train(net, task.train, vector, Training(0.3, 0.0, 20, 8), None, stream())
        again, _ = train(net, task.train, vector, Training(0.3, 0.0, 20, 8), None, stream())
        other, _ = train(net, task.train, vector, Training(0.3, 0.0, 20, 8), None, stream(b"other"))
        assert result.tobytes() == again.tobytes() != other.tobytes()
        vector = result
    assert (net.predict(vector, task.test[0]).argmax(1) == task.test[1]).float().mean() > 0.9


def test_momentum_does_not_outlive_a_round() -> None:
    task = blobs_task()
    net = Functional(task.model(), task)
    start = to_vector(net.module)
    one_step = Training(0.1, 0.9, 1, 1000)
    first, _ = train(net, task.train, start, one_step, None, stream())
    second, _ = train(net, task.train, first, one_step, None, stream())
    gradient, _ = net.gradient(torch.tensor(first), *task.train)
    np.testing.assert_allclose(second, first - 0.1 * gradient.numpy(), atol=1e-6)


def test_a_private_round_is_exactly_one_step_whatever_local_steps_says() -> None:
    task = blobs_task()
    net = Functional(task.model(), task)
    start = to_vector(net.module)
    step = PrivacyStep(0.5, 1.0)
    result, _ = train(net, task.train, start, Training(0.7, 0.9, 9, 4), step, stream())
    gradient, _ = private_gradient(net, start, *task.train, step, stream().child(b"noise"))
    assert result.tobytes() == (start - np.float32(0.7) * gradient).tobytes()


def test_dropout_repeats_too_and_the_global_generator_is_left_alone() -> None:
    task = replace(blobs_task(), model=lambda: nn.Sequential(nn.Linear(5, 8), nn.Dropout(0.5), nn.Linear(8, 3)))
    net = Functional(task.model(), task)
    vector = to_vector(net.module)
    before = torch.get_rng_state()
    for privacy in (None, PrivacyStep(1.0, 0.5)):
        one, same, other = (
            train(net, task.train, vector, Training(0.3), privacy, stream(name))[0].tobytes()
            for name in (b"a", b"a", b"b")
        )
        assert one == same != other
    assert (torch.get_rng_state() == before).all()


def test_diverging_is_an_error_with_the_remedy() -> None:
    task = blobs_task()
    net = Functional(task.model(), task)
    with pytest.raises(ConfigError, match="not finite") as caught:
        train(net, task.train, to_vector(net.module), Training(1e38, 0.9, 50, 8), None, stream())
    assert caught.value.hint == "lower training.learning_rate"


def test_a_sampled_round_draws_a_batch_and_noise_anew_in_every_step() -> None:
    task = blobs_task()
    net = Functional(task.model(), task)
    vector = to_vector(net.module)
    privacy = PrivacyStep(0.5, 2.0, 0.5, 3)
    result, _ = train(net, task.train, vector, Training(0.1, 0.9), privacy, stream())
    velocity, at = np.zeros_like(vector), vector
    steps = [stream().child(b"noise").child(b"step/%d" % step) for step in range(3)]
    noises = []
    for noise in steps:
        gradient = private_gradient(net, at, *task.train, privacy, noise)[0]
        drawn = poisson_sample(60, 0.5, noise.child(b"sample"))
        noises.append(30 * gradient - clipped_sum(net, at, *(part[drawn] for part in task.train), 0.5)[0])
        velocity = np.float32(0.9) * velocity + gradient
        at = at - np.float32(0.1) * velocity
    assert result.tobytes() == at.tobytes(), "momentum runs over what is noised already"
    # Of the noise alone: gradients share what they have learned, too, which is no less.
    assert np.abs(np.corrcoef(noises) - np.eye(3)).max() < 0.4
