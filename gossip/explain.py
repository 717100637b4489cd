"""Why a neighbor counted in a merge for less or more than its mixing weight: plain sentences from public numbers."""

from __future__ import annotations

from quidnunc.gossip.jobs import PPB, Doubt
from quidnunc.gossip.rules.terms import TERMS, Counting
from quidnunc.gossip.rules.thresholds import REPUTE

STEP_REASONS = {
    1: "the full step made the model worse on the holdout: a quarter of it was taken",
    2: "any step made the model worse on the holdout: none was taken",
    3: "after an absence the median of the neighbors' states was adopted",
    4: "the rule needs more rows than were heard: the own state was kept",
}
"""By the step of a merge; a full one needs no reason."""

DOUBTS = {
    Doubt.LOSS: "its newest state does worse on the local holdout than the others'",
    Doubt.DISTANCE: "its newest state is much farther from the middle of all than the others'",
    Doubt.DIRECTION: "its newest state holds little of what all have in common, or the opposite of it",
    Doubt.GATE: "its newest state is outside the gate of the charter",
}
"""What spoke against a neighbor's newest state."""


def doubt_reasons(doubts: int) -> list[str]:
    """The words for ``doubts``, bits of :class:`Doubt`."""
    return [words for doubt, words in DOUBTS.items() if doubts & doubt]


_REPUTATION = "its weight was reduced by its reputation, or because it was absent for a while"
_UNKNOWN = "its weight was reduced; the charter that says by which rule is not here"
_QUARTER, _NONE, _WITHHELD = 1, 2, 4
_ROUNDING = 10


def merge_reasons(rule: str, weight: int, effective: int, clip: int, step: int, *, mixes: bool = False) -> list[str]:
    """The reasons why a row of mixing weight ``weight`` counted for ``effective``, ``clip`` of it within the radius.

    All in ppb. ``rule`` is the rule's name, empty where it is not known; it ``mixes`` if nearest rows were averaged
    before it. Nothing to explain gives no reason.
    """
    if step == _WITHHELD:
        return ["it was not used: the rule needs more rows than were heard"]
    if mixes:
        return [f"{rule} was given means of nearest rows: {effective / PPB:.1%} of the result is of this one"]
    counting = TERMS[rule].counting if rule in TERMS else None
    if counting is Counting.COORDINATE:
        return [f"{rule} treats every coordinate by itself: it decided {effective / PPB:.1%} of them"]
    found = []
    if clip < PPB:
        found.append(f"its difference was longer than the clip radius: {clip / PPB:.0%} of it counts")
    if not effective:
        found.append(f"it was not used{_omission(rule, counting is not None, step)}")
    elif counting is Counting.WEIGHING:
        found.append(f"{rule} weighs every row by its distance")
    elif counting is Counting.SELECTING:
        found.append(f"{rule} selected it")
    elif counting is None and effective < _expected(weight, clip, step) - _ROUNDING:
        found.append(_REPUTATION if rule == REPUTE else _UNKNOWN)
    return found


def _omission(rule: str, selects: bool, step: int) -> str:
    """Why a row has no weight at all, as far as it can be told; ``rule`` ``selects`` or clips by its own lights."""
    if step == _NONE:
        return ": no step was taken"
    if selects:
        return f": {rule} left it out"
    return ": its standing leaves it no weight, or it was absent for a while" if rule == REPUTE else ""


def _expected(weight: int, clip: int, step: int) -> float:
    return weight * (0.25 if step == _QUARTER else 1.0) * clip / PPB
