"""The last run of a retired peer: it signs nothing, tells neighbors of the end, and shows how its log came there."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

import trio

from quidnunc.crypto.errors import Reason, RemoteProtocolError
from quidnunc.gossip.events import Frame
from quidnunc.gossip.federation.charter import Charter
from quidnunc.gossip.message import Consistency, Cosigned, Notice, Prove
from quidnunc.gossip.message_codec import frame, parse_message
from quidnunc.peer.ledger.ending import entry_notice
from quidnunc.peer.ledger.ledger_reader import LedgerReader
from quidnunc.peer.network.overlay_api import Overlay, SendFailed

if TYPE_CHECKING:
    from trio_typing import TaskStatus

log = logging.getLogger("quidnunc.peer")

GRACE_S = 2.0
"""How long to stay for neighbors that were told and have not cosigned the last checkpoint yet."""


class Farewell:
    """Tells every neighbor that connects. Implements the overlay's events.

    ``told`` and ``cosigned`` are the transport keys of those that have taken the notice, and of those that vouch for
    the end.
    """

    def __init__(self, charter: Charter, me: bytes, overlay: Overlay, ledger: LedgerReader) -> None:
        self._federation = charter.federation_id
        self._overlay = overlay
        self._ledger = ledger
        self._notice = frame(Notice(self._federation, entry_notice(ledger, ledger.size - 1)))
        self._neighbors = {member.transport for member in charter.neighbors(me)}
        self._nursery: trio.Nursery | None = None
        self._changed = trio.Event()
        self.told: set[bytes] = set()
        self.cosigned: set[bytes] = set()

    async def run(self, patience_s: float) -> None:
        """Serve until all neighbors are told and have had a moment to cosign, at most ``patience_s`` seconds."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            await nursery.start(self._serve)
            with trio.move_on_after(patience_s):
                await self._until(lambda: self.told >= self._neighbors)
                with trio.move_on_after(GRACE_S):
                    await self._until(lambda: self.cosigned >= self._neighbors)
            nursery.cancel_scope.cancel()

    async def _serve(self, *, task_status: TaskStatus[list[str]] = trio.TASK_STATUS_IGNORED) -> None:
        await self._overlay.serve(self, task_status=task_status)

    async def _until(self, reached: Callable[[], bool]) -> None:
        while not reached():
            await self._changed.wait()

    def _note(self, who: set[bytes], peer: bytes) -> None:
        who.add(peer)
        self._changed.set()
        self._changed = trio.Event()

    async def peer_up(self, peer: bytes) -> None:
        assert self._nursery is not None
        self._nursery.start_soon(self._tell, peer)

    async def peer_down(self, peer: bytes) -> None:
        """It is told again when it comes back, if it was not."""

    async def _tell(self, peer: bytes) -> None:
        if peer not in self.told and await self._send(peer, self._notice):
            self._note(self.told, peer)

    async def _send(self, peer: bytes, message: Frame) -> bool:
        try:
            await self._overlay.send(peer, message)
        except SendFailed as failed:
            log.info("%s", failed)
            return False
        return True

    async def received(self, peer: bytes, message: Frame) -> Reason | None:
        """Answer how the log grew, take note of a cosignature; all else is of no use any more."""
        try:
            parsed = parse_message(message.header, self._federation)
        except RemoteProtocolError as error:
            return error.reason
        if isinstance(parsed, Cosigned):
            self._note(self.cosigned, peer)
        elif isinstance(parsed, Prove) and parsed.new <= self._ledger.size:
            assert self._nursery is not None
            self._nursery.start_soon(self._send, peer, frame(self._growth(parsed)))
        return None

    def _growth(self, asked: Prove) -> Consistency:
        tree = self._ledger.tree()
        path = tuple(tree.consistency(asked.old, asked.new))
        return Consistency(self._federation, asked.old, asked.new, tree.root(asked.old), path)
