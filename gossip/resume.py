"""Where a peer stands according to its own ledger: what start-up folds out of the entries. Crash-only: there is no
other start-up path, a fresh peer merely folds an empty ledger."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from quidnunc.crypto.entry import Entry, EntryType, open_entry, parse_header
from quidnunc.crypto.errors import LedgerCorrupt, Malformed, Reason
from quidnunc.gossip.attestation import Suspected, SuspicionCleared, SuspicionRaised
from quidnunc.gossip.claims import INITIAL, Claim
from quidnunc.gossip.erasure import Erasures
from quidnunc.gossip.evidence import PENALIZED
from quidnunc.gossip.jobs import WITHHELD, Release, Standing, Unit
from quidnunc.gossip.key_change import KeyRevoke, KeyRotate
from quidnunc.gossip.neighbor import CONVICTED, LEAVES_KEPT
from quidnunc.gossip.personal import parse_personal
from quidnunc.gossip.provenance import (
    CharterAdopt,
    Decision,
    EquivocationProof,
    MemberNotice,
    Merge,
    MergeRow,
    MessageRefused,
    NodeStart,
    PrivacyExhausted,
    PrivacySpend,
    UpdatePublished,
    UpdateReceived,
    parse_record,
    parse_standings,
)
from quidnunc.gossip.reputation import FOUNDER, punish
from quidnunc.gossip.retirement import LogRetire

QUARTER, NONE = 1, 2
"""Steps of a merge that went back part of the way, or all of it."""


@dataclass(slots=True)
class Tracked:
    """The last update of a neighbor that our ledger holds as accepted, and the leaves of the newest ones."""

    number: int
    seq: int
    state: bytes
    leaves: dict[int, bytes]
    tokens: dict[int, bytes] = field(default_factory=dict)


@dataclass(slots=True)
class Resume:
    """The fold of one ledger. ``base`` is what the next training starts from, unless a merge is due first.

    ``unmerged`` says that the newest own update has not been followed by a merge. ``tokens`` are the newest own
    (update number, token bytes); the host fills them in from its store.

    ``recall`` and ``missing`` are what the host's disk has lost: the own updates, oldest first, as of any of which the
    own replica would do (empty if it is here), and the states of neighbors that are not here.

    ``retired`` is the record that ends this log, None while it goes on; ``key_changes`` are what its root key said of
    its log keys, by ``seq``, and ``own_notices`` the tokens of those entries, which the host fills in.
    ``suspected`` are logs that owe an answer, each with the entry that says so. ``claim`` is what the newest own update
    says of whose training stands in the own replica, ``personal`` the newest state of the personal tensors, empty
    without any. ``inputs`` are the rows of the merge that led to ``base``, empty
    once it was published from; the host fills in ``input_tokens``, those of the updates of others among them by (log
    id, seq).

    ``frozen`` are the logs that are proven to have forked, each with the hash of the proof; the host fills in
    ``proofs``, their bytes, likewise ``notices`` for ``noticed``, by log id and ``seq``, the tokens of ``tracked``,
    ``heads`` (size, root, note) of other logs, what witnesses ``cosigned`` (size, note), and ``mirrors``: which entries
    of other logs are kept, from the first up to the one
    before the second number, and the leaf hash of the last.

    ``accepted_of`` and ``refused_of`` count, by log id, the updates taken and all that was refused; ``refused`` has
    those of unknown senders, too.

    ``current`` says that neighbors have just been asked: this is all there is of the own log. Of a ledger without
    entries the host says whether it may have had some: ``copied``, this home was restored from a copy; ``lost``, its
    ledger is lost, and begins only with what neighbors give back.
    """

    charter: bytes | None = None
    incarnation: int = 0
    round: int = 0
    number: int = 0
    released: int = 0
    trained: int = 0
    replica: bytes | None = None
    replica_seq: int | None = None
    base: bytes | None = None
    unmerged: bool = False
    releases: int = 0
    spent: dict[Release, int] = field(default_factory=dict)
    cumulative_u: dict[Unit, int] = field(default_factory=dict)
    exhausted: set[Unit] = field(default_factory=set)
    tracked: dict[bytes, Tracked] = field(default_factory=dict)
    standings: dict[bytes, Standing] = field(default_factory=dict)
    quarantined: set[bytes] = field(default_factory=set)
    refused: int = 0
    accepted_of: Counter[bytes] = field(default_factory=Counter)
    refused_of: Counter[bytes] = field(default_factory=Counter)
    merges: int = 0
    steps_back: int = 0
    withheld: int = 0
    tokens: list[tuple[int, bytes]] = field(default_factory=list)
    recall: tuple[UpdatePublished, ...] = ()
    missing: set[bytes] = field(default_factory=set)
    frozen: dict[bytes, bytes] = field(default_factory=dict)
    proofs: dict[bytes, bytes] = field(default_factory=dict)
    key_changes: dict[int, KeyRotate | KeyRevoke] = field(default_factory=dict)
    own_notices: list[bytes] = field(default_factory=list)
    noticed: dict[tuple[bytes, int], bytes] = field(default_factory=dict)
    notices: list[bytes] = field(default_factory=list)
    mirrors: dict[bytes, tuple[int, int, bytes]] = field(default_factory=dict)
    current: bool = False
    copied: bool = False
    lost: bool = False
    heads: dict[bytes, tuple[int, bytes, bytes]] = field(default_factory=dict)
    cosigned: dict[bytes, tuple[int, bytes]] = field(default_factory=dict)
    retired: LogRetire | None = None
    suspected: dict[bytes, Suspected] = field(default_factory=dict)
    claim: Claim = INITIAL
    personal: bytes = b""
    inputs: tuple[MergeRow, ...] = ()
    input_tokens: dict[tuple[bytes, int], bytes] = field(default_factory=dict)


def fold(entries: Iterable[Entry]) -> Resume:
    """The state a ledger leads to; raises LedgerCorrupt for an own entry that does not parse.

    Erased entries say nothing; a payload that is missing without having been erased is damage.
    """
    state = Resume()
    erasures = Erasures()
    for seq, entry in enumerate(entries):
        try:
            header = parse_header(entry.header) if entry.erased else open_entry(entry)
            if erasures.read(seq, header.type, entry):
                continue
            if header.type != EntryType.GENESIS:
                _apply(state, parse_record(header.type, entry.payload), seq, entry)
        except Malformed as error:
            raise LedgerCorrupt(seq, error.message) from error
    if erasures.unexplained:
        raise LedgerCorrupt(min(erasures.unexplained), "its payload is missing, and no later entry says it was erased")
    return state


def _apply(state: Resume, record: object, seq: int, entry: Entry) -> None:
    match record:
        case CharterAdopt():
            state.charter = record.charter
        case NodeStart():
            state.incarnation = record.incarnation
        case UpdatePublished():
            _apply_published(state, record, seq, entry)
        case UpdateReceived(decision=Decision.ACCEPT):
            _apply_accepted(state, record)
        case Merge():
            _apply_merge(state, record, entry)
        case PrivacySpend():
            state.releases = record.release
            state.spent[record.kind] = state.spent.get(record.kind, 0) + 1
            state.cumulative_u[record.unit] = max(state.cumulative_u.get(record.unit, 0), record.cumulative_u)
            state.round = max(state.round, record.round)
        case PrivacyExhausted():
            state.exhausted.add(record.unit)
        case KeyRotate() | KeyRevoke():
            state.key_changes[seq] = record
        case LogRetire():
            state.retired = record
        case EquivocationProof():
            state.frozen[record.who] = record.proof
            state.quarantined.add(record.who)
            state.standings[record.who] = CONVICTED
        case MemberNotice():
            state.noticed[record.who, record.seq] = record.token
        case SuspicionRaised():
            state.suspected[record.who] = Suspected(seq, record.kind, record.deadline_ms)
        case SuspicionCleared():
            state.suspected.pop(record.who, None)
        case UpdateReceived():
            _apply_rejected(state, record)
        case MessageRefused():
            state.refused += record.count
            if record.sender is not None:
                state.refused_of[record.sender] += record.count


def _apply_published(state: Resume, record: UpdatePublished, seq: int, entry: Entry) -> None:
    state.round = max(state.round, record.round)
    state.number = record.number
    state.released = record.round
    state.replica = record.replica_after
    state.replica_seq = seq
    state.unmerged = True
    state.claim, state.inputs = record.claims, ()
    state.trained += record.steps > 0
    # Entries that came back from neighbors have no private part: an older head is better than none.
    if entry.private:
        state.personal = parse_personal(entry.private)


def _apply_accepted(state: Resume, record: UpdateReceived) -> None:
    before = state.tracked.get(record.sender)
    leaves = {} if before is None else before.leaves
    leaves[record.number] = record.leaf
    for old in [n for n in leaves if n <= record.number - LEAVES_KEPT]:
        del leaves[old]
    state.accepted_of[record.sender] += 1
    state.tracked[record.sender] = Tracked(record.number, record.seq, record.replica, leaves)


def _apply_rejected(state: Resume, record: UpdateReceived) -> None:
    """A refusal changes a standing at once; later merges record the standings they lead to."""
    state.refused += 1
    state.refused_of[record.sender] += 1
    standing = state.standings.get(record.sender, FOUNDER)
    if Reason.EQUIVOCATION in record.reasons:
        state.quarantined.add(record.sender)
        state.standings[record.sender] = CONVICTED
    elif PENALIZED.intersection(record.reasons):
        state.standings[record.sender] = punish(standing)


def _apply_merge(state: Resume, record: Merge, entry: Entry) -> None:
    state.base, state.inputs = record.result, record.rows
    state.unmerged = False
    state.merges += 1
    state.steps_back += record.step in (QUARTER, NONE)
    state.withheld += record.step == WITHHELD
    if entry.private:
        state.standings.update(parse_standings(entry.private))
