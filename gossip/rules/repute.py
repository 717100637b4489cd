"""REPUTE's evidence: pure functions from distances, losses and standings to what a merge does with its
inputs.

All arrays are float64 [k], one row per neighbor. See ``gossip/merge.py`` for the order they are applied in.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from quidnunc.gossip.rules.linear import Reals, Stack, Vector, distances
from quidnunc.gossip.rules.median import coordinate_median, weighted_median

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


def bad_by_distance(pivot: Vector, stack: Stack, spread: float, margin: float) -> Flags:
    """Too far from the neighborhood: d > median + spread * MAD + margin * median, with d the distances of all
    states, the own one included, to their coordinate median.

    Measured from that center and not from the pivot, the peers' common progress and their shared past cancel;
    under privacy noise honest distances then agree within a tenth and a sign flip stands out at a third more.
    """
    everyone = np.concatenate([pivot[None], stack])
    away = distances(coordinate_median(everyone), everyone)
    median = float(np.median(away))
    deviation = float(np.median(np.abs(away - median)))
    return away[1:] > median + spread * deviation + margin * median


def outside_gate(pivot: Vector, stack: Stack, gamma: float) -> Flags:
    """BALANCE's gate (Fang et al. 2024), ||x_j - pivot|| > gamma * ||pivot||, ignored if it would shut out
    more than half. Only without privacy noise, which makes norms meaningless.
    """
    outside = distances(pivot, stack) > gamma * float(np.linalg.norm(pivot))
    if 2 * int(outside.sum()) > len(outside):
        return np.zeros_like(outside)
    return outside
