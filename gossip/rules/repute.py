"""REPUTE's evidence: pure functions from distances, losses and standings to what a merge does with its inputs.

Arrays are float64 [..., k], one place per neighbor; leading dimensions are peers that merge side by side, as in the
simulator. See ``gossip/learning/merge.py`` for the order they are applied in.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from quidnunc.gossip.rules import compiled
from quidnunc.gossip.rules.blocks import TERMS, WIDTH, float32_held, total_of
from quidnunc.gossip.rules.linear import CHUNK, Reals, Stack, Vector, distances
from quidnunc.gossip.rules.median import coordinate_median, medians_without_each, weighted_median
from quidnunc.gossip.rules.network import MOST_ROWS, ranks
from quidnunc.gossip.rules.thresholds import ReputeOptions

_NEAR_CENTER = 0.5

Flags = NDArray[np.bool_]
"""One truth value per neighbor, [..., k]."""


def clip_radius(distances: Reals, trust: Reals, factor: float) -> float:
    """``factor`` times the trust-weighted median distance: robust while bad peers hold less than half of the
    trust.
    """
    return factor * weighted_median(distances, trust)


def clip_factors(distances: Reals, radius: float | Reals) -> Reals:
    """min(1, radius/d): what each difference is shortened by; ``radius`` a number or [..., 1]."""
    return np.where(distances <= radius, 1.0, radius / np.maximum(distances, 1e-300))


def relative_harm(losses: Reals, own: float | Reals, unit: float | Reals, cap: float) -> Reals:
    """(losses - own) / unit, within [-cap, cap]; a loss that is not finite is worth ``cap``.

    ``own`` and ``unit`` are numbers or [..., 1].
    """
    harm = (np.where(np.isfinite(losses), losses, np.inf) - own) / np.maximum(unit, 1e-12)
    return np.clip(harm, -cap, cap)


def bad_by_loss(harm: Reals, floor: float, spread: float, margin: float) -> Flags:
    """Harm above max(floor, median + spread * MAD + margin).

    Relative to the neighborhood, because different data moves everybody.
    """
    median, deviation = _center(harm)
    found: Flags = harm > np.maximum(floor, median + spread * deviation + margin)
    return found


def _center(values: Reals) -> tuple[Reals, Reals]:
    """Median and median absolute deviation along the last axis, [..., 1]."""
    median = _median(values)
    return median, _median(np.abs(values - median))


def _median(values: Reals) -> Reals:
    """``np.median`` along the last axis, [..., 1], in a third of the time for a few values; nan where there is one."""
    ranked = np.sort(values, axis=-1)
    half, odd = divmod(ranked.shape[-1], 2)
    found = ranked[..., half : half + 1] if odd else (ranked[..., half - 1 : half] + ranked[..., half : half + 1]) / 2
    last = ranked[..., -1:]
    # Where nothing is a number, sorting puts it last.
    middle: Reals = np.where(np.isnan(last), last, found)
    return middle


@dataclass(frozen=True, slots=True)
class Geometry:
    """Everybody's place relative to the neighborhood; row 0 is the own state, float64 [..., k+1].

    ``away`` are the distances to the coordinate median of all states. ``share`` are the parts <x, m>/<m, m> that a
    state x holds of the coordinate median m of all *other* states: about equal for honest peers, 0 for the origin,
    negative for a flipped model.
    """

    away: Reals
    share: Reals


def distances_and_geometry(pivot: Vector, stack: Stack) -> tuple[Reals, Geometry]:
    """||x_j - pivot|| of the neighbors [k] and :func:`geometry`: in one pass where there is compiled code for it."""
    if len(stack) < MOST_ROWS and (sums := compiled.geometry_sums(pivot, stack)) is not None:
        apart = sums[3, 1:]
        away = np.sqrt(apart) if float32_held(apart) else distances(pivot, stack)
        return away, _geometry_of(pivot, stack, sums[:3])
    return distances(pivot, stack), geometry(pivot, stack)


def geometry(pivot: Vector, stack: Stack) -> Geometry:
    """The geometry of ``pivot`` [d] and its neighbors ``stack`` [k, d], k at least 1.

    The median of all but x is the middle of the others, and is had from the middle ranks r of all: with S their sum,
    (S - clip(x, lowest r, highest r)) / (one less than there are of them).
    """
    if len(stack) >= MOST_ROWS:
        return _geometry_by_sorting(pivot, stack)
    return _geometry_of(pivot, stack, _geometry_sums(pivot, stack))


def _geometry_of(pivot: Vector, stack: Stack, sums: Reals) -> Geometry:
    """The geometry that :func:`_geometry_sums` come to."""
    square, inner, size = sums
    if not (float32_held(square) and float32_held(size) and np.isfinite(inner).all()):
        return _geometry_by_sorting(pivot, stack)
    return Geometry(np.sqrt(square), (1 + len(square) % 2) * inner / size)


def _geometry_sums(pivot: Vector, stack: Stack) -> Reals:
    """Of each state, [3, k+1]: its squared distance to the median, and the product of (S - clip) with it and with
    itself; each by :func:`quidnunc.gossip.rules.blocks.total_of`.
    """
    count = len(stack) + 1
    half = count // 2
    first, last = (half - 1, half + 1) if count % 2 else (half - 1, half)
    sums = np.zeros((3, count))
    square, inner, size = sums
    work = np.empty((count + 3, min(CHUNK, len(pivot))), np.float32)
    run = TERMS * WIDTH
    room = np.empty(-(-work.shape[1] // run) * run, np.float32)
    for at in range(0, len(pivot), CHUNK):
        states = [pivot[at : at + CHUNK], *stack[:, at : at + CHUNK]]
        *copies, spare, center, total = work[:, : len(states[0])]
        filled = room[: -(-len(states[0]) // run) * run]
        for state, copy in zip(states, copies, strict=True):
            # Adding 0 turns -0 into +0: the two compare equal, and the order of the rows would show.
            np.add(state, np.float32(0), out=copy)
        low, *between, high = ranks(copies, first, last, spare=spare)
        spare = next(row for row in (*copies, spare) if not any(row is used for used in (low, *between, high)))
        np.add(low, high, out=total)
        np.multiply(total, np.float32(0.5), out=center)
        if between:
            np.copyto(center, between[0])
            np.add(total, center, out=total)
        with np.errstate(over="ignore", invalid="ignore"):
            for row, state in enumerate(states):
                np.subtract(state, center, out=spare)
                square[row] += total_of(spare, spare, filled)
                np.maximum(state, low, out=spare)
                np.minimum(spare, high, out=spare)
                np.subtract(total, spare, out=spare)
                inner[row] += total_of(spare, state, filled)
                size[row] += total_of(spare, spare, filled)
    return sums


def _geometry_by_sorting(pivot: Vector, stack: Stack) -> Geometry:
    """The geometry of any number of rows, summed in float64."""
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


def bad_by_distance(places: Geometry, spread: float, margin: float, stride: float | Reals = 0.0) -> Flags:
    """Too far from the neighborhood: d > usual + spread * MAD + margin * usual, the own distance included.

    Usual is the median distance, and at least ``stride``, the length of an honest round of training: among peers that
    have all finished the median shrinks to nothing, and one that comes late and still trains is no outlier for it.
    Measured from the center and not from the pivot, the peers' common progress and their shared past cancel.
    """
    return _farther(places, _center(places.away), spread, margin, stride)


def _farther(
    places: Geometry, center: tuple[Reals, Reals], spread: float, margin: float, stride: float | Reals
) -> Flags:
    usual = np.maximum(center[0], stride)
    found: Flags = places.away[..., 1:] > usual + spread * center[1] + margin * usual
    return found


def bad_by_distance_and_harm(
    places: Geometry, harm: Reals, known: Flags | bool, options: ReputeOptions, stride: float | Reals = 0.0
) -> Flags:
    """Grossly far from the neighborhood, or far while steps toward it did not help on the holdout, as ``harm`` says.

    A small site whose labels differ is as far from the others as an attacker, but the own examples gain from it. Such
    a one is clipped, not silenced. Where harm is not ``known`` (no holdout), far is bad.
    """
    center, spread = _center(places.away), options.outlier_spread
    far = _farther(places, center, spread, options.outlier_margin, stride)
    gross = _farther(places, center, spread, max(options.outlier_margin, options.outlier_gross), stride)
    found: Flags = gross | (far & (~np.asarray(known) | (harm >= 0)))
    return found


def bad_by_direction(places: Geometry, least: float) -> Flags:
    """Holding less than ``least`` of what the median peer holds of the others: flipped, shrunk to nothing or replaced.

    Noise and honest differences have no common direction, so they leave the share alone, whatever their size; this is
    what privacy noise cannot hide. One who holds little of the others does not judge, and two cannot be told apart.
    """
    usual = _median(places.share)
    judges = (places.share.shape[-1] >= 3) & (usual > 0) & (places.share[..., :1] >= _NEAR_CENTER * usual)
    found: Flags = judges & (places.share[..., 1:] < least * usual)
    return found


def outside_gate(pivot: Vector, stack: Stack, gamma: float) -> Flags:
    """BALANCE's gate (Fang et al. 2024), ||x_j - pivot|| > gamma * ||pivot||, ignored if it would shut out
    more than half. Only without privacy noise, which makes norms meaningless.
    """
    outside = distances(pivot, stack) > gamma * float(np.linalg.norm(pivot))
    if 2 * int(outside.sum()) > len(outside):
        return np.zeros_like(outside)
    return outside
