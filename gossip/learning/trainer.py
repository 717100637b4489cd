"""Local training of one round: what happens to the params between two merges."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from quidnunc.crypto.errors import ConfigError
from quidnunc.crypto.noise import NoiseStream
from quidnunc.gossip.jobs import PrivacyStep, Unit
from quidnunc.gossip.learning.codec import Vector
from quidnunc.gossip.learning.functional import Functional
from quidnunc.gossip.learning.params import scoped_rng
from quidnunc.gossip.learning.privacy import private_delta, private_gradient
from quidnunc.gossip.task import Training

__all__ = ["Training", "train"]


def train(
    net: Functional,
    data: tuple[Tensor, Tensor],
    vector: Vector,
    training: Training,
    privacy: PrivacyStep | None,
    stream: NoiseStream,
    pairs: NDArray[np.float64] | None = None,
) -> tuple[Vector, float]:
    """Params [d] after one round of training from ``vector`` [d], and the mean loss seen on the way.

    Without ``privacy``: ``local_steps`` of minibatch SGD with heavy-ball momentum, which starts from zero. The gradient
    of the proximal term ``prox/2 * |params - vector|^2`` (FedProx, Li et al. 2020) is added to that of every step.
    With it: ``privacy.steps`` private steps; momentum then runs over noised gradients, which is post-processing. With
    unit site: the steps without privacy, and then their delta clipped and noised. ``pairs`` [d] is the noise of a
    private sum's pairs, which goes with unit sum.
    All randomness comes from ``stream``. Exceptions of the user's model pass through; ConfigError if the params are
    no longer finite.
    """
    if net.layers is None:
        with scoped_rng(int.from_bytes(stream.child(b"torch").bytes(8), "big") >> 1):
            result, loss = _train(net, data, vector, training, privacy, stream, pairs)
    else:
        result, loss = _train(net, data, vector, training, privacy, stream, pairs)
    if not np.isfinite(result).all():
        raise ConfigError(
            f"training left params that are not finite (learning_rate {training.learning_rate})",
            hint="lower training.learning_rate",
        )
    return result, loss


def _train(
    net: Functional,
    data: tuple[Tensor, Tensor],
    vector: Vector,
    training: Training,
    privacy: PrivacyStep | None,
    stream: NoiseStream,
    pairs: NDArray[np.float64] | None,
) -> tuple[Vector, float]:
    if privacy is not None and privacy.unit != Unit.SITE:
        return _train_privately(net, data, vector, training, privacy, stream.child(b"noise"), pairs)
    trained, loss = _train_plainly(net, data, vector, training, stream)
    if privacy is None:
        return trained, loss
    delta = trained.astype(np.float64) - vector
    return (vector + private_delta(delta, privacy, stream.child(b"noise"))).astype(np.float32), loss


def _train_plainly(
    net: Functional, data: tuple[Tensor, Tensor], vector: Vector, training: Training, stream: NoiseStream
) -> tuple[Vector, float]:
    """``local_steps`` of minibatch SGD."""
    inputs, targets = data
    flat = anchor = torch.tensor(vector)
    velocity = torch.zeros_like(flat)
    total = 0.0
    for pick in _batches(len(inputs), training, stream.child(b"batches")):
        chosen = torch.from_numpy(pick)
        gradient_, loss = net.gradient(flat, inputs[chosen], targets[chosen])
        if training.prox:
            gradient_ = gradient_ + training.prox * (flat - anchor)
        velocity = velocity.mul_(training.momentum).add_(gradient_)
        flat = flat - training.learning_rate * velocity
        total += loss
    return flat.numpy(), total / training.local_steps


def _train_privately(
    net: Functional,
    data: tuple[Tensor, Tensor],
    vector: Vector,
    training: Training,
    privacy: PrivacyStep,
    noise: NoiseStream,
    pairs: NDArray[np.float64] | None,
) -> tuple[Vector, float]:
    """The private steps of one round, every one with noise (and a sample) of its own."""
    anchor = vector
    velocity = np.zeros_like(vector)
    total = 0.0
    for step in range(privacy.steps):
        fresh = noise if privacy.steps == 1 else noise.child(b"step/%d" % step)
        gradient, loss = private_gradient(net, vector, *data, privacy, fresh, pairs)
        if training.prox:
            # Outside of clip and noise: it depends on what was noised already, and on no record.
            gradient = gradient + np.float32(training.prox) * (vector - anchor)
        velocity *= np.float32(training.momentum)
        velocity += gradient
        vector = vector - np.float32(training.learning_rate) * velocity
        total += loss
    return vector, total / privacy.steps


def _batches(examples: int, training: Training, stream: NoiseStream) -> list[NDArray[np.int64]]:
    """Index arrays of ``local_steps`` minibatches: shuffled passes over the examples, as many as are needed."""
    size = min(training.batch_size, examples)
    generator = np.random.Generator(np.random.PCG64(int.from_bytes(stream.bytes(16), "big")))
    need = size * training.local_steps
    if need <= examples:
        picks = generator.choice(examples, size=need, replace=False)
    else:
        passes = -(-need // examples)
        picks = np.concatenate([generator.permutation(examples) for _ in range(passes)])[:need]
    return list(picks.astype(np.int64).reshape(training.local_steps, size))
