"""What a node does while it may sign nothing: before neighbors have said what they know of its log, and after a fork.

It answers what needs no signature, so that peers that start together do not wait for each other, takes the answers to
its own question, and keeps what must be handled once it may go on. Updates that come meanwhile are asked for again.
"""

from __future__ import annotations

from quidnunc.crypto.errors import RemoteProtocolError
from quidnunc.gossip.events import (
    Effect,
    Event,
    PeerDown,
    PeerUp,
    Rebuild,
    Received,
    Refuse,
    Started,
    Storage,
    TimerFired,
)
from quidnunc.gossip.logs import Logs
from quidnunc.gossip.message import Entries, Known, Message, Notice, Proof
from quidnunc.gossip.message_codec import parse_message
from quidnunc.gossip.neighbor import Neighbor
from quidnunc.gossip.recorder import Recorder
from quidnunc.gossip.rejoin import REJOIN_TIMER, Rejoin
from quidnunc.gossip.settings import Settings

PROOFS_KEPT = 16
"""Proofs and notices of other logs that wait until they may be recorded; further ones come again."""


class Lobby:
    """Handles all events while nothing may be signed; ``left`` once another node has taken this one's place."""

    def __init__(
        self,
        federation: bytes,
        me: bytes,
        rejoin: Rejoin,
        logs: Logs,
        recorder: Recorder,
        settings: Settings,
    ) -> None:
        self._federation = federation
        self._me = me
        self._rejoin = rejoin
        self._logs = logs
        self._recorder = recorder
        self._settings = settings
        self._kept: list[Event] = []
        self._proofs: list[Event] = []
        self.left = False

    @property
    def stopped(self) -> bool:
        """Whether this key has signed, or would sign, a second history: nothing is signed any more."""
        return bool(self._logs.exposure.exposed or self._logs.cosignatures.ahead)

    def take(self) -> tuple[list[Event], list[Event]]:
        """What was put off: what a start begins with, and what comes once all that are connected are known."""
        kept, proofs = self._kept, self._proofs
        self._kept, self._proofs = [], []
        return kept, proofs

    def handle(self, event: Event, neighbor: Neighbor | None, now: float) -> list[Effect]:
        """What must be done about an event; ``neighbor`` is whom a frame or a connection is of."""
        if self.left:
            return []
        if self.stopped:
            return self._received(event, neighbor, now) if isinstance(event, Received) else []
        out: list[Effect] = []
        match event:
            case Started():
                self._kept.append(event)
                out = self._rejoin.start(now)
            case Storage():  # only how it is now counts; whoever starts must know it first
                self._kept = [event, *(each for each in self._kept if not isinstance(each, Storage))]
            case PeerUp() if neighbor is not None:
                neighbor.link(True, now)
                out = self._rejoin.ask(neighbor)
            case PeerDown() if neighbor is not None:
                neighbor.link(False, now)
            case TimerFired(timer) if timer == REJOIN_TIMER:
                out = self._rejoin.tick(now)
            case Received():
                out = self._received(event, neighbor, now)
        self.left = any(isinstance(effect, Rebuild) for effect in out)
        return self._logs.ahead(out)

    def _received(self, event: Received, neighbor: Neighbor | None, now: float) -> list[Effect]:
        frame = event.frame
        try:
            if neighbor is None or not neighbor.count_message(now, self._settings):
                return []
            return self._dispatch(neighbor, parse_message(frame.header, self._federation), event, now)
        except RemoteProtocolError as error:
            size = len(frame.header) + len(frame.body)
            sender = None if neighbor is None else neighbor.log_id
            self._recorder.count_refusal(sender, error.reason, size, frame.digest())
            if neighbor is not None:
                neighbor.refuse(error.reason, now)
            return [Refuse(event.peer, error.reason)]

    def _dispatch(self, neighbor: Neighbor, message: Message, event: Received, now: float) -> list[Effect]:
        match message:
            case Known() if not self.stopped:
                return self._rejoin.on_known(neighbor, message, now)
            case Entries(log_id=log_id) if log_id == self._me and not self.stopped:
                return self._rejoin.on_entries(neighbor, message, now)
            case Entries(log_id=log_id) if log_id == neighbor.log_id:
                return self._logs.mirrors.on_entries(neighbor, message, now)
            case Proof(proof=proof) if not self.stopped:
                if self._logs.exposure.is_about_us(proof):
                    return self._logs.exposure.on_proof(proof, now, neighbor)
                return self._put_off(event)
            case Notice(token=token) if not self.stopped:
                if not self._logs.notices.is_about_us(token):
                    return self._put_off(event)
                head = self._logs.notices.take_own(token) if self._rejoin.can_follow else None
                if head is not None:
                    return self._rejoin.on_own_head(neighbor, head, now)
                return self._logs.notices.on_notice(token, now, neighbor)
        return self._logs.serve(neighbor, message, now)

    def _put_off(self, event: Event) -> list[Effect]:
        if len(self._proofs) < PROOFS_KEPT:
            self._proofs.append(event)
        return []
