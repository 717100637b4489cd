"""What others' signatures say of the time of an entry, beside the time that it claims itself.

Cosignatures under own checkpoints stand in entries (``witness.summary``) and, the newest of each witness, beside the
ledger. An entry that holds one cannot be older; whatever a quorum has cosigned cannot be younger.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

from quidnunc.crypto.checkpoint import witness_verifier
from quidnunc.crypto.entry import EntryType, parse_header
from quidnunc.crypto.errors import RemoteProtocolError
from quidnunc.crypto.note import Note, Signature, cosignature_time, parse_note, verify_note
from quidnunc.crypto.policy import TimeBounds, quorum_of
from quidnunc.gossip.attestation import CosignatureRow, WitnessSummary
from quidnunc.gossip.federation.member import Member
from quidnunc.gossip.provenance import parse_record
from quidnunc.peer.ledger.ledger_reader import LedgerReader


class Witnessing(NamedTuple):
    """``witness`` cosigned the first ``size`` entries at ``time``; entry ``cited`` holds that, None if none does."""

    witness: bytes
    size: int
    time: int
    cited: int | None


def summaries(store: LedgerReader) -> Iterator[tuple[int, WitnessSummary]]:
    """Every ``witness.summary`` that can be read, with its number."""
    for entry in store.of_type(EntryType.WITNESS_SUMMARY):
        try:
            record = parse_record(EntryType.WITNESS_SUMMARY, entry.payload)
            seq = parse_header(entry.header).seq
        except RemoteProtocolError:
            continue
        if isinstance(record, WitnessSummary):
            yield seq, record


def checked(store: LedgerReader, row: CosignatureRow, member: Member) -> bool:
    """Whether ``member`` made the signature of a row under the own checkpoint of that size."""
    own = store.checkpoint_at(row.size)
    key = witness_verifier(member.log_id, member.witness)
    try:
        text = "" if own is None else parse_note(own).text
        return own is not None and bool(verify_note(Note(text, (Signature(key.name, key.id, row.signature),)), [key]))
    except RemoteProtocolError:
        return False


def witnessings(store: LedgerReader, members: Sequence[Member]) -> list[Witnessing]:
    """All cosignatures of ``members`` that hold."""
    others = {each.log_id: each for each in members if each.log_id != store.log_id}
    found = []
    for seq, summary in summaries(store):
        for row in summary.rows:
            member = others.get(row.witness)
            if member is not None and checked(store, row, member):
                found.append(Witnessing(row.witness, row.size, row.time, seq))
    for witness, (size, note) in store.cosignatures().items():
        member = others.get(witness)
        kept = None if member is None else _row(member, size, note)
        if member is not None and kept is not None and checked(store, kept, member):
            found.append(Witnessing(witness, size, kept.time, None))
    return found


def _row(member: Member, size: int, note: bytes) -> CosignatureRow | None:
    key = witness_verifier(member.log_id, member.witness)
    try:
        for line in parse_note(note).signatures:
            if (line.name, line.key_id) == (key.name, key.id):
                cosignature_time(line)
                return CosignatureRow(member.log_id, size, line.signature)
    except RemoteProtocolError:
        return None
    return None


def bounds(seq: int, claimed_ms: int, seen: Sequence[Witnessing], witnesses: Collection[bytes]) -> TimeBounds:
    """What ``seen`` says of entry ``seq`` of a log with these witnesses, by log id.

    Not after is when the last cosignature came that a quorum needed, of the earliest ones that cover the entry.
    """
    first: dict[bytes, int] = {}
    for each in seen:
        if each.size > seq and each.witness in witnesses:
            first[each.witness] = min(each.time, first.get(each.witness, each.time))
    quorum = quorum_of(len(witnesses)) if witnesses else 1
    times = sorted(first.values())
    after = times[quorum - 1] if len(times) >= quorum else None
    before = max((each.time for each in seen if each.cited is not None and each.cited <= seq), default=None)
    unseen = max((each.time for each in seen if each.size <= seq), default=None)
    return TimeBounds(claimed_ms, before, after, unseen)
