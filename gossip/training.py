"""One training at a time: what it costs, what the compute process is asked, and the update it becomes.

A turn without training publishes all the same, as a heartbeat. What a training costs is committed before it begins.
"""

from __future__ import annotations

from quidnunc.gossip.budget import Budget
from quidnunc.gossip.claims import Claim, published
from quidnunc.gossip.events import Effect, Report
from quidnunc.gossip.federation.charter import Charter
from quidnunc.gossip.jobs import Trained, TrainJob, Unit
from quidnunc.gossip.provenance import PrivacyClaim, PrivacyExhausted, PrivacySpend, UpdatePublished
from quidnunc.gossip.publisher import Publisher, committed
from quidnunc.gossip.recorder import Recorder


class Training:
    """Prepares trainings and makes updates of their results; ``real`` says that the one prepared last does train."""

    def __init__(
        self,
        charter: Charter,
        me: bytes,
        recorder: Recorder,
        publisher: Publisher,
        budget: Budget,
        *,
        dataset: bytes,
        size_bucket: int,
    ) -> None:
        self._charter = charter
        self._me = me
        self._recorder = recorder
        self._publisher = publisher
        self._budget = budget
        self._dataset = dataset
        self._size_bucket = size_bucket
        self._spend: tuple[PrivacySpend, int] | None = None
        self.real = False

    @property
    def paid_round(self) -> int:
        """The round that is paid for and has published nothing yet: its training failed, or is under way; else 0."""
        return 0 if self._spend is None else self._spend[0].round

    def pay(self, round_: int, now: float, *, wanted: bool) -> list[Effect]:
        """Commit what the training of a round costs, if it is ``wanted``; without budget it is a heartbeat."""
        out: list[Effect] = []
        if self._spend is not None and self._spend[0].round != round_:
            self._spend = None  # a round that was not trained after all, because of a pause: it stays spent
        self.real = wanted
        if wanted and self._budget.private and self._spend is None:
            if self._budget.affords_next():
                spend = self._budget.spend(round_)
                self._spend = (spend, self._recorder.append(spend, now))
            else:
                self.real = False
                self._budget.exhausted = True
                self._recorder.append(self._exhausted(round_), now)
                out.append(Report("budget", "privacy budget spent: from here on this peer only listens"))
            out = committed(self._recorder.flush()) + out
        return out

    def _exhausted(self, round_: int) -> PrivacyExhausted:
        budget, privacy = self._budget, self._charter.privacy
        whose = self._dataset, privacy.unit == Unit.SITE, privacy.unit == Unit.SUM
        return PrivacyExhausted(round_, budget.cumulative_u, budget.cap_u, privacy.delta_exp, *whose)

    def job(self, round_: int, base: bytes, personal: bytes, drag: float, *, noised: bool) -> TrainJob:
        """The next update from ``base``; one that is ``noised`` carries noise whether it trains or not."""
        return TrainJob(
            round=round_,
            number=self._publisher.number + 1,
            base=base,
            replica=self._publisher.replica,
            train=self.real,
            drag=drag,
            privacy=self._budget.step() if self.real or noised else None,
            personal=personal,
        )

    def update(self, result: Trained, round_: int, base: bytes, base_claim: Claim) -> UpdatePublished:
        """What is published of a result; its spend is used up by that."""
        steps = self._steps()
        return UpdatePublished(
            federation=self._charter.federation_id,
            schema=self._charter.task.schema,
            round=round_,
            number=result.number,
            base=base,
            replica_before=self._publisher.replica,
            replica_after=result.result,
            delta=result.delta,
            size=result.size,
            codec=self._charter.codec,
            steps=steps,
            dataset=self._dataset,
            size_bucket=self._size_bucket,
            privacy=self._claim(),
            claims=published(base_claim, self._me, steps),
        )

    def _claim(self) -> PrivacyClaim | None:
        """What the training now to be published has cost."""
        if not self.real or self._spend is None:
            return None
        claim = self._budget.claim(*self._spend)
        self._spend = None
        return claim

    def _steps(self) -> int:
        """Local steps of this turn's training: none in a heartbeat, those of the release where records are private."""
        if not self.real:
            return 0
        step = self._budget.step()
        if step is None or step.unit == Unit.SITE:
            return self._charter.training.local_steps
        return step.steps
