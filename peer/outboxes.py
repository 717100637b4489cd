"""What waits to be sent: a queue per peer, best effort, in which the oldest frame gives way."""

from __future__ import annotations

import logging
from collections import deque
from dataclasses import dataclass, field

import trio

from quidnunc.gossip.events import Frame
from quidnunc.peer.bodies import Bodies
from quidnunc.peer.clock import Clock
from quidnunc.peer.health import Backlog
from quidnunc.peer.network.overlay_api import Overlay, SendFailed

log = logging.getLogger("quidnunc.peer")

SEND_QUEUE = 64


@dataclass(slots=True)
class Outbox:
    """Frames waiting for one peer, each with the name of the blob that is its body, or nothing."""

    queue: deque[tuple[Frame, bytes]] = field(default_factory=deque)
    wake: trio.Event = field(default_factory=trio.Event)
    sending: bool = False
    sending_since: float = 0.0
    dropped: int = 0
    dropped_at: float | None = None

    @property
    def busy(self) -> bool:
        """Whether something is on its way or waits for it."""
        return self.sending or bool(self.queue)


class Outboxes:
    """Sends frames through an overlay, one at a time to each peer, whoever else is slow."""

    def __init__(self, overlay: Overlay, bodies: Bodies, clock: Clock) -> None:
        self.dropped = 0
        """Frames that gave way to newer ones."""
        self._overlay = overlay
        self._bodies = bodies
        self._clock = clock
        self._boxes: dict[bytes, Outbox] = {}
        self._sent = trio.Event()
        self._nursery: trio.Nursery | None = None

    def open(self, nursery: trio.Nursery) -> None:
        """From here on what is put in is sent, by tasks of ``nursery``."""
        self._nursery = nursery

    def put(self, peer: bytes, frame: Frame, body_blob: bytes) -> None:
        """Queue ``frame`` for ``peer``, with the blob of that name as its body unless the name is empty."""
        outbox = self._boxes.get(peer)
        if outbox is None:
            outbox = self._boxes[peer] = Outbox()
            assert self._nursery is not None
            self._nursery.start_soon(self._run, peer, outbox)
        if len(outbox.queue) >= SEND_QUEUE:
            outbox.queue.popleft()
            self.dropped += 1
            outbox.dropped += 1
            outbox.dropped_at = self._clock.now()
        outbox.queue.append((frame, body_blob))
        outbox.wake.set()

    async def emptied(self) -> None:
        """Wait until nothing is queued or on its way."""
        while any(outbox.busy for outbox in self._boxes.values()):
            await self._sent.wait()

    def of(self, peer: bytes) -> Outbox:
        """The outbox of a peer that something was sent to."""
        return self._boxes[peer]

    def backlogs(self) -> dict[bytes, Backlog]:
        """What waits to be sent, by peer."""
        now = self._clock.now()
        return {
            peer: Backlog(
                waiting=len(outbox.queue),
                under_way_s=now - outbox.sending_since if outbox.sending else 0.0,
                dropped=outbox.dropped,
                dropped_at=outbox.dropped_at,
            )
            for peer, outbox in self._boxes.items()
        }

    async def _run(self, peer: bytes, outbox: Outbox) -> None:
        while True:
            while outbox.queue:
                outbox.sending, outbox.sending_since = True, self._clock.now()
                await self._send(peer, *outbox.queue.popleft())
                outbox.sending = False
            self._sent.set()
            self._sent = trio.Event()
            outbox.wake = trio.Event()
            await outbox.wake.wait()

    async def _send(self, peer: bytes, frame: Frame, body_blob: bytes) -> None:
        """Send a frame, or drop it when that cannot work."""
        if peer not in self._overlay.connected():
            return
        if body_blob:
            async with self._bodies.lend(body_blob) as body:
                if body is None:
                    log.warning("blob %s is gone; the neighbor will ask for a snapshot", body_blob.hex()[:12])
                    return
                await self._send_whole(peer, Frame(frame.header, body, body_blob))
        else:
            await self._send_whole(peer, frame)

    async def _send_whole(self, peer: bytes, frame: Frame) -> None:
        try:
            await self._overlay.send(peer, frame)
        except SendFailed as failed:
            log.info("%s", failed)
