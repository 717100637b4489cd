"""The log keys of all members as one ledger knows them: its own, and those of others by the notices it took in."""

from __future__ import annotations

from collections.abc import Iterable

from quidnunc.crypto.entry import EntryType
from quidnunc.crypto.errors import LedgerCorrupt, RemoteProtocolError
from quidnunc.gossip.federation.member import Member
from quidnunc.gossip.keybook import Keybook
from quidnunc.gossip.notices import load_notices
from quidnunc.gossip.provenance import MemberNotice, parse_record
from quidnunc.peer.ledger.ledger_reader import LedgerReader


def members_keys(ledger: LedgerReader, members: Iterable[Member]) -> Keybook:
    """The keys of ``members``; raises LedgerCorrupt for a notice that does not hold. A missing one is not known."""
    book = Keybook(members)
    if book.member(ledger.log_id) is not None:
        book.put(ledger.log_id, ledger.keys)
    for entry in ledger.of_type(EntryType.MEMBER_NOTICE):
        record = parse_record(EntryType.MEMBER_NOTICE, entry.payload)
        assert isinstance(record, MemberNotice)
        data = ledger.proof(record.token)
        if data is None or book.member(record.who) is None:
            continue
        try:
            load_notices([data], book)
        except RemoteProtocolError as error:
            raise LedgerCorrupt(record.seq, f"the notice it names does not hold: {error.message}") from error
    return book
