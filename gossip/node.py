"""The state machine of one peer: ``handle(event, now)`` is the only way in, the list of effects the only way out.

Rule 1: this file does not know whether it runs in a daemon or in a simulator. Rule 2: bytes of another peer can never
make ``handle`` raise; parsers raise RemoteProtocolError, and it is caught in exactly one place, :meth:`Node._received`,
where it becomes an entry in the ledger. What else raises is a bug of ours or a lie of our own disk.

Time and randomness are arguments: ``now`` is in seconds on a clock that never runs backwards, ``entropy`` gives salts.
"""

from __future__ import annotations

from collections.abc import Iterable

from quidnunc.crypto.entry import EntryType
from quidnunc.crypto.errors import LocalProtocolError, Reason, RemoteProtocolError
from quidnunc.crypto.log import Log
from quidnunc.gossip import rebuild
from quidnunc.gossip.events import (
    Compared,
    Effect,
    Event,
    Finished,
    Forget,
    Mirror,
    Paused,
    PeerDown,
    PeerUp,
    Received,
    Refuse,
    Report,
    SetTimer,
    Started,
    Stopping,
    Storage,
    TimerFired,
)
from quidnunc.gossip.evidence import Evidence
from quidnunc.gossip.exposure import Exposure
from quidnunc.gossip.federation.charter import Charter
from quidnunc.gossip.frugal import Frugal
from quidnunc.gossip.jobs import (
    Adopted,
    Advanced,
    Described,
    Evaluated,
    JobFailed,
    Merged,
    Rejected,
    Result,
    Trained,
    Unit,
)
from quidnunc.gossip.keybook import Keybook, own_changes
from quidnunc.gossip.lobby import Lobby
from quidnunc.gossip.message import (
    Consistency,
    Cosigned,
    Entries,
    Fetch,
    Heads,
    Hello,
    Known,
    Message,
    Newest,
    Notice,
    Proof,
    Prove,
    Recall,
    Recalled,
    SignedUpdate,
    Snapshot,
    Unavailable,
    Update,
    Vouch,
    Vouched,
    Want,
    parse_message,
)
from quidnunc.gossip.mirrors import Mirrors, check_note
from quidnunc.gossip.neighbor import Neighbor, is_live
from quidnunc.gossip.notices import Notices, load_notices
from quidnunc.gossip.provenance import CharterAdopt, NodeStart
from quidnunc.gossip.publisher import committed
from quidnunc.gossip.rebuild import Self
from quidnunc.gossip.recall import RecallDesk
from quidnunc.gossip.recorder import Entropy, Recorder
from quidnunc.gossip.rejoin import REJOIN_TIMER, Rejoin
from quidnunc.gossip.replicas import REPAIR_TIMER, Replicas
from quidnunc.gossip.resume import Resume
from quidnunc.gossip.retention import Retention
from quidnunc.gossip.rounds import ROUND_TIMER, Phase, Rounds
from quidnunc.gossip.settings import Settings
from quidnunc.gossip.vouching import Vouching
from quidnunc.gossip.witness import Witnesses


class Node:
    """One peer's logic. Build it from its ledger, then feed it events."""

    def __init__(
        self,
        charter: Charter,
        own: Self,
        log: Log,
        resume: Resume,
        entropy: Entropy,
        settings: Settings | None = None,
    ) -> None:
        self.settings = settings or Settings()
        self.charter = charter
        self.own = own
        rebuild.check_task(charter, own.described)
        self._retention = Retention(self.settings.keep_rounds)
        self._resume = resume
        self.keys = Keybook(charter.members)
        epoch = own_changes(self.keys, own.log_id, resume.key_changes).epoch
        notices = load_notices(resume.notices, self.keys)
        per_round = self.settings.refusals_per_round
        self.recorder = Recorder(
            log, own.key, entropy, refusals_per_round=per_round, refused=resume.refused, key_epoch=epoch
        )
        evidence = Evidence(self.recorder)
        self.neighbors = rebuild.neighbors(charter, own.log_id, resume, self.keys)
        self._by_transport = {n.member.transport: n for n in self.neighbors.values()}
        self.budget = rebuild.budget(charter, own, resume)
        self.publisher = rebuild.publisher(
            charter, own, resume, self.keys, self.recorder, self.settings, self._retention.let_go
        )
        self.exposure = Exposure(charter, own.log_id, self.neighbors, self.recorder, evidence, self.keys, resume.proofs)
        self.mirrors = Mirrors(charter, own.log_id, self.neighbors, self.settings, resume.mirrors)
        self.witnesses = Witnesses(
            charter,
            own.log_id,
            self.keys,
            own.witness,
            self.neighbors,
            self.exposure,
            self.recorder,
            self.settings,
            self.mirrors.span,
            resume.heads,
            resume.cosigned,
            lambda log_id: log_id in self.notices.retired,
        )
        self.notices = Notices(
            charter.federation_id,
            own.log_id,
            self.neighbors,
            self.keys,
            self.recorder,
            self.witnesses,
            resume.own_notices,
            notices,
        )
        self.vouching = Vouching(
            charter,
            own.log_id,
            self.keys,
            own.witness,
            self.neighbors,
            self.exposure,
            self.recorder,
            self.settings,
            self.witnesses,
            lambda log_id: log_id in self.notices.retired,
        )
        self.replicas = Replicas(
            charter,
            self.neighbors,
            evidence,
            self.settings,
            self._retention.let_go,
            self.keys,
            own_number=lambda: self.publisher.number,
            live=lambda n, now: is_live(n, now, self.rounds.period, self.settings),
            two_updates=self.exposure.two_updates,
            observe=self._observe,
            horizon=(lambda: self.rounds.following - 1) if charter.privacy.unit == Unit.SUM else None,
        )
        self.rounds = Rounds(
            charter,
            own.log_id,
            self.recorder,
            evidence,
            self.replicas,
            self.publisher,
            self.budget,
            self.settings,
            self._retention.let_go,
            dataset=own.dataset,
            size_bucket=max(0, own.described.examples.bit_length() - 1),
        )
        self.recalls = RecallDesk(
            charter, own.log_id, self.neighbors, self.settings, self._retention.let_go, resume.recall
        )
        self.rejoin = Rejoin(
            charter.federation_id,
            own.log_id,
            self.keys,
            self.neighbors,
            self.witnesses,
            self.mirrors,
            self.recorder,
            self.settings,
            current=resume.current,
            copied=resume.copied,
            lost=resume.lost,
            log_key=own.log_key,
        )
        self.lobby = Lobby(
            charter.federation_id,
            own.log_id,
            self.rejoin,
            self.mirrors,
            self.witnesses,
            self.exposure,
            self.notices,
            self.recorder,
            self.settings,
            self._about_logs,
        )
        self.frugal = Frugal(charter.federation_id, self.publisher, self.recorder, self.settings, self._about_logs)
        self._restore_rounds(resume)
        self.evaluated: Evaluated | None = None
        self.evaluation_failure = ""

    def _restore_rounds(self, resume: Resume) -> None:
        rounds = self.rounds
        rounds.base = resume.base or self.charter.task.genesis
        rounds.personal = resume.personal
        rounds.base_claim = rebuild.base_claim(self.charter, self.own.log_id, resume, self.keys)
        rounds.unmerged = resume.unmerged
        rounds.round = resume.round
        rounds.released = resume.released
        rounds.trained = resume.trained
        rounds.merges = resume.merges
        rounds.steps_back, rounds.withheld = resume.steps_back, resume.withheld
        if self.recalls.lost:
            self.publisher.lost = True
            rounds.phase, rounds.blocked = Phase.RECOVERING, self.recalls.why

    @property
    def refused_total(self) -> int:
        """Everything this peer has ever refused, as far as its ledger knows."""
        return self.recorder.refused

    # -- the one way in -----------------------------------------------------------------------------------------

    def handle(self, event: Event, now: float) -> list[Effect]:
        """What must be done about ``event``, in order; ``now`` in seconds."""
        out = self._handle(event, now)
        return self.mirrors.spread(out, all_of_it=isinstance(event, Stopping))

    def _handle(self, event: Event, now: float) -> list[Effect]:
        sender = self._by_transport.get(event.peer) if isinstance(event, Received | PeerUp | PeerDown) else None
        if self.lobby.stopped or self.lobby.left or self.rejoin.active:
            return self._in_lobby(event, sender, now)
        if self.frugal.active and not isinstance(event, Storage | PeerUp | PeerDown | Paused):
            return self.frugal.handle(event, sender, now)
        match event:
            case Received():
                out = self._received(event, now)
            case TimerFired(timer=name) if name == ROUND_TIMER:
                out = self._turn(now)
            case TimerFired(timer=name) if name == REPAIR_TIMER:
                out = self.replicas.repair(now)
            case TimerFired(timer=name) if name == REJOIN_TIMER:
                out = []
            case Finished(result):
                out = self._finished(result, now)
            case PeerUp(peer):
                out = self._peer_up(peer, now)
            case PeerDown(peer):
                out = self._peer_down(peer, now)
            case Paused(paused):
                out = self.rounds.pause(paused, now)
            case Storage(room):
                out = self._storage(room, now)
            case Compared(proof):
                out = self.exposure.prove(proof, now)
            case Started():
                out = self._start(now)
            case Stopping():
                self.recorder.close_round(now)
                out = committed(self.recorder.flush())
            case TimerFired():
                raise LocalProtocolError(f"timer {event.timer!r} was never set")
        return out

    def _in_lobby(self, event: Event, sender: Neighbor | None, now: float) -> list[Effect]:
        """Nothing may be signed: whatever this key signed now could be a second history."""
        if isinstance(event, Started):
            self._await_neighbors(now)
        if isinstance(event, Paused):
            self.rounds.paused = event.paused
        out = self.lobby.handle(event, sender, now)
        rounds = self.rounds
        if self.rejoin.active:
            rounds.phase = Phase.STARTING if self.rejoin.fresh else Phase.RECOVERING
            rounds.blocked = self.rejoin.why
        elif not (self.lobby.stopped or self.lobby.left):
            rounds.phase, rounds.blocked = Phase.STARTING, ""
            if self.recalls.lost:
                rounds.phase, rounds.blocked = Phase.RECOVERING, self.recalls.why
            there = [PeerUp(n.member.transport) for n in self.neighbors.values() if n.connected]
            started, rest = self.lobby.take()
            for each in (*started, *there, *rest):
                out += self._handle(each, now)
        return out

    def _about_logs(self, neighbor: Neighbor, message: Message, now: float) -> list[Effect]:
        """What a neighbor may ask at any time, because the answer needs neither a signature nor room."""
        match message:
            case Newest():
                # Its own key changes go first: it may have lost them, and what follows is signed by the newest key.
                return [*self.notices.about(neighbor), *self.rejoin.answer(neighbor)]
            case Fetch():
                return self.mirrors.serve(neighbor, message, self.recorder.signed, now)
            case Prove():
                return self.witnesses.serve(neighbor, message)
        return []

    def _start(self, now: float) -> list[Effect]:
        """First entries of a fresh log, and one ``node.start`` per start."""
        own = self.own
        self._await_neighbors(now)
        if self.recorder.size == 0:
            self.recorder.append_raw(EntryType.GENESIS, own.genesis, now)
        if self._resume.charter != self.charter.federation_id:
            adopt = CharterAdopt(
                charter=self.charter.federation_id,
                epoch=self.charter.epoch,
                witnesses=tuple(m.log_id for m in self.charter.members if m.log_id != own.log_id),
                quorum=self.charter.quorum,
                signatures=own.charter_note,
            )
            self.recorder.append(adopt, now)
        software = own.software
        start = NodeStart(
            self._resume.incarnation + 1,
            software.version,
            software.python,
            software.torch,
            software.device,
        )
        self.recorder.append(start, now)
        return [*committed(self.recorder.flush()), *self.notices.resting(), SetTimer(ROUND_TIMER, 0.0)]

    def _await_neighbors(self, now: float) -> None:
        """Whoever does not come from now on is missed, also while nothing may be signed yet."""
        for neighbor in self.neighbors.values():
            neighbor.awaited(now)

    def _turn(self, now: float) -> list[Effect]:
        """One turn of the own rounds, and again what logs were asked and have not answered."""
        if self.recalls.lost:
            return self._recover(now)
        return [*self.rounds.tick(now), *self.witnesses.remind(now), *self.vouching.ask(now)]

    def _recover(self, now: float) -> list[Effect]:
        """Ask for the lost own replica; no turn starts before it is back."""
        return [*self._recalled(self.recalls.ask(now)), *committed(self.recorder.flush())]

    def _recalled(self, out: list[Effect]) -> list[Effect]:
        """Go on with the first turn once the own replica is back; until then say what is waited for."""
        if self.rounds.phase == Phase.RECOVERING:
            self.rounds.blocked = self.recalls.why
            if not self.recalls.lost:
                self.publisher.lost = False
                self.rounds.phase, self.rounds.blocked = Phase.STARTING, ""
        return out

    def _storage(self, room: bool, now: float) -> list[Effect]:
        """No room on the disk any more, or room again: then do what was put off, and ask for what was missed."""
        was, self.frugal.active = self.frugal.active, not room
        if not room or not was:
            return []
        self.rounds.interrupt(now)
        out = [effect for event in self.frugal.take_kept() for effect in self.handle(event, now)]
        asked = [n.member.transport for n in self.neighbors.values() if n.connected]
        return [*out, *(self.publisher.hello(peer, reply=True) for peer in asked)]

    # -- connections --------------------------------------------------------------------------------------------

    def _peer_up(self, peer: bytes, now: float) -> list[Effect]:
        neighbor = self._by_transport.get(peer)
        if neighbor is None:
            return []
        neighbor.link(True, now)
        told = [*self.exposure.tell(peer), *self.witnesses.greet(neighbor, now)]
        asked = self.rejoin.ask(neighbor) if self.rejoin.short else []
        # Notices go first: the hello may be signed by a key that only they bring.
        hello = [*self.notices.tell(peer), self.publisher.hello(peer, reply=True)]
        return [*hello, *told, *asked, *self.recalls.ask(now), *self.rounds.wake(now)]

    def _peer_down(self, peer: bytes, now: float) -> list[Effect]:
        neighbor = self._by_transport.get(peer)
        if neighbor is not None:
            neighbor.link(False, now)
            return self.recalls.gone(neighbor)
        return []

    # -- frames -------------------------------------------------------------------------------------------------

    def _received(self, event: Received, now: float) -> list[Effect]:
        """A frame of a peer: the only place where a remote error is caught."""
        neighbor = self._by_transport.get(event.peer)
        try:
            return self._dispatch(neighbor, event, now)
        except RemoteProtocolError as error:
            return self._refuse(neighbor, event, error, now)

    def _dispatch(self, neighbor: Neighbor | None, event: Received, now: float) -> list[Effect]:
        frame = event.frame
        if len(frame.body) > self.charter.payload_bytes:
            raise RemoteProtocolError(
                Reason.TOO_LARGE,
                f"frame: {len(frame.body)} payload bytes, limit is {self.charter.payload_bytes} "
                "(the charter's payload_bytes)",
            )
        if neighbor is None:
            known = self.charter.by_transport(event.peer) is not None
            reason = Reason.NOT_NEIGHBOR if known else Reason.STRANGER
            raise RemoteProtocolError(reason, f"frame from {event.peer.hex()[:16]}")
        if not neighbor.count_message(now, self.settings):
            raise RemoteProtocolError(
                Reason.RATE_LIMITED,
                f"{neighbor.member.name}: message {neighbor.messages} within {self.settings.window_s:g} s, "
                f"limit is {self.settings.messages_per_window} (messages_per_window)",
            )
        message = parse_message(frame.header, self.charter.federation_id)
        match message:
            case Update():
                out = self.replicas.on_update(neighbor, message, frame, now)
            case Snapshot():
                out = self.replicas.on_snapshot(neighbor, message, frame, now)
            case Hello():
                out = self._hello(neighbor, message, now)
            case Want():
                out = self.publisher.serve(neighbor, message, now)
            case Unavailable():
                # What else it cannot serve now is asked for again when its time comes.
                out = self._recalled(self.recalls.on_unavailable(neighbor))
            case Recall():
                out = self.recalls.serve(neighbor, message, now)
            case Recalled():
                out = self._recalled(self.recalls.on_recalled(neighbor, message, frame))
            case Heads():
                out = self._ahead(self.witnesses.on_heads(neighbor, message, now))
            case Prove():
                out = self.witnesses.serve(neighbor, message)
            case Consistency():
                out = self.witnesses.on_consistency(neighbor, message, now)
            case Cosigned(note=note):
                self.witnesses.on_cosigned(neighbor.member, note, now)
                out = self._ahead([])
            case Vouch():
                out = self._ahead(self.vouching.on_vouch(neighbor, message, now))
            case Vouched():
                out = self._ahead(self.vouching.on_vouched(neighbor, message, now))
            case Proof(proof=proof):
                out = self.exposure.on_proof(proof, now, neighbor)
            case Notice(token=token):
                out = self._wake(self.notices.on_notice(token, now, neighbor))
            case Newest() | Fetch():
                out = self._about_logs(neighbor, message, now)
            case Known():
                out = self._ahead(self.rejoin.on_known(neighbor, message, now))
            case Entries():
                out = self._entries(neighbor, message, now)
        return self._with_evidence(out)

    def _entries(self, neighbor: Neighbor, message: Entries, now: float) -> list[Effect]:
        """New entries of a neighbor's log, to be kept for it; raises RemoteProtocolError."""
        if message.log_id == self.own.log_id or neighbor.quarantined:
            return []  # a late answer, or the log of somebody who signs several
        if message.log_id != neighbor.log_id:
            raise RemoteProtocolError(Reason.UNSOLICITED, f"entries of log {message.log_id.hex()[:16]}, not its own")
        end = neighbor.retired
        if end is not None and message.first + len(message.entries) > end.last + 1:
            raise RemoteProtocolError(Reason.RETIRED, f"{neighbor.member.name} ended its log with entry {end.last}")
        head = check_note(neighbor, self.keys.counting(neighbor.log_id), message)
        out = self.mirrors.on_entries(neighbor, message, now)
        if any(isinstance(effect, Mirror) for effect in out):
            out += self.witnesses.shows(neighbor, now)
        return out if head is None else [*out, *self.witnesses.on_head(neighbor.log_id, head, now)]

    def _observe(self, signed: SignedUpdate, now: float) -> list[Effect]:
        """A verified update shows how far its log has come."""
        neighbor = self.neighbors[signed.author]
        seen = self.witnesses.on_update(signed, now)
        asked = self.mirrors.on_size(neighbor, signed.token.size, now)
        return [*seen, *asked, *self.witnesses.omits(neighbor, self.mirrors.owed(signed.author), now)]

    def _ahead(self, out: list[Effect]) -> list[Effect]:
        """Say so when others hold more of the own log than this disk does; nothing is signed from there on."""
        why = self.witnesses.ahead
        return [*out, Report("behind", why)] if why else out

    def _with_evidence(self, out: list[Effect]) -> list[Effect]:
        """Evidence is durable before the sender learns of the refusal."""
        if any(isinstance(effect, Refuse) for effect in out):
            return [*committed(self.recorder.flush()), *out]
        return out

    def _hello(self, neighbor: Neighbor, message: Hello, now: float) -> list[Effect]:
        out: list[Effect] = []
        if message.token:
            out += self.replicas.on_claim(neighbor, message.token, now)
        self.replicas.greet(neighbor, now)
        if message.reply:
            out += self.notices.tell(neighbor.member.transport)
            out.append(self.publisher.hello(neighbor.member.transport, reply=False))
        return self._wake(out)

    def _wake(self, out: list[Effect]) -> list[Effect]:
        """Look again at a turn that is held back: what it waits for may have come, or never will."""
        return [*out, SetTimer(ROUND_TIMER, 0.0)] if self.rounds.blocked else out

    def _refuse(
        self, neighbor: Neighbor | None, event: Received, error: RemoteProtocolError, now: float
    ) -> list[Effect]:
        frame = event.frame
        member = self.charter.by_transport(event.peer)
        sender = None if member is None else member.log_id
        size = len(frame.header) + len(frame.body)
        recorded = self.recorder.refuse(sender, error.reason, size, frame.digest(), now)
        out: list[Effect] = [Refuse(event.peer, error.reason)]
        if recorded:
            out = [*committed(self.recorder.flush()), *out, Report("refused", error.message)]
        if neighbor is not None:
            neighbor.refuse(error.reason, now)
            if error.reason is Reason.BAD_SIGNATURE:
                # It may know a log key that we do not: its answer begins with all notices it has.
                out += self.rounds.poll([neighbor], now)
        return out

    # -- results ------------------------------------------------------------------------------------------------

    def _finished(self, result: Result, now: float) -> list[Effect]:
        match result:
            case Trained():
                out = [*self.rounds.on_trained(result, now), *self.witnesses.pollinate(now)]
                out += self._prune()
            case Merged():
                out = self.rounds.on_merged(result, now)
            case Adopted():
                out = self.rounds.on_adopted(result, now)
            case Advanced() if result.author == self.own.log_id:
                out = self._recalled(self.recalls.on_advanced(result.number))
            case Advanced():
                out = self._applied(self.replicas.on_advanced(result, now))
                out += self.rounds.on_advanced(self.neighbors[result.author], now)
            case Rejected() if result.author == self.own.log_id:
                out = self.recalls.on_failed()
            case Rejected():
                out = self._applied(self.replicas.on_rejected(result, now))
            case Evaluated():
                self.evaluated, self.evaluation_failure = result, ""
                out = []
            case JobFailed():
                out = self._job_failed(result, now)
            case Described():
                out = []
        return out

    def _applied(self, out: list[Effect]) -> list[Effect]:
        """What follows from applying an update; the transport was answered long ago."""
        if self.recorder.pending >= self.settings.pending_entries:
            out = [*committed(self.recorder.flush()), *out]
        return [effect for effect in self._with_evidence(out) if not isinstance(effect, Refuse)]

    def _job_failed(self, result: JobFailed, now: float) -> list[Effect]:
        if result.author == self.own.log_id:
            return self.recalls.on_failed()
        if result.job in ("AdvanceJob", "AdoptJob"):
            return self.replicas.on_failed(result, now)
        if result.job == "EvaluateJob":
            self.evaluation_failure = f"{result.job}: {result.why}"
            return [Report("compute", self.evaluation_failure)]
        return self.rounds.on_failed(result, now)

    def _prune(self) -> list[Effect]:
        gone = self._retention.next_round(self.in_use())
        return [Forget(gone)] if gone else []

    def in_use(self) -> Iterable[bytes]:
        """The blobs this node cannot do without: all others may be discarded before it starts."""
        yield self.rounds.base
        if self.rounds.personal:
            yield self.rounds.personal
        yield from self.publisher.in_use()
        for neighbor in self.neighbors.values():
            yield neighbor.state
            for waiting in (*neighbor.waiting.values(), neighbor.in_flight):
                if waiting is not None:
                    yield waiting.signed.update.delta
                    yield waiting.signed.update.replica_after
