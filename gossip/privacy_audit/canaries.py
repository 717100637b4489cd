"""Canaries: records made to be noticed, each in the training by a coin, and what a training tells of the coins.

A canary goes the way of every record: through the task's model and loss, sampling, clipping, noise and the codec. The
attacker knows everything but coins, samples and noise: the canaries, all other records, and the params of every round.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.func import functional_call, grad, vmap

from quidnunc.crypto.errors import ConfigError
from quidnunc.crypto.noise import NoiseStream
from quidnunc.gossip.jobs import PrivacyStep
from quidnunc.gossip.learning.codec import Vector
from quidnunc.gossip.learning.functional import Functional
from quidnunc.gossip.learning.params import build, scoped_rng, to_vector
from quidnunc.gossip.learning.privacy import clipped_sum, refuse_batch_statistics
from quidnunc.gossip.privacy_audit.rounds import gradient_sum, shown_rounds
from quidnunc.gossip.task import Plan, Task

GRADIENTS_MAX = 1 << 28
"""Numbers that all gradients of the canaries of one round may have: two gigabytes."""

_REACH = 2.0
_ELEMENTS = 1 << 22
_REFINEMENTS = 4


class Attacked(NamedTuple):
    """How likely each canary seems to have been in (``scores`` [m], in above zero), and whether it was [m].

    ``by_loss`` are scores of whoever has the last model only: how far a canary's loss is below the median.
    ``clip_used`` is the mean squared gradient of a canary, as a share of what clipping allows; 1 without clipping.
    """

    scores: NDArray[np.float64]
    by_loss: NDArray[np.float64]
    included: NDArray[np.bool_]
    clip_used: float


def require_auditable(task: Task, plan: Plan) -> None:
    """Raise ConfigError for a task of which no record can be made, or none be left out.

    Inputs must be real numbers and finite. Under privacy a record of NaN must count as nothing: a model that makes
    numbers of NaN would learn from it. Raises as well for models that mix examples.
    """
    inputs, targets = task.train
    if not inputs.is_floating_point():
        raise ConfigError(
            f"task inputs are {inputs.dtype}, the audit can make records of real numbers only",
            hint="audit a task with floating-point inputs",
        )
    broken = (~torch.isfinite(inputs.flatten(1)).all(1)).nonzero()
    if len(broken):
        raise ConfigError(
            f"task split train, row {int(broken[0])} (of {len(broken)}): inputs are not finite, so that it counts as "
            "nothing in private training",
            hint="drop such rows, or fill them in the task function",
        )
    if not plan.private:
        return
    net = Functional(build(task, plan.seed), task)
    refuse_batch_statistics(net.module)
    if clipped_sum(net, to_vector(net.module), nothing(inputs[:1]), targets[:1], 1.0)[0].any():
        raise ConfigError(
            "the task's model makes numbers of NaN, the audit cannot leave a record out",
            hint="move the handling of missing values from the model to the task function",
        )


def make_canaries(task: Task, count: int, stream: NoiseStream) -> tuple[Tensor, Tensor]:
    """``count`` records in random directions, twice as long as the longest of the task's, with labels of its records.

    The inputs must be real numbers (see :func:`require_auditable`).
    """
    inputs, targets = task.train
    shape = (count, *inputs.shape[1:])
    drawn = torch.from_numpy(stream.child(b"canaries").gaussian(int(np.prod(shape))).reshape(count, -1))
    longest = float(inputs.flatten(1).double().norm(dim=1).max())
    drawn *= _REACH * max(longest, 1.0) / drawn.norm(dim=1, keepdim=True)
    labels = (stream.child(b"labels").uniform(count) * len(targets)).astype(np.int64)
    return drawn.reshape(shape).to(inputs.dtype), targets[torch.from_numpy(labels)]


def attack(
    task: Task, plan: Plan, privacy: PrivacyStep | None, rounds: int, count: int, stream: NoiseStream
) -> Attacked:
    """Train once with ``count`` canaries, each in with probability 1/2, and tell from every round which were in.

    The scores are the linear estimate of least squared error of the coins from what the rounds release beyond the
    known records, each canary's gradient at the params before a round being what it would add to it. Raises
    ConfigError for more numbers than GRADIENTS_MAX.
    """
    net = Functional(build(task, plan.seed), task)
    if count * net.dim > GRADIENTS_MAX:
        raise ConfigError(
            f"{count} canaries of {net.dim} params are {count * net.dim} numbers, limit is {GRADIENTS_MAX}",
            hint=f"ask for at most {GRADIENTS_MAX // net.dim} canaries",
        )
    canaries = make_canaries(task, count, stream)
    included = stream.child(b"coins").uniform(count) < 0.5
    known, whole = _datasets(task, canaries, included, privacy)
    clip = float("inf") if privacy is None else privacy.clip
    steps = plan.training.local_steps if privacy is None else privacy.steps
    gram, seen, energy, used = np.zeros((count, count)), np.zeros(count), 0.0, 0.0
    noise = stream.child(b"training")
    for round_ in shown_rounds(replace(task, train=whole), plan, privacy, rounds, noise):
        each = clipped(record_gradients(net, round_.before, *canaries), clip)
        rest = gradient_sum(round_, plan.training, steps, len(whole[0]))
        if known is not None:
            rest -= clipped_sum(net, round_.before, *known, clip)[0]
        # Centered: what is left to explain are coins of plus and minus one half.
        rest -= each.sum(0) / 2
        gram += each @ each.T
        seen += each @ rest
        energy += float(rest @ rest)
        used += float((each**2).sum(1).mean()) / clip**2 if privacy else 1.0
    with torch.inference_mode():
        losses = net.losses(net.predict(round_.after, canaries[0]), canaries[1]).double().numpy()
    by_loss = np.nan_to_num(np.nanmedian(losses) - losses)
    return Attacked(_estimate(gram, seen, energy, rounds * net.dim), by_loss, included, used / rounds)


def clipped(gradients: NDArray[np.float64], clip: float) -> NDArray[np.float64]:
    """Rows of ``gradients`` [n, d] with norms of at most ``clip``; those that are not finite are zero."""
    norms = np.linalg.norm(gradients, axis=1, keepdims=True)
    with np.errstate(invalid="ignore"):
        scaled = gradients * np.minimum(1.0, clip / np.maximum(norms, 1e-300))
    return np.where(np.isfinite(norms), scaled, 0.0)


def record_gradients(net: Functional, vector: Vector, inputs: Tensor, targets: Tensor) -> NDArray[np.float64]:
    """Each record's own gradient at ``vector`` [d], float64 [n, d], not clipped: the attacker's own arithmetic."""
    named = {slot.name: view for slot, view in zip(net.slots, net.views(torch.tensor(vector)), strict=True)}
    net.module.train()

    def one_loss(params: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        return net.losses(functional_call(net.module, params, (x.unsqueeze(0),)), y.unsqueeze(0))[0]

    every = vmap(grad(one_loss), in_dims=(None, 0, 0), randomness="different")
    rows = max(1, _ELEMENTS // net.dim)
    found = np.empty((len(inputs), net.dim))
    with scoped_rng(0):
        for at in range(0, len(inputs), rows):
            grads = every(named, inputs[at : at + rows], targets[at : at + rows])
            for slot in net.slots:
                part = grads[slot.name].reshape(-1, slot.stop - slot.start)
                found[at : at + rows, slot.start : slot.stop] = part.numpy()
    return found


def _datasets(
    task: Task, canaries: tuple[Tensor, Tensor], included: NDArray[np.bool_], privacy: PrivacyStep | None
) -> tuple[tuple[Tensor, Tensor] | None, tuple[Tensor, Tensor]]:
    """The records that the attacker knows to be in, if any, and those that are trained on.

    Under privacy whoever is out stands as a record of NaN, whose gradient counts as zero: the number of records is
    public, and must tell nothing of the coins. Where batches are samples the known records stand so too, because which
    of them a step took would hide the canaries better than noise does, and privacy must not rest on that.
    """
    chosen = torch.from_numpy(included)
    inputs, targets = canaries
    if privacy is None:
        known = task.train
        mine = inputs[chosen], targets[chosen]
    else:
        known = task.train if privacy.rate == 1 else (nothing(task.train[0]), task.train[1])
        mine = torch.where(chosen.reshape(-1, *[1] * (inputs.ndim - 1)), inputs, torch.nan), targets
    whole = torch.cat([known[0], mine[0]]), torch.cat([known[1], mine[1]])
    return (None if privacy is not None and privacy.rate < 1 else known), whole


def nothing(inputs: Tensor) -> Tensor:
    """As many records as ``inputs`` whose gradients count as zero: their losses are not finite."""
    return torch.full_like(inputs, torch.nan)


def _estimate(gram: NDArray[np.float64], seen: NDArray[np.float64], energy: float, cells: int) -> NDArray[np.float64]:
    """Coins (plus or minus one half) of least squared error, with the noise as large as what they leave unexplained."""
    noise = energy / cells
    found: NDArray[np.float64] = np.zeros(len(seen))
    for _ in range(_REFINEMENTS):
        found = np.asarray(np.linalg.lstsq(gram + 4 * noise * np.eye(len(seen)), seen, rcond=None)[0])
        left = energy - 2 * float(found @ seen) + float(found @ gram @ found)
        noise = max(left, 0.0) / max(cells - len(seen), 1)
    return found
