"""What a sequence of full-batch Gaussian releases costs in (epsilon, delta), exactly.

Releasing T sums of L2 sensitivity C, each with N(0, (m*C)^2) noise, is one Gaussian mechanism with noise
multiplier s = m / sqrt(T). Its exact trade-off (Balle and Wang 2018, Theorem 8) is

    delta(epsilon) = Q(a) - exp(epsilon) * Q(b),     a = epsilon*s - 1/(2s),  b = epsilon*s + 1/(2s),

with Q the Gaussian upper tail. Since exp(epsilon) * phi(b) = phi(a), this equals phi(a) * (R(a) - R(b)) with
the Mills ratio R = Q / phi, which neither underflows early nor cancels: tiny deltas keep their digits.
Nothing here is sampled, so no assumption on batching is made. Every answer errs on the side of more cost.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import erfc, exp, inf, isfinite, isqrt, pi, sqrt

from quidnunc.crypto.errors import ConfigError

_BISECTIONS = 200
_MAX_EPSILON = 1e9


def combined_noise(noise_multipliers: Iterable[float]) -> float:
    """The noise multiplier of one release that costs as much as all of these together: (sum m^-2)^(-1/2)."""
    total = 0.0
    for multiplier in noise_multipliers:
        if multiplier <= 0:
            return 0.0
        total += multiplier**-2
    return inf if total == 0 else total**-0.5


def summed_noise_u(noise_u: int, pair_u: int, honest: int) -> int:
    """The noise multiplier (``_u``, rounded down) that a private sum has against all but ``honest`` of its members.

    Every member adds noise of its own (variance a, here and below in squared clips) and, for each other member, noise
    of variance b that the two add and subtract. Members who are not honest know their pairs, so that h honest ones are
    left with the covariance a*I + b*L, L being the Laplacian of the complete graph on h. It has the eigenvalue a once
    and a + h*b else, and a record of one member moves one coordinate: the release is a Gaussian mechanism of variance

        1 / [(a*I + b*L)^-1]_ii = 1 / (1/(h*a) + (1 - 1/h)/(a + h*b))

    (the term in which DECOR, Allouah et al. 2024, bounds its Renyi divergence). With h up to 1 nothing is added.
    """
    if honest <= 1 or not noise_u:
        return noise_u
    own, pair = noise_u * noise_u, pair_u * pair_u
    share = own + honest * pair
    # 1/(1/(h*a) + (h-1)/(h*s)) = h*a*s / (s + (h-1)*a), and the root of the floor is the floor of the root.
    return isqrt(honest * own * share // (share + (honest - 1) * own))


def delta_of(epsilon: float, sigma_total: float) -> float:
    """The smallest delta for which one Gaussian release of multiplier ``sigma_total`` is (epsilon, delta)-DP."""
    _check("epsilon", epsilon, epsilon >= 0)
    if sigma_total <= 0:
        return 1.0
    if not isfinite(sigma_total):
        return 0.0
    half = 0.5 / sigma_total
    a, b = epsilon * sigma_total - half, epsilon * sigma_total + half
    if a < 0:
        return max(0.0, _upper_tail(a) - _density(a) * _mills(b))
    return max(0.0, _density(a) * (_mills(a) - _mills(b)))


def epsilon_of(noise_multiplier: float, releases: int, delta: float) -> float:
    """The epsilon that ``releases`` releases at ``noise_multiplier`` have cost, at ``delta``; inf without noise."""
    _check("delta", delta, 0 < delta < 1)
    _check("releases", releases, releases >= 0)
    if releases == 0:
        return 0.0
    if noise_multiplier <= 0:
        return inf
    return epsilon_of_total(noise_multiplier / sqrt(releases), delta)


def epsilon_of_total(sigma_total: float, delta: float) -> float:
    """The epsilon of one release of multiplier ``sigma_total`` at ``delta``; see :func:`combined_noise`."""
    _check("delta", delta, 0 < delta < 1)
    if delta_of(0.0, sigma_total) <= delta:
        return 0.0
    low, high = 0.0, 1.0
    while delta_of(high, sigma_total) > delta:
        low, high = high, 2 * high
        if high > _MAX_EPSILON:
            return inf
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        if not low < middle < high:
            break
        if delta_of(middle, sigma_total) > delta:
            low = middle
        else:
            high = middle
    return high


def noise_for(epsilon: float, releases: int, delta: float) -> float:
    """The smallest noise multiplier with which ``releases`` releases cost at most (epsilon, delta)."""
    _check("epsilon", epsilon, epsilon > 0)
    _check("delta", delta, 0 < delta < 1)
    _check("releases", releases, releases >= 1)
    if epsilon == inf:
        return 0.0
    low, high = 0.0, 1.0
    while delta_of(epsilon, high) > delta:
        low, high = high, 2 * high
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        if not low < middle < high:
            break
        if delta_of(epsilon, middle) > delta:
            low = middle
        else:
            high = middle
    multiplier = high * sqrt(releases)
    while epsilon_of(multiplier, releases, delta) > epsilon:
        multiplier *= 1 + 1e-12
    return multiplier


def _density(x: float) -> float:
    return exp(-x * x / 2) / sqrt(2 * pi)


def _upper_tail(x: float) -> float:
    return erfc(x / sqrt(2)) / 2


def _mills(x: float) -> float:
    """Q(x) / phi(x) for x >= 0: the quotient itself below 10, Laplace's continued fraction above."""
    if x < 10:
        return _upper_tail(x) / _density(x)
    fraction = x
    for k in range(60, 0, -1):
        fraction = x + k / fraction
    return 1 / fraction


def _check(name: str, value: float, valid: bool) -> None:
    if not valid or value != value:
        raise ConfigError(f"privacy {name} is {value}, which is out of range")
