"""What guesses about coins prove about epsilon, after one training (Steinke, Nasr and Jagielski 2023).

m canaries are each in the data by a coin of their own. Whoever sees what was released guesses r of the coins and is
right v times. If the training is (epsilon, delta)-differentially private for one record, then (their Theorem 5.2)

    P[right >= v] <= beta + 2 m delta alpha,    beta = P[B >= v],    alpha = max over 1 <= i <= v of P[v > B >= v-i] / i

with B ~ Binomial(r, 1 / (1 + exp(-epsilon))). An epsilon at which this is below the level is refuted.

That holds against every mechanism with such an epsilon, the worst included. Releases of full batches claim more: to
be a Gaussian mechanism, whose guesses are bounded far better (Mahloujifar, Melis and Chaudhuri 2024).
"""

from __future__ import annotations

from collections.abc import Callable
from math import exp, log1p
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from quidnunc.crypto.errors import LocalProtocolError
from quidnunc.gossip.learning.accountant import noise_for

EPSILON_MAX = 64.0
"""Where the search for a bound ends."""

_BISECTIONS = 32


def p_value(canaries: int, guesses: int, right: int, epsilon: float, delta: float) -> float:
    """The most probable that so many right guesses are under (``epsilon``, ``delta``), at most 1.

    Raises LocalProtocolError for counts that cannot be.
    """
    if not 0 <= right <= guesses <= canaries:
        raise LocalProtocolError(f"{right} right of {guesses} guesses on {canaries} canaries cannot be")
    mass = _binomial(guesses, epsilon)
    beta = float(mass[right:].sum())
    below = np.cumsum(mass[:right][::-1])
    alpha = float(np.max(below / np.arange(1, right + 1), initial=0.0))
    return min(1.0, beta + 2 * canaries * delta * alpha)


Refutes = Callable[[int, int, int, float, float, float], bool]
"""(canaries, guesses, right, epsilon, delta, level): whether so many right guesses refute the claim."""


def any_mechanism(canaries: int, guesses: int, right: int, epsilon: float, delta: float, level: float) -> bool:
    """Whether the guesses refute (``epsilon``, ``delta``) of a mechanism of which nothing else is known."""
    return p_value(canaries, guesses, right, epsilon, delta) < level


def gaussian(canaries: int, guesses: int, right: int, epsilon: float, delta: float, level: float) -> bool:
    """Whether they refute that the mechanism is as private as the Gaussian one that is (``epsilon``, ``delta``)-DP.

    Algorithm 3 of Mahloujifar et al. for yes-or-no guesses, with that mechanism's trade-off curve.
    """
    if epsilon <= 0:
        return any_mechanism(canaries, guesses, right, 0.0, delta, level)
    normal, shift = NormalDist(), 1 / noise_for(epsilon, 1, delta)

    def least(mass: float) -> float:
        return normal.cdf(normal.inv_cdf(mass) - shift) if 0 < mass < 1 else float(mass >= 1)

    hit, miss = level * right / canaries, level * (guesses - right) / canaries
    for count in range(right - 1, -1, -1):
        more = max(miss, least(hit))
        if more == miss:
            break
        hit, miss = min(1.0, hit + count / (guesses - count) * (more - miss)), more
    return hit + miss > guesses / canaries


def epsilon_refuted(
    canaries: int, guesses: int, right: int, delta: float, level: float, refutes: Refutes = any_mechanism
) -> float:
    """The largest epsilon refuted at ``level`` (0.05: with confidence 95%); 0 if none is. At most EPSILON_MAX."""
    low, high = 0.0, EPSILON_MAX
    if 2 * right <= guesses or not refutes(canaries, guesses, right, low, delta, level):
        return 0.0
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if refutes(canaries, guesses, right, middle, delta, level) else (low, middle)
    return low


class Shown(NamedTuple):
    """An epsilon that is refuted, by ``right`` of ``guesses``."""

    epsilon: float
    guesses: int
    right: int


def guess_counts(canaries: int) -> tuple[int, ...]:
    """The numbers of guesses that are tried: on all canaries, and on a half, a quarter and an eighth of them."""
    return tuple(sorted({canaries // part for part in (1, 2, 4, 8)} - {0}))


def epsilon_shown(
    scores: NDArray[np.float64],
    included: NDArray[np.bool_],
    delta: float,
    level: float,
    refutes: Refutes = any_mechanism,
) -> Shown:
    """The largest epsilon that ``scores`` [m] refute at ``level``.

    Positive scores are guessed to be in, others to be out, the farthest from zero first. The number of guesses is
    chosen after the scores were seen, so each of :func:`guess_counts` gets an equal part of the level (Bonferroni).
    """
    hits = ((scores > 0) == included)[np.argsort(-np.abs(scores), kind="stable")]
    counts = guess_counts(len(scores))
    part, best = level / len(counts), Shown(0.0, 0, 0)
    for count in counts:
        right = int(hits[:count].sum())
        best = max(best, Shown(epsilon_refuted(len(scores), count, right, delta, part, refutes), count, right))
    return best


def epsilon_showable(canaries: int, delta: float, level: float) -> float:
    """What :func:`epsilon_shown` gives when every guess is right: no audit with so many canaries shows more."""
    return epsilon_shown(np.ones(canaries), np.ones(canaries, np.bool_), delta, level).epsilon


def _binomial(trials: int, epsilon: float) -> NDArray[np.float64]:
    """P[B = k] for k = 0 to ``trials``, B ~ Binomial(trials, 1 / (1 + exp(-epsilon)))."""
    log_miss = -epsilon - log1p(exp(-epsilon))
    log_hit = -log1p(exp(-epsilon))
    k = np.arange(trials + 1)
    factorials = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, trials + 1)))])
    ways = factorials[trials] - factorials - factorials[::-1]
    return np.asarray(np.exp(ways + k * log_hit + (trials - k) * log_miss))
