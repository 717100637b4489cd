"""Rules that look at every coordinate by itself. Stacks are float32 [..., k, c], results [..., c].

``work`` float32 [k+1, ..., c] is room to sort in. It is overwritten and may hold the result: who merges block by block
gives the same one each time.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from quidnunc.gossip.rules.linear import Reals, Stack, Vector
from quidnunc.gossip.rules.network import middle

Work = NDArray[np.float32]

_RANKED = 1 << 11
"""Coordinates ranked at a time: order and masses take eight times the room of the values."""
_LEAST_MASS = 1e-9
"""Mass that is left of a row by rounding alone; times a huge value it would be no little."""


def median(stack: Stack, work: Work | None = None) -> Vector:
    """The median of each coordinate; the mean of the middle two for even k (Yin et al. 2018).

    Knows nothing. Breakdown point (k-1)//2 of k rows; biased where honest rows differ in kind.
    """
    k = stack.shape[-2]
    found = middle(stack, (k - 1) // 2, k // 2, work=work)
    if k % 2:
        return found[0]
    low, step = found[0], found[1]
    step -= low
    step *= np.float32(0.5)
    step += low
    return step


def trimmed_mean(stack: Stack, bad: int, work: Work | None = None) -> Vector:
    """The mean of each coordinate without its ``bad`` largest and ``bad`` smallest values (Yin et al. 2018).

    Knows the number of bad rows, 2 * bad < k. Breakdown point ``bad``.
    """
    k = stack.shape[-2]
    found = middle(stack, bad, k - bad - 1, ordered=False, work=work)
    total = found[0]
    for row in found[1:]:
        total += row
    total *= np.float32(1 / len(found))
    return total


def mass_trimmed_mean(stack: Stack, weights: Reals, mass: float) -> Vector:
    """The weighted mean of each coordinate without ``mass`` of the weight at either end, a row being cut in part.

    For weights w [..., k] that sum to one, the value v(u) at cumulative weight u is averaged over mass <= u <= 1-mass,
    0 <= mass < 1/2: the trimmed mean (Stigler 1973) of the weighted distribution. Knows the greatest weight that bad
    rows hold together, which is its breakdown point. With equal weights and mass = b/k it is the trimmed mean of b.
    """
    result: Vector = np.empty((*stack.shape[:-2], stack.shape[-1]), np.float32)
    for at in range(0, stack.shape[-1], _RANKED):
        some = stack[..., at : at + _RANKED]
        order, kept = ranked_mass(some, weights, mass)
        ranked = np.take_along_axis(some, order, axis=-2)
        # Differences from one value keep the digits that a large common offset would take.
        base = ranked[..., :1, :]
        inner = (kept * (ranked - base)).sum(axis=-2) / kept.sum(axis=-2)
        result[..., at : at + _RANKED] = base[..., 0, :] + inner
    return result


def ranked_mass(stack: Stack, weights: Reals, mass: float) -> tuple[NDArray[np.intp], Reals]:
    """The ascending order of each coordinate's rows and the weight each keeps in that order, both [..., k, c]."""
    order = np.argsort(stack, axis=-2, kind="stable")
    share = np.take_along_axis(np.broadcast_to(weights[..., None], stack.shape), order, axis=-2)
    upper = np.cumsum(share, axis=-2)
    kept: Reals = np.minimum(upper, 1 - mass) - np.maximum(upper - share, mass)
    return order, np.where(kept > _LEAST_MASS, kept, 0.0)
