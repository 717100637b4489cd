"""Merging neighbors' published replicas into one's own: REPUTE, plain mean and coordinate median.

REPUTE in order:

1. distances d_j = ||x_j - pivot||, and the clip radius tau = 1.5 * median of d weighted by the *old* standings;
2. evidence, for inputs that advanced since they were last judged: how much x_j holds of the others' coordinate
   median, how far it is from everybody's, and the smoothed holdout harm of half a clipped step toward it, each
   compared with the other neighbors;
3. new standings; weights w_j * s_j * min(1, tau/d_j), rounded down to parts per billion. Lost weight goes to self;
4. the merge in float32, exactly as :func:`~quidnunc.gossip.rules.linear.recompute` does it;
5. validation on the holdout: a quarter step if the result is clearly worse than the pivot, none if that is worse too.

Hence, whatever bad peers B send: ||result - result without B|| <= tau * sum of w_j over B, with tau held fixed.
Neighbors in good standing and within tau enter with exactly their mixing weight.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from math import floor, isfinite

import numpy as np

from quidnunc.crypto.errors import ConfigError
from quidnunc.gossip.jobs import PPB, Standing
from quidnunc.gossip.reputation import observe, standing_weight
from quidnunc.gossip.rules import repute
from quidnunc.gossip.rules.linear import Reals, Stack, Vector, distances, recompute
from quidnunc.gossip.rules.median import coordinate_median

Probe = Callable[[Stack], Reals]
"""Mean holdout loss, float64 [k], of each params vector of a stack [k, d]."""

FULL_STEP, QUARTER_STEP, NO_STEP = 0, 1, 2


@dataclass(frozen=True, slots=True)
class MergeRow:
    """How one input entered: effective weight and clip factor in ppb, the standing it leads to."""

    effective: int
    clip: int
    standing: Standing
    suspect: bool


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


@dataclass(frozen=True, slots=True)
class ReputeOptions:
    """The thresholds of REPUTE, by the names they have in a charter.

    ``radius``: clip radius in median distances. ``least_share``: bad holds less than this part of what the median
    peer holds of the others. ``outlier_spread``, ``outlier_margin``: bad is farther from the common coordinate median
    than median + spread * MAD + margin * median of all such distances. ``probe_step``: the part of a clipped step that
    is probed. ``harm_scale``, ``harm_cap``: relative harm is (loss - own)/(own + harm_scale * untrained), cut at
    harm_cap. ``harm_memory``: how much of the old smoothed harm is kept. ``harm_floor``, ``harm_spread``,
    ``harm_margin``: bad is above max(floor, median + spread * MAD + margin). ``gate``: BALANCE's gamma, 0 for none,
    never with privacy. ``validate_factor``, ``validate_margin``: a result is refused if its holdout loss exceeds both
    factor * own + margin and the loss of untrained params.
    """

    radius: float = 1.5
    outlier_spread: float = 5.0
    outlier_margin: float = 1.0
    least_share: float = 0.1
    probe_step: float = 0.5
    harm_scale: float = 0.4
    harm_cap: float = 10.0
    harm_memory: float = 0.8
    harm_floor: float = 0.05
    harm_spread: float = 4.0
    harm_margin: float = 0.2
    gate: float = 0.0
    validate_factor: float = 1.25
    validate_margin: float = 0.05


PRIVATE = ReputeOptions(outlier_margin=2.0, harm_margin=1.0)
"""The defaults under privacy noise.

Noise makes the distances of honest peers with smaller data sets larger, and losses on a small holdout so uneven that
they prove little: both tests look for gross cases only. The share in the common model is what noise cannot hide.
"""


def repute_options(options: Mapping[str, float], *, private: bool = False) -> ReputeOptions:
    """The defaults with ``options`` applied. Raises ConfigError for an unknown name or a negative value."""
    known = [entry.name for entry in fields(ReputeOptions)]
    for name, value in options.items():
        if name not in known:
            raise ConfigError(f"merge option {name} is unknown", hint=f"known are {', '.join(known)}")
        if not (isfinite(value) and value >= 0):
            raise ConfigError(f"merge option {name} is {value}, must be finite and at least 0")
    return replace(PRIVATE if private else ReputeOptions(), **options)


def merge_repute(
    pivot: Vector, inputs: Inputs, probe: Probe | None, options: ReputeOptions, untrained: float = 0.0
) -> Merge:
    """Merge ``inputs`` into ``pivot`` [d] by REPUTE; without ``probe`` (no holdout) distance is the only evidence.

    ``untrained`` is the holdout loss of the genesis params.
    """
    if not len(inputs.stack):
        return Merge(pivot, ())
    away = distances(pivot, inputs.stack)
    trust = np.array([standing_weight(standing) for standing in inputs.standings])
    radius = repute.clip_radius(away, trust, options.radius)
    clips = repute.clip_factors(away, radius)
    standings, suspects, own = _judge(pivot, inputs, probe, clips, options, untrained)
    rows = [
        MergeRow(floor(weight * (standing_weight(standing) * clip)), floor(PPB * clip), standing, suspect)
        for weight, standing, clip, suspect in zip(inputs.weights, standings, clips.tolist(), suspects, strict=True)
    ]
    limit = max(options.validate_factor * own + options.validate_margin, untrained)
    return _validated(pivot, inputs.stack, rows, probe, limit)


def _judge(
    pivot: Vector,
    inputs: Inputs,
    probe: Probe | None,
    clips: Reals,
    options: ReputeOptions,
    untrained: float,
) -> tuple[list[Standing], list[bool], float]:
    """New standings and suspicions of all inputs, and the pivot's own holdout loss (nan without a probe)."""
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
    suspect = repute.bad_by_loss(harm, options.harm_floor, options.harm_spread, options.harm_margin)
    places = repute.geometry(pivot, inputs.stack)
    suspect |= repute.bad_by_distance(places, options.outlier_spread, options.outlier_margin)
    suspect |= repute.bad_by_direction(places, options.least_share)
    if options.gate > 0:
        suspect |= repute.outside_gate(pivot, inputs.stack, options.gate)
    standings = [
        observe(replace(standing, harm=float(h)), bool(bad)) if new else standing
        for standing, h, bad, new in zip(inputs.standings, harm, suspect, fresh, strict=True)
    ]
    return standings, suspect.tolist(), own


def _validated(
    pivot: Vector,
    stack: Stack,
    rows: list[MergeRow],
    probe: Probe | None,
    limit: float,
) -> Merge:
    """The merge of ``rows``, shortened to a quarter or to nothing where the holdout clearly suffers."""
    result = recompute(pivot, [(state, row.effective) for state, row in zip(stack, rows, strict=True)])
    if probe is None or not isfinite(limit):
        return Merge(result, tuple(rows))
    if float(probe(result[None])[0]) <= limit:
        return Merge(result, tuple(rows))
    rows = [replace(row, effective=row.effective // 4) for row in rows]
    result = recompute(pivot, [(state, row.effective) for state, row in zip(stack, rows, strict=True)])
    if float(probe(result[None])[0]) <= limit:
        return Merge(result, tuple(rows), QUARTER_STEP)
    return Merge(pivot, tuple(replace(row, effective=0) for row in rows), NO_STEP)


def merge_mean(pivot: Vector, inputs: Inputs) -> Merge:
    """The mixing weights as they are: no defense at all."""
    rows = [
        MergeRow(weight, PPB, standing, False)
        for weight, standing in zip(inputs.weights, inputs.standings, strict=True)
    ]
    return Merge(recompute(pivot, list(zip(inputs.stack, inputs.weights, strict=True))), tuple(rows))


def merge_median(pivot: Vector, inputs: Inputs) -> Merge:
    """The coordinate median of ``pivot`` and all inputs; it has no scalar weights, so the result is approximate."""
    rows = [
        MergeRow(weight, PPB, standing, False)
        for weight, standing in zip(inputs.weights, inputs.standings, strict=True)
    ]
    result = coordinate_median(np.concatenate([pivot[None], inputs.stack]))
    return Merge(result, tuple(rows), approximate=True)


MERGE_RULES = ("repute", "mean", "median")
"""The names a charter may give as its merge rule."""


def merge(
    rule: str,
    pivot: Vector,
    inputs: Inputs,
    probe: Probe | None,
    options: Mapping[str, float],
    untrained: float = 0.0,
    *,
    private: bool = False,
) -> Merge:
    """Merge by the rule called ``rule``; ``private`` chooses its defaults for params with privacy noise.

    Raises ConfigError for an unknown rule or option.
    """
    if rule == "repute":
        return merge_repute(pivot, inputs, probe, repute_options(options, private=private), untrained)
    if rule not in MERGE_RULES or options:
        what = f"merge rule {rule} takes no options" if rule in MERGE_RULES else f"merge rule {rule} is unknown"
        raise ConfigError(what, hint=f"known rules are {', '.join(MERGE_RULES)}")
    return merge_mean(pivot, inputs) if rule == "mean" else merge_median(pivot, inputs)
