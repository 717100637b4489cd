"""What privacy a release claims and costs: the claim in an update, what was spent, that nothing is left."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import ClassVar

from quidnunc.crypto.entry import EntryType
from quidnunc.gossip.jobs import PPM, Release, Unit
from quidnunc.gossip.records import (
    BOOL,
    HASH,
    UINT,
    WORD,
    Fields,
    usually,
)


class Mechanism(IntEnum):
    """Privacy mechanisms; codes of ``dp.m``."""

    DP_SGD_FULL_BATCH = 1
    DP_SGD_POISSON = 2
    GAUSSIAN_DELTA = 3
    PRIVATE_SUM = 4


class NoiseSource(IntEnum):
    """Where DP noise came from; codes of ``dp.ns``. A test seed voids epsilon."""

    CHACHA20_OS_KEY = 1
    TEST_SEED = 2


@dataclass(frozen=True, slots=True)
class PrivacyClaim:
    """The ``dp`` map of an update: mechanism, parameters, cumulative epsilon (``_u``) at delta 10^-k, spend seq,
    and whether it is about the whole site."""

    FIELDS: ClassVar[Fields] = {
        "m": ("mechanism", UINT),
        "ns": ("noise_source", UINT),
        "q_ppm": ("sample_rate_ppm", UINT),
        "sg_u": ("noise_u", UINT),
        "c_u": ("clip_u", UINT),
        "st": ("steps", UINT),
        "de": ("delta_exp", UINT),
        "e1_u": ("epsilon_u", UINT),
        "ec_u": ("cumulative_u", UINT),
        "ac": ("accountant", WORD),
        "sp": ("spend_seq", UINT),
        "si": ("site", usually(BOOL, False)),
        "pa_u": ("pair_u", usually(UINT, 0)),
        "pm": ("members", usually(UINT, 0)),
        "pq": ("colluders", usually(UINT, 0)),
    }
    mechanism: int
    noise_source: int
    sample_rate_ppm: int
    noise_u: int
    clip_u: int
    steps: int
    delta_exp: int
    epsilon_u: int
    cumulative_u: int
    accountant: str
    spend_seq: int
    site: bool = False
    pair_u: int = 0
    members: int = 0
    colluders: int = 0

    @property
    def unit(self) -> Unit:
        """Whose presence its epsilon is about."""
        return _unit(self.site, self.members > 0)


def _unit(site: bool, sum_: bool) -> Unit:
    if site:
        return Unit.SITE
    return Unit.SUM if sum_ else Unit.EXAMPLE


@dataclass(frozen=True, slots=True)
class PrivacySpend:
    """0x18: one release of dataset ``dataset`` is about to happen. Committed before training, never refunded.

    Epsilon is about one record or, with ``site``, about the whole data set; with ``members``, of a private sum, it is
    about one record against ``colluders`` of them. The three are separate accounts.
    """

    TYPE: ClassVar[EntryType] = EntryType.DP_SPEND
    FIELDS: ClassVar[Fields] = {
        "r": ("round", UINT),
        "n": ("release", UINT),
        "e1_u": ("epsilon_u", UINT),
        "ec_u": ("cumulative_u", UINT),
        "cap_u": ("cap_u", UINT),
        "de": ("delta_exp", UINT),
        "sg_u": ("noise_u", UINT),
        "c_u": ("clip_u", UINT),
        "ns": ("noise_source", UINT),
        "ds": ("dataset", HASH),
        "q_ppm": ("rate_ppm", usually(UINT, PPM)),
        "st": ("steps", usually(UINT, 1)),
        "si": ("site", usually(BOOL, False)),
        "pa_u": ("pair_u", usually(UINT, 0)),
        "pm": ("members", usually(UINT, 0)),
        "pq": ("colluders", usually(UINT, 0)),
    }
    round: int
    release: int
    epsilon_u: int
    cumulative_u: int
    cap_u: int
    delta_exp: int
    noise_u: int
    clip_u: int
    noise_source: int
    dataset: bytes
    rate_ppm: int = PPM
    steps: int = 1
    site: bool = False
    pair_u: int = 0
    members: int = 0
    colluders: int = 0

    @property
    def kind(self) -> Release:
        """What its cost depends on."""
        pairs = self.pair_u, self.members, self.colluders
        return Release(self.noise_u, self.rate_ppm, self.steps, self.unit, *pairs)

    @property
    def unit(self) -> Unit:
        """Whose presence its epsilon is about."""
        return _unit(self.site, self.members > 0)


@dataclass(frozen=True, slots=True)
class PrivacyExhausted:
    """0x19: the next release would exceed the cap: this peer publishes no more training until the charter changes."""

    TYPE: ClassVar[EntryType] = EntryType.DP_EXHAUSTED
    FIELDS: ClassVar[Fields] = {
        "r": ("round", UINT),
        "ec_u": ("cumulative_u", UINT),
        "cap_u": ("cap_u", UINT),
        "de": ("delta_exp", UINT),
        "ds": ("dataset", HASH),
        "si": ("site", usually(BOOL, False)),
        "su": ("sum", usually(BOOL, False)),
    }
    round: int
    cumulative_u: int
    cap_u: int
    delta_exp: int
    dataset: bytes
    site: bool = False
    sum: bool = False

    @property
    def unit(self) -> Unit:
        """Which account has ended."""
        return _unit(self.site, self.sum)
