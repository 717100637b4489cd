"""The round of one peer: merge what neighbors have published, train, publish; no barrier, no deadline.

One turn is  *merge -> train -> publish*, started by the round timer or, while a turn is held back, by a neighbor's
progress. Merging comes first and acts on published states only: its pivot is the own replica as published in the turn
before, so that every input of a merge is a signed, hashed state. A peer never merges twice without publishing.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from statistics import median
from typing import NamedTuple

from quidnunc.crypto.encoding import encode
from quidnunc.crypto.identity import tagged_hash
from quidnunc.gossip.budget import Budget
from quidnunc.gossip.charter import Charter
from quidnunc.gossip.events import Effect, Report, Run, SetTimer
from quidnunc.gossip.evidence import Evidence, standing_class
from quidnunc.gossip.jobs import (
    PPB,
    Adopted,
    EvaluateJob,
    JobFailed,
    MedianJob,
    Merged,
    MergeInput,
    MergeJob,
    Standing,
    Trained,
    TrainJob,
)
from quidnunc.gossip.neighbor import (
    CADENCE_DECAY,
    Neighbor,
    drag_factor,
    is_live,
    laggards,
    usable,
)
from quidnunc.gossip.provenance import (
    Merge,
    MergeRow,
    PrivacyClaim,
    PrivacyExhausted,
    PrivacySpend,
    UpdatePublished,
    write_standings,
)
from quidnunc.gossip.publisher import Publisher, committed
from quidnunc.gossip.recorder import Recorder
from quidnunc.gossip.replicas import Replicas
from quidnunc.gossip.reputation import BAD_CAP
from quidnunc.gossip.settings import Settings

ROUND_TIMER = "round"
ADOPTION_MINIMUM = 3
STEP_ADOPTED = 3
RETRY_SHARE = 0.1
RETRY_MIN_S = 0.02
FAILURE_BACKOFF_S = 0.5
FAILURE_BACKOFF_MAX_S = 60.0


class Phase(StrEnum):
    """What a peer's turn is at."""

    STARTING = "starting"
    IDLE = "idle"
    MERGING = "merging"
    ADOPTING = "adopting"
    TRAINING = "training"


class _Input(NamedTuple):
    """What a merge in progress reads of one neighbor."""

    state: bytes
    seq: int | None
    standing: Standing


class Rounds:
    """The turn-taking of one peer."""

    def __init__(
        self,
        charter: Charter,
        me: bytes,
        recorder: Recorder,
        evidence: Evidence,
        replicas: Replicas,
        publisher: Publisher,
        budget: Budget,
        settings: Settings,
        forget: Callable[[bytes], None],
        *,
        dataset: bytes,
        size_bucket: int,
    ) -> None:
        self._charter = charter
        self._me = me
        self._recorder = recorder
        self._evidence = evidence
        self._replicas = replicas
        self._publisher = publisher
        self._budget = budget
        self._settings = settings
        self._forget = forget
        self._known = {n.log_id: n.number for n in replicas.neighbors.values()}
        self._dataset = dataset
        self._size_bucket = size_bucket
        self._interval = charter.rounds.interval_ms / 1000
        self._rule = tagged_hash("rule", encode(charter.merge.to_value()))
        self._woke_at: float | None = None
        self._started_at = 0.0
        self._published_at: float | None = None
        self._turn_s = 0.0
        self._measured: float | None = None
        self._spend: tuple[PrivacySpend, int] | None = None
        self._with_training = False
        self._failures = 0
        self._inputs: dict[bytes, _Input] = {}
        self.phase = Phase.STARTING
        self.blocked = ""
        self.paused = False
        self.base = charter.task.genesis
        self.unmerged = False
        self.round = 0
        self.trained = 0
        self.merges = 0
        self.drag = 1.0
        self.last_failure = ""
        self.steps_back = 0

    # -- what holds a turn back ---------------------------------------------------------------------------------

    @property
    def _neighbors(self) -> list[Neighbor]:
        return list(self._replicas.neighbors.values())

    @property
    def finished(self) -> bool:
        """Whether this peer has trained all its rounds, or may train no more."""
        return self.trained >= self._charter.rounds.count or self._budget.exhausted

    def live(self, now: float) -> list[Neighbor]:
        """Neighbors inside their liveness window."""
        return [n for n in self._neighbors if is_live(n, now, self.period, self._settings)]

    def _hold(self, now: float) -> tuple[str, list[Neighbor]]:
        """Why no turn may start now (empty if one may), and the neighbors to be asked for news."""
        if self.phase == Phase.STARTING:
            waiting = self._not_ready(now)
            if waiting:
                return waiting, [n for n in self._neighbors if n.connected]
            behind = [n for n in self._neighbors if self._catching_up(n)]
            if behind:
                return f"catching up with {_names(behind)}", behind
        live = self.live(now)
        slow = laggards(self._publisher.number, self._charter.rounds.lead, live, now, self._patience_s)
        if slow and not self.finished:
            return f"waiting for {_names(slow)}", slow
        if self._budget.private and not self.finished and not live and self._publisher.number:
            return "isolated: no budget is spent while nobody would hear of it", self._neighbors
        return "", []

    def _not_ready(self, now: float) -> str:
        """At the start: enough neighbors must have been heard, so that a head start costs no privacy."""
        total = len(self._neighbors)
        silent = [n for n in self._neighbors if not n.heard]
        ahead = sum(n.claimed > self._settings.absent_rounds for n in self._neighbors)
        if self._publisher.number or 2 * ahead > total:  # the federation runs: no need to wait for the dead
            patient = self._woke_at is None or now - self._woke_at < self._settings.gather_s
            needed = total if patient else min(1, total)
        else:
            needed = total if self._charter.rounds.start == "all" else total // 2 + 1
        if total - len(silent) >= needed:
            return ""
        return f"heard {total - len(silent)} of {needed} neighbors needed to start; silent: {_names(silent)}"

    def _catching_up(self, neighbor: Neighbor) -> bool:
        """Whether to wait for a neighbor's replica, as it stood when we first heard of it, before the first turn."""
        reached = neighbor.number >= neighbor.goal and not neighbor.missing
        stuck = neighbor.requests >= self._settings.fetch_attempts
        return self._replicas.lacks(neighbor) and not reached and not stuck

    # -- the turn -----------------------------------------------------------------------------------------------

    def tick(self, now: float) -> list[Effect]:
        """The round timer fired, or a neighbor advanced while a turn was held back."""
        if self.phase not in (Phase.STARTING, Phase.IDLE):
            return []
        if self._woke_at is None:
            self._woke_at = now
        out: list[Effect] = []
        for neighbor in self._neighbors:
            if neighbor.behind or neighbor.missing:
                out += self._replicas.fetch(neighbor, now)
        reason, ask = self._hold(now)
        self.blocked = reason
        if reason:
            out += self._poll(ask, now)
            retry = max(RETRY_MIN_S, min(self._settings.repair_retry_s, RETRY_SHARE * self.period))
            return [*out, *committed(self._recorder.flush()), SetTimer(ROUND_TIMER, retry)]
        return out + self._begin(now)

    def _poll(self, neighbors: list[Neighbor], now: float) -> list[Effect]:
        out: list[Effect] = []
        for neighbor in neighbors:
            due = neighbor.polled_at is None or now - neighbor.polled_at >= self._settings.repair_retry_s
            if neighbor.connected and due:
                neighbor.polled_at = now
                out.append(self._publisher.hello(neighbor.member.transport, reply=True))
        return out

    def _begin(self, now: float) -> list[Effect]:
        starting = self.phase == Phase.STARTING
        self._started_at = now
        self._recorder.close_round(now)
        if starting and self._should_adopt():
            self.phase = Phase.ADOPTING
            current = self._current()
            self._take_inputs(current)
            states = tuple(n.state for n in current)
            return [*committed(self._recorder.flush()), Run(MedianJob(states))]
        self.phase = Phase.IDLE
        self.round += 1
        if self.unmerged:
            return self._merge(now)
        return self._train(now)

    def _current(self) -> list[Neighbor]:
        """Neighbors heard since the start whose replica, as it stood then, is here."""
        heard = [n for n in self._neighbors if n.heard and not n.quarantined]
        return [n for n in heard if n.number and n.number >= n.goal and not n.missing]

    def _should_adopt(self) -> bool:
        """Back from a long absence, or new among experienced peers, with enough states for a median."""
        missed = [self._missed(n) for n in self._current()]
        return len(missed) >= ADOPTION_MINIMUM and median(missed) > self._settings.absent_rounds

    def _missed(self, neighbor: Neighbor) -> float:
        """Own rounds missed, by a neighbor's progress since our last word of it and its speed relative to ours."""
        known, own = self._known[neighbor.log_id], self._publisher.number
        return (neighbor.number - known) * (own / known if known and own else 1.0)

    def _usable(self, now: float) -> list[Neighbor]:
        """Neighbors whose replicas a merge may read now."""
        return [n for n in self._neighbors if usable(n, now, self.period, self._settings)]

    def _take_inputs(self, neighbors: list[Neighbor]) -> None:
        self._inputs = {n.log_id: _Input(n.state, n.seq, n.standing) for n in neighbors}

    # -- merging ------------------------------------------------------------------------------------------------

    def _merge(self, now: float) -> list[Effect]:
        live = self._usable(now)
        inputs = tuple(MergeInput(n.log_id, n.state, n.weight, n.standing, n.fresh) for n in live)
        self._take_inputs(live)
        cap = self._charter.merge.drag_cap_u / 1e6
        self.drag = drag_factor(self.drag, cap, live, now, self.period)
        for neighbor in live:
            neighbor.fresh = False
        self.phase = Phase.MERGING
        return [Run(MergeJob(self.round, self._publisher.replica, inputs))]

    def on_merged(self, result: Merged, now: float) -> list[Effect]:
        """Record and adopt a merge result, then train from it."""
        if self.phase != Phase.MERGING:
            return []
        rows = [self._own_row(result)]
        for row in result.rows:
            neighbor = self._replicas.neighbors[row.author]
            before = standing_class(neighbor)
            given = self._inputs[row.author]
            neighbor.standing = _with_offenses(row.standing, neighbor.standing.bad - given.standing.bad)
            neighbor.last_weight = row.effective
            rows.append(MergeRow(row.state, row.author, given.seq, row.weight, row.effective, row.clip))
            self._evidence.note_class(neighbor, before, (), now)
        self.steps_back += result.step > 0
        self._record_merge(result.result, tuple(rows), result.approximate, result.step, now)
        out: list[Effect] = committed(self._recorder.flush())
        if self.merges % self._settings.evaluate_every == 0:
            out.append(Run(EvaluateJob(self.round, self.base)))
        return out + self._train(now)

    def _own_row(self, result: Merged) -> MergeRow:
        own = PPB - sum(row.effective for row in result.rows)
        weight = PPB - sum(row.weight for row in result.rows)
        return MergeRow(self._publisher.replica, self._me, self._publisher.seq, weight, own, PPB)

    def _record_merge(
        self, result: bytes, rows: tuple[MergeRow, ...], approximate: bool, step: int, now: float
    ) -> None:
        private = write_standings({n.log_id: n.standing for n in self._neighbors})
        salt, commitment = self._recorder.seal_private(private)
        record = Merge(
            round=self.round,
            result=result,
            rule=self._rule,
            rows=rows,
            approximate=approximate,
            step=step,
            received=self._replicas.take_received(),
            private=commitment,
        )
        self._recorder.append_sealed(record, private, salt, now)
        if self.base != result:
            self._forget(self.base)
        self.base = result
        self.unmerged = False
        self.merges += 1

    def on_adopted(self, result: Adopted, now: float) -> list[Effect]:
        """Take the median of the neighbors' states as the own one; publish it as an ordinary delta."""
        if self.phase != Phase.ADOPTING:
            return []
        share = PPB // len(self._inputs)
        rows = [MergeRow(i.state, who, i.seq, share, share, PPB) for who, i in self._inputs.items()]
        rows[0] = rows[0]._replace(effective=PPB - share * (len(rows) - 1))
        self.round += 1
        self._record_merge(result.result, tuple(rows), True, STEP_ADOPTED, now)
        self.drag = 1.0
        for neighbor in self._neighbors:
            if neighbor.heard:
                neighbor.reset_pace(now)
                neighbor.lead_offset = self._publisher.number - neighbor.number
        out: list[Effect] = committed(self._recorder.flush())
        out.append(Run(EvaluateJob(self.round, self.base)))
        return out + self._train(now)

    # -- training and publishing --------------------------------------------------------------------------------

    def _train(self, now: float) -> list[Effect]:
        train = not self.paused and not self.finished
        out: list[Effect] = []
        if train and self._budget.private and self._spend is None:
            if self._budget.affords_next():
                spend = self._budget.spend(self.round)
                self._spend = (spend, self._recorder.append(spend, now))
            else:
                train = False
                self._budget.exhausted = True
                self._recorder.append(self._exhausted(), now)
                out.append(Report("budget", "privacy budget spent: from here on this peer only listens"))
            out = committed(self._recorder.flush()) + out
        self.phase = Phase.TRAINING
        self._with_training = train
        job = TrainJob(
            round=self.round,
            number=self._publisher.number + 1,
            base=self.base,
            replica=self._publisher.replica,
            train=train,
            drag=self.drag,
            privacy=self._budget.step() if train else None,
        )
        return [*out, Run(job)]

    def _claim(self) -> PrivacyClaim | None:
        """What the training now to be published has cost; the spend is used up by that."""
        if not self._with_training or self._spend is None:
            return None
        claim = self._budget.claim(*self._spend)
        self._spend = None
        return claim

    def _exhausted(self) -> PrivacyExhausted:
        budget = self._budget
        delta_exp = self._charter.privacy.delta_exp
        return PrivacyExhausted(self.round, budget.cumulative_u, budget.cap_u, delta_exp, self._dataset)

    def on_trained(self, result: Trained, now: float) -> list[Effect]:
        """Publish what was trained; the next turn follows after the interval."""
        if self.phase != Phase.TRAINING or result.number != self._publisher.number + 1:
            return []
        self._failures = 0
        before = self._publisher.replica
        update = UpdatePublished(
            federation=self._charter.federation_id,
            schema=self._charter.task.schema,
            round=self.round,
            number=result.number,
            base=self.base,
            replica_before=before,
            replica_after=result.result,
            delta=result.delta,
            size=result.size,
            codec=self._charter.codec,
            steps=self._steps(),
            dataset=self._dataset,
            size_bucket=self._size_bucket,
            privacy=self._claim(),
        )
        self.trained += self._with_training
        out = self._publisher.publish(update, self._neighbors, now)
        if before not in (self.base, result.result):
            self._forget(before)
        self.unmerged = True
        self._measure_pace(now)
        self.phase = Phase.IDLE
        # Without training a turn takes no time; it keeps the pace that training had, or it would fill the ledger.
        pace = self._interval if self._with_training else max(self.period, self._settings.heartbeat_s)
        return [*out, SetTimer(ROUND_TIMER, max(0.0, pace - (now - self._started_at)))]

    def _steps(self) -> int:
        """Local steps of this turn's training: none in a heartbeat, one full-batch step under privacy."""
        if not self._with_training:
            return 0
        return 1 if self._budget.private else self._charter.training.local_steps

    def _measure_pace(self, now: float) -> None:
        """Learn the own usual time per training turn, and between updates (waiting included), in seconds."""
        if self._with_training:
            turn = now - self._started_at
            gap = turn if self._published_at is None else now - self._published_at
            if self._measured is None:
                self._turn_s, self._measured = turn, gap
            else:
                self._turn_s += (1 - CADENCE_DECAY) * (turn - self._turn_s)
                self._measured += (1 - CADENCE_DECAY) * (gap - self._measured)
        self._published_at = now

    @property
    def _patience_s(self) -> float:
        """How long a silent neighbor may hold a turn back under a lead bound; own waiting does not stretch it."""
        own = max(self._interval, self._turn_s)
        return max(self._settings.live_floor_s, self._settings.lead_patience * own)

    @property
    def period(self) -> float:
        """The own usual time between updates, in seconds; the charter's interval until it is known."""
        return self._interval if self._measured is None else max(self._interval, self._measured)

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
        if self.phase == Phase.ADOPTING:
            self.phase = Phase.STARTING
        else:
            self.phase = Phase.IDLE
            self.round -= 1
        delay = min(FAILURE_BACKOFF_MAX_S, FAILURE_BACKOFF_S * 2 ** min(self._failures - 1, 10))
        return [Report("compute", self.last_failure), SetTimer(ROUND_TIMER, delay)]

    def _note_missing(self, name: bytes) -> None:
        """A blob is lost: neighbors' states are fetched again, the own base gives way to the own replica."""
        for neighbor in self._neighbors:
            if neighbor.state == name:
                neighbor.missing = True
        if name == self.base and self.phase == Phase.TRAINING:
            self.base = self._publisher.replica

    @property
    def failures(self) -> int:
        """Numeric jobs that failed in a row."""
        return self._failures


def _with_offenses(standing: Standing, bad: float) -> Standing:
    """The standing a merge led to, with ``bad`` mass that offenses added while the merge was computed."""
    return standing if bad <= 0 else Standing(standing.good, min(BAD_CAP, standing.bad + bad), standing.harm)


def _names(neighbors: list[Neighbor]) -> str:
    return ", ".join(n.member.name for n in neighbors[:4]) + (" ..." if len(neighbors) > 4 else "")
