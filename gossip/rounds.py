"""The round of one peer: merge what neighbors have published, train, publish; no barrier, no deadline.

One turn is  *merge -> train -> publish*, started by the round timer or, while a turn is held back, by a neighbor's
progress. Merging comes first and acts on published states only: its pivot is the own replica as published in the turn
before, so that every input of a merge is a signed, hashed state. A peer never merges twice without publishing.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum

from quidnunc.crypto.errors import BlobLost
from quidnunc.gossip.absence import Absence
from quidnunc.gossip.budget import Budget
from quidnunc.gossip.claims import Claim
from quidnunc.gossip.events import Effect, Report, Run, SetTimer
from quidnunc.gossip.evidence import Evidence
from quidnunc.gossip.federation.charter import Charter
from quidnunc.gossip.gate import Gate, Hold
from quidnunc.gossip.jobs import WITHHELD, Adopted, EvaluateJob, JobFailed, MedianJob, Merged, MergeJob, Trained, Unit
from quidnunc.gossip.merging import Merging
from quidnunc.gossip.neighbor import Neighbor, company, drag_factor, usable
from quidnunc.gossip.pace import Pace
from quidnunc.gossip.personal import write_personal
from quidnunc.gossip.private_sum import next_round, reads
from quidnunc.gossip.publisher import Publisher, committed
from quidnunc.gossip.recorder import Recorder
from quidnunc.gossip.repairs import Repairs
from quidnunc.gossip.replicas import Replicas
from quidnunc.gossip.resume import Resume
from quidnunc.gossip.settings import Settings
from quidnunc.gossip.training import Training
from quidnunc.gossip.waits import Waits

ROUND_TIMER = "round"
OWN_REPLICA = "the own replica"
RETRY_SHARE = 0.1
RETRY_MIN_S = 0.02
FAILURE_BACKOFF_S = 0.5
FAILURE_BACKOFF_MAX_S = 60.0


class Phase(StrEnum):
    """What a peer's turn is at."""

    RECOVERING = "recovering"
    STARTING = "starting"
    IDLE = "idle"
    MERGING = "merging"
    ADOPTING = "adopting"
    TRAINING = "training"


class Rounds:
    """The turn-taking of one peer.

    ``progressed_at`` is when a round of training was last published, or could first be expected; ``retry_at`` when a
    failed turn is tried again; ``released`` is the round of the own newest update. In a private sum rounds are those of
    all members (gossip/private_sum.py), else each peer counts its own turns.
    """

    def __init__(
        self,
        charter: Charter,
        me: bytes,
        recorder: Recorder,
        evidence: Evidence,
        replicas: Replicas,
        repairs: Repairs,
        publisher: Publisher,
        budget: Budget,
        settings: Settings,
        forget: Callable[[bytes], None],
        resume: Resume,
        base_claim: Claim,
        *,
        dataset: bytes,
        size_bucket: int,
    ) -> None:
        """``resume`` is where the ledger leaves this peer, ``base_claim`` whose training stands in its base."""
        self._charter = charter
        self._recorder = recorder
        self._replicas = replicas
        self._repairs = repairs
        self._publisher = publisher
        self._budget = budget
        self._settings = settings
        self._forget = forget
        self._pace = Pace(charter.rounds.interval_ms / 1000, settings)
        self._gate = Gate(charter, replicas.neighbors, repairs, publisher, budget, self._pace, settings)
        self._absence = Absence(replicas, publisher, settings)
        self._training = Training(charter, me, recorder, publisher, budget, dataset=dataset, size_bucket=size_bucket)
        self._merging = Merging(charter, me, recorder, evidence, replicas, publisher)
        self._failures = 0
        self.waits = Waits()
        self.retry_at: float | None = None
        self.progressed_at: float | None = None
        self.phase = Phase.STARTING
        self._sum = charter.privacy.unit == Unit.SUM
        self.blocked = ""
        self.paused = False
        self.drag = 1.0
        self.last_failure = ""
        self.base = resume.base or charter.task.genesis
        self.base_claim = base_claim
        self.personal = resume.personal
        self.unmerged = resume.unmerged
        self.round = resume.round
        self.released = resume.released
        self.trained = resume.trained
        self.merges = resume.merges
        self.steps_back, self.withheld = resume.steps_back, resume.withheld

    def recover(self, why: str, *, fresh: bool = False) -> None:
        """Start no turn, because of ``why``, until :meth:`begin_anew`; who is ``fresh`` has nothing to recover."""
        self.phase, self.blocked = Phase.STARTING if fresh else Phase.RECOVERING, why

    def begin_anew(self) -> None:
        """Nothing but other peers holds the first turn back any more."""
        self.phase, self.blocked = Phase.STARTING, ""

    # -- what holds a turn back ---------------------------------------------------------------------------------

    @property
    def _neighbors(self) -> list[Neighbor]:
        return list(self._replicas.neighbors.values())

    @property
    def finished(self) -> bool:
        """Whether this peer has trained all its rounds, or may train no more."""
        through = self.released if self._sum else self.trained
        return through >= self._charter.rounds.count or self._budget.exhausted

    @property
    def following(self) -> int:
        """The round of the next turn."""
        if not self._sum:
            return self.round + 1
        if self._training.paid_round > self.released:
            return self._training.paid_round  # a training that failed has paid for this round, and for no other
        there = [n for n in self._neighbors if n.heard and n.connected and not n.quarantined and n.retired is None]
        return next_round(self.released, there)

    def _noised(self, round_: int) -> bool:
        """Whether an update of that round carries the noise of pairs, trained or not."""
        return self._sum and round_ <= self._charter.rounds.count

    def live(self, now: float) -> list[Neighbor]:
        """Neighbors inside their liveness window."""
        return self._gate.live(now)

    def _hold(self, now: float) -> Hold:
        if self.phase == Phase.STARTING:
            hold = self._gate.before_the_first(now)
            if hold.why:
                return hold
        before = self.following - 1
        in_step = before if self._noised(before) else None
        return self._gate.before_any(now, finished=self.finished, in_step=in_step)

    def alone(self, now: float) -> bool:
        """Whether a turn now would spend privacy that nobody hears of."""
        return self._gate.alone(now, finished=self.finished)

    def poll(self, neighbors: list[Neighbor], now: float) -> list[Effect]:
        """Ask ``neighbors`` where they stand, as long as that was not done a moment ago."""
        return self._gate.poll(neighbors, now)

    # -- the turn -----------------------------------------------------------------------------------------------

    def tick(self, now: float) -> list[Effect]:
        """The round timer fired, or a neighbor advanced while a turn was held back."""
        if self.phase not in (Phase.STARTING, Phase.IDLE):
            return []
        out: list[Effect] = self._replicas.resume(now)
        for neighbor in self._neighbors:
            if neighbor.behind or neighbor.missing:
                out += self._repairs.fetch(neighbor, now)
        hold = self._hold(now)
        self.blocked = hold.why
        self.waits.hold(self._gate.to_blame(hold), now)
        if hold.why:
            if not hold.lead:
                self._pace.interrupt()
            out += self._gate.poll(hold.ask, now)
            retry = max(RETRY_MIN_S, min(self._settings.repair_retry_s, RETRY_SHARE * self.period))
            return [*out, *committed(self._recorder.flush()), SetTimer(ROUND_TIMER, retry)]
        return out + self._begin(now)

    def _begin(self, now: float) -> list[Effect]:
        starting = self.phase == Phase.STARTING
        self._pace.begin(now)
        self.waits.begin(now)
        if self.progressed_at is None:
            self.progressed_at = now
        self._recorder.close_round(now)
        # In a private sum it is merging that takes the noise of others out, and no median does.
        if starting and not self._sum and self._absence.should_adopt():
            self.phase = Phase.ADOPTING
            states = self._merging.take_for_median(self._absence.current())
            return [*committed(self._recorder.flush()), Run(MedianJob(states))]
        if starting and self._absence.fell_behind():
            self.unmerged = True  # what the last merge led to is old: merge what there is before training
        self.phase = Phase.IDLE
        self.round = self.following
        if self.unmerged:
            return self._merge(now)
        return self._train(now)

    def _usable(self, now: float) -> list[Neighbor]:
        """Neighbors whose replicas a merge may read now."""
        there = [n for n in self._neighbors if usable(n, now, self.period, self._settings)]
        if not self._sum:
            return there
        return [n for n in there if reads(n, self.round - 1, self._charter.rounds.count)]

    def wake(self, now: float) -> list[Effect]:
        """Somebody trains, or there is somebody new: an idle peer goes back to its usual pace at once."""
        delay = self._pace.wake(now)
        waits = self.phase == Phase.IDLE and not self.blocked
        return [SetTimer(ROUND_TIMER, delay)] if waits and delay is not None else []

    def on_advanced(self, neighbor: Neighbor, now: float) -> list[Effect]:
        """A neighbor's replica advanced: what is held back may start, and an idle peer listens up if it trained."""
        if self.blocked:
            return [SetTimer(ROUND_TIMER, 0.0)]
        would_train = not (self.paused or self.finished)
        return self.wake(now) if not neighbor.resting or would_train else []

    # -- merging ------------------------------------------------------------------------------------------------

    def _merge(self, now: float) -> list[Effect]:
        live = self._usable(now)
        cap = self._charter.merge.drag_cap_u / 1e6
        self.drag = drag_factor(self.drag, cap, live, now, self.period)
        self.phase = Phase.MERGING
        return [Run(MergeJob(self.round, self._publisher.replica, self._merging.take(live), self.personal))]

    def on_merged(self, result: Merged, now: float) -> list[Effect]:
        """Record and adopt a merge result, then train from it."""
        if self.phase != Phase.MERGING:
            return []
        self._adopt(result.result, self._merging.record(result, now))
        self.steps_back += 0 < result.step < WITHHELD
        self.withheld += result.step == WITHHELD
        out: list[Effect] = committed(self._recorder.flush())
        if self.merges % self._settings.evaluate_every == 0:
            out.append(self._evaluate())
        return out + self._train(now)

    def _evaluate(self) -> Run:
        return Run(EvaluateJob(self.round, self.base, self.personal))

    def _adopt(self, result: bytes, claim: Claim) -> None:
        """A recorded merge result, of these contributions, is what the next training starts from."""
        if self.base != result:
            self._forget(self.base)
        self.base, self.base_claim = result, claim
        self.unmerged = False
        self.merges += 1

    def on_adopted(self, result: Adopted, now: float) -> list[Effect]:
        """Take the median of the neighbors' states as the own one; publish it as an ordinary delta."""
        if self.phase != Phase.ADOPTING:
            return []
        self.round += 1
        self._adopt(result.result, self._merging.record_adopted(result, self.round, now))
        self.drag = 1.0
        for neighbor in self._neighbors:
            if neighbor.heard:
                neighbor.reset_pace(now)
                neighbor.lead_offset = self._publisher.number - neighbor.number
        out: list[Effect] = committed(self._recorder.flush())
        out.append(self._evaluate())
        return out + self._train(now)

    # -- training and publishing --------------------------------------------------------------------------------

    def _train(self, now: float) -> list[Effect]:
        wanted = not (self.paused or self.finished or self.alone(now))
        noised = self._noised(self.round)
        out = self._training.pay(self.round, now, wanted=wanted and (not self._sum or noised))
        self.phase = Phase.TRAINING
        drag = 1.0 if self._sum else self.drag * company(self.live(now))
        return [*out, Run(self._training.job(self.round, self.base, self.personal, drag, noised=noised))]

    def on_trained(self, result: Trained, now: float) -> list[Effect]:
        """Publish what was trained; the next turn follows after the interval."""
        if self.phase != Phase.TRAINING or result.number != self._publisher.number + 1:
            return []
        self._failures, self.retry_at = 0, None
        if self._training.real:
            self.progressed_at = now
        before = self._publisher.replica
        update = self._training.update(result, self.round, self.base, self.base_claim)
        self.trained += self._training.real
        self.released = self.round
        out = self._publisher.publish(update, self._neighbors, now, self._keep_personal(result.personal))
        if before not in (self.base, result.result):
            self._forget(before)
        self.unmerged = True
        self.phase = Phase.IDLE
        out += self._replicas.resume(now)
        in_pace = self._training.real or self._noised(self.round)
        return [*out, SetTimer(ROUND_TIMER, self._pace.publish(now, trained=in_pace))]

    def _keep_personal(self, state: bytes) -> bytes:
        """Go on with personal tensors ``state``; what the update's private part says of them, if there are any."""
        if self.personal not in (b"", state):
            self._forget(self.personal)
        self.personal = state
        return write_personal(state) if state else b""

    @property
    def period(self) -> float:
        """The own usual time between updates, in seconds; the charter's interval until it is known."""
        return self._pace.period

    def on_failed(self, result: JobFailed, now: float) -> list[Effect]:
        """The compute side failed: try the same turn again, later each time.

        A training that failed has released nothing, so trying it again is paid for by the spend already committed.
        """
        if self.phase not in (Phase.MERGING, Phase.ADOPTING, Phase.TRAINING):
            return []
        self._failures += 1
        self.last_failure = f"{result.job}: {result.why}"
        if result.missing:
            self._note_missing(result.missing)
        if self.phase in (Phase.MERGING, Phase.ADOPTING):
            self._merging.give_up()
        if self.phase == Phase.ADOPTING:
            self.phase = Phase.STARTING
        else:
            self.phase = Phase.IDLE
            self.round -= 1
        delay = min(FAILURE_BACKOFF_MAX_S, FAILURE_BACKOFF_S * 2 ** min(self._failures - 1, 10))
        self.retry_at = now + delay
        return [Report("compute", self.last_failure), SetTimer(ROUND_TIMER, delay)]

    def _note_missing(self, name: bytes) -> None:
        """A blob is lost: neighbors' states are fetched again, the own base gives way to the own replica.

        Personal tensors are nobody else's either; they begin anew. Without the own replica there is no going on: raises
        BlobLost.
        """
        if name == self._publisher.replica:
            raise BlobLost(name, OWN_REPLICA)
        for neighbor in self._neighbors:
            if neighbor.state == name:
                neighbor.missing = True
        if name == self.personal:
            self.personal = b""
        if name == self.base and self.phase == Phase.TRAINING:
            self.base, self.base_claim = self._publisher.replica, self._publisher.claim

    def pause(self, paused: bool, now: float) -> list[Effect]:
        """Stop or resume local training."""
        self.paused = paused
        if paused:
            return []
        self.interrupt(now)
        return self.wake(now)

    def interrupt(self, now: float) -> None:
        """No round could be trained up to now: that says nothing of the own pace."""
        self._pace.interrupt()
        if self.progressed_at is not None:
            self.progressed_at = now

    @property
    def turn_s(self) -> float:
        """How long an own turn takes without waiting for anybody, in seconds."""
        return self._pace.turn_s

    @property
    def patience_s(self) -> float:
        """How long a silent neighbor may hold a turn back under the lead bound, in seconds."""
        return self._pace.patience_s

    @property
    def pace_known(self) -> bool:
        """Whether :attr:`period` was learned from own rounds."""
        return self._pace.known

    @property
    def failures(self) -> int:
        """Numeric jobs that failed in a row."""
        return self._failures
