"""A merge by a rule of the catalogue, on the rows as they are: own row first, at their mixing weights.

A rule that weighs whole rows is done by its coefficients, rounded down to parts per billion, so that the entry in the
ledger says exactly what was done and anybody can do it again. A rule that treats every coordinate by itself has no such
weights: its rows say what part each had on average (:mod:`quidnunc.gossip.rules.shares`), and the merge is marked.

Two cases have no rule in the literature:

* **Too few rows.** A rule told of ``bad`` rows needs a number of them (``least_rows``). With fewer, because neighbors
  are silent, the pivot is kept and nothing is merged: with ``bad`` bad rows among so few, any mixture could be theirs,
  and who can silence honest neighbors could otherwise choose the moment at which the defense is gone. What it costs is
  progress together, not safety: the peer trains on and merges as soon as it hears enough. A charter in which a member
  has too few neighbors for its rule is refused when it is drafted.
* **Rows that arithmetic cannot hold.** A finite row may be so far away that the difference overflows. It is left out
  and counts as one of the ``bad`` that the rule was told of. The median, which anybody recomputes from all rows, needs
  no differences: it leaves none out, and a median that is not finite is withheld.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import floor

import numpy as np

from quidnunc.gossip.jobs import PPB, WITHHELD
from quidnunc.gossip.learning.merged import FULL_STEP, Inputs, Merge, MergeRow
from quidnunc.gossip.rules.linear import Stack, Vector, recompute_stack
from quidnunc.gossip.rules.median import coordinate_median
from quidnunc.gossip.rules.registry import apply, coefficients, mixing_of
from quidnunc.gossip.rules.repute import Flags
from quidnunc.gossip.rules.shares import coordinate_shares
from quidnunc.gossip.rules.terms import TERMS, Counting, Options, checked_options, least_rows

FARTHEST = 1e30
"""Largest difference in a coordinate that a rule sees: sums of products of such differences stay finite."""


def merge_catalogued(rule: str, pivot: Vector, inputs: Inputs, options: Options, over: float = 0.0) -> Merge:
    """Merge by the rule called ``rule``; ``over`` is the part of all rounds that is over, 0 to 1.

    Raises ConfigError for an unknown rule and for options that are unknown, missing or out of bounds.
    """
    checked = checked_options(rule, options)
    if "t" in checked:
        checked["t"] = min(1.0, max(0.0, over))
    plain_median = rule == "median" and not checked["nearest"]
    near = np.ones(len(inputs.stack), dtype=np.bool_) if plain_median else _near(pivot, inputs.stack)
    lost = len(near) - int(near.sum())
    for key in ("bad", "nearest"):
        if key in checked:
            checked[key] = max(0.0, checked[key] - lost)
    if 1 + int(near.sum()) < least_rows(rule, checked):
        return _kept(pivot, inputs, WITHHELD)
    approximate = TERMS[rule].counting is Counting.COORDINATE
    if not near.any():
        return replace(_kept(pivot, inputs, FULL_STEP), approximate=approximate)
    given = np.array(inputs.weights)[near] / PPB
    stack = np.concatenate([pivot[None], inputs.stack[near]])
    weights = np.concatenate([[1 - given.sum()], given])
    if approximate:
        result = coordinate_median(stack) if plain_median else apply(rule, stack, weights, checked)
        parts = coordinate_shares(rule, stack, weights, checked, mixing_of(stack, checked))[1:]
    else:
        parts = coefficients(rule, stack, weights, checked)[1:]
    if approximate and not np.isfinite(result).all():
        return _kept(pivot, inputs, WITHHELD)
    effective = np.zeros(len(near), dtype=np.int64)
    effective[near] = [floor(PPB * min(1.0, max(0.0, part))) for part in parts.tolist()]
    counted = effective.tolist()
    if not approximate:
        result = recompute_stack(pivot, inputs.stack, counted)
    clips = [PPB] * len(counted) if checked["nearest"] else _clips(rule, counted, inputs.weights)
    rows = tuple(
        MergeRow(each, clip, standing) for each, clip, standing in zip(counted, clips, inputs.standings, strict=True)
    )
    return Merge(result, rows, approximate=approximate)


def _near(pivot: Vector, stack: Stack) -> Flags:
    """Which rows differ from the pivot by at most FARTHEST in every coordinate, [k]."""
    flags = np.ones(len(stack), dtype=np.bool_)
    for at, row in enumerate(stack):
        with np.errstate(over="ignore"):
            flags[at] = np.abs(row - pivot).max() <= FARTHEST
    return flags


def _kept(pivot: Vector, inputs: Inputs, step: int) -> Merge:
    return Merge(pivot, tuple(MergeRow(0, PPB, standing) for standing in inputs.standings), step)


def _clips(rule: str, effective: Sequence[int], weights: Sequence[int]) -> list[int]:
    """The part of its mixing weight that each row kept under a rule that clips; under others nothing is clipped."""
    if TERMS[rule].counting is not Counting.CLIPPING:
        return [PPB] * len(weights)
    return [min(PPB, PPB * each // weight) if weight else PPB for each, weight in zip(effective, weights, strict=True)]
