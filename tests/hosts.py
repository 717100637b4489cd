"""Hosts in one process: real nodes, stores and ledgers on a memory network, and arithmetic in place of training."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import trio
from founders import MICRO, Founder, charter, founders

from quidnunc.crypto.entry import Entry
from quidnunc.crypto.errors import StoreUnwritable
from quidnunc.crypto.identity import Role, SecretKey, derive_seed
from quidnunc.crypto.log import Log
from quidnunc.gossip.advance import advance
from quidnunc.gossip.blobs import MemoryBlobs
from quidnunc.gossip.events import Frame
from quidnunc.gossip.federation.charter import Charter, MergeSpec, PrivacySpec, RoundSpec, TaskSpec
from quidnunc.gossip.jobs import (
    AdoptJob,
    AdvanceJob,
    Described,
    Evaluated,
    EvaluateJob,
    Job,
    JobFailed,
    Merged,
    MergedRow,
    MergeJob,
    Result,
    Trained,
    TrainJob,
)
from quidnunc.gossip.learning import codec
from quidnunc.gossip.node import Node
from quidnunc.gossip.rebuild import Self
from quidnunc.gossip.resume import fold
from quidnunc.gossip.rules.linear import recompute
from quidnunc.gossip.settings import Settings
from quidnunc.peer.clock import Clock
from quidnunc.peer.host import Host
from quidnunc.peer.ledger.mirror import MirrorStore
from quidnunc.peer.ledger.store import Store
from quidnunc.peer.network.memory_overlay import MemoryNetwork, MemoryOverlay
from quidnunc.peer.network.overlay_api import Member

DIM = 16
GENESIS = codec.state_bytes(np.zeros(DIM, np.float32))
PATIENCE_S = 30.0
Happening = tuple[str, Any]


class Arithmetic:
    """A compute side without torch: a training step adds ``pull`` to every param. ``hold`` delays its answer."""

    def __init__(self, blobs: MemoryBlobs, pull: float) -> None:
        self.pid: int | None = None
        self.restarts = 0
        self.jobs: list[Job] = []
        self.hold: trio.Event | None = None
        self.failing = ""
        self.notes: tuple[str, ...] = ()
        self._blobs = blobs
        self._pull = np.float32(pull)

    def trouble(self, now: float) -> None:
        """As ComputeProcess.trouble: nothing ever goes wrong."""

    async def run(self, job: Job) -> Result:
        """Answer a heavy job."""
        self.jobs.append(job)
        if self.hold is not None and isinstance(job, TrainJob):
            await self.hold.wait()
        await trio.lowlevel.checkpoint()
        if self.failing:
            return JobFailed(type(job).__name__, self.failing)
        match job:
            case TrainJob():
                return self._train(job)
            case MergeJob():
                return self._merge(job)
            case EvaluateJob():
                return Evaluated(job.round, job.state, 0.5, 1.0)
        raise AssertionError(job)

    async def advance(self, job: AdvanceJob | AdoptJob) -> Result:
        """Answer a light job."""
        await trio.lowlevel.checkpoint()
        return advance(job, self._blobs, DIM, codec.FLOAT32)

    def _vector(self, name: bytes) -> codec.Vector:
        data = self._blobs.get(name)
        assert data is not None
        return codec.parse_state(data, DIM)

    def _train(self, job: TrainJob) -> Trained:
        replica = self._vector(job.replica)
        trained = self._vector(job.base) + (self._pull if job.train else np.float32(0))
        delta = codec.encode_float32(trained - replica)
        result = self._blobs.put(codec.state_bytes(codec.advance(replica, delta, codec.FLOAT32)))
        return Trained(job.round, job.number, self._blobs.put(delta), len(delta), result, 0.0)

    def _merge(self, job: MergeJob) -> Merged:
        rows = tuple(
            MergedRow(each.author, each.state, each.weight, each.weight, MICRO, each.standing, False)
            for each in job.inputs
        )
        merged = recompute(self._vector(job.pivot), [(self._vector(row.state), row.effective) for row in rows])
        return Merged(job.round, self._blobs.put(codec.state_bytes(merged)), rows, 0, False)


class Watched:
    """A store that notes every commit in a shared list of happenings, and can be told to fail."""

    def __init__(self, store: Store, happenings: list[Happening]) -> None:
        self.store = store
        self.fails_from: int | None = None
        self._happenings = happenings

    @property
    def size(self) -> int:
        """As Store.size."""
        return self.store.size

    @property
    def root(self) -> bytes:
        """As Store.root."""
        return self.store.root

    def entries(self, start: int = 0, stop: int | None = None) -> Iterator[Entry]:
        """As Store.entries."""
        return self.store.entries(start, stop)

    def witness(self, log_id: bytes, size: int, root: bytes, note: bytes) -> None:
        """As Store.witness."""
        self.store.witness(log_id, size, root, note)

    def commit(self, entries: Sequence[Entry], note: bytes, tokens: Sequence[Any] = (), *kept: Any) -> None:
        """As Store.commit."""
        if self.fails_from is not None and self.store.size >= self.fails_from:
            raise StoreUnwritable("ledger.db: cannot be written: no space left on device")
        self.store.commit(entries, note, tokens, *kept)
        self._happenings.append(("commit", tuple(token for _, _, _, token in tokens)))


class Spy:
    """A memory overlay that notes what it is asked to send, and can hold it back."""

    def __init__(self, inner: MemoryOverlay, happenings: list[Happening]) -> None:
        self._inner = inner
        self._happenings = happenings
        self.hold: trio.Event | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def send(self, peer: bytes, frame: Frame) -> None:
        """As Overlay.send."""
        self._happenings.append(("send", frame))
        if self.hold is not None:
            await self.hold.wait()
        await self._inner.send(peer, frame)


@dataclass
class Seat:
    """One peer of the table: its host and everything under it."""

    founder: Founder
    store: Store
    watched: Watched
    blobs: MemoryBlobs
    computer: Arithmetic
    overlay: Spy
    host: Host
    happenings: list[Happening]
    stop: trio.Event = field(default_factory=trio.Event)

    @property
    def node(self) -> Node:
        return self.host.node


class Table:
    """``count`` peers on a complete graph. Build it inside a trio run; :meth:`running` serves all of them."""

    def __init__(self, root: Path, count: int = 2, *, rounds: int = 3, settings: Settings | None = None) -> None:
        self.root = root
        self.network = MemoryNetwork()
        self.founders = founders(count)
        self.settings = settings or Settings(repair_retry_s=0.2)
        self.charter: Charter = charter(
            self.founders,
            task=TaskSpec("digits", b"s" * 32, codec_name(GENESIS), DIM),
            merge=MergeSpec("mean", MICRO),
            privacy=PrivacySpec("none"),
            rounds=RoundSpec(rounds, 20, 0, "all"),
            codec=codec.FLOAT32,
        )
        self.seats = [self.seat(index) for index in range(count)]

    def seat(self, index: int) -> Seat:
        """Peer ``index`` as its ledger on disk leaves it."""
        who = self.founders[index]
        roles = (Role.LOG, Role.WITNESS, Role.TRANSPORT)
        log_key, witness, transport = (SecretKey(derive_seed(who.secret, role, 0)) for role in roles)
        path = self.root / f"{index}.db"
        exists = path.exists()
        store = Store.open(path) if exists else Store.create(path, who.member.log_id, who.member.log)
        blobs = MemoryBlobs()
        blobs.put(GENESIS)
        happenings: list[Happening] = []
        computer = Arithmetic(blobs, pull=index + 1)
        described = Described(b"s" * 32, DIM, codec_name(GENESIS), 100, 10, b"d" * 32)
        own = Self(who.member.log_id, log_key, witness, who.member.genesis, bytes(32), bytes(32), described)
        mirrors = MirrorStore.open(self.root / f"{index}.mirrors.db")

        def build(*, current: bool = False) -> Node:
            entries = list(store.entries())
            log = Log(who.member.log_id)
            for entry in entries:
                log.replay(entry)
            resume = fold(entries)
            resume.mirrors, resume.current = mirrors.held(), current
            return Node(self.charter, own, log, resume, os.urandom, self.settings)

        members = [Member(each.transport) for each in self.charter.members]
        inner = MemoryOverlay(transport.public, self.network, federation=self.charter.federation_id, members=members)
        overlay = Spy(inner, happenings)
        watched = Watched(store, happenings)
        again = partial(build, current=True)
        host = Host(build(), watched, blobs, overlay, computer, Clock(), mirrors, again)  # type: ignore[arg-type]
        return Seat(who, store, watched, blobs, computer, overlay, host, happenings)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[trio.Nursery]:
        """Serve every seat inside the block; afterwards all are stopped in order."""
        async with trio.open_nursery() as nursery:
            for seat in self.seats:
                await nursery.start(seat.host.run, seat.stop)
            yield nursery
            for seat in self.seats:
                seat.stop.set()


def codec_name(state: bytes) -> bytes:
    """The name of a params vector."""
    return MemoryBlobs().put(state)


async def until(condition: Callable[[], bool], what: str = "") -> None:
    """Wait for a state; fails the test when it does not come."""
    with trio.move_on_after(PATIENCE_S):
        while not condition():
            await trio.sleep(0.002)
        return
    raise AssertionError(f"never: {what or condition}")


def first_sends(happenings: Sequence[Happening]) -> Iterator[tuple[int, Frame]]:
    """Every send with its place among the happenings."""
    for place, (kind, what) in enumerate(happenings):
        if kind == "send":
            yield place, what


def is_ordered(values: Sequence[float]) -> bool:
    """Whether no value is smaller than the one before it."""
    return all(one <= other for one, other in pairwise(values))
