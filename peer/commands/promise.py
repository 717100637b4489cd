"""Does a charter's noise keep the charter's promise? Asked before a charter is signed.

Full batches are checked whenever a charter is read. Sampled ones take dp-accounting, which is imported here only.
"""

from __future__ import annotations

from quidnunc.crypto.errors import CharterError, ConfigError
from quidnunc.gossip.federation.privacy_terms import PrivacySpec
from quidnunc.gossip.federation.terms import MICRO
from quidnunc.gossip.jobs import PPM

STEPS_MAX = 500_000
"""Sampled steps of all rounds together: to account for so many takes half a minute and a gigabyte."""


def sampled_noise(epsilon_u: int, rate_ppm: int, steps: int, releases: int, delta_exp: int) -> int:
    """The noise multiplier (``_u``) for that many sampled releases; raises ConfigError where it cannot be computed."""
    _check_steps(steps, releases)
    try:
        from quidnunc.gossip.learning.sampled import noise_for_sampled

        return noise_for_sampled(epsilon_u / MICRO, rate_ppm, steps, releases, delta_exp)
    except ImportError as error:
        raise _missing(error) from None


def check_promise(privacy: PrivacySpec) -> None:
    """Raise CharterError unless the noise of sampled releases keeps ``privacy.epsilon_u``."""
    if not privacy.sampled:
        return
    _check_steps(privacy.steps, privacy.releases)
    try:
        from quidnunc.gossip.learning.sampled import epsilon_sampled

        spent = epsilon_sampled(((privacy.release, privacy.releases),), privacy.delta)
    except ImportError as error:
        raise _missing(error) from None
    if spent > privacy.epsilon_u / MICRO:
        raise CharterError(
            f"privacy: {privacy.releases} releases of {privacy.steps} steps at sampling rate "
            f"{privacy.rate_ppm / PPM:g} and noise multiplier {privacy.noise_u / MICRO:g} cost epsilon {spent:.4g} at "
            f"delta {privacy.delta:g}, the charter promises {privacy.epsilon_u / MICRO:g}",
            hint="draft it again with federation create: it computes the noise",
        )


def _check_steps(steps: int, releases: int) -> None:
    if releases * steps > STEPS_MAX:
        raise ConfigError(
            f"{releases} rounds of {steps} sampled steps are {releases * steps} steps to account for, limit is "
            f"{STEPS_MAX}",
            hint="fewer rounds, or fewer local steps",
        )


def _missing(error: ImportError) -> ConfigError:
    return ConfigError(f"sampled privacy cannot be computed: {error}", hint="pip install dp-accounting")
