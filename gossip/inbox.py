"""Frames of other peers: what is checked before one is read, which part answers it, and what a bad one leads to.

This is the only place where the error of a remote peer is caught while a node may sign; it becomes an entry in the
ledger. Nothing that comes over the network gets past it.
"""

from __future__ import annotations

from collections.abc import Mapping

from quidnunc.crypto.errors import Reason, RemoteProtocolError
from quidnunc.gossip.events import Effect, Received, Refuse, Report, SetTimer
from quidnunc.gossip.federation.charter import Charter
from quidnunc.gossip.logs import Logs
from quidnunc.gossip.message import (
    Consistency,
    Cosigned,
    Entries,
    Fetch,
    Heads,
    Hello,
    Known,
    Newest,
    Notice,
    Proof,
    Prove,
    Recall,
    Recalled,
    Snapshot,
    Unavailable,
    Update,
    Vouch,
    Vouched,
    Want,
)
from quidnunc.gossip.message_codec import parse_message
from quidnunc.gossip.neighbor import Neighbor
from quidnunc.gossip.publisher import Publisher, committed
from quidnunc.gossip.recall import RecallDesk
from quidnunc.gossip.recorder import Recorder
from quidnunc.gossip.rejoin import Rejoin
from quidnunc.gossip.replicas import Replicas
from quidnunc.gossip.rounds import ROUND_TIMER, Rounds
from quidnunc.gossip.settings import Settings


class Inbox:
    """Hands every frame to the part it is for, or refuses it."""

    def __init__(
        self,
        charter: Charter,
        by_transport: Mapping[bytes, Neighbor],
        recorder: Recorder,
        settings: Settings,
        logs: Logs,
        replicas: Replicas,
        publisher: Publisher,
        rounds: Rounds,
        recalls: RecallDesk,
        rejoin: Rejoin,
    ) -> None:
        self._charter = charter
        self._by_transport = by_transport
        self._recorder = recorder
        self._settings = settings
        self._logs = logs
        self._replicas = replicas
        self._publisher = publisher
        self._rounds = rounds
        self._recalls = recalls
        self._rejoin = rejoin

    def receive(self, event: Received, now: float) -> list[Effect]:
        """What must be done about a frame; never raises for what a peer has sent."""
        neighbor = self._by_transport.get(event.peer)
        try:
            return self._recorder.evidence_first(self._dispatch(self._admit(neighbor, event, now), event, now))
        except RemoteProtocolError as error:
            return self._refuse(neighbor, event, error, now)

    def _admit(self, neighbor: Neighbor | None, event: Received, now: float) -> Neighbor:
        """The neighbor whose frame may be read; raises RemoteProtocolError."""
        body = event.frame.body
        if len(body) > self._charter.payload_bytes:
            raise RemoteProtocolError(
                Reason.TOO_LARGE,
                f"frame: {len(body)} payload bytes, limit is {self._charter.payload_bytes} "
                "(the charter's payload_bytes)",
            )
        if neighbor is None:
            known = self._charter.by_transport(event.peer) is not None
            reason = Reason.NOT_NEIGHBOR if known else Reason.STRANGER
            raise RemoteProtocolError(reason, f"frame from {event.peer.hex()[:16]}")
        if not neighbor.count_message(now, self._settings):
            raise RemoteProtocolError(
                Reason.RATE_LIMITED,
                f"{neighbor.member.name}: message {neighbor.messages} within {self._settings.window_s:g} s, "
                f"limit is {self._settings.messages_per_window} (messages_per_window)",
            )
        return neighbor

    def _dispatch(self, neighbor: Neighbor, event: Received, now: float) -> list[Effect]:
        frame, logs, recalls = event.frame, self._logs, self._recalls
        message = parse_message(frame.header, self._charter.federation_id)
        match message:
            case Update():
                out = self._replicas.on_update(neighbor, message, frame, now)
            case Snapshot():
                out = self._replicas.on_snapshot(neighbor, message, frame, now)
            case Hello():
                out = self._hello(neighbor, message, now)
            case Want():
                out = self._publisher.serve(neighbor, message, now)
            case Unavailable():
                # What else it cannot serve now is asked for again when its time comes.
                out = recalls.settle(recalls.on_unavailable(neighbor))
            case Recall():
                out = recalls.serve(neighbor, message, now)
            case Recalled():
                out = recalls.settle(recalls.on_recalled(neighbor, message, frame))
            case Heads():
                out = logs.ahead(logs.witnesses.on_heads(neighbor, message, now))
            case Consistency():
                out = logs.witnesses.on_consistency(neighbor, message, now)
            case Cosigned(note=note):
                logs.cosignatures.on_cosigned(neighbor.member, note, now)
                out = logs.ahead([])
            case Vouch():
                out = logs.ahead(logs.vouching.on_vouch(neighbor, message, now))
            case Vouched():
                out = logs.ahead(logs.vouching.on_vouched(neighbor, message, now))
            case Proof(proof=proof):
                out = logs.exposure.on_proof(proof, now, neighbor)
            case Notice(token=token):
                out = self._wake(logs.notices.on_notice(token, now, neighbor))
            case Newest() | Fetch() | Prove():
                out = logs.serve(neighbor, message, now)
            case Known():
                out = logs.ahead(self._rejoin.on_known(neighbor, message, now))
            case Entries():
                out = logs.on_entries(neighbor, message, now)
        return out

    def _hello(self, neighbor: Neighbor, message: Hello, now: float) -> list[Effect]:
        out: list[Effect] = []
        if message.token:
            out += self._replicas.on_claim(neighbor, message.token, now)
        self._replicas.greet(neighbor, now)
        if message.reply:
            out += self._logs.notices.tell(neighbor.member.transport)
            out.append(self._publisher.hello(neighbor.member.transport, reply=False))
        return self._wake(out)

    def _wake(self, out: list[Effect]) -> list[Effect]:
        """Look again at a turn that is held back: what it waits for may have come, or never will."""
        return [*out, SetTimer(ROUND_TIMER, 0.0)] if self._rounds.blocked else out

    def _refuse(
        self, neighbor: Neighbor | None, event: Received, error: RemoteProtocolError, now: float
    ) -> list[Effect]:
        frame = event.frame
        member = self._charter.by_transport(event.peer)
        sender = None if member is None else member.log_id
        size = len(frame.header) + len(frame.body)
        recorded = self._recorder.refuse(sender, error.reason, size, frame.digest(), now)
        out: list[Effect] = [Refuse(event.peer, error.reason)]
        if recorded:
            out = [*committed(self._recorder.flush()), *out, Report("refused", error.message)]
        if neighbor is not None:
            neighbor.refuse(error.reason, now)
            if error.reason is Reason.BAD_SIGNATURE:
                # It may know a log key that we do not: its answer begins with all notices it has.
                out += self._rounds.poll([neighbor], now)
        return out
