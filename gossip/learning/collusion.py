"""What colluding peers that see everything send to one victim: the attacks of the literature as pure functions.

``honest`` are the states of the victim's honest neighbors, float32 [..., h, d]; ``victim`` is its own state [..., d].
Each gives one message [..., d] that all attackers send to that victim. For simulation and tests only: a daemon cannot
see what it would have to know.
"""

from __future__ import annotations

from collections.abc import Callable
from statistics import NormalDist

import numpy as np

from quidnunc.crypto.errors import ConfigError
from quidnunc.crypto.noise import NoiseStream
from quidnunc.gossip.rules.linear import Reals, Stack, Vector, distances

Answer = Callable[[Vector], Vector]
"""What the victim's rule makes of a message [..., d]: its new state [..., d]."""


def inner_product(honest: Stack, epsilon: float) -> Vector:
    """-epsilon * mean(honest) (IPM: Xie et al. 2020): 0.1 hides in the spread, 1.1 and more turns the mean around."""
    message: Vector = np.float32(-epsilon) * honest.mean(axis=-2)
    return message


def usual_deviations(n: int, bad: int, least: float = 1.0) -> float:
    """ALIE's z = Phi^-1((n - bad - s)/(n - bad)), s = n//2 + 1 - bad, of ``n`` peers, at least ``least``.

    Few attackers make the formula negative, which would be no attack: hence the floor. Raises ConfigError unless
    0 < bad < n - bad.
    """
    if not 0 < bad < n - bad:
        raise ConfigError(f"attackers are {bad} of {n}, must be 1 to fewer than half")
    honest, supporters = n - bad, n // 2 + 1 - bad
    share = (honest - supporters) / honest
    return max(least, NormalDist().inv_cdf(share)) if 0 < share < 1 else least


def little_is_enough(honest: Stack, deviations: float) -> Vector:
    """mean - deviations * standard deviation of each coordinate (ALIE: Baruch et al. 2019)."""
    message: Vector = honest.mean(axis=-2) - np.float32(deviations) * honest.std(axis=-2)
    return message


def strongest(family: Callable[[float], Vector], answer: Answer, honest: Stack, most: float, evaluations: int) -> float:
    """The factor in (0, most] whose message moves the victim farthest from mean(honest), by line search.

    ``family`` gives the message of a factor, ``answer`` is the actual rule. Half of the ``evaluations`` (at least 2)
    lie on a grid, because a rule that drops outliers has more than one peak; the rest halve the grid's step around
    the best (after ByzFL's optimal ALIE and IPM). Batches share one factor.
    """
    center = honest.mean(axis=-2)

    def harm(factor: float) -> float:
        return float(np.linalg.norm((answer(family(factor)) - center).astype(np.float64)))

    points = max(1, evaluations // 2)
    step = most / points
    best_harm, best = max((harm(step * at), step * at) for at in range(1, points + 1))
    left = evaluations - points
    while left > 0:
        step /= 2
        for factor in (best - step, best + step)[:left]:
            left -= 1
            if 0 < factor <= most:
                best_harm, best = max((best_harm, best), (harm(factor), factor))
    return best


def optimized_inner_product(honest: Stack, answer: Answer, most: float = 10.0, evaluations: int = 20) -> Vector:
    """IPM with the factor that harms ``answer`` most."""
    return inner_product(honest, strongest(lambda e: inner_product(honest, e), answer, honest, most, evaluations))


def optimized_little(honest: Stack, answer: Answer, most: float = 10.0, evaluations: int = 20) -> Vector:
    """ALIE with the number of deviations that harms ``answer`` most."""
    return little_is_enough(honest, strongest(lambda z: little_is_enough(honest, z), answer, honest, most, evaluations))


def dissensus(
    victim: Vector, honest: Stack, weights: Reals, bad_weight: float | Reals, strength: float = 1.0
) -> Vector:
    """victim - strength * sum W_ih (x_h - victim) / bad weight (He, Karimireddy & Jaggi 2022).

    ``weights`` [..., h] of the honest, ``bad_weight`` (a number or [..., 1]) of all attackers together. Strength 1
    cancels every honest pull under plain mixing, which isolates the victim; more drives honest peers apart.
    """
    pull = ((honest - victim[..., None, :]) * weights[..., None].astype(np.float32)).sum(axis=-2)
    message: Vector = victim - np.asarray(strength / bad_weight, dtype=np.float32) * pull
    return message


def spectral(victim: Vector, states: Stack, fiedler: Reals, place: float, size: float) -> Vector:
    """victim + size * sign-carrying step along the honest models' Fiedler mode (Gaucher et al. 2025).

    ``states`` [h, d] of all honest peers and ``fiedler`` [h], the second eigenvector of their Laplacian, give the mode
    sum_i f_i x_i; ``place`` is the victim's entry of it. Pushes both sides of the sparsest cut apart by ``size`` times
    the largest entry. The victim's state where the mode is empty.
    """
    mode = (fiedler[:, None] * states).sum(axis=0)
    norm = float(np.linalg.norm(mode))
    if norm == 0.0:
        return victim.copy()
    step = size * place / float(np.abs(fiedler).max()) / norm
    message: Vector = victim + (step * mode).astype(np.float32)
    return message


def mimic(honest: Stack, which: int) -> Vector:
    """A copy of honest neighbor ``which``, over-represented by every attacker (Karimireddy et al. 2022)."""
    message: Vector = honest[..., which, :].copy()
    return message


def slow_drift(victim: Vector, honest: Stack, goal: Vector) -> Vector:
    """A step from ``victim`` toward ``goal`` [..., d], as long as the median honest distance: inside every gate."""
    away = goal - victim
    norm = np.linalg.norm(away, axis=-1, keepdims=True)
    usual = np.median(distances(victim, honest), axis=-1)[..., None]
    message: Vector = victim + (away * (usual / np.maximum(norm, 1e-30))).astype(np.float32)
    return message


def replacement(victim: Vector, goal: Vector, weight: float | Reals) -> Vector:
    """victim + (goal - victim)/weight: under plain mixing the victim becomes ``goal`` (Bagdasaryan et al. 2020).

    ``weight`` is what the attackers have together with the victim, a number or [..., 1].
    """
    message: Vector = victim + np.asarray(1 / weight, dtype=np.float32) * (goal - victim)
    return message


def replay(past: Stack, age: int) -> Vector:
    """What was sent ``age`` rounds ago, of ``past`` [t, ..., d] with the newest last; the oldest where there is less.

    A signed message cannot be replayed, because updates are numbered; its content can be signed again.
    """
    message: Vector = past[max(0, len(past) - 1 - age)].copy()
    return message


def sybils(message: Vector, count: int, spread: float, stream: NoiseStream) -> Stack:
    """``message`` [d] in ``count`` voices, [count, d], each off by Gaussian noise of norm about ``spread``.

    No two are alike, so that nothing which looks for copies finds them; together they weigh what their edges do.
    """
    dim = len(message)
    noise = stream.gaussian(count * dim).reshape(count, dim)
    voices: Stack = message + (noise * (spread / max(1.0, dim**0.5))).astype(np.float32)
    return voices
