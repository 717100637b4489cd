"""What a release is made of, measured from outside: how much noise, and how far one record moves it."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from quidnunc.crypto.noise import NoiseStream
from quidnunc.gossip.jobs import PrivacyStep
from quidnunc.gossip.learning import codec
from quidnunc.gossip.privacy_audit.canaries import nothing
from quidnunc.gossip.privacy_audit.rounds import gradient_sum, momentum_weights, shown_rounds
from quidnunc.gossip.task import Plan, Task

_VALUES = 20_000
_ROUNDS_MAX = 400
_OUTLYING = (1.0, 100.0)

DEVIATIONS = 4.5
"""Standard deviations beyond which a measurement contradicts what is claimed: one in 100,000 by chance."""


class Noise(NamedTuple):
    """The noise of releases: its standard deviation as a multiple of the claimed one, and how far chance may move it.

    ``repeated`` is the correlation of the noise of two rounds that follow each other, ``repeated_bound`` what chance
    gives at most.
    """

    ratio: float
    bound: float
    repeated: float
    repeated_bound: float


def measured_noise(task: Task, plan: Plan, privacy: PrivacyStep, stream: NoiseStream) -> Noise:
    """The noise of rounds on records that count as nothing, against ``privacy``'s."""
    inputs, targets = task.train
    empty = replace(task, train=(nothing(inputs), targets))
    weights = momentum_weights(plan.training.momentum, privacy.steps)
    claimed = privacy.noise_multiplier * privacy.clip * math.sqrt(float((weights**2).sum())) / float(weights.sum())
    found: list[np.ndarray] = []
    for round_ in shown_rounds(empty, plan, privacy, _ROUNDS_MAX, stream):
        # A release divides by the expected batch, so that of all examples is multiplied by the rate again.
        found.append(gradient_sum(round_, plan.training, privacy.steps, len(inputs)) * privacy.rate)
        if enough(found):
            break
    return noise_of(np.stack(found), claimed)


def enough(rounds: list[np.ndarray]) -> bool:
    """Whether the noise of these rounds tells its scale to a few percent, and what they have in common."""
    return len(rounds) > 1 and len(rounds) * len(rounds[0]) >= _VALUES


def noise_of(values: np.ndarray, claimed: float) -> Noise:
    """What rounds of nothing but noise, ``values`` [rounds, d], are beside a standard deviation of ``claimed``."""
    deviation = math.sqrt(float((values**2).mean()))
    product = float((values[1:] * values[:-1]).mean())
    return Noise(
        ratio=deviation / claimed,
        bound=DEVIATIONS / math.sqrt(2 * values.size),
        repeated=product / deviation**2 if deviation else 0.0,
        repeated_bound=DEVIATIONS / math.sqrt(values[1:].size),
    )


def largest_contribution(
    task: Task, plan: Plan, privacy: PrivacyStep, records: tuple[Tensor, Tensor], stream: NoiseStream
) -> float:
    """How far one record moves the sum at most, as a multiple of the clip, among ``records`` as they are and enlarged.

    Each is trained on alone, in one step without noise, and read from what the step shows.
    """
    bare = replace(privacy, noise_multiplier=0.0, rate=1.0, steps=1)
    exact = replace(plan, codec=codec.FLOAT32)
    largest = 0.0
    for at in range(len(records[0])):
        for factor in _OUTLYING:
            alone = replace(task, train=(records[0][at : at + 1] * factor, records[1][at : at + 1]))
            round_ = next(shown_rounds(alone, exact, bare, 1, stream))
            moved = gradient_sum(round_, plan.training, 1, 1)
            largest = max(largest, float(np.linalg.norm(moved)))
    return largest / privacy.clip


def some(records: tuple[Tensor, Tensor], count: int, stream: NoiseStream) -> tuple[Tensor, Tensor]:
    """``count`` of ``records`` at random, fewer if there are not so many."""
    order = np.argsort(stream.uniform(len(records[0])))[:count]
    chosen = torch.from_numpy(order)
    return records[0][chosen], records[1][chosen]
