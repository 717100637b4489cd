"""REPUTE's evidence: pure functions from distances, losses and standings to what a merge does with its inputs.

All arrays are float64 [k], one row per neighbor. See ``gossip/learning/merge.py`` for the order they are applied in.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from quidnunc.gossip.rules.linear import CHUNK, Reals, Stack, Vector, distances
from quidnunc.gossip.rules.median import coordinate_median, medians_without_each, weighted_median

_NEAR_CENTER = 0.5

Flags = NDArray[np.bool_]
"""One truth value per neighbor, [k]."""


def clip_radius(distances: Reals, trust: Reals, factor: float) -> float:
    """``factor`` times the trust-weighted median distance: robust while bad peers hold less than half of the
    trust.
    """
    return factor * weighted_median(distances, trust)


def clip_factors(distances: Reals, radius: float) -> Reals:
    """min(1, radius/d): what each difference is shortened by."""
    return np.where(distances <= radius, 1.0, radius / np.maximum(distances, 1e-300))


def relative_harm(losses: Reals, own: float, unit: float, cap: float) -> Reals:
    """(losses - own) / unit, within [-cap, cap]; a loss that is not finite is worth ``cap``."""
    harm = (np.where(np.isfinite(losses), losses, np.inf) - own) / max(unit, 1e-12)
    return np.clip(harm, -cap, cap)


def bad_by_loss(harm: Reals, floor: float, spread: float, margin: float) -> Flags:
    """Harm above max(floor, median + spread * MAD + margin).

    Relative to the neighborhood, because different data moves everybody.
    """
    median = float(np.median(harm))
    deviation = float(np.median(np.abs(harm - median)))
    return harm > max(floor, median + spread * deviation + margin)


@dataclass(frozen=True, slots=True)
class Geometry:
    """Everybody's place relative to the neighborhood; row 0 is the own state, float64 [k+1].

    ``away`` are the distances to the coordinate median of all states. ``share`` are the parts <x, m>/<m, m> that a
    state x holds of the coordinate median m of all *other* states: about equal for honest peers, 0 for the origin,
    negative for a flipped model.
    """

    away: Reals
    share: Reals


def geometry(pivot: Vector, stack: Stack) -> Geometry:
    """The geometry of ``pivot`` [d] and its neighbors ``stack`` [k, d], k at least 1."""
    everyone = np.concatenate([pivot[None], stack])
    square, inner, size = (np.zeros(len(everyone)) for _ in range(3))
    for at in range(0, everyone.shape[1], CHUNK):
        part = everyone[:, at : at + CHUNK]
        off = (part - coordinate_median(part)).astype(np.float64)
        square += np.einsum("kd,kd->k", off, off)
        others = medians_without_each(part).astype(np.float64)
        inner += np.einsum("kd,kd->k", others, part)
        size += np.einsum("kd,kd->k", others, others)
    return Geometry(np.sqrt(square), inner / np.maximum(size, 1e-300))


def bad_by_distance(places: Geometry, spread: float, margin: float, stride: float = 0.0) -> Flags:
    """Too far from the neighborhood: d > usual + spread * MAD + margin * usual, the own distance included.

    Usual is the median distance, and at least ``stride``, the length of an honest round of training: among peers that
    have all finished the median shrinks to nothing, and one that comes late and still trains is no outlier for it.
    Measured from the center and not from the pivot, the peers' common progress and their shared past cancel.
    """
    median = float(np.median(places.away))
    deviation = float(np.median(np.abs(places.away - median)))
    usual = max(median, stride)
    return places.away[1:] > usual + spread * deviation + margin * usual


def bad_by_direction(places: Geometry, least: float) -> Flags:
    """Holding less than ``least`` of what the median peer holds of the others: flipped, shrunk to nothing or replaced.

    Noise and honest differences have no common direction, so they leave the share alone, whatever their size; this is
    what privacy noise cannot hide. One who holds little of the others does not judge, and two cannot be told apart.
    """
    usual = float(np.median(places.share))
    if len(places.share) < 3 or usual <= 0 or places.share[0] < _NEAR_CENTER * usual:
        return np.zeros(len(places.share) - 1, dtype=bool)
    return places.share[1:] < least * usual


def outside_gate(pivot: Vector, stack: Stack, gamma: float) -> Flags:
    """BALANCE's gate (Fang et al. 2024), ||x_j - pivot|| > gamma * ||pivot||, ignored if it would shut out
    more than half. Only without privacy noise, which makes norms meaningless.
    """
    outside = distances(pivot, stack) > gamma * float(np.linalg.norm(pivot))
    if 2 * int(outside.sum()) > len(outside):
        return np.zeros_like(outside)
    return outside
