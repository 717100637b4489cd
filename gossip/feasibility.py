"""Can a merge rule tell an attacker from an honest peer under this much noise? A gate, not a proof.

A round of one peer moves its params by at most eta * steps * C where all of its records agree; its noise moves them by
about eta * C * noise * sqrt(steps * d) / (q * n). Their quotient

    noise * sqrt(d) / (q * n * sqrt(steps))

needs no data and no learning rate. Where the project measured it (digits, 650 parameters, 75 records a peer, sign
flippers and slow attackers, three of sixteen), the default rule held at epsilon 8, quotient 1.4, and no rule did at
epsilon 4, quotient 2.6, where everybody was better off alone. The limit lies between. Two points are no law: below it
nothing is promised that the threat model does not say; above it robustness must not be claimed.

With unit site the largest step is the clip itself, however many records there are, and the quotient noise * sqrt(d).
"""

from __future__ import annotations

from math import sqrt
from typing import NamedTuple

from quidnunc.gossip.federation.privacy_terms import PrivacySpec
from quidnunc.gossip.federation.terms import MICRO, MergeSpec
from quidnunc.gossip.jobs import PPM, Unit

NOISE_RATIO_MAX = 2.0
"""Noise over the largest step from which robustness is not claimed."""


class Feasibility(NamedTuple):
    """How large the noise of a round is beside the largest step that ``examples`` records can make."""

    ratio: float
    examples: int
    unit: Unit = Unit.EXAMPLE

    @property
    def robust(self) -> bool:
        """Whether a robust rule has something to see."""
        return self.ratio <= NOISE_RATIO_MAX

    @property
    def needed(self) -> int:
        """The number of records with which the ratio keeps its limit."""
        return -int(-self.ratio * self.examples // NOISE_RATIO_MAX)

    def sentence(self) -> str:
        """What it means, with the numbers and the remedies."""
        if self.unit == Unit.SITE:
            return (
                f"a round's noise is {self.ratio:.2g} times the largest delta that is released, limit "
                f"{NOISE_RATIO_MAX:g}, with any number of records: merge rules cannot tell attackers from noise, and "
                "little is learned; have more members, a smaller model or a larger epsilon, and trust all neighbors"
            )
        return (
            f"with {self.examples} records a round's noise is {self.ratio:.2g} times its largest step, limit "
            f"{NOISE_RATIO_MAX:g}: merge rules cannot tell attackers from noise; have {self.needed} records, a smaller "
            "model or a larger epsilon, or trust all neighbors"
        )


def feasibility(privacy: PrivacySpec, merge: MergeSpec, dim: int, examples: int) -> Feasibility | None:
    """The gate for a peer with ``examples`` records; None without privacy, or where the rule claims no robustness."""
    if not privacy.private or (merge.rule == "mean" and not merge.mixes) or examples < 1:
        return None
    if privacy.unit == Unit.SITE:
        return Feasibility(privacy.noise_u / MICRO * sqrt(dim), examples, Unit.SITE)
    release = privacy.release
    ratio = privacy.noise_u / MICRO * sqrt(dim / release.steps) / (release.rate_ppm / PPM * examples)
    return Feasibility(ratio, examples)
