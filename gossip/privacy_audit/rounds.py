"""The own training as everybody outside sees it: round by round, through the same jobs as in a daemon."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from quidnunc.crypto.errors import ConfigError
from quidnunc.crypto.noise import NoiseStream
from quidnunc.gossip.blobs import MemoryBlobs
from quidnunc.gossip.jobs import Described, DescribeJob, JobFailed, PrivacyStep, Result, Trained, TrainJob
from quidnunc.gossip.learning import codec
from quidnunc.gossip.learning.codec import Vector
from quidnunc.gossip.learning.compute import Compute
from quidnunc.gossip.task import Plan, Site, Task, Training

_Answer = TypeVar("_Answer", Described, Trained)


class Round(NamedTuple):
    """What one round shows to a neighbor: params [d] before and after it, and the bytes that lead there."""

    before: Vector
    after: Vector
    delta: bytes


def shown_rounds(
    task: Task, plan: Plan, privacy: PrivacyStep | None, rounds: int, noise: NoiseStream
) -> Iterator[Round]:
    """``rounds`` of training on ``task`` without neighbors, from the genesis params of ``plan``.

    Deltas are coded as for sending, and ``after`` is what a neighbor reads from them. Raises ConfigError when the task
    cannot be built or trained.
    """
    blobs = MemoryBlobs()
    compute = Compute(lambda _: task, Site(), plan, blobs, noise)
    described = _answer(compute.handle(DescribeJob()), Described)
    state = described.genesis
    vector = codec.parse_state(blobs.data[state], described.dim)
    for number in range(1, rounds + 1):
        trained = _answer(compute.handle(TrainJob(number, number, state, state, True, 1.0, privacy)), Trained)
        delta = blobs.data[trained.delta]
        after = codec.advance(vector, delta, plan.codec)
        yield Round(vector, after, delta)
        for name in {state, trained.delta} - {trained.result}:
            blobs.discard(name)
        state, vector = trained.result, after


def gradient_sum(round_: Round, training: Training, steps: int, examples: int) -> NDArray[np.float64]:
    """The sum of the gradients of ``examples`` records, float64 [d], as far as a round of ``steps`` steps tells it.

    Exact for one step on all records, up to noise and rounding; else an average over the steps of a round and over
    what they sampled.
    """
    step = (round_.before.astype(np.float64) - round_.after) / training.learning_rate
    return step * (examples / float(momentum_weights(training.momentum, steps).sum()))


def momentum_weights(momentum: float, steps: int) -> NDArray[np.float64]:
    """How often each step's gradient [steps] is in the sum of a round's steps, with heavy-ball momentum."""
    return np.array([math.fsum(momentum**k for k in range(steps - at)) for at in range(steps)])


def _answer(result: Result, kind: type[_Answer]) -> _Answer:
    if isinstance(result, kind):
        return result
    why = result.why if isinstance(result, JobFailed) else f"answered with {type(result).__name__}"
    raise ConfigError(f"the training that is to be audited fails: {why}", hint="does quidnunc run train here?")
