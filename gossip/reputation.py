"""REPUTE: how a peer's direct experience with a neighbor becomes a factor on that neighbor's weight.

A standing is a beta reputation (Josang and Ismail 2002): good mass and bad mass, both decaying by ``DECAY``
at each piece of evidence, bad evidence counted ``PENALTY`` times. Its mean r = (good+1)/(good+bad+2) is
stretched to a factor s = clamp((r - FLOOR)/(FULL - FLOOR), 0, 1): every neighbor in good standing has exactly
s = 1, so reputation only ever shrinks a mixing weight. ``GOOD_CAP`` makes a long good past worth no more than
a short one: a peer with the best standing that turns has s = 1, .74, .50, .32, .19, .08, 0 at its first seven
attacks.

Only own observations count. Opinions of others never change a standing; proofs do (see :func:`punish`).
"""

from __future__ import annotations

from enum import StrEnum

from quidnunc.gossip.jobs import Standing

DECAY = 0.95
PENALTY = 3.0
FLOOR = 0.3
FULL = 0.7
GOOD_CAP = 10.0
BAD_CAP = 40.0
OFFENSE = 10.0
JOINER_BAD = 6.0

FOUNDER = Standing(0.0, 0.0, 0.0)
"""Where founding members start: s = .5, and 1 after two clean pieces of evidence."""
JOINER = Standing(0.0, JOINER_BAD, 0.0)
"""Where later members start: s = 0, and 1 after twelve clean pieces of evidence."""


class StandingClass(StrEnum):
    """What of a standing may be shown to others; the numbers stay private."""

    NORMAL = "normal"
    REDUCED = "reduced"
    EXCLUDED = "excluded"


def mean_reputation(standing: Standing) -> float:
    """The beta mean (good+1)/(good+bad+2): .5 without evidence."""
    return (standing.good + 1) / (standing.good + standing.bad + 2)


def uncertainty(standing: Standing) -> float:
    """2/(good+bad+2): 1 without evidence, near 0 with much; what tells "unknown" from "mixed"."""
    return 2 / (standing.good + standing.bad + 2)


def standing_weight(standing: Standing) -> float:
    """The factor s in [0, 1] on the neighbor's mixing weight."""
    return min(1.0, max(0.0, (mean_reputation(standing) - FLOOR) / (FULL - FLOOR)))


def observe(standing: Standing, bad: bool) -> Standing:
    """The standing after one more piece of evidence, good or ``bad``; harm is left as it is."""
    good = DECAY * standing.good + (0.0 if bad else 1.0)
    harm = DECAY * standing.bad + (PENALTY if bad else 0.0)
    return Standing(min(GOOD_CAP, good), min(BAD_CAP, harm), standing.harm)


def punish(standing: Standing) -> Standing:
    """The standing after a provable offense: a body that its author signed and that breaks the protocol."""
    return Standing(standing.good, min(BAD_CAP, standing.bad + OFFENSE), standing.harm)


def classify(standing: Standing) -> StandingClass:
    """Normal at s = 1 (or without any evidence yet), excluded at s = 0, reduced between."""
    weight = standing_weight(standing)
    if weight <= 0.0:
        return StandingClass.EXCLUDED
    if weight >= 1.0 or (standing.bad == 0.0 and standing.good <= 1.0):
        return StandingClass.NORMAL
    return StandingClass.REDUCED
