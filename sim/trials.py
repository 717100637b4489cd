"""Standard trials of rounds without a barrier: peers of unequal speed, lost messages, deaths, late joiners.

What the acceptance tests assert in small and ``bench/asynchrony.py`` measures in full.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np

from quidnunc.crypto.entry import EntryType, parse_header
from quidnunc.gossip.events import Commit
from quidnunc.gossip.jobs import AdoptJob, Advanced, Evaluated, EvaluateJob, Job, Result
from quidnunc.gossip.learning.builtin import digits
from quidnunc.gossip.learning.codec import Vector, parse_state
from quidnunc.gossip.provenance import UpdatePublished, parse_record
from quidnunc.gossip.settings import Settings
from quidnunc.gossip.task import Site, Task, Training
from quidnunc.sim.federation import Scenario, build
from quidnunc.sim.network import Link
from quidnunc.sim.world import Hooks, Peer, World

Happening = tuple[float, Callable[[World], None]]
"""When, as a share of a trial's time, and what."""

PACE = Settings(repair_retry_s=0.25, evaluate_every=1_000_000)
"""Node settings for rounds of about one virtual second; accuracy is measured by the trial, not by the nodes."""
QUADRATIC_DIM = 8
_SAMPLES = 5


def log_spaced(peers: int, ratio: float) -> tuple[float, ...]:
    """Virtual seconds per training of each peer: 1 for the fastest, ``ratio`` for the slowest, evenly in between."""
    return tuple(ratio ** (i / (peers - 1)) for i in range(peers))


def time_for(periods: Sequence[float], rounds: float) -> float:
    """Virtual seconds in which free-running peers make ``rounds`` rounds on average."""
    return rounds * len(periods) / sum(1 / period for period in periods)


def crash(*indices: int) -> Callable[[World], None]:
    """A happening: these peers are killed."""

    def happen(world: World) -> None:
        for index in indices:
            world.crash(index)

    return happen


def start(*indices: int) -> Callable[[World], None]:
    """A happening: these peers are started, from whatever is on their disks."""

    def happen(world: World) -> None:
        for index in indices:
            world.start(index)

    return happen


def split(*groups: Collection[int], notice_s: float | None = None) -> Callable[[World], None]:
    """A happening: nothing passes between ``groups`` any more; the transport notices after ``notice_s``, or never."""

    def happen(world: World) -> None:
        for a, b in _between(groups):
            world.cut(a, b)
            if notice_s is not None:
                world.at(world.now + notice_s, partial(world.disconnect, a, b))

    return happen


def rejoin(*groups: Collection[int], redial_s: float = 0.0) -> Callable[[World], None]:
    """A happening: the network between ``groups`` is whole again, and used again after ``redial_s``."""

    def happen(world: World) -> None:
        for a, b in _between(groups):
            world.heal(a, b)
            world.at(world.now + redial_s, partial(world.connect, a, b))

    return happen


def _between(groups: Sequence[Collection[int]]) -> list[tuple[int, int]]:
    pairs = itertools.combinations(groups, 2)
    return [(a, b) for one, other in pairs for a in one for b in other]


def digits_trial(
    *,
    peers: int = 16,
    ratio: float = 5.0,
    loss: float = 0.2,
    learning_rate: float = 0.2,
    model: str = "mlp",
    drag_cap: float = 3.0,
    rule: str = "mean",
    **others: Any,
) -> Scenario:
    """Handwritten digits among ``peers`` whose speeds differ by ``ratio``, over links that lose ``loss``.

    Free running without end unless ``others``, further fields of a Scenario, say so.
    """
    fields: dict[str, Any] = {
        "task": digits,
        "training": Training(learning_rate, 0.0, 2, 32),
        "peers": peers,
        "options": {"model": model},
        "rounds": 1_000_000,
        "periods_s": log_spaced(peers, ratio),
        "link": Link(loss=loss),
        "lead": 0,
        "drag_cap": drag_cap,
        "rule": rule,
        "settings": PACE,
    }
    return Scenario(**(fields | others))


def begin(
    scenario: Scenario,
    until: float,
    happenings: Iterable[Happening] = (),
    *,
    hooks: Hooks | None = None,
    absent: Collection[int] = (),
) -> World:
    """A started world whose ``happenings`` are scheduled over ``until`` virtual seconds; ``absent`` peers stay down."""
    world = build(scenario, hooks)
    for peer in world.peers:
        if peer.index not in absent:
            world.start(peer.index)
    for when, what in happenings:
        world.at(when * until, partial(what, world))
    return world


def accuracy(peer: Peer) -> float:
    """Test accuracy of the params a living peer would train from next."""
    if peer.node is None:
        raise ValueError(f"peer {peer.index} is down")
    measured = peer.worker(EvaluateJob(0, peer.node.rounds.base, peer.node.rounds.personal))
    if not isinstance(measured, Evaluated):
        raise TypeError(f"peer {peer.index} answered {measured!r} to EvaluateJob")
    return measured.accuracy


class Outcome(NamedTuple):
    """Accuracy of the living over the last tenth of a trial, mean and worst peer, and the updates of all peers."""

    mean: float
    worst: float
    rounds: int


def finish(world: World, until: float, among: Collection[int] | None = None) -> Outcome:
    """Run ``world`` to its end and average over the last tenth of its time; ``among`` limits it to some peers."""
    sampled = []
    for step in range(1, _SAMPLES + 1):
        world.run((0.9 + 0.1 * step / _SAMPLES) * until)
        chosen = [p for p in world.alive() if among is None or p.index in among]
        sampled.append([accuracy(peer) for peer in chosen])
    by_peer = [fmean(values) for values in zip(*sampled, strict=True)]
    return Outcome(fmean(by_peer), min(by_peer), updates(world))


def updates(world: World) -> int:
    """Updates published so far by all peers together, dead ones included."""
    return sum(max(peer.disk.tokens, default=0) for peer in world.peers)


@dataclass(slots=True)
class Audit:
    """Compares every advance of every replica at every holder with what its author signed.

    ``advances`` counts comparisons, ``wrong`` those where the holder's own bytes are not the signed ones, and
    ``snapshots`` the advances that were whole replicas.
    """

    advances: int = 0
    snapshots: int = 0
    wrong: int = 0
    signed: dict[tuple[bytes, int], bytes] = field(default_factory=dict)

    def hooks(self) -> Hooks:
        """Hooks that feed this audit."""
        return Hooks(on_result=self._on_result, on_commit=self._on_commit)

    def _on_commit(self, peer: Peer, commit: Commit) -> None:
        for entry in commit.entries:
            if parse_header(entry.header).type != EntryType.UPDATE_PUBLISHED:
                continue
            record = parse_record(EntryType.UPDATE_PUBLISHED, entry.payload)
            if isinstance(record, UpdatePublished):
                self.signed[peer.log_id, record.number] = record.replica_after

    def _on_result(self, peer: Peer, job: Job, result: Result) -> None:
        if isinstance(result, Advanced):
            self.advances += 1
            self.snapshots += isinstance(job, AdoptJob)
            held = peer.disk.blobs.get(result.result)
            right = self.signed.get((result.author, result.number))
            self.wrong += held is None or hashlib.sha256(held).digest() != right


def quadratic(site: Site) -> Task:
    """A tug of war: the first half of the peers pulls every param to -1, the second half to +1; 0 is fair.

    With ``log_spaced`` periods, or any others that grow with the index, the first half is the fast one. Everybody
    starts at 0.
    """
    import torch
    from torch import nn

    goal = -1.0 if 2 * site.index < site.peers else 1.0

    def model() -> nn.Module:
        module = nn.Linear(1, QUADRATIC_DIM, bias=False)
        nn.init.zeros_(module.weight)
        return module

    def split(rows: int) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.ones(rows, 1), torch.full((rows, QUADRATIC_DIM), goal)

    return Task(
        model=model,
        loss=lambda outputs, targets: 0.5 * (outputs - targets).square().sum(1),
        train=split(1),
        holdout=split(0),
        test=split(0),
    )


def mean_param(world: World, samples: int, spacing_s: float) -> float:
    """The mean of all params of all living peers, averaged over ``samples`` moments ``spacing_s`` virtual s apart."""
    means = []
    for _ in range(samples):
        world.run(world.now + spacing_s)
        means.append(fmean(float(np.mean(params(peer))) for peer in world.alive()))
    return fmean(means)


def params(peer: Peer) -> Vector:
    """The params a living peer would train from next, float32 [d]."""
    data = None if peer.node is None else peer.disk.blobs.get(peer.node.rounds.base)
    if data is None:
        raise ValueError(f"peer {peer.index} is down")
    return parse_state(data, peer.described.dim)
