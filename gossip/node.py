"""The state machine of one peer: ``handle(event, now)`` is the only way in, the list of effects the only way out.

Rule 1: this file does not know whether it runs in a daemon or in a simulator. Rule 2: bytes of another peer can never
make ``handle`` raise; parsers raise RemoteProtocolError, and it is caught in exactly one place for each of the three
states a node can be in (inbox, lobby, frugal), and counted as evidence. What else raises is a bug of ours or a lie of
our own disk.

Time and randomness are arguments: ``now`` is in seconds on a clock that never runs backwards, ``entropy`` gives salts.
The node itself builds the parts, decides which of them an event is for, and keeps nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable

from quidnunc.crypto.errors import LocalProtocolError
from quidnunc.crypto.log import Log
from quidnunc.gossip import rebuild
from quidnunc.gossip.events import (
    Compared,
    Effect,
    Event,
    Finished,
    Paused,
    PeerDown,
    PeerUp,
    Received,
    SetTimer,
    Started,
    Stopping,
    Storage,
    TimerFired,
)
from quidnunc.gossip.evidence import Evidence
from quidnunc.gossip.federation.charter import Charter
from quidnunc.gossip.frugal import Frugal
from quidnunc.gossip.inbox import Inbox
from quidnunc.gossip.jobs import Evaluated, Unit
from quidnunc.gossip.keybook import Keybook, own_changes
from quidnunc.gossip.lobby import Lobby
from quidnunc.gossip.logs import Logs
from quidnunc.gossip.neighbor import Neighbor, is_live
from quidnunc.gossip.notices import load_notices
from quidnunc.gossip.opening import record_start
from quidnunc.gossip.publisher import committed
from quidnunc.gossip.rebuild import Self
from quidnunc.gossip.recall import RecallDesk
from quidnunc.gossip.recorder import Entropy, Recorder
from quidnunc.gossip.rejoin import REJOIN_TIMER, Rejoin
from quidnunc.gossip.repairs import REPAIR_TIMER, Repairs
from quidnunc.gossip.replicas import Replicas
from quidnunc.gossip.results import Results
from quidnunc.gossip.resume import Resume
from quidnunc.gossip.retention import Retention
from quidnunc.gossip.rounds import ROUND_TIMER, Rounds
from quidnunc.gossip.settings import Settings


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
        self.logs = Logs(
            charter, own, self.keys, self.neighbors, self.recorder, evidence, self.settings, resume, notices
        )
        self.exposure, self.mirrors, self.witnesses = self.logs.exposure, self.logs.mirrors, self.logs.witnesses
        self.notices, self.vouching = self.logs.notices, self.logs.vouching
        self._build_rounds(evidence)
        self._build_states()

    def _build_rounds(self, evidence: Evidence) -> None:
        """The parts that train, merge and publish."""
        charter, own, resume, let_go = self.charter, self.own, self._resume, self._retention.let_go
        self.repairs = Repairs(charter, self.neighbors, self.settings)
        self.replicas = Replicas(
            charter,
            self.neighbors,
            evidence,
            self.settings,
            let_go,
            self.keys,
            self.repairs,
            own_number=lambda: self.publisher.number,
            live=lambda n, now: is_live(n, now, self.rounds.period, self.settings),
            two_updates=self.exposure.two_updates,
            observe=lambda signed, now: self.logs.on_verified(self.neighbors[signed.author], signed, now),
            horizon=(lambda: self.rounds.following - 1) if charter.privacy.unit == Unit.SUM else None,
        )
        self.rounds = Rounds(
            charter,
            own.log_id,
            self.recorder,
            evidence,
            self.replicas,
            self.repairs,
            self.publisher,
            self.budget,
            self.settings,
            let_go,
            resume,
            rebuild.base_claim(charter, own.log_id, resume, self.keys),
            dataset=own.dataset,
            size_bucket=max(0, own.described.examples.bit_length() - 1),
        )
        self.recalls = RecallDesk(
            charter, own.log_id, self.neighbors, self.settings, let_go, self.rounds, self.publisher, resume.recall
        )

    def _build_states(self) -> None:
        """The parts that take events in each of the states a node can be in, and those that take results."""
        federation, me, resume = self.charter.federation_id, self.own.log_id, self._resume
        self.rejoin = Rejoin(
            federation,
            me,
            self.keys,
            self.neighbors,
            self.logs.cosignatures,
            self.recorder,
            self.settings,
            current=resume.current,
            copied=resume.copied,
            lost=resume.lost,
            log_key=self.own.log_key,
        )
        self.lobby = Lobby(federation, me, self.rejoin, self.logs, self.recorder, self.settings)
        self.frugal = Frugal(federation, self.publisher, self.recorder, self.settings, self.logs.serve)
        self._inbox = Inbox(
            self.charter,
            self._by_transport,
            self.recorder,
            self.settings,
            self.logs,
            self.replicas,
            self.publisher,
            self.rounds,
            self.recalls,
            self.rejoin,
        )
        self._results = Results(
            me,
            self.recorder,
            self.settings,
            self.rounds,
            self.replicas,
            self.recalls,
            self.witnesses,
            self._retention,
            self.in_use,
        )

    @property
    def refused_total(self) -> int:
        """Everything this peer has ever refused, as far as its ledger knows."""
        return self.recorder.refused

    @property
    def evaluated(self) -> Evaluated | None:
        """The newest evaluation of this run."""
        return self._results.evaluated

    @property
    def evaluation_failure(self) -> str:
        """Why the evaluation after :attr:`evaluated` failed, "" if it did not."""
        return self._results.evaluation_failure

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
                out = self._inbox.receive(event, now)
            case TimerFired(timer=name) if name == ROUND_TIMER:
                out = self._turn(now)
            case TimerFired(timer=name) if name == REPAIR_TIMER:
                out = self.repairs.tick(now)
            case TimerFired(timer=name) if name == REJOIN_TIMER:
                out = []
            case Finished(result):
                out = self._results.finish(result, now)
            case PeerUp():
                out = [] if sender is None else self._peer_up(sender, now)
            case PeerDown():
                out = [] if sender is None else self._peer_down(sender, now)
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
        if self.rejoin.active:
            self.rounds.recover(self.rejoin.why, fresh=self.rejoin.fresh)
        elif not (self.lobby.stopped or self.lobby.left):
            self.rounds.begin_anew()
            if self.recalls.lost:
                self.rounds.recover(self.recalls.why)
            there = [PeerUp(n.member.transport) for n in self.neighbors.values() if n.connected]
            started, rest = self.lobby.take()
            for each in (*started, *there, *rest):
                out += self._handle(each, now)
        return out

    def _start(self, now: float) -> list[Effect]:
        self._await_neighbors(now)
        record_start(self.charter, self.own, self._resume, self.recorder, now)
        return [*committed(self.recorder.flush()), *self.notices.resting(), SetTimer(ROUND_TIMER, 0.0)]

    def _await_neighbors(self, now: float) -> None:
        """Whoever does not come from now on is missed, also while nothing may be signed yet."""
        for neighbor in self.neighbors.values():
            neighbor.awaited(now)

    def _turn(self, now: float) -> list[Effect]:
        """One turn of the own rounds, and again what logs were asked and have not answered."""
        if self.recalls.lost:  # no turn starts before the own replica is back
            return [*self.recalls.settle(self.recalls.ask(now)), *committed(self.recorder.flush())]
        return [*self.rounds.tick(now), *self.witnesses.remind(now), *self.vouching.ask(now)]

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

    def _peer_up(self, neighbor: Neighbor, now: float) -> list[Effect]:
        peer = neighbor.member.transport
        neighbor.link(True, now)
        told = [*self.exposure.tell(peer), *self.witnesses.greet(neighbor, now)]
        asked = self.rejoin.ask(neighbor) if self.rejoin.short else []
        # Notices go first: the hello may be signed by a key that only they bring.
        hello = [*self.notices.tell(peer), self.publisher.hello(peer, reply=True)]
        return [*hello, *told, *asked, *self.recalls.ask(now), *self.rounds.wake(now)]

    def _peer_down(self, neighbor: Neighbor, now: float) -> list[Effect]:
        neighbor.link(False, now)
        return self.recalls.gone(neighbor)

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
