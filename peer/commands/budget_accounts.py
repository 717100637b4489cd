"""The privacy accounts in a ledger: what was committed before each release, by data set."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple

from quidnunc.crypto.entry import EntryType, parse_header
from quidnunc.gossip.federation.terms import MICRO
from quidnunc.gossip.jobs import Release
from quidnunc.gossip.learning.accountant import combined_noise, epsilon_of_total
from quidnunc.gossip.provenance import NoiseSource, PrivacyExhausted, PrivacySpend
from quidnunc.peer.commands.entry_view import record_of
from quidnunc.peer.ledger.ledger_reader import LedgerReader

SAMPLED_ACCOUNTANT = "privacy loss distributions, pessimistic at 1e-3 (dp-accounting), Poisson sampling"
ACCOUNTANT = "analytic Gaussian, exact (Balle and Wang 2018), full batch"


class Spend(NamedTuple):
    """A release as its ledger has it: entry number, claimed time in ms, and what was committed."""

    seq: int
    t_ms: int
    record: PrivacySpend


def spends(store: LedgerReader) -> list[Spend]:
    """Every release of a ledger, in order."""
    found = []
    for entry in store.of_type(EntryType.DP_SPEND):
        header = parse_header(entry.header)
        record = record_of(header.type, entry.payload)
        if isinstance(record, PrivacySpend):
            found.append(Spend(header.seq, header.t_ms, record))
    return found


@dataclass
class Account:
    """The spends of one data set, and ``before`` them those of others: all of a ledger add up."""

    dataset: bytes
    spends: list[PrivacySpend] = field(default_factory=list)
    exhausted: bool = False
    before: Counter[Release] = field(default_factory=Counter)

    @property
    def claimed_u(self) -> int:
        """Cumulative epsilon as the newest spend says."""
        return self.spends[-1].cumulative_u if self.spends else 0

    def recomputed(self) -> float:
        """Cumulative epsilon of all releases up to the newest here, computed from their noise alone."""
        if not self.spends:
            return 0.0
        delta = 10.0 ** -self.spends[-1].delta_exp
        if self.sampled:
            # Google's dp-accounting, with numpy and scipy: only where a release was sampled.
            from quidnunc.gossip.learning.sampled import epsilon_sampled

            return epsilon_sampled(tuple(self.kinds.items()), delta)
        noise = combined_noise(kind.noise_u / MICRO for kind in self.kinds.elements())
        return epsilon_of_total(noise, delta)

    @property
    def kinds(self) -> Counter[Release]:
        """How many releases of each kind went into the newest claim."""
        return self.before + Counter(spend.kind for spend in self.spends)

    @property
    def sampled(self) -> bool:
        """Whether any release was of a sample."""
        return any(kind.sampled for kind in self.kinds)

    @property
    def accountant(self) -> str:
        """Who counts, in words."""
        return SAMPLED_ACCOUNTANT if self.sampled else ACCOUNTANT

    @property
    def void(self) -> bool:
        """Whether any noise came from a test seed: then there is no privacy, whatever the numbers say."""
        return any(spend.noise_source != NoiseSource.CHACHA20_OS_KEY for spend in self.spends)


def accounts(store: LedgerReader) -> list[Account]:
    """One account per data set, in the order in which they were first released."""
    found: dict[bytes, Account] = {}
    so_far: Counter[Release] = Counter()
    up_to: dict[bytes, Counter[Release]] = {}
    for _, _, spend in spends(store):
        account = found.setdefault(spend.dataset, Account(spend.dataset))
        account.spends.append(spend)
        so_far[spend.kind] += 1
        up_to[spend.dataset] = so_far.copy()
    for account in found.values():
        account.before = up_to[account.dataset] - Counter(spend.kind for spend in account.spends)
    for entry in store.of_type(EntryType.DP_EXHAUSTED):
        record = record_of(EntryType.DP_EXHAUSTED, entry.payload)
        if isinstance(record, PrivacyExhausted):
            found.setdefault(record.dataset, Account(record.dataset)).exhausted = True
    return list(found.values())
