"""Many nodes in one process under virtual time: the protocol engine of the simulator.

The same :class:`~quidnunc.gossip.node.Node` as in the daemon, with real signatures, ledgers, codecs and training; only
the host is another one. Everything random comes from one seed, so the same seed gives the same ledger heads.
"""

from __future__ import annotations

import hashlib
import heapq
import itertools
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from quidnunc.crypto.fork_build import fork_of_kept
from quidnunc.crypto.identity import SecretKey, tagged_hash
from quidnunc.crypto.noise import NoiseStream
from quidnunc.gossip.events import (
    Commit,
    Compare,
    Compared,
    Effect,
    Event,
    Finished,
    Forget,
    Mirror,
    PeerDown,
    PeerUp,
    Rebuild,
    Received,
    Refuse,
    Report,
    Run,
    Send,
    SetTimer,
    Started,
    Stopping,
    StoreBlob,
    Supply,
    TimerFired,
    Witness,
)
from quidnunc.gossip.federation.charter import Charter
from quidnunc.gossip.jobs import Advanced, Described, DescribeJob, Job, Result, TrainJob
from quidnunc.gossip.journal.recording import Recording
from quidnunc.gossip.message_codec import entries_frame
from quidnunc.gossip.node import Node
from quidnunc.gossip.provenance import NoiseSource
from quidnunc.gossip.rebuild import Self, Software
from quidnunc.gossip.recorder import Entropy
from quidnunc.gossip.settings import Settings
from quidnunc.sim.disk import Disk
from quidnunc.sim.network import Network

Worker = Callable[[Job], Result]
EPOCH_S = 1_760_000_000.0
"""Virtual second 0 as wall-clock time, so that ledger times look like times."""


@dataclass(slots=True)
class Peer:
    """One simulated peer. ``node`` is None while it is down; ``life`` tells its incarnations apart."""

    index: int
    secret: SecretKey
    witness: SecretKey
    genesis: bytes
    log_id: bytes
    transport: bytes
    worker: Worker
    described: Described
    disk: Disk
    period_s: float
    node: Node | None = None
    life: int = 0
    timers: dict[str, int] = field(default_factory=dict)
    reports: list[Report] = field(default_factory=list)
    refusals: list[Refuse] = field(default_factory=list)
    advances: int = 0


@dataclass(slots=True)
class Hooks:
    """What a test may look at or change while the world runs.

    ``on_result`` sees every job with its result, ``on_commit`` what has just become durable; ``tamper`` may replace
    a message on its way (None drops it). ``recordings``, by peer index, keep journals as a daemon does.
    """

    on_result: Callable[[Peer, Job, Result], None] | None = None
    on_commit: Callable[[Peer, Commit], None] | None = None
    tamper: Callable[[Peer, Peer, Send, bytes], tuple[bytes, bytes] | None] | None = None
    recordings: Mapping[int, Recording] = field(default_factory=dict)


class World:
    """Peers of one charter, a network between them, and a heap of things to come."""

    def __init__(
        self,
        charter: Charter,
        peers: list[Peer],
        network: Network,
        *,
        seed: int,
        settings: Settings | None = None,
        period_jitter: float = 0.1,
        noise_source: NoiseSource = NoiseSource.TEST_SEED,
        hooks: Hooks | None = None,
    ) -> None:
        self.charter = charter
        self.peers = peers
        self.network = network
        self.settings = settings or Settings()
        self.hooks = hooks or Hooks()
        self.now = 0.0
        self._seed = seed
        self._rng = random.Random(f"world-{seed}")
        self._period_jitter = period_jitter
        self._noise_source = noise_source
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._by_transport = {peer.transport: [peer] for peer in peers}
        self._edges = {frozenset(edge) for edge in self._index_edges()}

    def _index_edges(self) -> list[tuple[int, int]]:
        place = {member.log_id: i for i, member in enumerate(self.charter.members)}
        index = {place[peer.log_id]: peer.index for peer in self.peers}
        return [(index[a], index[b]) for a, b in self.charter.edges]

    # -- time ---------------------------------------------------------------------------------------------------

    def at(self, when: float, action: Callable[[], None]) -> None:
        """Do ``action`` at virtual second ``when``."""
        heapq.heappush(self._heap, (when, next(self._order), action))

    def run(self, until: float, *, stop: Callable[[], bool] | None = None) -> None:
        """Let virtual time pass until ``until`` or until ``stop()`` holds."""
        while self._heap and self._heap[0][0] <= until:
            self.now, _, action = heapq.heappop(self._heap)
            action()
            if stop is not None and stop():
                return
        self.now = max(self.now, until)

    def twin(self, index: int, disk: Disk, worker: Worker) -> Peer:
        """A second instance of a peer, not started yet, with the same keys and a ``disk`` of its own.

        Whoever sends to the peer reaches both, as far as the network lets them.
        """
        original = self.peers[index]
        twin = replace(original, index=len(self.peers), disk=disk, worker=worker, node=None, life=0, timers={})
        twin.reports, twin.refusals = [], []
        self.peers.append(twin)
        self._by_transport[twin.transport].append(twin)
        near = [edge - {index} for edge in self._edges if index in edge]
        self._edges |= {edge | {twin.index} for edge in near}
        return twin

    # -- life and death -----------------------------------------------------------------------------------------

    def start(self, index: int, *, current: bool = False) -> None:
        """Start (or restart) a peer from what is on its disk, and connect it.

        One that is ``current`` asks nobody whether its disk holds all that its key has signed: it signs, come what may.
        """
        peer = self.peers[index]
        self._build(peer, current=current)
        self._feed(peer, Started())
        for other in self._near(peer):
            self._feed(peer, PeerUp(other.transport))
            self._feed(other, PeerUp(peer.transport))

    def _near(self, peer: Peer) -> list[Peer]:
        """The living neighbors of a peer."""
        return [each for each in self.alive() if frozenset((each.index, peer.index)) in self._edges]

    def _build(self, peer: Peer, *, current: bool) -> None:
        """Make the node that a peer's disk leads to, in place of the one before."""
        peer.life += 1
        peer.timers.clear()
        log = peer.disk.log(peer.log_id)
        resume = peer.disk.fold(self.settings.keep_deltas)
        resume.current = current
        own = Self(
            log_id=peer.log_id,
            key=peer.secret,
            witness=peer.witness,
            genesis=peer.genesis,
            charter_note=self.charter.federation_id,
            dataset=tagged_hash("dataset", peer.described.data_root),
            described=peer.described,
            noise_source=self._noise_source,
            software=Software(version="sim"),
        )
        salts = NoiseStream(hashlib.sha256(f"salt-{self._seed}-{peer.index}-{peer.life}".encode()).digest(), b"salt")
        entropy: Entropy = salts.bytes
        recording = self.hooks.recordings.get(peer.index)
        if recording is not None:
            own, entropy = recording.begin(own, log, resume, entropy, self.settings, rebuilt=current)
        peer.node = Node(self.charter, own, log, resume, entropy, self.settings)
        for name in peer.disk.blobs.data.keys() - set(peer.node.in_use()):
            peer.disk.blobs.discard(name)

    def _rebuild(self, peer: Peer) -> None:
        """The node of a peer gives way to a new one; its connections stay."""
        self._build(peer, current=True)
        self._feed(peer, Started())
        for other in self._near(peer):
            self._feed(peer, PeerUp(other.transport))

    def stop(self, index: int) -> None:
        """Stop a peer in order: what is under way is recorded, and what is sent arrives."""
        peer = self.peers[index]
        self._feed(peer, Stopping())
        peer.node = None
        for other in self._near(peer):
            self._feed(other, PeerDown(peer.transport))

    def crash(self, index: int) -> None:
        """Kill a peer: whatever was not committed is gone."""
        peer = self.peers[index]
        peer.node = None
        peer.life += 1
        for other in self.peers:
            if other.node is not None and frozenset((other.index, index)) in self._edges:
                self._feed(other, PeerDown(peer.transport))

    def cut(self, a: int, b: int) -> None:
        """Silently drop everything between two peers."""
        self.network.cuts.add(frozenset((a, b)))

    def heal(self, a: int, b: int) -> None:
        """Undo :meth:`cut`."""
        self.network.cuts.discard(frozenset((a, b)))

    def disconnect(self, a: int, b: int) -> None:
        """Tell two peers that their connection is gone; :meth:`cut` alone is a cable nobody has looked at yet."""
        self._feed(self.peers[a], PeerDown(self.peers[b].transport))
        self._feed(self.peers[b], PeerDown(self.peers[a].transport))

    def connect(self, a: int, b: int) -> None:
        """Tell two living neighbors that they are connected again."""
        if frozenset((a, b)) in self._edges and self.peers[a].node and self.peers[b].node:
            self._feed(self.peers[a], PeerUp(self.peers[b].transport))
            self._feed(self.peers[b], PeerUp(self.peers[a].transport))

    # -- events and effects -------------------------------------------------------------------------------------

    def _feed(self, peer: Peer, event: Event) -> None:
        if peer.node is None:
            return
        recording = self.hooks.recordings.get(peer.index)
        now = EPOCH_S + self.now
        effects = peer.node.handle(event, now) if recording is None else recording.handle(peer.node, event, now)
        for effect in effects:
            self._perform(peer, effect)

    def _perform(self, peer: Peer, effect: Effect) -> None:
        match effect:
            case Commit():
                self._commit(peer, effect)
            case Witness():
                peer.disk.witness(effect)
            case Mirror():
                peer.disk.mirror(effect)
            case Supply():
                self._supply(peer, effect)
            case Compare():
                found = fork_of_kept(effect.notes, peer.disk.headers(effect.log_id))
                self.at(self.now, lambda: self._feed(peer, Compared(found)))
            case Rebuild():
                self._rebuild(peer)
            case Send():
                self._send(peer, effect)
            case SetTimer(timer, delay):
                self._set_timer(peer, timer, delay)
            case Run(job):
                self._run(peer, job)
            case StoreBlob(data):
                peer.disk.blobs.put(data)
            case Forget(names):
                for name in names:
                    peer.disk.blobs.discard(name)
            case Report():
                peer.reports.append(effect)
            case Refuse():
                peer.refusals.append(effect)

    def _commit(self, peer: Peer, commit: Commit) -> None:
        peer.disk.commit(peer.log_id, commit, self.settings.keep_deltas)
        if self.hooks.on_commit is not None:
            self.hooks.on_commit(peer, commit)

    def _supply(self, peer: Peer, wanted: Supply) -> None:
        entries = peer.disk.supply(peer.log_id, wanted)
        made, _ = entries_frame(self.charter.federation_id, wanted.log_id, wanted.first, entries)
        self._send(peer, Send(wanted.peer, made))

    def _send(self, peer: Peer, send: Send) -> None:
        body = peer.disk.blobs.get(send.body_blob) if send.body_blob else send.frame.body
        if body is None:
            return
        for target in self._by_transport.get(send.peer, ()):
            self._send_to(peer, target, send, body)

    def _send_to(self, peer: Peer, target: Peer, send: Send, body: bytes) -> None:
        header = send.frame.header
        if self.hooks.tamper is not None:
            changed = self.hooks.tamper(peer, target, send, body)
            if changed is None:
                return
            header, body = changed
        frame = type(send.frame)(header, body)
        for delay in self.network.arrivals(peer.index, target.index, len(header) + len(body), self.now):
            self.at(self.now + delay, self._deliver(peer, target, Received(peer.transport, frame)))

    def _deliver(self, sender: Peer, target: Peer, event: Received) -> Callable[[], None]:
        lives = (sender.life, target.life)

        def deliver() -> None:
            if target.life == lives[1] and target.node is not None:
                self._feed(target, event)

        return deliver

    def _set_timer(self, peer: Peer, timer: str, delay: float) -> None:
        generation = peer.timers.get(timer, 0) + 1
        peer.timers[timer] = generation
        life = peer.life

        def fire() -> None:
            if peer.life == life and peer.timers.get(timer) == generation:
                self._feed(peer, TimerFired(timer))

        self.at(self.now + delay, fire)

    def _run(self, peer: Peer, job: Job) -> None:
        """Compute now, answer when the virtual work is done: training takes the peer's period, the rest no time."""
        spread = self._period_jitter
        took = 0.0
        if isinstance(job, TrainJob):
            took = peer.period_s * self._rng.uniform(1 - spread, 1 + spread)
        self.at(self.now + took, self._finish(peer, peer.life, job))

    def _finish(self, peer: Peer, life: int, job: Job) -> Callable[[], None]:
        def finish() -> None:
            if peer.life != life or peer.node is None:
                return
            result = peer.worker(job)
            if isinstance(result, Advanced):
                peer.advances += 1
            if self.hooks.on_result is not None:
                self.hooks.on_result(peer, job, result)
            self._feed(peer, Finished(result))

        return finish

    # -- looking ------------------------------------------------------------------------------------------------

    def alive(self) -> list[Peer]:
        """Peers that are up."""
        return [peer for peer in self.peers if peer.node is not None]

    def heads(self) -> list[bytes]:
        """The newest leaf hash of every peer's ledger, in peer order: the fingerprint of a run."""
        return [peer.disk.log(peer.log_id).head for peer in self.peers]


def describe(worker: Worker) -> Described:
    """What a worker's task is; raises if it cannot say."""
    described = worker(DescribeJob())
    if not isinstance(described, Described):
        raise TypeError(f"the worker answered {described!r} to DescribeJob")
    return described
