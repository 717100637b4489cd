"""What a peer claims of whose training stands in the state it publishes, so that lineage reaches beyond what is held.

A claim is a short list of (log id, ppb): for each organization its *mass*, the sum of the coefficients of its training
updates (:mod:`quidnunc.gossip.lineage`). Two rows are no organizations: :data:`ORIGIN` is the weight of the charter's
initial params, which is one where everything is explained, and :data:`BEYOND` the mass of those for whom there was no
row. Claims are linear as states are, so that the claim of a merge follows from those of its inputs and an update adds
one to its author's. Whoever holds the inputs computes a claim again, to the last digit (:class:`ClaimAudit`).

A list that cannot be a claim counts as none: nothing in it may stop a peer, and what it does not explain is unexplained
under its author's name.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence

from quidnunc.gossip.audit import Finding
from quidnunc.gossip.jobs import PPB
from quidnunc.gossip.provenance import CLAIM_ROWS_MAX, ContributionClaim, Merge, MergeRow, UpdatePublished

Claim = tuple[ContributionClaim, ...]

ORIGIN = bytes(32)
BEYOND = b"\xff" * 32
MASS_MAX = 2**53
"""Most of one row, in ppb: nine million rounds of training, and integers that every reader of JSON has."""

_RECEIVED_KEPT = 64

NOTHING: Claim = ()
INITIAL: Claim = (ContributionClaim(ORIGIN, PPB),)
"""The claim of the charter's initial params."""


def believable(claim: Claim, author: bytes, steps: int) -> Claim:
    """``claim`` if an update of ``author`` over ``steps`` steps can carry it, else :data:`NOTHING`.

    Rows ascend by log id, none is empty or above MASS_MAX, the initial params weigh at most one, and whoever trained
    has at least that one round.
    """
    ids = [row.log_id for row in claim]
    masses = dict(claim)
    ascending = all(one < other for one, other in itertools.pairwise(ids))
    bounded = len(claim) <= CLAIM_ROWS_MAX and all(1 <= row.ppb <= MASS_MAX for row in claim)
    trained = not steps or masses.get(author, 0) >= PPB
    return claim if ascending and bounded and trained and masses.get(ORIGIN, 0) <= PPB else NOTHING


def merged(inputs: Iterable[tuple[int, Claim]]) -> Claim:
    """The claim of a merge of states with these (effective weight in ppb, claim), rounded once per row."""
    sums: dict[bytes, int] = {}
    for weight, claim in inputs:
        for log_id, ppb in claim:
            sums[log_id] = sums.get(log_id, 0) + weight * ppb
    rounded = ((log_id, (total + PPB // 2) // PPB) for log_id, total in sorted(sums.items()))
    return tuple(ContributionClaim(log_id, min(ppb, MASS_MAX)) for log_id, ppb in rounded if ppb)


def published(base: Claim, author: bytes, steps: int, rows: int = CLAIM_ROWS_MAX) -> Claim:
    """The claim of an update of ``author`` from a state with claim ``base``, within so many rows.

    Where there are more organizations than rows, those with the least mass (of equals the later log ids) share the
    row BEYOND.
    """
    masses = dict(base)
    if steps:
        masses[author] = min(masses.get(author, 0) + PPB, MASS_MAX)
    origin, beyond = masses.pop(ORIGIN, 0), masses.pop(BEYOND, 0)
    own = masses.pop(author, 0)
    ranked = sorted(masses.items(), key=lambda each: (-each[1], each[0]))
    kept = dict(ranked[: rows - 3])
    beyond = min(beyond + sum(mass for _, mass in ranked[rows - 3 :]), MASS_MAX)
    kept |= {log_id: mass for log_id, mass in ((ORIGIN, origin), (BEYOND, beyond), (author, own)) if mass}
    return tuple(ContributionClaim(*each) for each in sorted(kept.items()))


class ClaimAudit:
    """Computes the claims of the log ``log_id`` again, entry by entry; :attr:`findings` says which are false (I21).

    What was made of updates that :meth:`received` was not told of is not checked; ``not_held`` counts it.
    """

    def __init__(self, log_id: bytes) -> None:
        self._log_id = log_id
        self._received: dict[bytes, dict[int, Claim]] = {}
        self._initial: bytes | None = None
        self._newest: tuple[int, bytes, Claim] | None = None
        self._merge: tuple[bytes, Claim | None] | None = None
        self.findings: list[Finding] = []
        self.checked = 0
        self.not_held = 0

    def received(self, author: bytes, seq: int, claim: Claim) -> None:
        """Entry ``seq`` of another log, an update with this claim, was accepted; the newest 64 of each are kept."""
        kept = self._received.setdefault(author, {})
        kept[seq] = claim
        if len(kept) > _RECEIVED_KEPT:
            del kept[min(kept)]

    def read(self, seq: int, record: object) -> None:
        """Take in entry ``seq``, in order; records that make no state are ignored."""
        if isinstance(record, Merge):
            self._merge = record.result, self._inputs(record.rows)
        elif isinstance(record, UpdatePublished):
            if self._initial is None:
                self._initial = record.replica_before
            self._update(seq, record)
            self._newest = seq, record.replica_after, believable(record.claims, self._log_id, record.steps)
            self._merge = None

    def _update(self, seq: int, record: UpdatePublished) -> None:
        if not record.claims:
            return
        base = self._base(record.base)
        if base is None:
            self.not_held += 1
            return
        self.checked += 1
        if record.claims != published(base, self._log_id, record.steps):
            why = "claims other contributions (lc) than follow from what it was trained from"
            self.findings.append(Finding("I21", seq, why))

    def _base(self, state: bytes) -> Claim | None:
        """The claim of what the update was trained from: the merge just made, else the own replica."""
        if self._merge is not None and self._merge[0] == state:
            return self._merge[1]
        if self._newest is not None:
            return self._newest[2] if self._newest[1] == state else None
        return INITIAL if state == self._initial else None

    def _inputs(self, rows: Sequence[MergeRow]) -> Claim | None:
        inputs = [(row.effective, self._input(row)) for row in rows if row.effective]
        known = [(weight, claim) for weight, claim in inputs if claim is not None]
        return merged(known) if len(known) == len(inputs) else None

    def _input(self, row: MergeRow) -> Claim | None:
        if row.seq is None:
            return INITIAL  # a state without an entry is that of the charter
        if row.log_id is not None and row.log_id != self._log_id:
            return self._received.get(row.log_id, {}).get(row.seq)
        newest = self._newest
        return newest[2] if newest is not None and newest[0] == row.seq else None
