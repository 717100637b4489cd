"""Membership inference: from the final model, was a record trained on?

Shadow models are trained on random halves of the own records, each record in half of them. Each of them is attacked
in turn, by the loss of a record alone (Yeom et al. 2018), and by the likelihood of that loss among the other models
with and without it (Carlini et al. 2022, LiRA with fixed variances).
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from quidnunc.crypto.noise import NoiseStream
from quidnunc.gossip.jobs import PrivacyStep
from quidnunc.gossip.learning.codec import Vector
from quidnunc.gossip.learning.functional import Functional
from quidnunc.gossip.learning.params import build
from quidnunc.gossip.privacy_audit.rounds import shown_rounds
from quidnunc.gossip.task import Plan, Task

RECORDS_MAX = 5000
"""The first so many records are attacked."""

RECORDS_MIN = 20
"""With fewer nothing is told apart."""

FALSE_POSITIVES = 0.01

_LOSS_MIN, _LOSS_MAX = 1e-7, 50.0

Reals = NDArray[np.float64]
Mask = NDArray[np.bool_]


class Attack(NamedTuple):
    """How well members are told from others: the mean area under the ROC curve over the models attacked, and the
    share of members found where one in a hundred others is taken for one, over all of them.
    """

    auc: float
    found: float


class Membership(NamedTuple):
    """Both attacks, and on how many models and records."""

    by_loss: Attack
    by_likelihood: Attack
    models: int
    records: int


def membership(
    task: Task, plan: Plan, privacy: PrivacyStep | None, rounds: int, models: int, stream: NoiseStream
) -> Membership:
    """Train ``models`` (an even number from 4) on halves of the task's records (RECORDS_MIN), and attack each."""
    inputs, targets = (part[:RECORDS_MAX] for part in task.train)
    inside = halves(models, len(inputs), stream.child(b"halves"))
    net = Functional(build(task, plan.seed), task)
    losses = np.empty(inside.shape)
    for model in range(models):
        chosen = torch.from_numpy(np.flatnonzero(inside[model]))
        half = replace(task, train=(inputs[chosen], targets[chosen]))
        noise = stream.child(b"model/%d" % model)
        for round_ in shown_rounds(half, plan, privacy, rounds, noise):
            final: Vector = round_.after
        with torch.inference_mode():
            found = net.losses(net.predict(final, inputs), targets).double().numpy()
        losses[model] = np.nan_to_num(found, nan=_LOSS_MAX, posinf=_LOSS_MAX)
    return Membership(_judged(-losses, inside), _judged(likelihoods(losses, inside), inside), models, len(inputs))


def halves(models: int, records: int, stream: NoiseStream) -> Mask:
    """Which record each model is trained on, [models, records]: every record is in exactly half of the models."""
    ranks = stream.uniform(models * records).reshape(models, records).argsort(axis=0).argsort(axis=0)
    return np.asarray(ranks < models // 2)


def likelihoods(losses: Reals, inside: Mask) -> Reals:
    """The log likelihood ratio of each record's loss [models, records] in one model, by the others with and without it.

    Losses are taken as logits of confidence, -log(exp(loss) - 1), normal around each record's own means, with one
    variance for all.
    """
    logits = -np.log(np.expm1(np.clip(losses, _LOSS_MIN, _LOSS_MAX)))

    def means(mask: Mask) -> Reals:
        # Over the other models: each model's own logit is taken out of its column's sum.
        total = (logits * mask).sum(0) - logits * mask
        return np.asarray(total / np.maximum(1, mask.sum(0) - mask))

    with_, without = means(inside), means(~inside)
    spread_with = max(float(((logits - with_)[inside] ** 2).mean()), 1e-12)
    spread_without = max(float(((logits - without)[~inside] ** 2).mean()), 1e-12)
    ratio: Reals = (
        (logits - without) ** 2 / (2 * spread_without)
        - (logits - with_) ** 2 / (2 * spread_with)
        + np.log(spread_without / spread_with) / 2
    )
    return ratio


def area(members: Reals, others: Reals) -> float:
    """The probability that a member's score is above another's, ties counting one half."""
    both = np.sort(others)
    above = np.searchsorted(both, members, side="left") + np.searchsorted(both, members, side="right")
    return float(above.mean() / (2 * len(others)))


def found_at(members: Reals, others: Reals, false_positives: float) -> float:
    """The share of ``members`` whose score exceeds all but that share of ``others``."""
    allowed = int(false_positives * len(others))
    threshold = np.sort(others)[len(others) - 1 - allowed]
    return float((members > threshold).mean())


def _judged(scores: Reals, inside: Mask) -> Attack:
    areas = [area(row[mask], row[~mask]) for row, mask in zip(scores, inside, strict=True)]
    return Attack(float(np.mean(areas)), found_at(scores[inside], scores[~inside], FALSE_POSITIVES))
