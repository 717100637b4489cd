"""Distance-based rules of the server setting, as coefficients. Row 0 is the own row.

Each function takes Gram products of differences from the own row, float64 [..., k, k], and weights [..., k], and gives
affine coefficients [..., k] that sum to one: the result is the combination of rows with them.
"""

from __future__ import annotations

import numpy as np

from quidnunc.gossip.rules.gram import Matrix, from_point, pairwise
from quidnunc.gossip.rules.linear import Reals


def one_hot(index: Reals, k: int) -> Reals:
    """Coefficients [..., k] that are 1 at ``index`` [...]."""
    found: Reals = (np.arange(k) == index[..., None]).astype(np.float64)
    return found


def krum_scores(products: Matrix, bad: int) -> Reals:
    """The sum of squared distances to the k - bad - 2 nearest other rows, [..., k] (Blanchard et al. 2017)."""
    k = products.shape[-1]
    scores: Reals = np.sort(pairwise(products), axis=-1)[..., 1 : k - bad - 1].sum(axis=-1)
    return scores


def krum(products: Matrix, weights: Reals, bad: int) -> Reals:
    """The row with the lowest score, the first of equals (Blanchard et al. 2017).

    Knows the number of bad rows, k >= 2 * bad + 3, its breakdown point; weights have no say. ByzFL counts
    one neighbor more: its f is this rule's bad + 1.
    """
    return one_hot(np.argmin(krum_scores(products, bad), axis=-1), products.shape[-1])


def multi_krum(products: Matrix, weights: Reals, bad: int) -> Reals:
    """The weighted mean of the k - bad rows with the lowest scores (Blanchard et al. 2017).

    Knows the number of bad rows, k >= 2 * bad + 3, its breakdown point.
    """
    scores = krum_scores(products, bad)
    return over_kept(lowest(scores, products.shape[-1] - bad), weights)


def lowest(values: Reals, count: int) -> Reals:
    """1.0 at the ``count`` lowest of ``values`` [..., k], the first of equals, 0.0 elsewhere."""
    rank = np.argsort(np.argsort(values, axis=-1, kind="stable"), axis=-1, kind="stable")
    return (rank < count).astype(np.float64)


def over_kept(kept: Reals, weights: Reals) -> Reals:
    """``weights`` of the ``kept`` rows [..., k], scaled to sum to one; the own row alone where they have none."""
    part = kept * weights
    total = part.sum(axis=-1, keepdims=True)
    alone = one_hot(np.zeros(part.shape[:-1]), part.shape[-1])
    return np.where(total > 0, part / np.where(total > 0, total, 1.0), alone)


def geometric_median(products: Matrix, weights: Reals, steps: int, floor: float) -> Reals:
    """Smoothed Weiszfeld: z <- sum b_j x_j / sum b_j, b_j = w_j / max(floor, ||z - x_j||) (Pillutla et al. 2022).

    Starts at the own row, so that an attacker has to pull it away first; ``steps`` 3 to 8 suffice. ``floor`` is a
    distance (the paper's nu, 0.1 there): with one far below those between rows the start never leaves its row. Knows
    nothing. Breakdown point 1/2 of the weight.
    """
    point = one_hot(np.zeros(weights.shape[:-1]), weights.shape[-1])
    for _ in range(steps):
        pull = weights / np.maximum(floor, np.sqrt(from_point(products, point)))
        point = over_kept(np.ones_like(pull), pull)
    return point


def centered_clip(products: Matrix, weights: Reals, steps: int, radius: float) -> Reals:
    """v <- v + sum w_j (x_j - v) min(1, radius/||x_j - v||), started at the own row (Karimireddy et al. 2021).

    Knows the honest spread, a distance. Moves at most ``steps`` * radius * the weight of bad rows because of them,
    and has no other breakdown point.
    """
    point = one_hot(np.zeros(weights.shape[:-1]), weights.shape[-1])
    for _ in range(steps):
        away = np.sqrt(from_point(products, point))
        pull = weights * np.minimum(1.0, radius / np.maximum(away, 1e-300))
        point = point * (1 - pull.sum(axis=-1, keepdims=True)) + pull
    return point


def nearest_mixing(products: Matrix, bad: int) -> Matrix:
    """Row i is the plain mean of the k - bad rows nearest to x_i, itself included: [..., k, k] (Allouah et al. 2023).

    Knows the number of bad rows, 2 * bad < k, its breakdown point. Any rule after it has its error
    bounded by the honest variance.
    """
    k = products.shape[-1]
    apart = pairwise(products)
    # The own place wins every tie: an exact copy of a row never displaces it.
    apart[..., np.arange(k), np.arange(k)] = -1.0
    mixing: Matrix = lowest(apart, k - bad) / (k - bad)
    return mixing
