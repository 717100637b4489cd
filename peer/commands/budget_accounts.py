"""The privacy accounts in a ledger: what was committed before each release, by data set and unit."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from quidnunc.crypto.entry import EntryType
from quidnunc.gossip.federation.terms import MICRO
from quidnunc.gossip.jobs import Release, Spent, Unit, counting
from quidnunc.gossip.learning.accountant import combined_noise, epsilon_of_total
from quidnunc.gossip.provenance import NoiseSource, PrivacyExhausted, PrivacySpend
from quidnunc.peer.commands.entry_view import record_of
from quidnunc.peer.ledger.ledger_reader import LedgerReader
from quidnunc.peer.ledger.spends import spends

SAMPLED_ACCOUNTANT = "privacy loss distributions, pessimistic at 1e-3 (dp-accounting), Poisson sampling"
ACCOUNTANT = "analytic Gaussian, exact (Balle and Wang 2018), full batch"
SUM_ACCOUNTANT = "analytic Gaussian, exact (Balle and Wang 2018), full batch, with honest pairs' noise"
SITE_ACCOUNTANT = "analytic Gaussian, exact (Balle and Wang 2018), one noised delta a round"


@dataclass
class Account:
    """The spends of one data set under one unit, and ``before`` the newest of them all others of the ledger.

    Those of the same unit add up, and for a record those of other units count as well (gossip/jobs.py, ``counting``).
    ``since`` counts releases of other units after the newest here.
    """

    dataset: bytes
    unit: Unit = Unit.EXAMPLE
    spends: list[PrivacySpend] = field(default_factory=list)
    exhausted: bool = False
    before: Counter[Release] = field(default_factory=Counter)
    since: Counter[Unit] = field(default_factory=Counter)

    @property
    def claimed_u(self) -> int:
        """Cumulative epsilon as the newest spend says."""
        return self.spends[-1].cumulative_u if self.spends else 0

    def recomputed(self) -> float:
        """Cumulative epsilon of all releases up to the newest here, computed from their noise alone."""
        if not self.spends:
            return 0.0
        return epsilon_of_all(tuple(self.kinds.items()), self.spends[-1].delta_exp)

    def together(self, elsewhere: Spent) -> float:
        """As :meth:`recomputed`, with what other homes on the same records have spent."""
        everything = self._everything + Counter(dict(elsewhere))
        exponent = self.spends[-1].delta_exp
        return epsilon_of_all(counting(tuple(everything.items()), self.unit, self.colluders), exponent)

    def exchanged(self) -> float:
        """For unit site: the epsilon between any two data sets, whose clipped deltas are twice the clip apart."""
        if not self.spends:
            return 0.0
        noise = combined_noise(kind.noise_u / MICRO / 2 for kind in self.kinds.elements())
        return epsilon_of_total(noise, 10.0 ** -self.spends[-1].delta_exp)

    def alone(self) -> float:
        """For unit sum: the epsilon against any number of members, who leave one's own noise and nothing else."""
        if not self.spends:
            return 0.0
        kinds = counting(tuple(self._everything.items()), Unit.EXAMPLE)
        return epsilon_of_all(kinds, self.spends[-1].delta_exp)

    @property
    def colluders(self) -> int:
        """For unit sum: how many curious members the newest claim is against."""
        return self.spends[-1].colluders if self.spends else 0

    @property
    def _everything(self) -> Counter[Release]:
        return self.before + Counter(spend.kind for spend in self.spends)

    @property
    def kinds(self) -> Counter[Release]:
        """How many releases of each kind went into the newest claim, each as what it is to this unit."""
        return Counter(dict(counting(tuple(self._everything.items()), self.unit, self.colluders)))

    @property
    def others(self) -> Counter[Unit]:
        """How many releases of other units there were before the newest here."""
        found: Counter[Unit] = Counter()
        for kind, count in self.before.items():
            if kind.unit != self.unit:
                found[kind.unit] += count
        return found

    @property
    def sampled(self) -> bool:
        """Whether any release was of a sample."""
        return any(kind.sampled for kind in self.kinds)

    @property
    def accountant(self) -> str:
        """Who counts, in words."""
        if self.unit == Unit.SITE:
            return SITE_ACCOUNTANT
        if self.sampled:
            return SAMPLED_ACCOUNTANT
        return SUM_ACCOUNTANT if self.unit == Unit.SUM else ACCOUNTANT

    @property
    def void(self) -> bool:
        """Whether any noise came from a test seed: then there is no privacy, whatever the numbers say."""
        return any(spend.noise_source != NoiseSource.CHACHA20_OS_KEY for spend in self.spends)


def epsilon_of_all(kinds: Spent, exponent: int) -> float:
    """The epsilon of these releases together, each as what it is to one unit, at a delta of 10**-``exponent``."""
    delta = 10.0**-exponent
    if any(kind.sampled for kind, _ in kinds):
        # Google's dp-accounting, with numpy and scipy: only where a release was sampled.
        from quidnunc.gossip.learning.sampled import epsilon_sampled

        return epsilon_sampled(kinds, delta)
    return epsilon_of_total(combined_noise(kind.noise_u / MICRO for kind in Counter(dict(kinds)).elements()), delta)


def accounts(store: LedgerReader) -> list[Account]:
    """One account per data set and unit, in the order of their newest releases: the last of a unit is its total."""
    found: dict[tuple[bytes, Unit], Account] = {}
    so_far: Counter[Release] = Counter()
    for _, _, spend in spends(store):
        place = spend.dataset, spend.unit
        account = found.pop(place, None) or Account(spend.dataset, spend.unit)
        found[place] = account
        account.spends.append(spend)
        so_far[spend.kind] += 1
        account.before = so_far.copy()
    for account in found.values():
        for kind, count in so_far.items():
            if kind.unit != account.unit:
                account.since[kind.unit] += count - account.before[kind]
        account.before -= Counter(spend.kind for spend in account.spends)
    for entry in store.of_type(EntryType.DP_EXHAUSTED):
        record = record_of(EntryType.DP_EXHAUSTED, entry.payload)
        if isinstance(record, PrivacyExhausted):
            place = record.dataset, record.unit
            found.setdefault(place, Account(*place)).exhausted = True
    return list(found.values())
