"""What releases of Poisson-sampled Gaussian steps cost, by Google's dp-accounting.

The reported number is that of the privacy loss distribution, discretized pessimistically (Koskela et al. 2020;
Doroshenko et al. 2022): an upper bound for adding and for removing one record, whichever is worse. Renyi accounting
(Mironov et al. 2019) stands beside it as a second, looser bound. The central-limit number (GDP) is never used: it
understates. Full-batch releases may be among them, as sampling at rate 1.

dp-accounting and scipy are imported on first use: nothing but the compute process and the command line may come here.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from quidnunc.crypto.errors import ConfigError
from quidnunc.gossip.jobs import PPM, Release, Spent

if TYPE_CHECKING:
    from dp_accounting.pld.privacy_loss_distribution import PrivacyLossDistribution

ACCOUNTANT = "pld-poisson/1"
"""Name and version in signed claims."""

INTERVAL = 1e-3
"""Discretization of the privacy loss."""

EXACT_POINTS = 64
FURTHER_POINTS = 64
"""Tables hold the first releases one by one and then so many in geometric steps."""

MIN_NOISE_U = 100_000
"""Below a tenth of the clip nothing that is computed is privacy, and its distribution takes gigabytes."""

NEVER_U = 2**53
"""An epsilon above every cap."""

_MAX_NOISE_U = 10**12
_PRECISION = 1e-4


def epsilon_sampled(spent: Spent, delta: float) -> float:
    """The epsilon that all releases in ``spent`` have cost together at ``delta``: an upper bound."""
    if not any(count for _, count in spent):
        return 0.0
    return _epsilon(_composed(spent), delta)


def renyi_epsilon(spent: Spent, delta: float) -> float:
    """The same by Renyi accounting: an upper bound too, and never reported; it checks the other one."""
    from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent
    from dp_accounting.rdp import RdpAccountant

    accountant = RdpAccountant()
    for release, count in spent:
        if count:
            event = PoissonSampledDpEvent(release.rate_ppm / PPM, GaussianDpEvent(release.noise_u / 1e6))
            accountant.compose(event, count * release.steps)
    return float(accountant.get_epsilon(delta))


def costs(history: Spent, release: Release, releases: int, delta_exp: int) -> tuple[tuple[tuple[int, int], ...], int]:
    """Cumulative epsilon (``_u``) after 1 to ``releases`` more releases, and of ``releases`` of them alone.

    The pairs are those of :class:`~quidnunc.gossip.jobs.Accounted`. Raises ConfigError for numbers out of range.
    """
    if releases < 1 or release.noise_u < MIN_NOISE_U or release.steps < 1 or not 1 <= release.rate_ppm <= PPM:
        raise ConfigError(f"cannot account for {releases} releases of {release}", hint="check the charter's privacy")
    delta = 10.0**-delta_exp
    if any(count and each.noise_u < MIN_NOISE_U for each, count in history):
        return ((releases, NEVER_U),), _micro_up(epsilon_sampled(((release, releases),), delta))
    before = _composed(history) if any(count for _, count in history) else None
    one = _step(release).self_compose(release.steps) if release.steps > 1 else _step(release)
    points, last, done = [], before, 0
    for count in table_points(releases):
        more = one if count - done == 1 else one.self_compose(count - done)
        last, done = more if last is None else last.compose(more), count
        points.append((count, _micro_up(_epsilon(last, delta))))
    alone = points[-1][1] if before is None else _micro_up(epsilon_sampled(((release, releases),), delta))
    return tuple(points), alone


def table_points(releases: int) -> tuple[int, ...]:
    """The numbers of releases that a table lists: each of the first, then some, then the last; ascending."""
    if releases <= EXACT_POINTS:
        return tuple(range(1, releases + 1))
    factor = releases / EXACT_POINTS
    further = {round(EXACT_POINTS * factor ** (k / FURTHER_POINTS)) for k in range(1, FURTHER_POINTS + 1)}
    return (*range(1, EXACT_POINTS + 1), *sorted(further - {EXACT_POINTS}))


def noise_for_sampled(epsilon: float, rate_ppm: int, steps: int, releases: int, delta_exp: int) -> int:
    """The noise multiplier (``_u``) with which ``releases`` of ``steps`` steps cost at most (epsilon, 10^-delta_exp).

    At most 1e-4 of itself above the smallest one. Raises ConfigError when no multiplier up to a million would do.
    """

    def enough(noise_u: int) -> bool:
        cost = epsilon_sampled(((Release(noise_u, rate_ppm, steps), releases),), 10.0**-delta_exp)
        return _micro_up(cost) <= epsilon * 1e6

    low, high = 0, 400_000
    while not enough(high):
        low, high = high, 2 * high
        if high > _MAX_NOISE_U:
            raise ConfigError(f"no noise gives epsilon {epsilon:g} for {releases} releases", hint="raise --epsilon")
    while high - low > max(1, high * _PRECISION):
        middle = max(MIN_NOISE_U, (low + high) // 2)
        if middle == high:
            break
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def _composed(spent: Spent) -> PrivacyLossDistribution:
    total: PrivacyLossDistribution | None = None
    for release, count in sorted(spent):
        if not count:
            continue
        part = _step(release)
        part = part.self_compose(count * release.steps) if count * release.steps > 1 else part
        total = part if total is None else total.compose(part)
    assert total is not None
    return total


def _step(release: Release) -> PrivacyLossDistribution:
    from dp_accounting.pld import privacy_loss_distribution

    return privacy_loss_distribution.from_gaussian_mechanism(
        release.noise_u / 1e6,
        sampling_prob=release.rate_ppm / PPM,
        value_discretization_interval=INTERVAL,
        pessimistic_estimate=True,
    )


def _epsilon(loss: PrivacyLossDistribution, delta: float) -> float:
    return float(loss.get_epsilon_for_delta(delta))


def _micro_up(value: float) -> int:
    if not math.isfinite(value):
        return NEVER_U
    return math.ceil(value * 1e6 - 1e-9)
