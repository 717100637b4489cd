"""What one ledger knows of its members by the notices it took in: their log keys, and who has ended its log."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from quidnunc.crypto.entry import EntryType, parse_header
from quidnunc.crypto.errors import LedgerCorrupt, RemoteProtocolError
from quidnunc.gossip.federation.member import Member
from quidnunc.gossip.keybook import Keybook
from quidnunc.gossip.notices import SignedNotice, load_notices
from quidnunc.gossip.provenance import MemberNotice, parse_record
from quidnunc.gossip.retirement import LogRetire
from quidnunc.peer.ledger.ledger_reader import LedgerReader


def members_keys(ledger: LedgerReader, members: Iterable[Member]) -> Keybook:
    """The keys of ``members``; raises LedgerCorrupt for a notice that does not hold. A missing one is not known."""
    book = Keybook(members)
    if book.member(ledger.log_id) is not None:
        book.put(ledger.log_id, ledger.keys)
    for _ in _notices(ledger, book):
        pass
    return book


def retired_members(ledger: LedgerReader, members: Iterable[Member]) -> frozenset[bytes]:
    """Log ids of ``members`` that have ended their logs, as far as ``ledger`` keeps the notice and it holds.

    Raises LedgerCorrupt for a notice that does not hold: an owner that could make up ends would choose its witnesses.
    """
    found = _notices(ledger, Keybook(members))
    return frozenset(each.member.log_id for each in found if isinstance(each.record, LogRetire))


def _notices(ledger: LedgerReader, book: Keybook) -> Iterator[SignedNotice]:
    """The notices of ``ledger`` about members of ``book``, each after its keys are there."""
    for entry in ledger.of_type(EntryType.MEMBER_NOTICE):
        record = parse_record(EntryType.MEMBER_NOTICE, entry.payload)
        assert isinstance(record, MemberNotice)
        data = ledger.proof(record.token)
        if data is None or book.member(record.who) is None:
            continue
        try:
            yield from load_notices([data], book)
        except RemoteProtocolError as error:
            seq = parse_header(entry.header).seq
            raise LedgerCorrupt(seq, f"the notice it names does not hold: {error.message}") from error
