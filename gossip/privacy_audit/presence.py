"""The audit where all records of a site are protected together: the site is there or absent, by a coin per training.

One site has no other sites to leave out, so that this takes many trainings instead of one. Each is the same mechanism
about a coin of its own, so that the bounds on canaries (``bound.py``) hold for trainings as they stand. The attacker
knows everything but coins and noise: all records of the site, and the params of every round.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from quidnunc.crypto.errors import ConfigError
from quidnunc.crypto.noise import NoiseStream
from quidnunc.gossip.jobs import PrivacyStep
from quidnunc.gossip.learning import codec
from quidnunc.gossip.learning.codec import Vector
from quidnunc.gossip.learning.functional import Functional
from quidnunc.gossip.learning.params import build
from quidnunc.gossip.learning.trainer import train
from quidnunc.gossip.privacy_audit.canaries import Attacked, nothing
from quidnunc.gossip.privacy_audit.mechanism import Noise, enough, noise_of
from quidnunc.gossip.privacy_audit.rounds import Round, shown_rounds
from quidnunc.gossip.task import Plan, Task

_SCALES = (1.0, 100.0)
_ROUNDS_MAX = 400
_MEASURED = 3


def absent(task: Task) -> Task:
    """The task of a site whose training comes to nothing, so that it releases noise alone."""
    return replace(task, train=(nothing(task.train[0]), task.train[1]))


def require_absentable(task: Task, plan: Plan, privacy: PrivacyStep, stream: NoiseStream) -> None:
    """Raise ConfigError for a model that learns from records of NaN: such a site cannot be made absent."""
    round_ = next(shown_rounds(absent(task), plan, _bare(privacy), 1, stream))
    if _moved(round_).any():
        raise ConfigError(
            "the task's model makes numbers of NaN, the audit cannot leave the site out",
            hint="move the handling of missing values from the model to the task function",
        )


def measured_noise(task: Task, plan: Plan, privacy: PrivacyStep, stream: NoiseStream) -> Noise:
    """The noise of the rounds of an absent site, against ``privacy``'s."""
    found: list[NDArray[np.float64]] = []
    for round_ in shown_rounds(absent(task), plan, privacy, _ROUNDS_MAX, stream):
        found.append(_moved(round_))
        if enough(found):
            break
    return noise_of(np.stack(found), privacy.noise_multiplier * privacy.clip)


def largest_release(task: Task, plan: Plan, privacy: PrivacyStep, stream: NoiseStream) -> float:
    """How far a round of the site moves the params at most, as a multiple of the clip, without noise.

    Measured in some rounds on its records as they are, and on them a hundred times as large.
    """
    exact, largest = replace(plan, codec=codec.FLOAT32), 0.0
    for scale in _SCALES:
        enlarged = replace(task, train=(task.train[0] * scale, task.train[1]))
        for round_ in shown_rounds(enlarged, exact, _bare(privacy), _MEASURED, stream):
            largest = max(largest, float(np.linalg.norm(_moved(round_))))
    return largest / privacy.clip


def attack(task: Task, plan: Plan, privacy: PrivacyStep, rounds: int, count: int, stream: NoiseStream) -> Attacked:
    """Train ``count`` times, with the site in each of them with probability 1/2, and tell from all rounds in which.

    The scores are log-likelihood ratios, up to a factor: what a round moved along the delta that the site would have
    had from the params before it, less half of that delta's own length.
    """
    net = Functional(build(task, plan.seed), task)
    included = stream.child(b"coins").uniform(count) < 0.5
    scores, losses, used = np.zeros(count), np.zeros(count), 0.0
    for at in range(count):
        run = stream.child(b"training/%d" % at)
        for round_ in shown_rounds(task if included[at] else absent(task), plan, privacy, rounds, run):
            delta = _expected(net, task, plan, privacy, round_.before, run)
            length = float(delta @ delta)
            scores[at] += float(_moved(round_) @ delta) - length / 2
            used += length / privacy.clip**2
        with torch.inference_mode():
            losses[at] = float(net.losses(net.predict(round_.after, task.train[0]), task.train[1]).double().mean())
    return Attacked(scores, np.nan_to_num(np.nanmedian(losses) - losses), included, used / (count * rounds))


def _expected(
    net: Functional, task: Task, plan: Plan, privacy: PrivacyStep, before: Vector, run: NoiseStream
) -> NDArray[np.float64]:
    """What the site's training adds to ``before`` without noise, in an order of batches that the attacker drew."""
    after, _ = train(net, task.train, before, plan.training, _bare(privacy), run.child(b"attacker"))
    return after.astype(np.float64) - before


def _moved(round_: Round) -> NDArray[np.float64]:
    return round_.after.astype(np.float64) - round_.before


def _bare(privacy: PrivacyStep) -> PrivacyStep:
    return replace(privacy, noise_multiplier=0.0)
