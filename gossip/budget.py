"""The privacy budget of one dataset under one charter: what each release costs, and when to stop.

The node commits a ``dp.spend`` entry before it trains; what was spent is never refunded, whatever happens after.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from quidnunc.gossip.federation.charter import Charter
from quidnunc.gossip.jobs import PrivacyStep
from quidnunc.gossip.learning.accountant import epsilon_of
from quidnunc.gossip.provenance import Mechanism, NoiseSource, PrivacyClaim, PrivacySpend

ACCOUNTANT = "analytic-gaussian/1"
SAMPLE_RATE_ALL_PPM = 1_000_000


def micro_up(value: float) -> int:
    """``value`` in millionths, rounded up: an epsilon is never understated."""
    return math.ceil(value * 1e6 - 1e-9)


@dataclass(slots=True)
class Budget:
    """Releases so far and the epsilon they add up to. ``cap_u`` may be tighter than the charter's, never looser."""

    charter: Charter
    cap_u: int
    noise_source: NoiseSource
    dataset: bytes
    releases: int = 0
    cumulative_u: int = 0
    exhausted: bool = False

    @property
    def private(self) -> bool:
        """Whether the charter asks for differential privacy at all."""
        return self.charter.privacy.mechanism != "none"

    @property
    def epsilon(self) -> float:
        """Epsilon spent so far, at the charter's delta."""
        return self.cumulative_u / 1e6

    def cost(self, releases: int) -> int:
        """Cumulative epsilon (``_u``) after that many releases."""
        if releases == 0:
            return 0
        privacy = self.charter.privacy
        return micro_up(epsilon_of(privacy.noise_u / 1e6, releases, 10.0**-privacy.delta_exp))

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
        )

    def step(self) -> PrivacyStep | None:
        """Clip and noise for one release, or None without privacy."""
        if not self.private:
            return None
        privacy = self.charter.privacy
        return PrivacyStep(privacy.clip_u / 1e6, privacy.noise_u / 1e6)

    def claim(self, spend: PrivacySpend, spend_seq: int) -> PrivacyClaim:
        """The ``dp`` map of the update that this spend paid for."""
        return PrivacyClaim(
            mechanism=int(Mechanism.DP_SGD_FULL_BATCH),
            noise_source=spend.noise_source,
            sample_rate_ppm=SAMPLE_RATE_ALL_PPM,
            noise_u=spend.noise_u,
            clip_u=spend.clip_u,
            steps=1,
            delta_exp=spend.delta_exp,
            epsilon_u=spend.epsilon_u,
            cumulative_u=spend.cumulative_u,
            accountant=ACCOUNTANT,
            spend_seq=spend_seq,
        )
