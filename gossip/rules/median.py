"""Medians: of coordinates, and of scalars under weights."""

from __future__ import annotations

import numpy as np

from quidnunc.gossip.rules import compiled
from quidnunc.gossip.rules.linear import Reals, Stack, Vector
from quidnunc.gossip.rules.network import MOST_ROWS


def coordinate_median(stack: Stack) -> Vector:
    """The median [..., d] of each coordinate of ``stack`` [..., k, d] (Yin et al. 2018).

    For even k it is the mean of the two middle values (torch.median takes the lower one). The order of the
    rows does not change a bit of the result.
    """
    k = stack.shape[-2]
    if k <= MOST_ROWS and (found := compiled.median(stack)) is not None:
        return found
    # Adding 0 turns -0 into +0: the two compare equal, so sorting would keep them in the order they came in.
    ranked = np.sort(stack + np.float32(0), axis=-2)
    low, high = ranked[..., (k - 1) // 2, :], ranked[..., k // 2, :]
    if k % 2:
        return low
    return low + np.float32(0.5) * (high - low)


def medians_without_each(stack: Stack) -> Stack:
    """Row j is the coordinate median [d] of all rows of ``stack`` [k, d] but j, k at least 2; sorts only once."""
    k = len(stack)
    ranked = np.sort(stack + np.float32(0), axis=0)
    h = k // 2
    if k % 2 == 0:
        middle: Stack = np.where(stack <= ranked[h - 1], ranked[h], ranked[h - 1])
        return middle
    low: Stack = np.where(stack < ranked[h], ranked[h], ranked[h - 1])
    high: Stack = np.where(stack <= ranked[h], ranked[h + 1], ranked[h])
    return low + np.float32(0.5) * (high - low)


def weighted_median(values: Reals, weights: Reals) -> float:
    """The median of ``values`` [k] under ``weights`` [k] >= 0; the mean of two neighbors at an exact tie.

    Without any weight the plain median is returned; k must be at least 1.
    """
    total = float(weights.sum())
    if total <= 0.0:
        return float(np.median(values))
    order = np.argsort(values, kind="stable")
    ranked, mass = values[order], np.cumsum(weights[order])
    half = 0.5 * total
    at = int(np.searchsorted(mass, half * (1 - 1e-12)))
    if abs(mass[at] - half) <= 1e-12 * total:
        after = at + 1
        while after < len(ranked) - 1 and mass[after] <= mass[at]:
            after += 1
        if after < len(ranked):
            return float(ranked[at] + ranked[after]) / 2
    return float(ranked[at])
