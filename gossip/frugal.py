"""What a node does while its disk has no room: answer what needs no commit, and keep the rest for later.

Nothing is appended to the log meanwhile, so nothing is signed that might not be stored. Results of jobs that were
under way wait here, as many as jobs were; updates are refused at the transport and fetched again afterwards.
"""

from __future__ import annotations

from collections.abc import Callable

from quidnunc.crypto.errors import Reason, RemoteProtocolError
from quidnunc.gossip.events import Effect, Event, Finished, Received, Refuse, SetTimer, Started, TimerFired
from quidnunc.gossip.message import Fetch, Hello, Message, Newest, Prove, Unavailable, Want
from quidnunc.gossip.message_codec import parse_message
from quidnunc.gossip.neighbor import Neighbor
from quidnunc.gossip.publisher import Publisher
from quidnunc.gossip.recorder import Recorder
from quidnunc.gossip.settings import Settings

Serve = Callable[[Neighbor, Message, float], list[Effect]]


class Frugal:
    """Handles the events that would otherwise end in a commit; ``active`` while it must."""

    def __init__(
        self, federation: bytes, publisher: Publisher, recorder: Recorder, settings: Settings, serve: Serve
    ) -> None:
        self._federation = federation
        self._publisher = publisher
        self._recorder = recorder
        self._settings = settings
        self._serve = serve
        self._kept: list[Event] = []
        self.active = False

    def take_kept(self) -> list[Event]:
        """What was put off, in order, to be handled now."""
        kept, self._kept = self._kept, []
        return kept

    def handle(self, event: Event, neighbor: Neighbor | None, now: float) -> list[Effect]:
        """What must be done about an event that cannot be handled as usual; ``neighbor`` is a frame's sender."""
        match event:
            case Started() | Finished():
                self._kept.append(event)
            case TimerFired(timer):
                return [SetTimer(timer, self._settings.repair_retry_s)]
            case Received():
                return self._received(event, neighbor, now)
        return []

    def _received(self, event: Received, neighbor: Neighbor | None, now: float) -> list[Effect]:
        try:
            return self._answer(event, neighbor, now)
        except RemoteProtocolError as error:
            frame = event.frame
            sender = None if neighbor is None else neighbor.log_id
            size = len(frame.header) + len(frame.body)
            self._recorder.count_refusal(sender, error.reason, size, frame.digest())
            if neighbor is not None:
                neighbor.refuse(error.reason, now)
            return [Refuse(event.peer, error.reason)]

    def _answer(self, event: Received, neighbor: Neighbor | None, now: float) -> list[Effect]:
        """Serve what needs nothing of our disk; raises RemoteProtocolError."""
        if neighbor is None:
            raise RemoteProtocolError(Reason.STRANGER, f"frame from {event.peer.hex()[:16]}")
        if not neighbor.count_message(now, self._settings):
            raise RemoteProtocolError(Reason.RATE_LIMITED, f"too many messages of {neighbor.member.name}")
        message = parse_message(event.frame.header, self._federation)
        match message:
            case Hello():
                return [self._publisher.hello(event.peer, reply=False)] if message.reply else []
            case Want():
                return self._publisher.serve(neighbor, message, now)
            case Unavailable():
                return []
            case Newest() | Fetch() | Prove():
                return self._serve(neighbor, message, now)
            case _:
                return [Refuse(event.peer, Reason.RATE_LIMITED)]  # it is not to blame: no refusal is recorded
