"""Merging neighbors' published replicas into one's own: REPUTE, plain mean, and the rules of the catalogue.

REPUTE in order:

1. distances d_j = ||x_j - pivot||, and the clip radius tau = 1.5 * median of d weighted by the *old* standings;
2. evidence, for inputs that advanced since they were last judged: how much x_j holds of the others' coordinate
   median, how far it is from everybody's, and the smoothed holdout harm of half a clipped step toward it, each
   compared with the other neighbors; one that is far, but helps, is clipped and not doubted;
3. new standings; weights w_j * s_j * min(1, tau/d_j), rounded down to parts per billion. Lost weight goes to self;
4. the merge in float32, exactly as :func:`~quidnunc.gossip.rules.linear.recompute` does it;
5. validation on the holdout: a quarter step if the result is clearly worse than the pivot, none if that is worse too.

Hence, whatever bad peers B send: ||result - result without B|| <= tau * sum of w_j over B, with tau held fixed.
Neighbors in good standing and within tau enter with exactly their mixing weight.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from math import floor, isfinite

import numpy as np

from quidnunc.gossip.jobs import PPB, Doubt, Standing
from quidnunc.gossip.learning.catalogued import merge_catalogued
from quidnunc.gossip.learning.merged import NO_STEP, QUARTER_STEP, Inputs, Merge, MergeRow
from quidnunc.gossip.reputation import observe, standing_weight
from quidnunc.gossip.rules import repute
from quidnunc.gossip.rules.linear import Reals, Stack, Vector, recompute_stack
from quidnunc.gossip.rules.terms import checked_options, terms_named
from quidnunc.gossip.rules.thresholds import REPUTE, ReputeOptions, repute_options

Probe = Callable[[Stack], Reals]
"""Mean holdout loss, float64 [k], of each params vector of a stack [k, d]."""


def merge_repute(
    pivot: Vector,
    inputs: Inputs,
    probe: Probe | None,
    options: ReputeOptions,
    untrained: float = 0.0,
    stride: float = 0.0,
) -> Merge:
    """Merge ``inputs`` into ``pivot`` [d] by REPUTE; without ``probe`` (no holdout) distance is the only evidence.

    ``untrained`` is the holdout loss of the genesis params, ``stride`` how far the own last round of training went:
    the distance that any honest peer may have at least.
    """
    if not len(inputs.stack):
        return Merge(pivot, ())
    away, places = repute.distances_and_geometry(pivot, inputs.stack)
    trust = np.array([standing_weight(standing) for standing in inputs.standings])
    radius = repute.clip_radius(away, trust, options.radius)
    clips = repute.clip_factors(away, radius)
    standings, doubts, own = _judge(pivot, inputs, probe, clips, places, options, untrained, stride)
    rows = [
        MergeRow(floor(weight * (standing_weight(standing) * clip)), floor(PPB * clip), standing, found)
        for weight, standing, clip, found in zip(inputs.weights, standings, clips.tolist(), doubts, strict=True)
    ]
    limit = max(options.validate_factor * own + options.validate_margin, untrained)
    return _validated(pivot, inputs.stack, rows, probe, limit)


def _judge(
    pivot: Vector,
    inputs: Inputs,
    probe: Probe | None,
    clips: Reals,
    places: repute.Geometry,
    options: ReputeOptions,
    untrained: float,
    stride: float,
) -> tuple[list[Standing], list[int], float]:
    """New standings and doubts of all inputs, and the pivot's own holdout loss (nan without a probe)."""
    fresh = np.array(inputs.fresh, dtype=bool)
    harm = np.array([standing.harm for standing in inputs.standings])
    own = float("nan")
    if probe is not None:
        chosen = np.flatnonzero(fresh)
        part = (options.probe_step * clips[chosen]).astype(np.float32)[:, None]
        halfway = pivot + part * (inputs.stack[chosen] - pivot)
        losses = probe(np.concatenate([pivot[None], halfway]))
        own = float(losses[0])
        if isfinite(own):
            unit = own + options.harm_scale * untrained
            seen = repute.relative_harm(losses[1:], own, unit, options.harm_cap)
            harm[chosen] = options.harm_memory * harm[chosen] + (1 - options.harm_memory) * seen
    found = {
        Doubt.LOSS: repute.bad_by_loss(harm, options.harm_floor, options.harm_spread, options.harm_margin),
        Doubt.DISTANCE: repute.bad_by_distance_and_harm(places, harm, isfinite(own), options, stride),
        Doubt.DIRECTION: repute.bad_by_direction(places, options.least_share),
    }
    if options.gate > 0:
        found[Doubt.GATE] = repute.outside_gate(pivot, inputs.stack, options.gate)
    doubts = [int(sum(kind for kind, flags in found.items() if flags[at])) for at in range(len(harm))]
    standings = [
        observe(replace(standing, harm=float(h)), bad > 0) if new else standing
        for standing, h, bad, new in zip(inputs.standings, harm, doubts, fresh, strict=True)
    ]
    return standings, doubts, own


def _validated(
    pivot: Vector,
    stack: Stack,
    rows: list[MergeRow],
    probe: Probe | None,
    limit: float,
) -> Merge:
    """The merge of ``rows``, shortened to a quarter or to nothing where the holdout clearly suffers."""
    result = recompute_stack(pivot, stack, [row.effective for row in rows])
    if probe is None or not isfinite(limit):
        return Merge(result, tuple(rows))
    if float(probe(result[None])[0]) <= limit:
        return Merge(result, tuple(rows))
    rows = [replace(row, effective=row.effective // 4) for row in rows]
    result = recompute_stack(pivot, stack, [row.effective for row in rows])
    if float(probe(result[None])[0]) <= limit:
        return Merge(result, tuple(rows), QUARTER_STEP)
    return Merge(pivot, tuple(replace(row, effective=0) for row in rows), NO_STEP)


def merge_mean(pivot: Vector, inputs: Inputs) -> Merge:
    """The mixing weights as they are: no defense at all."""
    rows = [MergeRow(weight, PPB, standing) for weight, standing in zip(inputs.weights, inputs.standings, strict=True)]
    return Merge(recompute_stack(pivot, inputs.stack, inputs.weights), tuple(rows))


def merge(
    rule: str,
    pivot: Vector,
    inputs: Inputs,
    probe: Probe | None,
    options: Mapping[str, float],
    untrained: float = 0.0,
    *,
    private: bool = False,
    over: float = 0.0,
    stride: float = 0.0,
) -> Merge:
    """Merge by the rule called ``rule``; ``private`` chooses its defaults for params with privacy noise.

    ``over`` is the part of all rounds that is over, 0 to 1; ``stride`` how far the own last round of training went,
    infinite where that is not known. Raises ConfigError for an unknown rule or option.
    """
    if rule == REPUTE:
        return merge_repute(pivot, inputs, probe, repute_options(options, private=private), untrained, stride)
    terms_named(rule, (REPUTE,))
    if rule == "mean" and not checked_options(rule, options)["nearest"]:
        return merge_mean(pivot, inputs)
    return merge_catalogued(rule, pivot, inputs, options, over)
