"""The privacy that a charter promises: the mechanism, its noise, and what it may cost.

Reals stand as micro-units, as in the other terms.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from quidnunc.crypto.encoding import Encodable
from quidnunc.crypto.errors import CharterError
from quidnunc.gossip.federation.fields import Fields
from quidnunc.gossip.federation.terms import MAX_ROUNDS, MICRO, one_of, within
from quidnunc.gossip.jobs import PPM, PrivacyStep, Release, Unit
from quidnunc.gossip.learning.accountant import epsilon_of, summed_noise_u

NO_PRIVACY = "none"
DP_FULL_BATCH = "dp-sgd-full-batch"
DP_POISSON = "dp-sgd-poisson"
DP_SITE = "gaussian-delta"
PRIVATE_SUM = "private-sum"
SUM_MEMBERS_MAX = 32
SUM_RECORDS_MAX = 2**40
POISSON_NOISE_MIN_U = 100_000
POISSON_STEPS_MAX = 100_000


@dataclass(frozen=True, slots=True)
class PrivacySpec:
    """What every member promises about its records.

    With mechanism ``dp-sgd-full-batch``, ``releases`` noisy full-batch steps at noise multiplier ``noise_u``
    and clipping norm ``clip_u`` are (``epsilon_u``, 10**-``delta_exp``)-differentially private for one
    record; that the noise suffices is checked. With ``dp-sgd-poisson`` a release is ``steps`` steps, each on a Poisson
    sample at rate ``rate_ppm``; whether its noise suffices takes a numerical accountant, so it is checked where there
    is one: when a charter is drafted or signed, and by the compute process at every start. With ``gaussian-delta`` the
    promise is about all training records of a member at once, ``unit`` site: a round's delta is clipped to ``clip_u``
    and noised once; every other mechanism but one is of unit example. With ``private-sum``, of unit sum, a release is a
    noisy full-batch step whose noise of ``pair_u`` for each pair of all ``members`` cancels in their mean, and the
    promise is against up to ``colluders`` of them (``gossip/private_sum.py``); everybody divides by ``records``.
    With ``none`` every number is 0.
    """

    mechanism: str
    epsilon_u: int = 0
    delta_exp: int = 0
    clip_u: int = 0
    noise_u: int = 0
    releases: int = 0
    rate_ppm: int = 0
    steps: int = 0
    unit: Unit = Unit.EXAMPLE
    pair_u: int = 0
    members: int = 0
    colluders: int = 0
    records: int = 0

    KEYS: ClassVar = ("mechanism", "epsilon_u", "delta_exp", "clip_u", "noise_u", "releases")
    SAMPLED_KEYS: ClassVar = (*KEYS, "rate_ppm", "steps")
    SITE_KEYS: ClassVar = (*KEYS, "unit")
    PAIR_KEYS: ClassVar = ("pair_u", "members", "colluders", "records")
    SUM_KEYS: ClassVar = (*KEYS, *PAIR_KEYS, "unit")

    def __post_init__(self) -> None:
        one_of("privacy.mechanism", self.mechanism, (NO_PRIVACY, DP_FULL_BATCH, DP_POISSON, DP_SITE, PRIVATE_SUM))
        for unit, mechanism in ((Unit.SITE, DP_SITE), (Unit.SUM, PRIVATE_SUM)):
            if (self.unit == unit) != (self.mechanism == mechanism):
                raise CharterError(
                    f"privacy.unit is {self.unit.label} with mechanism {self.mechanism}: unit {unit.label} is the "
                    f"promise of {mechanism}, and of no other mechanism"
                )
        if not self.private:
            for key in self.SAMPLED_KEYS[1:]:
                within(f"privacy.{key} without privacy", getattr(self, key), 0, 0)
        if self.unit != Unit.SUM:
            for key in self.PAIR_KEYS:
                within(f"privacy.{key} with mechanism {self.mechanism}", getattr(self, key), 0, 0)
        if not self.private:
            return
        within("privacy.epsilon_u", self.epsilon_u, 1, 1000 * MICRO)
        within("privacy.delta_exp", self.delta_exp, 1, 15)
        within("privacy.clip_u", self.clip_u, 1, 1_000_000 * MICRO)
        within("privacy.noise_u", self.noise_u, 1, 1_000_000 * MICRO)
        within("privacy.releases", self.releases, 1, MAX_ROUNDS)
        if self.sampled:
            within("privacy.noise_u", self.noise_u, POISSON_NOISE_MIN_U, 1_000_000 * MICRO)
            within("privacy.rate_ppm", self.rate_ppm, 1, PPM - 1)
            within("privacy.steps", self.steps, 1, POISSON_STEPS_MAX)
            return
        whole = "a whole site" if self.unit == Unit.SITE else "full batches"
        for key in ("rate_ppm", "steps"):
            within(f"privacy.{key} of {whole}", getattr(self, key), 0, 0)
        if self.unit == Unit.SUM:
            within("privacy.pair_u", self.pair_u, 1, 1_000_000 * MICRO)
            within("privacy.members", self.members, 3, SUM_MEMBERS_MAX)
            within("privacy.colluders (two members must be honest)", self.colluders, 1, self.members - 2)
            within("privacy.records", self.records, 1, SUM_RECORDS_MAX)
        spent = epsilon_of(self.total_u / MICRO, self.releases, self.delta)
        if spent > self.epsilon_u / MICRO:
            raise CharterError(
                f"privacy: {self.releases} releases at noise multiplier {self.total_u / MICRO:g} cost epsilon "
                f"{spent:.4g} at delta {self.delta:g}, the charter promises {self.epsilon_u / MICRO:g}",
                hint="draft it again with federation create: it computes the noise",
            )

    @property
    def private(self) -> bool:
        """Whether there is differential privacy at all."""
        return self.mechanism != NO_PRIVACY

    @property
    def sampled(self) -> bool:
        """Whether batches are Poisson samples."""
        return self.mechanism == DP_POISSON

    @property
    def total_u(self) -> int:
        """The noise multiplier that a release has against whom the promise is made, ``noise_u`` but for unit sum."""
        if self.unit != Unit.SUM:
            return self.noise_u
        return summed_noise_u(self.noise_u, self.pair_u, self.members - self.colluders)

    @property
    def release(self) -> Release:
        """What the cost of one release depends on; meaningful with privacy only."""
        if self.sampled:
            return Release(self.noise_u, self.rate_ppm, self.steps)
        return Release(
            *(self.noise_u, PPM, 1, self.unit),
            pair_u=self.pair_u,
            members=self.members,
            colluders=self.colluders,
        )

    @property
    def step(self) -> PrivacyStep | None:
        """How one release is made, or None without privacy."""
        if not self.private:
            return None
        release = self.release
        rate = release.rate_ppm / PPM
        noise, pair = self.noise_u / MICRO, self.pair_u / MICRO
        return PrivacyStep(self.clip_u / MICRO, noise, rate, release.steps, self.unit, pair, self.records)

    @property
    def delta(self) -> float:
        """10**-delta_exp; meaningful with privacy only."""
        return 10.0**-self.delta_exp

    def to_value(self) -> dict[str, Encodable]:
        """The canonical map."""
        numbers: dict[str, Encodable] = {key: getattr(self, key) for key in self.numbers(self.mechanism)}
        named = self.mechanism in (DP_SITE, PRIVATE_SUM)
        unit: dict[str, Encodable] = {"unit": self.unit.label} if named else {}
        return {"mechanism": self.mechanism, **numbers, **unit}

    @classmethod
    def keys(cls, mechanism: object) -> tuple[str, ...]:
        """The keys of :meth:`to_value` with that mechanism."""
        if mechanism == DP_SITE:
            return cls.SITE_KEYS
        if mechanism == PRIVATE_SUM:
            return cls.SUM_KEYS
        return cls.SAMPLED_KEYS if mechanism == DP_POISSON else cls.KEYS

    @classmethod
    def numbers(cls, mechanism: str) -> tuple[str, ...]:
        """Those of them that hold integers."""
        return tuple(key for key in cls.keys(mechanism) if key not in ("mechanism", "unit"))

    @classmethod
    def read(cls, fields: Fields) -> PrivacySpec:
        """Read :meth:`to_value` strictly."""
        mechanism = fields.text("mechanism", 32)
        unit = {DP_SITE: Unit.SITE, PRIVATE_SUM: Unit.SUM}.get(mechanism, Unit.EXAMPLE)
        if unit != Unit.EXAMPLE:
            one_of("privacy.unit", fields.text("unit", 16), (unit.label,))
        return cls(mechanism, **{key: fields.integer(key) for key in cls.numbers(mechanism)}, unit=unit)
