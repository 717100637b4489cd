"""Nodes for tests: a toy task without torch, one node on a bench driven by hand, forged neighbors, a small world."""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import Any

import numpy as np
from founders import Founder, charter, founders

from quidnunc.crypto.entry import Entry, EntryType, Header, open_entry
from quidnunc.crypto.errors import Reason
from quidnunc.crypto.identity import Role, SecretKey, derive_seed, tagged_hash
from quidnunc.crypto.log import Log
from quidnunc.crypto.token import make_token, open_token
from quidnunc.gossip.advance import advance
from quidnunc.gossip.blobs import Blobs
from quidnunc.gossip.events import (
    Commit,
    Compare,
    Effect,
    Event,
    Finished,
    Forget,
    Frame,
    Mirror,
    PeerDown,
    PeerUp,
    Received,
    Refuse,
    Report,
    Run,
    Send,
    SetTimer,
    Started,
    StoreBlob,
    Supply,
    TimerFired,
    Witness,
)
from quidnunc.gossip.federation.charter import Charter, Member, MergeSpec, PrivacySpec, RoundSpec, TaskSpec
from quidnunc.gossip.jobs import (
    Adopted,
    AdoptJob,
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
    Result,
    Trained,
    TrainJob,
)
from quidnunc.gossip.learning import codec
from quidnunc.gossip.learning.codec import Vector
from quidnunc.gossip.message import Hello, Message, Snapshot, Update
from quidnunc.gossip.message_codec import parse_message, write_message
from quidnunc.gossip.neighbor import Neighbor
from quidnunc.gossip.node import Node
from quidnunc.gossip.provenance import (
    MessageRefused,
    NoiseSource,
    PrivacySpend,
    Record,
    UpdatePublished,
    UpdateReceived,
    parse_record,
    payload_of,
)
from quidnunc.gossip.rebuild import Self
from quidnunc.gossip.reputation import observe
from quidnunc.gossip.resume import Resume
from quidnunc.gossip.rounds import ROUND_TIMER
from quidnunc.gossip.rules.linear import recompute
from quidnunc.gossip.settings import Settings
from quidnunc.gossip.signed_update import open_update
from quidnunc.sim.disk import Disk
from quidnunc.sim.network import Link, Network
from quidnunc.sim.world import Hooks, Peer, World

DIM = 8
SCHEMA = hashlib.sha256(b"toy schema").digest()
GENESIS = codec.state_bytes(np.zeros(DIM, np.float32))
GENESIS_NAME = hashlib.sha256(GENESIS).digest()
EPOCH_S = 1_800_000_000.0
PACE = 0.3


class ToyWorker:
    """Every job on params of eight numbers: training moves them by ``PACE`` toward this peer's own target."""

    def __init__(self, index: int, blobs: Blobs, code: int = codec.INT8) -> None:
        self.target = np.arange(DIM, dtype=np.float32) + np.float32(index)
        self.blobs = blobs
        self.code = code
        self.done: list[Job] = []
        blobs.put(GENESIS, durable=True)

    def __call__(self, job: Job) -> Result:
        self.done.append(job)
        try:
            return self._do(job)
        except KeyError as missing:
            name = missing.args[0]
            return JobFailed(type(job).__name__, f"blob {name.hex()[:8]} is gone", name)

    def _do(self, job: Job) -> Result:
        match job:
            case DescribeJob():
                return Described(SCHEMA, DIM, GENESIS_NAME, 100, 10, bytes(32))
            case TrainJob():
                base, replica = self._vector(job.base), self._vector(job.replica)
                step = np.float32(PACE * job.train) * (self.target - base)
                wanted = base + np.float32(job.drag) * step - replica
                delta = codec.encode(self.code, wanted, np.full(DIM, 0.5))
                after = codec.advance(replica, delta, self.code)
                name = self.blobs.put(delta, durable=True)
                return Trained(job.round, job.number, name, len(delta), self._put(after), 0.5)
            case MergeJob():
                states = [self._vector(each.state) for each in job.inputs]
                pairs = [(state, each.weight) for state, each in zip(states, job.inputs, strict=True)]
                result = recompute(self._vector(job.pivot), pairs)
                rows = tuple(
                    MergedRow(
                        each.author,
                        each.state,
                        each.weight,
                        each.weight,
                        1_000_000,
                        observe(each.standing, False) if each.fresh else each.standing,
                        False,
                    )
                    for each in job.inputs
                )
                return Merged(job.round, self._put(result), rows, 0, False)
            case MedianJob():
                return Adopted(self._put(np.median([self._vector(name) for name in job.states], axis=0)))
            case EvaluateJob():
                self._vector(job.state)
                return Evaluated(job.round, job.state, 0.5, 0.5)
            case AdvanceJob() | AdoptJob():
                return advance(job, self.blobs, DIM, self.code)

    def _vector(self, name: bytes) -> Vector:
        data = self.blobs.get(name)
        if data is None:
            raise KeyError(name)
        return codec.parse_state(data, DIM)

    def _put(self, vector: Any) -> bytes:
        return self.blobs.put(codec.state_bytes(np.asarray(vector, np.float32)), durable=True)


def toy_charter(members: list[Founder], **changes: Any) -> Charter:
    """A charter of the toy task: no privacy, no interval, no lead bound, complete graph."""
    fields: dict[str, Any] = {
        "task": TaskSpec("toy", SCHEMA, GENESIS_NAME, DIM, 0, {}),
        "merge": MergeSpec("repute", 1_500_000, {}),
        "privacy": PrivacySpec("none"),
        "rounds": RoundSpec(20, 0, 0, "majority"),
        "payload_bytes": 1024,
    }
    return charter(members, **(fields | changes))


def log_key(founder: Founder) -> SecretKey:
    return SecretKey(derive_seed(founder.secret, Role.LOG, 0))


def witness_key(founder: Founder) -> SecretKey:
    return SecretKey(derive_seed(founder.secret, Role.WITNESS, 0))


def describe_self(founder: Founder, worker: ToyWorker, **changes: Any) -> Self:
    described = worker(DescribeJob())
    assert isinstance(described, Described)
    own = Self(
        log_id=founder.member.log_id,
        key=log_key(founder),
        witness=witness_key(founder),
        genesis=founder.member.genesis,
        charter_note=bytes(32),
        dataset=tagged_hash("dataset", bytes(32)),
        described=described,
        noise_source=NoiseSource.TEST_SEED,
    )
    return replace(own, **changes)


@dataclass
class Signed:
    """An update as its author signed it, ready to be sent."""

    update: UpdatePublished
    token: bytes
    body: bytes
    state: bytes
    federation: bytes

    @property
    def frame(self) -> Frame:
        return Frame(write_message(Update(self.federation, self.token)), self.body)

    @property
    def snapshot(self) -> Frame:
        return Frame(write_message(Snapshot(self.federation, self.token)), self.state)

    def hello(self, reply: bool = False) -> Frame:
        return Frame(write_message(Hello(self.federation, self.token, reply)))


class Author:
    """A neighbor made by hand: it signs whatever a test wants."""

    def __init__(self, founder: Founder, rules: Charter) -> None:
        self.member: Member = founder.member
        self.key = log_key(founder)
        self.charter = rules
        self.log = Log(founder.member.log_id)
        self.vector = np.zeros(DIM, np.float32)
        self.number = 0
        self.entries: list[Entry] = []
        self.append(EntryType.GENESIS, founder.member.genesis)

    def append(self, kind: int, payload: bytes) -> Entry:
        """Any entry, the next of this author's log."""
        self.entries.append(self.log.append(kind, payload, salt=bytes(16), t_ms=0))
        return self.entries[-1]

    @property
    def transport(self) -> bytes:
        return self.member.transport

    def sign(self, record: Record, key: SecretKey | None = None) -> bytes:
        """The token of ``record`` as the next entry of this author's log."""
        entry = self.append(record.TYPE, payload_of(record))
        return make_token(entry, self.log.inclusion(self.log.size - 1), self.log.checkpoint(key or self.key))

    def update(
        self, step: float = 1.0, *, body: bytes | None = None, key: SecretKey | None = None, **changes: Any
    ) -> Signed:
        """The next update, moving every param by ``step``; ``changes`` are fields of its header."""
        before = codec.state_bytes(self.vector)
        wanted = np.full(DIM, step, np.float32)
        delta = codec.encode(self.charter.codec, wanted, np.zeros(DIM)) if body is None else body
        if body is None:
            self.vector = codec.advance(self.vector, delta, self.charter.codec)
        after = codec.state_bytes(self.vector)
        self.number += 1
        fields: dict[str, Any] = {
            "federation": self.charter.federation_id,
            "schema": self.charter.task.schema,
            "round": self.number,
            "number": self.number,
            "base": hashlib.sha256(before).digest(),
            "replica_before": hashlib.sha256(before).digest(),
            "replica_after": hashlib.sha256(after).digest(),
            "delta": hashlib.sha256(delta).digest(),
            "size": len(delta),
            "codec": self.charter.codec,
            "steps": 1,
            "dataset": bytes(32),
            "size_bucket": 5,
            "privacy": None,
        }
        update = UpdatePublished(**(fields | changes))
        return Signed(update, self.sign(update, key), delta, after, self.charter.federation_id)

    def twin(self) -> Author:
        """The same author as it stands, about to tell another story."""
        other = Author.__new__(Author)
        other.__dict__.update(self.__dict__)
        other.log, other.entries = Log(self.log.log_id), []
        other.append(EntryType.GENESIS, self.member.genesis)
        return other


def header_of(message: Message) -> Frame:
    return Frame(write_message(message))


class Bench:
    """One node, its disk and its worker, driven by hand; every effect is performed at once and checked.

    ``members`` counts the federation; the node is its member ``me``, ``authors`` are the others. Unless ``current`` is
    set to False its neighbors have been asked already, so that it starts at once.
    """

    def __init__(
        self,
        members: int = 4,
        *,
        me: int = 0,
        settings: Settings | None = None,
        own: dict[str, Any] | None = None,
        current: bool = True,
        **changes: Any,
    ) -> None:
        self.current = current
        self.founders = founders(members)
        self.charter = toy_charter(self.founders, **changes)
        self.settings = settings or Settings()
        self.disk = Disk()
        self.worker = ToyWorker(me, self.disk.blobs, self.charter.codec)
        self.authors = [Author(each, self.charter) for each in self.founders if each is not self.founders[me]]
        self.now = EPOCH_S
        self.jobs: list[Job] = []
        self.sent: list[Send] = []
        self.timers: dict[str, float] = {}
        self.reports: list[Report] = []
        self.commits: list[Commit] = []
        self.compares: list[Compare] = []
        self.supplies: list[Supply] = []
        self.forgotten: list[bytes] = []
        self.lives = 0
        self.own = describe_self(self.founders[me], self.worker, **(own or {}))
        self.restart()

    # Life.

    def restart(self) -> list[Effect]:
        """Build the node anew from its disk, as after a crash."""
        return self.resume(self.disk.fold(self.settings.keep_deltas))

    def resume(self, resume: Resume) -> list[Effect]:
        """Build the node anew from ``resume``, which its disk leads to."""
        self.lives += 1
        resume.current = self.current
        self.jobs.clear()
        self.timers.clear()
        log = Log(self.own.log_id)
        for entry in self.disk.entries:
            log.replay(entry)
        salts = random.Random(self.lives)
        self.node = Node(self.charter, self.own, log, resume, salts.randbytes, self.settings)
        return self.feed(Started())

    def connect(self, *authors: Author) -> None:
        for author in authors or self.authors:
            self.feed(PeerUp(author.transport))

    def disconnect(self, author: Author) -> None:
        self.feed(PeerDown(author.transport))

    # Events.

    def feed(self, event: Event) -> list[Effect]:
        effects = self.node.handle(event, self.now)
        for effect in effects:
            self._perform(effect)
        return effects

    def receive(self, author: Author | bytes, frame: Frame) -> list[Reason]:
        """Deliver a frame; the reasons it was refused for."""
        transport = author if isinstance(author, bytes) else author.transport
        effects = self.feed(Received(transport, frame))
        assert not any(isinstance(effect, Run) and isinstance(effect.job, TrainJob) for effect in effects)
        return [effect.reason for effect in effects if isinstance(effect, Refuse)]

    def tick(self, seconds: float = 1.0) -> list[Effect]:
        self.now += seconds
        return self.feed(TimerFired(ROUND_TIMER))

    def settle(self) -> None:
        """Do all jobs that wait, and those that follow from them."""
        while self.jobs:
            self.feed(Finished(self.worker(self.jobs.pop(0))))

    def settle_one(self) -> None:
        """Do the next job that waits."""
        self.feed(Finished(self.worker(self.jobs.pop(0))))

    def turn(self, seconds: float = 1.0) -> None:
        """One whole turn of the node."""
        self.tick(seconds)
        self.settle()

    def greet(self) -> None:
        """Connect all authors and let each say hello, so that the node may start."""
        self.connect()
        for author in self.authors:
            assert self.receive(author, header_of(Hello(self.charter.federation_id, b"", False))) == []

    # Effects.

    def _perform(self, effect: Effect) -> None:
        match effect:
            case Commit():
                self.commits.append(effect)
                self.disk.commit(self.own.log_id, effect, self.settings.keep_deltas)
            case Witness():
                self.disk.witness(effect)
            case Mirror():
                self.disk.mirror(effect)
            case Compare():
                self.compares.append(effect)
            case Supply():
                self.supplies.append(effect)
            case Send():
                self._check_write_ahead(effect)
                self.sent.append(effect)
            case Run(job):
                self._check_paid(job)
                self.jobs.append(job)
            case StoreBlob(data):
                self.disk.blobs.put(data)
            case Forget(names):
                self.forgotten.extend(names)
                for name in names:
                    self.disk.blobs.discard(name)
            case SetTimer(timer, delay):
                assert delay >= 0
                self.timers[timer] = self.now + delay
            case Report():
                self.reports.append(effect)

    def _check_write_ahead(self, send: Send) -> None:
        check_write_ahead(send, self.charter, self.own, len(self.disk.entries))

    def _check_paid(self, job: Job) -> None:
        if isinstance(job, TrainJob) and job.privacy is not None:
            spends = [r for r in self.records() if isinstance(r, PrivacySpend)]
            assert spends, "training before the spend is durable"
            assert spends[-1].round == job.round

    # Looking.

    def entries(self) -> list[tuple[Header, Record]]:
        return parsed(self.disk.entries)

    def records(self) -> list[Record]:
        return [record for _, record in self.entries()]

    def refused(self) -> list[MessageRefused]:
        """What the durable ledger says of messages refused without an author to blame."""
        return [r for r in self.records() if isinstance(r, MessageRefused)]

    def rejected(self) -> list[UpdateReceived]:
        """What the durable ledger says of signed updates refused."""
        return [r for r in self.records() if isinstance(r, UpdateReceived) and r.decision]

    def neighbor(self, author: Author) -> Neighbor:
        return self.node.neighbors[author.member.log_id]

    def params(self) -> tuple[Any, ...]:
        """Everything a refused message must leave alone."""
        rounds, publisher = self.node.rounds, self.node.publisher
        tracked = tuple((n.number, n.state) for n in self.node.neighbors.values())
        return rounds.base, publisher.replica, publisher.number, tracked

    def messages(self, author: Author) -> list[Message]:
        """What was sent to ``author``, oldest first."""
        federation = self.charter.federation_id
        return [parse_message(s.frame.header, federation) for s in self.sent if s.peer == author.transport]


def check_write_ahead(send: Send, rules: Charter, own: Self, durable: int) -> None:
    """No token leaves a peer before the entries it covers are durable."""
    message = parse_message(send.frame.header, rules.federation_id)
    if isinstance(message, Update | Snapshot | Hello) and message.token:
        token = open_token(message.token, log_id=own.log_id, public=own.key.public)
        assert token.header.seq < token.size <= durable, "sent before it was committed"


def parsed(entries: Iterable[Any]) -> list[tuple[Header, Record]]:
    """Headers and records of a ledger, its genesis left out."""
    headers = [(open_entry(entry), entry) for entry in entries]
    return [(h, parse_record(h.type, e.payload)) for h, e in headers if h.type != EntryType.GENESIS]


# A small world.


@dataclass
class Watch:
    """Checks every commit and every result of a world while it runs."""

    charter: Charter
    signed: dict[tuple[bytes, int], bytes] = field(default_factory=dict)
    published: Counter[tuple[bytes, int]] = field(default_factory=Counter)
    on_commit: Callable[[Peer, Commit], None] | None = None

    def committed(self, peer: Peer, commit: Commit) -> None:
        for header, record in parsed(commit.entries):
            if isinstance(record, UpdatePublished):
                self.published[peer.log_id, record.number] += 1
                assert self.published[peer.log_id, record.number] == 1, "an update number was used twice"
                self.signed[peer.log_id, record.number] = record.replica_after
                if self.charter.privacy.private and record.steps:
                    assert record.privacy is not None
                    assert record.privacy.spend_seq < header.seq
        if self.on_commit is not None:
            self.on_commit(peer, commit)

    def newest(self, peer: Peer) -> int:
        return max((n for (who, n), times in self.published.items() if who == peer.log_id and times), default=0)

    def check(self, world: World) -> None:
        """Replicas equal what was signed; heads follow from disks; nobody is quarantined or punished."""
        for peer in world.alive():
            node = peer.node
            assert node is not None
            for neighbor in node.neighbors.values():
                if neighbor.number:
                    assert self.signed[neighbor.log_id, neighbor.number] == neighbor.state
                assert not neighbor.quarantined
                assert neighbor.standing.bad == 0
            assert node.publisher.number == self.newest(peer)


def toy_world(
    members: int = 3,
    *,
    seed: int = 0,
    link: Link | None = None,
    settings: Settings | None = None,
    watch: bool = True,
    periods_s: tuple[float, ...] = (1.0,),
    **changes: Any,
) -> tuple[World, Watch]:
    """A federation of toy peers that nobody has started yet."""
    group = founders(members)
    rules = toy_charter(group, **changes)
    peers = []
    for index, each in enumerate(group):
        disk = Disk()
        worker = ToyWorker(index, disk.blobs, rules.codec)
        described = worker(DescribeJob())
        assert isinstance(described, Described)
        peers.append(
            Peer(
                index=index,
                secret=log_key(each),
                witness=witness_key(each),
                genesis=each.member.genesis,
                log_id=each.member.log_id,
                transport=each.member.transport,
                worker=worker,
                described=described,
                disk=disk,
                period_s=periods_s[index % len(periods_s)],
            )
        )
    watcher = Watch(rules)
    hooks = Hooks(on_commit=watcher.committed) if watch else Hooks()
    network = Network(link or Link(), random.Random(f"network-{seed}"))
    world = World(rules, peers, network, seed=seed, settings=settings or Settings(repair_retry_s=0.5), hooks=hooks)
    return world, watcher


def start_all(world: World) -> None:
    for peer in world.peers:
        world.start(peer.index)


def line(members: int) -> tuple[tuple[int, int], ...]:
    """Edges of a path: member i knows only i-1 and i+1."""
    return tuple((i, i + 1) for i in range(members - 1))


def complete(members: int) -> tuple[tuple[int, int], ...]:
    return tuple(combinations(range(members), 2))


def newest_token(peer: Peer) -> Any:
    """The newest update a simulated peer signed, verified."""
    number = max(peer.disk.tokens)
    return open_update(peer.disk.tokens[number], log_id=peer.log_id, public=peer.secret.public)
