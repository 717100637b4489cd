"""Rules of the peer-to-peer setting, whose trusted point is the own row, as coefficients.

Each function takes squared distances from the own row (row 0, itself 0), float64 [..., k], or Gram products, and
weights [..., k] that sum to one, and gives affine coefficients [..., k]. What is cut off a neighbor goes to self.
"bad" counts bad neighbors; where weights differ, they are taken to hold the greatest weights.
"""

from __future__ import annotations

import numpy as np

from quidnunc.gossip.rules.central import lowest, one_hot, over_kept
from quidnunc.gossip.rules.gram import Matrix, from_point
from quidnunc.gossip.rules.linear import Reals

_TOLERANCE = 1e-12
"""Sums of weights are compared up to this, so that 0.1 + 0.2 is 0.3."""


def bad_mass(weights: Reals, bad: int) -> Reals:
    """The weight [..., 1] of the ``bad`` heaviest neighbors; row 0 of ``weights`` [..., k] is the own."""
    heaviest = -np.sort(-weights[..., 1:], axis=-1)[..., :bad]
    mass: Reals = heaviest.sum(axis=-1, keepdims=True)
    return mass


def pulled(pull: Reals) -> Reals:
    """Coefficients of x_0 + sum_j pull_j (x_j - x_0); the rest is the own row's."""
    point = pull.copy()
    point[..., 0] = 1 - pull[..., 1:].sum(axis=-1)
    return point


def mean(weights: Reals) -> Reals:
    """x_i + sum W_ij (x_j - x_i), the weighted mean (D-PSGD: Lian et al. 2017).

    Knows nothing. Breakdown point 0: one bad row takes the result anywhere.
    """
    return pulled(weights)


def clipped(weights: Reals, away: Reals, radius: Reals | float) -> Reals:
    """``weights`` times min(1, radius/away)."""
    with np.errstate(over="ignore"):  # only where nothing is clipped
        return weights * np.where(away <= radius, 1.0, radius / np.maximum(away, 1e-300))


def clipped_gossip(squares: Reals, weights: Reals, bad: int) -> Reals:
    """x_i + sum W_ij clip(x_j - x_i, tau), tau^2 = sum over the k-1-bad nearest of W_ij d_ij^2 / bad weight
    (He, Karimireddy & Jaggi 2022).

    The nearest stand for the honest ones of the theory. Knows the number of bad neighbors; 0 clips nothing. Error
    O(bad weight * spread^2 / spectral gap^2). Breakdown point ``bad``, while the honest neighbors hold more weight.
    """
    if bad == 0:
        return pulled(weights)
    near = lowest(squares, weights.shape[-1] - bad)
    mass = bad_mass(weights, bad)
    radius = np.sqrt((near * weights * squares).sum(axis=-1, keepdims=True) / np.where(mass > 0, mass, 1.0))
    return pulled(clipped(weights, np.sqrt(squares), radius))


def cs_plus(squares: Reals, weights: Reals, bad: int) -> Reals:
    """x_i + sum W_ij clip(x_j - x_i, tau), tau the smallest distance with at most twice the bad weight strictly beyond
    it, self counted at 0 (Gaucher et al. 2025).

    With equal weights tau is the (degree - 2 bad)-th smallest distance, and 0 from 2 bad = degree on. Knows the number
    of bad neighbors, its breakdown point; near the best there can be in a sparse graph.
    """
    away = np.sqrt(squares)
    beyond = (weights[..., None, :] * (away[..., None, :] > away[..., :, None])).sum(axis=-1)
    enough = beyond <= 2 * bad_mass(weights, bad) + _TOLERANCE
    radius = np.where(enough, away, np.inf).min(axis=-1, keepdims=True)
    return pulled(clipped(weights, away, radius))


def monna(squares: Reals, weights: Reals, bad: int) -> Reals:
    """The weighted mean of the k - bad rows nearest to the own, itself included (Farhadkhani et al. 2023).

    Knows the number of bad neighbors, 2 * bad < k, its breakdown point. Slow poison inside the honest spread takes it.
    """
    nearest = squares.copy()
    nearest[..., 0] = -1.0
    return over_kept(lowest(nearest, weights.shape[-1] - bad), weights)


def remove_then_clip(squares: Reals, weights: Reals, mass: float) -> Reals:
    """Drop the farthest neighbors while their weight is at most ``mass``, clip the rest at tau,
    tau^2 = sum over the kept of W_ij d_ij^2 / mass (RTC: Yang & Ghaderi 2024).

    A dropped row becomes the own row. Knows the greatest weight of bad neighbors, its breakdown point (``mass``).
    """
    order = np.argsort(-squares, axis=-1, kind="stable")
    heavy = np.cumsum(np.take_along_axis(weights, order, axis=-1), axis=-1)
    place = np.argsort(order, axis=-1, kind="stable")
    kept = np.take_along_axis(heavy, place, axis=-1) > mass + _TOLERANCE
    kept[..., 0] = True
    radius = np.sqrt((kept * weights * squares).sum(axis=-1, keepdims=True) / mass)
    return pulled(clipped(kept * weights, np.sqrt(squares), radius))


def outlier_scissor(products: Matrix, weights: Reals, bad: int) -> Reals:
    """``bad`` times drop the neighbor farthest from the weighted mean of what remains, own row included; then that
    mean (IOS: Wu, Chen & Ling 2023).

    The own row is never dropped. Knows the number of bad neighbors, its breakdown point in well-connected graphs. The
    virtual mixing matrix is not doubly stochastic.
    """
    kept = np.ones_like(weights)
    for _ in range(bad):
        away = from_point(products, over_kept(kept, weights))
        candidates = np.where(kept > 0, away, -np.inf)
        candidates[..., 0] = -np.inf
        kept = kept * (1 - one_hot(np.argmax(candidates, axis=-1), weights.shape[-1]))
    return over_kept(kept, weights)


def balance(squares: Reals, weights: Reals, norm: Reals, gate: float, decay: float, own: float, t: float) -> Reals:
    """own * x_i + (1 - own) * weighted mean of {j: d_ij <= gate * exp(-decay * t) * ||x_i||} (Fang et al. 2024).

    ``norm`` [..., 1] is ||x_i||, ``t`` the part of all rounds that is over, 0 to 1. With nobody accepted the own row
    stays. Knows no number of bad neighbors, and has no breakdown point in rows: who is inside of the gate counts,
    at most (1 - own) * gate * ||x_i|| far. Without meaning under privacy noise, where norms are mostly noise.
    """
    accepted = (np.sqrt(squares) <= gate * np.exp(-decay * t) * norm).astype(np.float64)
    accepted[..., 0] = 0.0
    others = over_kept(accepted, weights)
    return pulled((1 - own) * others)
