"""The log keys of all members as far as they are known: the charter's, and those that root keys have brought in."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from quidnunc.crypto.checkpoint import origin_of
from quidnunc.crypto.entry import Entry, EntryType, parse_header
from quidnunc.crypto.fork import KnownKeys
from quidnunc.crypto.log_keys import LogKeys
from quidnunc.gossip.federation.member import Member
from quidnunc.gossip.key_change import KeyRevoke, KeyRotate, follow
from quidnunc.gossip.provenance import parse_record


class Keybook:
    """Log keys by log id, and the witness keys of the same members."""

    def __init__(self, members: Iterable[Member]) -> None:
        self._members = {member.log_id: member for member in members}
        self._keys = {log_id: LogKeys.of(member.log) for log_id, member in self._members.items()}

    @property
    def members(self) -> tuple[Member, ...]:
        """Whose keys these are."""
        return tuple(self._members.values())

    def member(self, log_id: bytes) -> Member | None:
        """The member whose log is ``log_id``, or None for a stranger."""
        return self._members.get(log_id)

    def of(self, log_id: bytes) -> LogKeys:
        """All keys of a member's log, for what was taken in already."""
        return self._keys[log_id]

    def counting(self, log_id: bytes) -> LogKeys:
        """The keys of a member's log as far as they count, for what comes in now."""
        return self._keys[log_id].counting

    def after(self, log_id: bytes, record: KeyRotate | KeyRevoke, seq: int) -> LogKeys:
        """The keys of a member's log behind ``record``, its entry ``seq``; raises RemoteProtocolError."""
        return follow(self._keys[log_id], record, log_id, seq, self._members[log_id].root)

    def put(self, log_id: bytes, keys: LogKeys) -> None:
        """Have ``keys`` as those of a member's log from now on."""
        self._keys[log_id] = keys

    def known(self) -> KnownKeys:
        """Whose signatures count in a proof of equivocation."""
        logs = {origin_of(log_id): keys.counting.spans for log_id, keys in self._keys.items()}
        return KnownKeys(logs, {origin_of(log_id): (each.witness,) for log_id, each in self._members.items()})


def own_changes(book: Keybook, log_id: bytes, changes: Mapping[int, KeyRotate | KeyRevoke]) -> LogKeys:
    """Have the key changes of a whole ledger, by ``seq``, in ``book``; the keys they lead to."""
    for seq, record in sorted(changes.items()):
        book.put(log_id, book.after(log_id, record, seq))
    return book.of(log_id)


def key_changes(entries: Iterable[Entry]) -> dict[int, KeyRotate | KeyRevoke]:
    """The changes of log keys among ``entries``, by ``seq``; raises Malformed for one that does not parse."""
    found: dict[int, KeyRotate | KeyRevoke] = {}
    for entry in entries:
        header = parse_header(entry.header)
        if header.type in (EntryType.KEY_ROTATE, EntryType.KEY_REVOKE):
            record = parse_record(header.type, entry.payload)
            assert isinstance(record, KeyRotate | KeyRevoke)
            found[header.seq] = record
    return found
