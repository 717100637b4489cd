"""What goes into a merge and what comes out of it, whatever the rule."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from quidnunc.gossip.jobs import Standing
from quidnunc.gossip.rules.linear import Stack, Vector

FULL_STEP, QUARTER_STEP, NO_STEP = 0, 1, 2


@dataclass(frozen=True, slots=True)
class MergeRow:
    """How one input entered: effective weight and clip factor in ppb, the standing it leads to, and the doubts about it
    (:class:`quidnunc.gossip.jobs.Doubt`).
    """

    effective: int
    clip: int
    standing: Standing
    doubts: int = 0


@dataclass(frozen=True, slots=True)
class Merge:
    """The result [d], one row per input in the order given, and the step taken (see ``jobs.Merged``)."""

    result: Vector
    rows: tuple[MergeRow, ...]
    step: int = FULL_STEP
    approximate: bool = False


@dataclass(frozen=True, slots=True)
class Inputs:
    """The neighbors' side of a merge: replicas [k, d], mixing weights in ppb, standings, and which are fresh."""

    stack: Stack
    weights: Sequence[int]
    standings: Sequence[Standing]
    fresh: Sequence[bool]
