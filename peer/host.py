"""The host of one node: it feeds the node events and performs the effects, in order, under trio.

One task owns the node. A commit is durable before anything that follows it is performed; an error of the store stops
the host. All jobs run in the compute process, where light ones (advancing a replica) never wait behind heavy ones, such
as a training.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import trio

from quidnunc.crypto.entry import Entry
from quidnunc.crypto.errors import Reason
from quidnunc.crypto.fork_build import fork_of_kept
from quidnunc.crypto.fork_proof import ForkProof
from quidnunc.gossip.blobs import Blobs
from quidnunc.gossip.events import (
    Commit,
    Compare,
    Compared,
    Effect,
    Event,
    Finished,
    Forget,
    Frame,
    Mirror,
    Paused,
    PeerDown,
    PeerUp,
    Rebuild,
    Received,
    Refuse,
    Report,
    Rest,
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
from quidnunc.gossip.jobs import AdoptJob, AdvanceJob, Job, Result
from quidnunc.gossip.journal.recording import Recording, set_paused
from quidnunc.gossip.message_codec import entries_frame
from quidnunc.gossip.node import Node
from quidnunc.peer.bodies import Bodies
from quidnunc.peer.clock import Clock
from quidnunc.peer.ledger.mirror import MirrorStore
from quidnunc.peer.ledger.store import Store
from quidnunc.peer.network.overlay_api import Overlay
from quidnunc.peer.outboxes import Outboxes

if TYPE_CHECKING:
    from trio_typing import TaskStatus

log = logging.getLogger("quidnunc.peer")

EVENT_QUEUE = 256
REPORTS_KEPT = 100
TURN_GRACE_S = 8.0
"""How long an orderly stop waits for the turn that runs."""
SEND_GRACE_S = 1.0
"""How long it then waits for what is queued to be sent; the protocol repairs the rest."""
SUPPLY_ROWS = 256
"""Own entries read at once for a neighbor that keeps them; it asks for the rest."""


class Computer(Protocol):
    """What runs jobs; answers every job, with JobFailed at worst, unless the disk fails (StoreUnwritable)."""

    async def run(self, job: Job) -> Result:
        """Do a heavy job, after those before it."""

    async def advance(self, job: AdvanceJob | AdoptJob) -> Result:
        """Do a light job, whatever else is being done; one call at a time."""


@dataclass(slots=True)
class _Pending:
    """An event on its way to the node, and where its judgment goes."""

    event: Event
    done: trio.Event | None = None
    refused: Reason | None = None


class Host:
    """Runs one node until it is told to stop. Implements the overlay's events."""

    def __init__(
        self,
        node: Node,
        store: Store,
        blobs: Blobs,
        overlay: Overlay,
        computer: Computer,
        clock: Clock,
        mirrors: MirrorStore,
        rebuild: Callable[[], Node],
        recording: Recording | None = None,
    ) -> None:
        """``rebuild`` makes a new node from what is durable, for one that has taken entries back from neighbors.

        ``recording`` takes down what every node is told.
        """
        self.node = node
        self.clock = clock
        self.overlay = overlay
        self.reports: deque[tuple[float, Report]] = deque(maxlen=REPORTS_KEPT)
        self.outboxes = Outboxes(overlay, Bodies(blobs), clock)
        self.durable = (store.size, store.root)
        """Size and Merkle root of the ledger as last committed."""
        self._store = store
        self._blobs = blobs
        self._mirrors = mirrors
        self._rebuild = rebuild
        self._recording = recording
        self._computer = computer
        self._send_events, self._events = trio.open_memory_channel[_Pending](EVENT_QUEUE)
        self._send_heavy, self._heavy = trio.open_memory_channel[Job](float("inf"))
        self._send_light, self._light = trio.open_memory_channel[AdvanceJob | AdoptJob | Compare](float("inf"))
        self._timers: dict[str, float] = {}
        self._timer_changed = trio.Event()
        self._heavy_left = 0
        self._draining = False
        self._heavy_done = trio.Event()
        self._one_writer = trio.CapacityLimiter(1)
        self.reported: Callable[[], None] = lambda: None
        """Called after every report, so that trouble of a moment is seen as well."""
        self.stopped = trio.Event()

    # -- running ------------------------------------------------------------------------------------------------

    async def run(
        self,
        stop: trio.Event,
        *,
        task_status: TaskStatus[list[str]] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Serve until ``stop`` is set; reports the bound addresses once everything runs."""
        try:
            await self._serve(stop, task_status)
        finally:
            self.stopped.set()

    async def _serve(self, stop: trio.Event, task_status: TaskStatus[list[str]]) -> None:
        async with trio.open_nursery() as nursery:
            self.outboxes.open(nursery)
            nursery.start_soon(self._run_heavy)
            nursery.start_soon(self._run_light)
            nursery.start_soon(self._run_timers)
            nursery.start_soon(self._run_events)
            await self.feed(Started())
            addresses = await nursery.start(self.overlay.serve, self)
            task_status.started(addresses)
            await stop.wait()
            await self._drain()
            await self.feed(Stopping())
            await self._empty_outboxes()
            nursery.cancel_scope.cancel()

    async def _drain(self) -> None:
        """Start no turn any more, but let the one that runs be published and sent: its privacy is spent."""
        self._draining = True
        self._timer_changed.set()
        with trio.move_on_after(TURN_GRACE_S):
            while self._heavy_left:
                await self._heavy_done.wait()
        await self._empty_outboxes()

    async def _empty_outboxes(self) -> None:
        with trio.move_on_after(SEND_GRACE_S):
            await self.outboxes.emptied()

    async def feed(self, event: Event) -> Reason | None:
        """Have the node handle an event; returns once its effects are performed, with the refusal if there was one."""
        pending = _Pending(event, trio.Event())
        await self._send_events.send(pending)
        assert pending.done is not None
        await pending.done.wait()
        return pending.refused

    async def pause(self, paused: bool) -> None:
        """Stop or resume local training."""
        await self.feed(Paused(paused))

    # -- the overlay's events -----------------------------------------------------------------------------------

    async def peer_up(self, peer: bytes) -> None:
        await self.feed(PeerUp(peer))

    async def peer_down(self, peer: bytes) -> None:
        await self.feed(PeerDown(peer))

    async def received(self, peer: bytes, frame: Frame) -> Reason | None:
        return await self.feed(Received(peer, frame))

    # -- tasks --------------------------------------------------------------------------------------------------

    async def _run_events(self) -> None:
        async for pending in self._events:
            # An error here ends the host and everybody who waits: nobody is told that what failed was done.
            for effect in self._handle(pending.event):
                await self._perform(effect, pending)
            if pending.done is not None:
                pending.done.set()
            if isinstance(pending.event, Stopping):
                return

    def _handle(self, event: Event) -> list[Effect]:
        if self._recording is not None:
            return self._recording.handle(self.node, event, self.clock.now())
        return self.node.handle(event, self.clock.now())

    async def _perform(self, effect: Effect, pending: _Pending) -> None:
        match effect:
            case Commit(entries, note, tokens, proofs, cosigned, earlier):
                await self._in_writer(lambda: self._store.commit(entries, note, tokens, proofs, cosigned, earlier))
                self.durable = (self._store.size, self._store.root)
            case Witness(log_id, size, root, seen):
                await self._in_writer(lambda: self._store.witness(log_id, size, root, seen))
            case Mirror(log_id, first, kept):
                await self._in_writer(lambda: self._mirrors.keep(log_id, first, kept))
            case Supply(peer, log_id, first, last):
                await self._supply(peer, log_id, first, last)
            case Compare():
                self._send_light.send_nowait(effect)
            case Rebuild():
                await self._replace_node(pending)
            case StoreBlob(data):
                await self._in_writer(lambda: self._blobs.put(data))
            case Forget(names):
                await self._in_writer(lambda: self._forget(names))
            case Send(peer, frame, body_blob):
                self.outboxes.put(peer, frame, body_blob)
            case SetTimer(timer, delay):
                self._timers[timer] = self.clock.now() + delay
                self._timer_changed.set()
            case Run(job) if isinstance(job, AdvanceJob | AdoptJob):
                self._send_light.send_nowait(job)
            case Run(job):
                self._heavy_left += 1
                self._send_heavy.send_nowait(job)
            case Rest(peer):
                self.overlay.rest(peer)
            case Refuse(_, reason):
                pending.refused = reason
            case Report(kind, text):
                self.reports.append((self.clock.now(), effect))
                self.reported()
                log.warning("%s: %s", kind, text)

    async def _supply(self, peer: bytes, log_id: bytes, first: int, last: int) -> None:
        """Send a peer entries of the own log, or of its own as they are kept here."""
        own = self.node.own.log_id

        def read() -> list[Entry]:
            if log_id == own:
                return list(self._store.entries(first, min(last, first + SUPPLY_ROWS)))
            return self._mirrors.read(log_id, first, last)

        entries = await trio.to_thread.run_sync(read, limiter=self._one_writer)
        made, _ = entries_frame(self.node.charter.federation_id, log_id, first, entries)
        self.outboxes.put(peer, made, b"")

    async def _replace_node(self, pending: _Pending) -> None:
        """The node has brought the ledger up to date: another takes its place, as at a start."""
        paused = self.node.rounds.paused
        self.node = await trio.to_thread.run_sync(self._rebuild)
        set_paused(self.node, paused, self._recording)
        self._timers.clear()
        events: list[Event] = [Started(), *(PeerUp(peer) for peer in sorted(self.overlay.connected()))]
        for event in events:
            for effect in self._handle(event):
                await self._perform(effect, pending)

    def _forget(self, names: tuple[bytes, ...]) -> None:
        for name in names:
            self._blobs.discard(name)

    async def _in_writer(self, action: Callable[[], object]) -> None:
        await trio.to_thread.run_sync(action, limiter=self._one_writer)

    async def _run_heavy(self) -> None:
        async for job in self._heavy:
            await self.feed(Finished(await self._computer.run(job)))
            self._heavy_left -= 1
            self._heavy_done.set()
            self._heavy_done = trio.Event()

    async def _run_light(self) -> None:
        async for job in self._light:
            if isinstance(job, Compare):
                await self.feed(Compared(await trio.to_thread.run_sync(self._compare, job)))
            else:
                await self.feed(Finished(await self._computer.advance(job)))

    def _compare(self, asked: Compare) -> ForkProof | None:
        """Hold checkpoints of another log against what is kept of it."""
        return fork_of_kept(asked.notes, self._mirrors.headers(asked.log_id))

    async def _run_timers(self) -> None:
        while not self._draining:
            self._timer_changed = trio.Event()
            timer, due = min(self._timers.items(), key=lambda item: item[1], default=("", float("inf")))
            left = due - self.clock.now()
            if left <= 0:
                del self._timers[timer]
                await self.feed(TimerFired(timer))
                continue
            with trio.move_on_after(left):
                await self._timer_changed.wait()
