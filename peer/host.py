"""The host of one node: it feeds the node events and performs the effects, in order, under trio.

One task owns the node. A commit is durable before anything that follows it is performed; an error of the store stops
the host. Light jobs (advancing a replica) run in a worker thread of this process, so that they never wait behind a
training; heavy ones in the compute process. Sends are queued per peer and best effort: the protocol repairs loss.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import trio

from quidnunc.crypto.errors import Reason, StoreError
from quidnunc.gossip.advance import advance
from quidnunc.gossip.blobs import Blobs
from quidnunc.gossip.events import (
    Commit,
    Effect,
    Event,
    Finished,
    Forget,
    Frame,
    Paused,
    PeerDown,
    PeerUp,
    Received,
    Refuse,
    Report,
    Run,
    Send,
    SetTimer,
    Started,
    Stopping,
    StoreBlob,
    TimerFired,
)
from quidnunc.gossip.jobs import AdoptJob, AdvanceJob, Job, Result
from quidnunc.gossip.node import Node
from quidnunc.peer.clock import Clock
from quidnunc.peer.overlay_api import Overlay, SendFailed
from quidnunc.peer.store import Store

if TYPE_CHECKING:
    from trio_typing import TaskStatus

log = logging.getLogger("quidnunc.peer")

EVENT_QUEUE = 256
SEND_QUEUE = 64
REPORTS_KEPT = 100


class Computer(Protocol):
    """What runs heavy jobs; answers every job, with JobFailed at worst."""

    async def run(self, job: Job) -> Result: ...


@dataclass(slots=True)
class _Pending:
    """An event on its way to the node, and where its judgment goes."""

    event: Event
    done: trio.Event | None = None
    refused: Reason | None = None


@dataclass(slots=True)
class _Outbox:
    """Frames waiting for one peer; the oldest gives way when it is full."""

    queue: deque[tuple[Frame, bytes]] = field(default_factory=deque)
    wake: trio.Event = field(default_factory=trio.Event)


class Host:
    """Runs one node until it is told to stop. Implements the overlay's events."""

    def __init__(
        self, node: Node, store: Store, blobs: Blobs, overlay: Overlay, computer: Computer, clock: Clock
    ) -> None:
        self.node = node
        self.clock = clock
        self.overlay = overlay
        self.reports: deque[tuple[float, Report]] = deque(maxlen=REPORTS_KEPT)
        self.dropped_sends = 0
        self._store = store
        self._blobs = blobs
        self._computer = computer
        self._send_events, self._events = trio.open_memory_channel[_Pending](EVENT_QUEUE)
        self._send_heavy, self._heavy = trio.open_memory_channel[Job](float("inf"))
        self._send_light, self._light = trio.open_memory_channel[Job](float("inf"))
        self._outboxes: dict[bytes, _Outbox] = {}
        self._timers: dict[str, float] = {}
        self._timer_changed = trio.Event()
        self._one_writer = trio.CapacityLimiter(1)
        self._nursery: trio.Nursery | None = None
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
            self._nursery = nursery
            nursery.start_soon(self._run_jobs, self._heavy, self._computer.run)
            nursery.start_soon(self._run_jobs, self._light, self._run_light)
            nursery.start_soon(self._run_timers)
            nursery.start_soon(self._run_events)
            await self.feed(Started())
            addresses = await nursery.start(self.overlay.serve, self)
            task_status.started(addresses)
            await stop.wait()
            with trio.move_on_after(10):
                await self.feed(Stopping())
            nursery.cancel_scope.cancel()

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
            try:
                for effect in self.node.handle(pending.event, self.clock.now()):
                    await self._perform(effect, pending)
            finally:
                if pending.done is not None:
                    pending.done.set()

    async def _perform(self, effect: Effect, pending: _Pending) -> None:
        match effect:
            case Commit(entries, note, tokens):
                await self._in_writer(lambda: self._store.commit(entries, note, tokens))
            case StoreBlob(data):
                await self._in_writer(lambda: self._blobs.put(data))
            case Forget(names):
                await self._in_writer(lambda: self._forget(names))
            case Send(peer, frame, body_blob):
                self._enqueue(peer, frame, body_blob)
            case SetTimer(timer, delay):
                self._timers[timer] = self.clock.now() + delay
                self._timer_changed.set()
            case Run(job):
                light = isinstance(job, AdvanceJob | AdoptJob)
                (self._send_light if light else self._send_heavy).send_nowait(job)
            case Refuse(_, reason):
                pending.refused = reason
            case Report(kind, text):
                self.reports.append((self.clock.now(), effect))
                log.warning("%s: %s", kind, text)

    def _forget(self, names: tuple[bytes, ...]) -> None:
        for name in names:
            self._blobs.discard(name)

    async def _in_writer(self, action: Callable[[], object]) -> None:
        await trio.to_thread.run_sync(action, limiter=self._one_writer)

    async def _run_jobs(self, jobs: trio.MemoryReceiveChannel[Job], run: Callable[[Job], Awaitable[Result]]) -> None:
        async for job in jobs:
            result = await run(job)
            await self._send_events.send(_Pending(Finished(result)))

    async def _run_light(self, job: Job) -> Result:
        dim, codec = self.node.charter.task.dim, self.node.charter.codec
        return await trio.to_thread.run_sync(advance, job, self._blobs, dim, codec)

    async def _run_timers(self) -> None:
        while True:
            self._timer_changed = trio.Event()
            now = self.clock.now()
            for timer, due in sorted(self._timers.items(), key=lambda item: item[1]):
                if due <= now:
                    del self._timers[timer]
                    await self._send_events.send(_Pending(TimerFired(timer)))
            next_due = min(self._timers.values(), default=float("inf"))
            with trio.move_on_after(max(0.0, next_due - self.clock.now())):
                await self._timer_changed.wait()

    # -- sending ------------------------------------------------------------------------------------------------

    def _enqueue(self, peer: bytes, frame: Frame, body_blob: bytes) -> None:
        outbox = self._outboxes.get(peer)
        if outbox is None:
            outbox = self._outboxes[peer] = _Outbox()
            assert self._nursery is not None
            self._nursery.start_soon(self._run_outbox, peer, outbox)
        if len(outbox.queue) >= SEND_QUEUE:
            outbox.queue.popleft()
            self.dropped_sends += 1
        outbox.queue.append((frame, body_blob))
        outbox.wake.set()

    async def _run_outbox(self, peer: bytes, outbox: _Outbox) -> None:
        while True:
            if not outbox.queue:
                outbox.wake = trio.Event()
                await outbox.wake.wait()
            frame, body_blob = outbox.queue.popleft()
            if peer not in self.overlay.connected():
                continue
            if body_blob:
                try:
                    body = await trio.to_thread.run_sync(self._blobs.get, body_blob)
                except StoreError as error:
                    log.warning("blob %s cannot be read: %s", body_blob.hex()[:12], error)
                    continue
                if body is None:
                    log.warning("blob %s is gone; the neighbor will ask for a snapshot", body_blob.hex()[:12])
                    continue
                frame = Frame(frame.header, body)
            try:
                await self.overlay.send(peer, frame)
            except SendFailed as failed:
                log.info("%s", failed)
