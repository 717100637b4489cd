"""The compute side: jobs in, results out, vectors in blobs. Everything that needs torch happens behind ``handle``.

A :class:`Compute` may be killed and rebuilt between any two jobs: apart from a cache of vectors, an attacker's honest
copy of the params and whether a round was private, it keeps nothing. Streams of randomness are named by round and by
the params a job starts from, so that a repeated job gives the same bits and a different job never shares noise with it.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch

from quidnunc.crypto.errors import ConfigError, QuidnuncError, Reason, RemoteProtocolError, StoreUnwritable
from quidnunc.crypto.identity import tagged_hash
from quidnunc.crypto.noise import NoiseStream
from quidnunc.crypto.pairwise import PairKey
from quidnunc.gossip.blobs import Blobs
from quidnunc.gossip.jobs import (
    Accounted,
    AccountJob,
    Adopted,
    AdoptJob,
    Advanced,
    AdvanceJob,
    Described,
    DescribeJob,
    Evaluated,
    EvaluateJob,
    Job,
    JobFailed,
    MedianJob,
    Merged,
    MergedRow,
    MergeJob,
    Rejected,
    Result,
    Trained,
    TrainJob,
    Unit,
    is_exhaustion,
)
from quidnunc.gossip.learning import codec
from quidnunc.gossip.learning.attack import attack_in
from quidnunc.gossip.learning.codec import Vector
from quidnunc.gossip.learning.drills import check_drill, examples_of
from quidnunc.gossip.learning.functional import Functional
from quidnunc.gossip.learning.insider import INSIDER_ATTACKS, Insider
from quidnunc.gossip.learning.malformed import MALFORMED
from quidnunc.gossip.learning.merge import merge
from quidnunc.gossip.learning.merged import Inputs
from quidnunc.gossip.learning.pair_noise import pair_noise
from quidnunc.gossip.learning.params import build, schema_of, to_vector
from quidnunc.gossip.learning.privacy import refuse_batch_statistics
from quidnunc.gossip.learning.sampled import costs
from quidnunc.gossip.learning.split import Split
from quidnunc.gossip.learning.trainer import train
from quidnunc.gossip.learning.vectors import MissingBlob, Vectors
from quidnunc.gossip.rules.linear import Reals, Stack, recompute
from quidnunc.gossip.rules.median import coordinate_median
from quidnunc.gossip.task import Plan, Site, Task, TaskFunction

__all__ = ["Compute", "Plan"]

_WHY_CHARS = 400
_HEARTBEAT_EXAMPLES = 1024


class _Loaded(NamedTuple):
    """The task once it is built; ``initial`` is the whole vector of the genesis model."""

    task: Task
    net: Functional
    split: Split
    initial: Vector


class Compute:
    """Performs jobs for one peer.

    ``task_function`` and ``site`` are called at the first job. ``noise`` must carry a key that no other peer
    or run has. ``attack`` names a drill of ``gossip/learning/drills.py``. Raises ConfigError for an unknown attack.
    ``pairs`` are the keys that a private sum takes. ``notes`` are the task's remarks on the local data, once it is
    built.
    """

    def __init__(
        self,
        task_function: TaskFunction,
        site: Site,
        plan: Plan,
        blobs: Blobs,
        noise: NoiseStream,
        attack: str = "",
        pairs: Sequence[PairKey] = (),
    ) -> None:
        check_drill(attack)
        self.pairs = tuple(pairs)
        self._task_function = task_function
        self._site = site
        self._plan = plan
        self._blobs = blobs
        self._vectors = Vectors(blobs)
        self._noise = noise
        self._attack = attack
        self._attack_stream = noise.child(b"attack")
        self._insider = Insider(attack, plan.merge_rule, plan.merge_options) if attack in INSIDER_ATTACKS else None
        self._honest: Vector | None = None
        self._noised = False
        self._untrained: float | None = None
        self._stride = math.inf
        self._loaded: _Loaded | None = None
        self.notes: tuple[str, ...] = ()

    @property
    def progress(self) -> int:
        """Grows with every local step, also while a job is under way."""
        return self._loaded.net.evaluations if self._loaded else 0

    def handle(self, job: Job) -> Result:
        """Do ``job``. Bad remote data gives Rejected; a missing blob or an exception of user code gives JobFailed."""
        try:
            return self._dispatch(job)
        except MissingBlob as error:
            return _failed(job, str(error), missing=error.name)
        except StoreUnwritable as error:
            return _failed(job, error.message, unwritable=True)
        except Exception as error:  # noqa: BLE001  user code may raise anything, and must not take the peer down
            return _failed(job, _explain(error), exhausted=is_exhaustion(error))

    def _dispatch(self, job: Job) -> Result:
        match job:
            case TrainJob():
                return self._train(job)
            case AdvanceJob():
                return self._advance(job)
            case MergeJob():
                return self._merge(job)
            case AdoptJob():
                return self._adopt(job)
            case MedianJob():
                states = [self._state(name) for name in job.states]
                return Adopted(self._vectors.put(coordinate_median(np.stack(states)), durable=True))
            case EvaluateJob():
                return self._evaluate(job)
            case DescribeJob():
                return self._describe()
            case AccountJob():
                points, alone_u = costs(job.history, job.release, job.releases, job.delta_exp)
                return Accounted(points, alone_u)

    def _load(self) -> _Loaded:
        if self._loaded is None:
            task = self._task_function(self._site)
            if not isinstance(task, Task):
                raise ConfigError(f"task function returned {type(task).__name__}, must return quidnunc.gossip.Task")
            task = replace(task, train=examples_of(self._attack, task.train))
            net = Functional(build(task, self._plan.seed), task)
            if self._plan.private:
                refuse_batch_statistics(net.module)
            split = Split(net.slots, self._plan.personal)
            initial = to_vector(build(task, self._plan.seed))
            self.notes = tuple(map(str, task.notes))
            self._loaded = _Loaded(task, net, split, initial)
        return self._loaded

    def _state(self, name: bytes) -> Vector:
        return self._vectors.get(name, self._load().split.dim)

    def _personal(self, name: bytes) -> Vector:
        """The personal tensors in blob ``name``; those of the genesis model if it is empty."""
        split = self._load().split
        return self._vectors.get(name, split.personal_dim) if name else split.personal(self._load().initial)

    def _describe(self) -> Described:
        task, _, split, initial = self._load()
        return Described(
            schema=schema_of(split.shared_slots),
            dim=split.dim,
            genesis=self._vectors.put(split.shared(initial), durable=True),
            examples=len(task.train[0]),
            holdout=len(task.holdout[0]),
            data_root=tagged_hash("data", *(_tensor_bytes(part) for part in task.train)),
        )

    def _train(self, job: TrainJob) -> Trained:
        task, net, split, _ = self._load()
        base, replica, personal = self._state(job.base), self._state(job.replica), self._personal(job.personal)
        # One private round makes this a federation with privacy noise; later heartbeats do not change that.
        self._noised = self._noised or job.privacy is not None
        name = b"train/%d/%d/" % (job.round, job.number)
        stream = self._noise.child(name + job.base + job.replica)
        start = base if self._honest is None else self._honest
        kept = job.personal
        pairs = None
        if job.privacy is not None and job.privacy.unit == Unit.SUM:
            pairs = pair_noise(self.pairs, job.round, net.dim)
        if job.train or pairs is not None:
            rows = len(task.train[0]) if job.train else 0  # none: a release of noise alone
            data = task.train[0][:rows], task.train[1][:rows]
            whole, loss = train(net, data, split.join(start, personal), self._plan.training, job.privacy, stream, pairs)
            trained = split.shared(whole)
            self._stride = float(np.linalg.norm((trained - start).astype(np.float64)))
            if split.personal_dim:
                kept = self._vectors.put(split.personal(whole), durable=True)
        else:
            few = task.train[0][:_HEARTBEAT_EXAMPLES], task.train[1][:_HEARTBEAT_EXAMPLES]
            trained, loss = start, float(net.mean_losses(split.join(base, personal)[None], *few)[0])
        attack = self._insider.attack if self._insider else attack_in(self._attack, job.round)
        if attack is not None or self._honest is not None:
            # Kept in honest rounds too: an attacker of some rounds goes on from its honest copy.
            self._honest = trained
        if attack is not None:
            target = attack(trained, start, self._attack_stream)
        else:
            target = base + np.float32(job.drag) * (trained - base)
        delta = codec.encode(self._plan.codec, target - replica, stream.child(b"rounding").uniform(split.dim))
        result = codec.advance(replica, delta, self._plan.codec)
        if self._attack in MALFORMED:
            delta = MALFORMED[self._attack](delta, self._plan.codec)
        return Trained(
            round=job.round,
            number=job.number,
            delta=self._blobs.put(delta, durable=True),
            size=len(delta),
            result=self._vectors.put(result, durable=True),
            loss=loss,
            personal=kept,
        )

    def _advance(self, job: AdvanceJob) -> Advanced | Rejected:
        base = self._state(job.base)
        delta = self._vectors.data(job.delta)
        try:
            result = codec.advance(base, delta, self._plan.codec)
        except RemoteProtocolError as error:
            return Rejected(job.author, job.number, error.reason, error.message)
        name = hashlib.sha256(codec.state_bytes(result)).digest()
        if name != job.result:
            why = f"delta leads to state {name.hex()[:16]}, the header says {job.result.hex()[:16]}"
            return Rejected(job.author, job.number, Reason.BAD_RESULT, why)
        self._vectors.put(result)
        return Advanced(job.author, job.number, name)

    def _adopt(self, job: AdoptJob) -> Advanced | Rejected:
        try:
            self._state(job.state)
        except RemoteProtocolError as error:
            return Rejected(job.author, job.number, error.reason, error.message)
        return Advanced(job.author, job.number, job.state)

    def _merge(self, job: MergeJob) -> Merged:
        task, net, split, _ = self._load()
        pivot, personal = self._state(job.pivot), self._personal(job.personal)
        states = [self._state(entry.state) for entry in job.inputs]
        stack = np.stack(states) if states else np.empty((0, split.dim), np.float32)
        inputs = Inputs(
            stack,
            [entry.weight for entry in job.inputs],
            [entry.standing for entry in job.inputs],
            [entry.fresh for entry in job.inputs],
        )

        def probe(candidates: Stack) -> Reals:
            return net.mean_losses(split.join(candidates, personal), *task.holdout)

        chosen = probe if len(task.holdout[0]) else None
        plan = self._plan
        untrained = self._untrained_loss() if chosen else 0.0
        merged = merge(
            plan.merge_rule,
            pivot,
            inputs,
            chosen,
            plan.merge_options,
            untrained,
            private=self._noised,
            over=job.round / plan.rounds if plan.rounds else 0.0,
            stride=self._stride,
        )
        if self._insider:
            self._insider.see(states)
        if self._honest is not None:
            pairs = [(state, entry.weight) for state, entry in zip(states, job.inputs, strict=True)]
            self._honest = recompute(self._honest, pairs)
        rows = tuple(
            MergedRow(
                entry.author,
                entry.state,
                entry.weight,
                row.effective,
                row.clip,
                row.standing,
                row.doubts,
            )
            for entry, row in zip(job.inputs, merged.rows, strict=True)
        )
        result = self._vectors.put(merged.result, durable=True)
        return Merged(job.round, result, rows, merged.step, merged.approximate)

    def _untrained_loss(self) -> float:
        """Mean holdout loss of the genesis params: about what guessing costs."""
        if self._untrained is None:
            task, net, _, initial = self._load()
            self._untrained = float(net.mean_losses(initial[None], *task.holdout)[0])
        return self._untrained

    def _evaluate(self, job: EvaluateJob) -> Evaluated:
        task, net, split, _ = self._load()
        inputs, targets = task.test
        if not len(inputs):
            return Evaluated(job.round, job.state, float("nan"), float("nan"))
        outputs = net.predict(split.join(self._state(job.state), self._personal(job.personal)), inputs)
        with torch.inference_mode():
            loss = float(net.losses(outputs, targets).mean())
            accuracy = task.metrics.get("accuracy", top1)(outputs, targets)
        return Evaluated(job.round, job.state, float(accuracy), loss)


def top1(outputs: torch.Tensor, targets: torch.Tensor) -> float:
    """The share of rows of ``outputs`` [n, classes] whose largest entry is at ``targets`` [n]; nan for other shapes."""
    if outputs.ndim != 2 or targets.ndim != 1 or targets.is_floating_point():
        return float("nan")
    return float((outputs.argmax(1) == targets).double().mean())


def _tensor_bytes(tensor: torch.Tensor) -> bytes:
    head = f"{tensor.dtype}{list(tensor.shape)}\n".encode()
    # Not contiguous(): it leaves a single element out of a strided view as it is, and that cannot be viewed as bytes.
    packed = tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
    return head + packed.view(-1).view(torch.uint8).numpy().tobytes()


def _explain(error: Exception) -> str:
    if isinstance(error, QuidnuncError):
        # Our own errors are whole sentences; the name of a class would only stand before them.
        return f"{error.message} ({error.hint})" if error.hint else error.message
    return f"{type(error).__name__}: {error}"


def _failed(
    job: Job, why: str, *, missing: bytes = b"", unwritable: bool = False, exhausted: bool = False
) -> JobFailed:
    author, number = b"", 0
    if isinstance(job, AdvanceJob | AdoptJob):
        author, number = job.author, job.number
    elif isinstance(job, TrainJob):
        number = job.number
    return JobFailed(type(job).__name__, why[:_WHY_CHARS], missing, author, number, unwritable, exhausted)
