"""Erased payloads: which entries lack theirs, whether a later entry says so, and which may be erased at all.

An entry stays in the tree for ever; its payload and salt may go, and then its commitment says nothing any more. A
missing payload is an erasure only if a later ``payload.erased`` of the same log names the entry (I5). What a peer
starts from, what its privacy budget rests on, and what convicts somebody is never erased.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from enum import IntEnum

from quidnunc.crypto.entry import Entry, EntryType, parse_header
from quidnunc.crypto.errors import Malformed
from quidnunc.gossip.neighbor import LEAVES_KEPT
from quidnunc.gossip.provenance import Decision, PayloadErased, UpdateReceived, parse_record

ERASABLE = (
    EntryType.NODE_START,
    EntryType.REPUTATION_CHANGE,
    EntryType.UPDATE_RECEIVED,
    EntryType.MESSAGE_REFUSED,
)
"""Types whose payloads may be erased. Of ``node.start`` never the newest, of ``update.received`` only accepted ones
with LEAVES_KEPT later ones of the same sender."""


class EraseReason(IntEnum):
    """Why payloads were erased; codes of ``payload.erased`` ``why``."""

    REQUEST = 1
    RETENTION = 2
    MISTAKE = 3


class Erasures:
    """Reads a log in order; :attr:`unexplained` are the entries without a payload that no later entry calls erased."""

    def __init__(self) -> None:
        self.unexplained: set[int] = set()

    def read(self, seq: int, kind: int, entry: Entry) -> bool:
        """Take note of one entry; whether its payload is missing. Payloads that do not parse erase nothing."""
        if entry.erased:
            self.unexplained.add(seq)
            return True
        if kind == EntryType.PAYLOAD_ERASED:
            self.unexplained -= set(erased_by(kind, entry.payload))
        return False


def unexplained(entries: Iterable[Entry], start: int) -> set[int]:
    """The entries without a payload, among ``entries`` from number ``start`` on, that no later one of them erases."""
    found = Erasures()
    for seq, entry in enumerate(entries, start):
        found.read(seq, parse_header(entry.header).type, entry)
    return found.unexplained


def erased_by(kind: int, payload: bytes) -> tuple[int, ...]:
    """The entries that a payload of type ``kind`` calls erased."""
    if kind != EntryType.PAYLOAD_ERASED:
        return ()
    try:
        record = parse_record(kind, payload)
    except Malformed:
        return ()
    return record.seqs if isinstance(record, PayloadErased) else ()


def why_not(entries: Iterable[Entry], wanted: Iterable[int]) -> dict[int, str]:
    """Why entries among ``wanted`` may not be erased; those that may, or are already, are not in the answer."""
    asked = set(wanted)
    found: dict[int, str] = dict.fromkeys(asked, "there is no such entry")
    newest_start = -1
    senders: dict[int, bytes] = {}
    later: Counter[bytes] = Counter()
    before: dict[int, int] = {}
    for seq, entry in enumerate(entries):
        kind = parse_header(entry.header).type
        record = None if entry.erased else parse_record(kind, entry.payload) if kind in ERASABLE else None
        if kind == EntryType.NODE_START:
            newest_start = seq
        accepted = isinstance(record, UpdateReceived) and record.decision == Decision.ACCEPT
        if isinstance(record, UpdateReceived) and accepted:
            later[record.sender] += 1
        if seq not in asked:
            continue
        del found[seq]
        if entry.erased:
            continue
        if kind not in ERASABLE:
            found[seq] = "the peer's start, its budget or a proof rests on it"
        elif isinstance(record, UpdateReceived) and not accepted:
            found[seq] = "it is a refusal, which its sender's standing rests on"
        elif isinstance(record, UpdateReceived):
            senders[seq], before[seq] = record.sender, later[record.sender]
    if newest_start in asked and newest_start not in found:
        found[newest_start] = "it is the newest start, which the next one counts from"
    for seq, sender in senders.items():
        since = later[sender] - before[seq]
        if since < LEAVES_KEPT:
            found[seq] = f"only {since} later updates of its sender were accepted, {LEAVES_KEPT} must have been"
    return found
