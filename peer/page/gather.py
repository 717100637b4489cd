"""What the page about a ledger shows, read from one ledger or from several of the same federation."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from quidnunc.crypto.entry import EntryType, parse_header
from quidnunc.crypto.errors import LedgerCorrupt, Malformed, RemoteProtocolError
from quidnunc.gossip.federation.charter import Charter
from quidnunc.gossip.keybook import Keybook
from quidnunc.gossip.lineage import Lineage, Place, Trace
from quidnunc.gossip.provenance import (
    Decision,
    EquivocationProof,
    Merge,
    MessageRefused,
    ReputationChange,
    UpdatePublished,
    UpdateReceived,
)
from quidnunc.gossip.signed_update import open_update
from quidnunc.peer.cli import Context
from quidnunc.peer.commands.entry_links import Foreign
from quidnunc.peer.commands.entry_view import record_of, summary
from quidnunc.peer.commands.files import read_charter
from quidnunc.peer.commands.ledger_home import electorate, member_names, members, opened
from quidnunc.peer.commands.ledger_trace import LedgerUnusable, open_ledger
from quidnunc.peer.commands.ledger_witness import Witnessed, witnessed
from quidnunc.peer.home import Home
from quidnunc.peer.ledger.members_keys import members_keys
from quidnunc.peer.ledger.store import Store

ROUNDS_MAX = 60
"""Newest rounds of which the page draws lineage and contributions."""

ENTRIES_MAX = 640
"""Newest entries of the main ledger that the page lists one by one: 60 rounds with seven neighbors."""

LEDGERS_MAX = 16
"""Ledgers that one page compares."""


@dataclass(frozen=True, slots=True)
class Row:
    """One entry: its record is None if the payload does not parse."""

    seq: int
    t_ms: int
    kind: int
    leaf: bytes
    record: object
    summary: str


@dataclass(slots=True)
class Seen:
    """One ledger. ``rows`` are its newest entries, ``times`` (ms, type) of all that are drawn, ``made`` its newest
    updates and merges; ``accepted`` and ``refused`` count what came from each sender, ``standing`` is the class of
    each now; ``problem`` is why the ledger does not verify, "" if it does."""

    log_id: bytes
    name: str
    size: int
    root: bytes
    problem: str
    vouched: Witnessed
    rows: deque[Row] = field(default_factory=lambda: deque(maxlen=ENTRIES_MAX))
    made: deque[Row] = field(default_factory=lambda: deque(maxlen=4 * ROUNDS_MAX))
    times: deque[tuple[int, int]] = field(default_factory=lambda: deque(maxlen=2 * ENTRIES_MAX))
    accepted: Counter[bytes] = field(default_factory=Counter)
    refused: Counter[bytes] = field(default_factory=Counter)
    first_refused: dict[bytes, int] = field(default_factory=dict)
    standing: dict[bytes, int] = field(default_factory=dict)
    frozen: set[bytes] = field(default_factory=set)


@dataclass(slots=True)
class Gathered:
    """Everything on one page. ``takers`` are the (sender, seq) of updates the main ledger took in, with their update
    number and state; ``traces`` is the contribution to each of its newest rounds' models."""

    main: Seen
    ledgers: list[Seen]
    names: dict[bytes, str]
    charter: Charter | None
    lineage: Lineage
    taken: dict[Foreign, UpdateReceived] = field(default_factory=dict)
    traces: list[tuple[int, Trace]] = field(default_factory=list)

    @property
    def order(self) -> list[bytes]:
        """All members, the main ledger's owner first, then by name."""
        others = sorted((log_id for log_id in self.names if log_id != self.main.log_id), key=lambda i: self.names[i])
        return [self.main.log_id, *others]


def gather(context: Context, others: list[Home]) -> Gathered:
    """Read the ledger at hand and those of ``others``, which must be members' and must verify.

    A damaged main ledger is shown as far as it can be read, with what is wrong; raises LedgerUnusable for another's.
    """
    if len(others) >= LEDGERS_MAX:
        raise LedgerUnusable(f"{len(others) + 1} ledgers for one page, limit is {LEDGERS_MAX}")
    charter = read_charter(context.home.charter)[1].charter if context.home.charter.exists() else None
    names = member_names(context)
    lineage = Lineage(charter.task.genesis if charter else b"")
    with opened(context) as store:
        main = _seen(store, names, context)
        names.setdefault(main.log_id, main.name)
        found = Gathered(main, [main], names, charter, lineage)
        book = _book(store, charter)
        for row in _rows(store, names):
            _count(main, row)
            main.rows.append(row)
            _own(found, store, row, book)
    for home in others:
        if charter is None:
            raise LedgerUnusable(f"{home.ledger}: without a charter nobody else is known here")
        with open_ledger(home.ledger, charter) as store:
            _other(found, store, context)
    found.traces = list(_traces(found))
    return found


def _book(store: Store, charter: Charter | None) -> Keybook:
    members = charter.members if charter else ()
    try:
        return members_keys(store, members)
    except LedgerCorrupt:
        return Keybook(members)


def _seen(store: Store, names: dict[bytes, str], context: Context) -> Seen:
    report = store.verify(context.out.progress(f"checked of {store.path}", "entries"))
    first = next((problem for layer in report.layers for problem in layer.problems), None)
    problem = f"{first.place}: {first.why} ({first.code})" if first else ""
    name = names.get(store.log_id, store.log_id.hex()[:16])
    vouched = witnessed(store, members(context), electorate(context, store.log_id))
    return Seen(store.log_id, name, report.size, report.root, problem, vouched)


def _rows(store: Store, names: dict[bytes, str]) -> Iterator[Row]:
    """All entries, up to the first that cannot be read at all."""
    entries = store.entries()
    while True:
        try:
            entry = next(entries)
            header = parse_header(entry.header)
        except (StopIteration, LedgerCorrupt, Malformed):
            return
        record = record_of(header.type, entry.payload)
        yield Row(header.seq, header.t_ms, header.type, entry.leaf, record, summary(header, record, names))


def _count(seen: Seen, row: Row) -> None:
    seen.times.append((row.t_ms, row.kind))
    match row.record:
        case UpdatePublished() | Merge():
            seen.made.append(row)
        case UpdateReceived(sender=sender, decision=decision):
            (seen.accepted if decision == Decision.ACCEPT else seen.refused)[sender] += 1
            if decision != Decision.ACCEPT:
                seen.first_refused.setdefault(sender, row.seq)
        case MessageRefused(sender=sender, count=count) if sender is not None:
            seen.refused[sender] += count
            seen.first_refused.setdefault(sender, row.seq)
        case ReputationChange(who=who, new=new):
            seen.standing[who] = new
        case EquivocationProof(who=who):
            seen.frozen.add(who)


def _own(found: Gathered, store: Store, row: Row, book: Keybook) -> None:
    """Take what the main ledger made or took in into the lineage, as ``ledger trace`` does."""
    match row.record:
        case UpdatePublished() | Merge():
            found.lineage.add(store.log_id, row.seq, row.record)
        case UpdateReceived(decision=Decision.ACCEPT, sender=sender, seq=seq):
            found.taken[Foreign(sender, seq)] = row.record
            member = book.member(sender)
            token = store.token_by_number(sender, row.record.number)
            if member is None or token is None:
                return
            try:
                signed = open_update(token, log_id=member.log_id, public=book.of(sender))
            except RemoteProtocolError:
                # `verify` names damaged tokens; here their update is one that is not held.
                return
            found.lineage.add(member.log_id, signed.token.header.seq, signed.update)


def _other(found: Gathered, store: Store, context: Context) -> None:
    if any(each.log_id == store.log_id for each in found.ledgers):
        raise LedgerUnusable(f"{store.path}: the ledger of {found.names[store.log_id]} was named twice")
    seen = _seen(store, found.names, context)
    if seen.problem:
        raise LedgerUnusable(f"{store.path}: does not verify: {seen.problem}")
    for row in _rows(store, found.names):
        _count(seen, row)
        if isinstance(row.record, UpdatePublished | Merge):
            found.lineage.add(store.log_id, row.seq, row.record)
    found.ledgers.append(seen)


def _traces(found: Gathered) -> Iterator[tuple[int, Trace]]:
    """(round, contributions) of the newest model of each of the newest rounds of the main ledger."""
    newest: dict[int, int] = {}
    for row in found.main.made:
        if row.kind == EntryType.UPDATE_PUBLISHED and isinstance(row.record, UpdatePublished):
            newest[row.record.round] = row.seq
    for number in sorted(newest)[-ROUNDS_MAX:]:
        yield number, found.lineage.trace(Place(found.main.log_id, newest[number]))
