"""The privacy budget of a peer's data: what each release costs on top of all before it, and when to stop.

The node commits a ``dp.spend`` entry before it trains; what was spent is never refunded, whatever happens after. All
spends of a ledger add up, whatever charter and whatever version of the data they were under: a data set that has
gained a record still holds the others.

The units are accounts that never mix: an epsilon for the whole data set counts the site's releases alone, one for a
record counts them as well, at half their noise, and those of a private sum by their own noise alone; that of a private
sum counts all of them against fewer (:func:`~quidnunc.gossip.jobs.counting`).

Full batches are added up here, exactly. Sampled ones need a numerical accountant that this process does not load:
the compute process is asked once, before the first training, for a table of what further releases will cost.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from quidnunc.gossip.federation.charter import Charter
from quidnunc.gossip.federation.privacy_terms import DP_FULL_BATCH, DP_POISSON, DP_SITE, PRIVATE_SUM
from quidnunc.gossip.jobs import PrivacyStep, Spent, Unit, against, counting
from quidnunc.gossip.learning.accountant import combined_noise, epsilon_of, epsilon_of_total
from quidnunc.gossip.provenance import Mechanism, NoiseSource, PrivacyClaim, PrivacySpend

ACCOUNTANT = "analytic-gaussian/1"
SUM_ACCOUNTANT = "pairwise-gaussian/1"
SAMPLED_ACCOUNTANT = "pld-poisson/1"
_MECHANISMS = {
    DP_FULL_BATCH: Mechanism.DP_SGD_FULL_BATCH,
    DP_POISSON: Mechanism.DP_SGD_POISSON,
    DP_SITE: Mechanism.GAUSSIAN_DELTA,
    PRIVATE_SUM: Mechanism.PRIVATE_SUM,
}
NEVER_U = 2**53
"""An epsilon above every cap."""


def micro_up(value: float) -> int:
    """``value`` in millionths, rounded up: an epsilon is never understated."""
    return math.ceil(value * 1e6 - 1e-9) if math.isfinite(value) else NEVER_U


def full_batch_epsilon(spent: Spent, delta: float) -> float:
    """The epsilon that full-batch releases of any noise have cost together, exactly."""
    kinds = [(release, count) for release, count in spent if count]
    if not kinds:
        return 0.0
    if len(kinds) == 1:
        return epsilon_of(kinds[0][0].noise_u / 1e6, kinds[0][1], delta)
    return epsilon_of_total(combined_noise(kind.noise_u / 1e6 / math.sqrt(count) for kind, count in kinds), delta)


@dataclass(slots=True)
class Budget:
    """Releases so far and the epsilon they add up to. ``cap_u`` may be tighter than the charter's, never looser.

    ``history`` is what the ledger held at the start, with all units, ``others`` how many of its releases are of another
    unit than the charter's, ``table`` what the compute process says that further releases
    cost (see :class:`~quidnunc.gossip.jobs.Accounted`). Without a table where one is needed nothing is affordable.
    """

    charter: Charter
    cap_u: int
    noise_source: NoiseSource
    dataset: bytes
    releases: int = 0
    cumulative_u: int = 0
    exhausted: bool = False
    history: Spent = ()
    others: int = 0
    table: tuple[tuple[int, int], ...] = ()
    _start: int = 0

    def __post_init__(self) -> None:
        self._start = self.releases
        if self.private and self.releases > sum(count for _, count in self.history):
            self.history = ((self.charter.privacy.release, self.releases),)

    @property
    def private(self) -> bool:
        """Whether the charter asks for differential privacy at all."""
        return self.charter.privacy.mechanism != "none"

    @property
    def epsilon(self) -> float:
        """Epsilon spent so far, at the charter's delta."""
        return self.cumulative_u / 1e6

    @property
    def made(self) -> int:
        """Releases of this log so far that are of the charter's unit."""
        return self.releases - self.others

    def cost(self, releases: int) -> int:
        """Cumulative epsilon (``_u``) after that many releases, those of the history included."""
        if releases <= 0 and not self.history:
            return 0
        further = releases - self._start
        if self.sampled:
            if further <= 0:
                return self.cumulative_u
            return next((cost for number, cost in self.table if number >= further), NEVER_U)
        privacy = self.charter.privacy
        counts = dict(counting(self.history, privacy.unit, privacy.colluders))
        release = against(privacy.release, privacy.colluders)
        counts[release] = counts.get(release, 0) + further
        return micro_up(full_batch_epsilon(tuple(counts.items()), 10.0**-privacy.delta_exp))

    @property
    def sampled(self) -> bool:
        """Whether any release so far or to come is of a sample, so that costs come from the table."""
        privacy = self.charter.privacy
        kinds = [kind for kind, _ in counting(self.history, privacy.unit, privacy.colluders)]
        return self.private and any(kind.sampled for kind in (*kinds, privacy.release))

    def affords_next(self) -> bool:
        """Whether one more release stays within the cap."""
        return not self.exhausted and self.cost(self.releases + 1) <= self.cap_u

    def spend(self, round_: int) -> PrivacySpend:
        """Count one more release; the record must be durable before the release is computed."""
        before = self.cumulative_u
        self.releases += 1
        self.cumulative_u = max(before, self.cost(self.releases))
        privacy = self.charter.privacy
        return PrivacySpend(
            round=round_,
            release=self.releases,
            epsilon_u=self.cumulative_u - before,
            cumulative_u=self.cumulative_u,
            cap_u=self.cap_u,
            delta_exp=privacy.delta_exp,
            noise_u=privacy.noise_u,
            clip_u=privacy.clip_u,
            noise_source=int(self.noise_source),
            dataset=self.dataset,
            rate_ppm=privacy.release.rate_ppm,
            steps=privacy.release.steps,
            site=privacy.unit == Unit.SITE,
            pair_u=privacy.pair_u,
            members=privacy.members,
            colluders=privacy.colluders,
        )

    def step(self) -> PrivacyStep | None:
        """Clip and noise for one release, or None without privacy."""
        return self.charter.privacy.step

    def claim(self, spend: PrivacySpend, spend_seq: int) -> PrivacyClaim:
        """The ``dp`` map of the update that this spend paid for."""
        return PrivacyClaim(
            mechanism=int(_MECHANISMS[self.charter.privacy.mechanism]),
            noise_source=spend.noise_source,
            sample_rate_ppm=spend.rate_ppm,
            noise_u=spend.noise_u,
            clip_u=spend.clip_u,
            steps=spend.steps,
            delta_exp=spend.delta_exp,
            epsilon_u=spend.epsilon_u,
            cumulative_u=spend.cumulative_u,
            accountant=self._accountant,
            spend_seq=spend_seq,
            site=spend.site,
            pair_u=spend.pair_u,
            members=spend.members,
            colluders=spend.colluders,
        )

    @property
    def _accountant(self) -> str:
        """Who counts, as claims name it."""
        if self.sampled:
            return SAMPLED_ACCOUNTANT
        return SUM_ACCOUNTANT if self.charter.privacy.unit == Unit.SUM else ACCOUNTANT
