"""A ledger entry as people read it and as ``--json`` gives it. Nothing in an entry can make these functions fail."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from quidnunc.crypto.encoding import decode
from quidnunc.crypto.entry import MAX_PAYLOAD_BYTES, Entry, EntryType, Header, parse_header
from quidnunc.crypto.errors import Malformed, RemoteProtocolError
from quidnunc.crypto.log_keys import LogKeys
from quidnunc.gossip import provenance
from quidnunc.gossip.erasure import EraseReason
from quidnunc.gossip.federation.genesis import parse_genesis
from quidnunc.gossip.federation.terms import MICRO
from quidnunc.gossip.jobs import Unit
from quidnunc.gossip.retirement import LogRetire, retired_data
from quidnunc.peer.commands.charter_view import when
from quidnunc.peer.commands.unit_words import SUFFIX

STANDINGS = provenance.STANDING_LABELS
ERASE_REASONS = tuple(reason.name.lower() for reason in EraseReason)
STEPS = ("full step", "quarter step", "no step", "median adopted", "too few rows")
_SHORT = 8


def type_label(kind: int) -> str:
    """The name of an entry type, for example ``update.published``; unknown ones by number."""
    try:
        return EntryType(kind).label
    except ValueError:
        return f"type 0x{kind:02x} (unknown)"


def record_of(kind: int, payload: bytes) -> object:
    """The typed record in a payload, its plain decoded value when no type is known, or None if it is malformed."""
    try:
        if kind == EntryType.GENESIS:
            return parse_genesis(payload)
        if kind in provenance.RECORDS:
            return provenance.parse_record(kind, payload)
        return decode(payload, max_bytes=MAX_PAYLOAD_BYTES)
    except RemoteProtocolError:
        return None


def plain(value: Any) -> Any:
    """A record as JSON knows it: maps by field name, bytes in hex."""
    if dataclasses.is_dataclass(value):
        return {each.name: plain(getattr(value, each.name)) for each in dataclasses.fields(value)}
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return {key: plain(item) for key, item in value._asdict().items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    return value.hex() if isinstance(value, bytes) else value


def entry_data(entry: Entry, names: Mapping[bytes, str]) -> dict[str, Any]:
    """One entry with its decoded payload; ``names`` are members by log id."""
    header = _header(entry)
    if header is None:
        return {"hash": entry.leaf.hex(), "valid": False}
    record = record_of(header.type, entry.payload)
    return {
        "seq": header.seq,
        "hash": entry.leaf.hex(),
        "type": type_label(header.type),
        "type_code": header.type,
        "time": when(header.t_ms),
        "t_ms": header.t_ms,
        "key_epoch": header.key_epoch,
        "valid": record is not None or entry.erased,
        "erased": entry.erased,
        "summary": "payload was erased" if entry.erased else summary(header, record, names),
        "payload": plain(record),
    }


def entry_line(entry: Entry, names: Mapping[bytes, str]) -> str:
    """One entry on one line: number, hash, time, type, what it says."""
    header = _header(entry)
    if header is None:
        return f"{'?':>6}  {entry.leaf.hex()[:_SHORT]}  HEADER DOES NOT PARSE"
    record = record_of(header.type, entry.payload)
    text = "payload was erased" if entry.erased else summary(header, record, names)
    return f"{header.seq:>6}  {entry.leaf.hex()[:_SHORT]}  {when(header.t_ms)}  {type_label(header.type):<17} {text}"


def summary(header: Header, record: object, names: Mapping[bytes, str]) -> str:
    """What an entry says, in a few words."""
    if record is None:
        return "payload does not parse"
    describe = _SUMMARIES.get(header.type)
    if describe is None:
        return f"{header.payload_len} bytes"
    return describe(record, names)


def who(log_id: bytes | None, names: Mapping[bytes, str]) -> str:
    """A member by name, or the beginning of its log id."""
    if log_id is None:
        return "a stranger"
    return names.get(log_id, log_id.hex()[:_SHORT])


def _header(entry: Entry) -> Header | None:
    try:
        return parse_header(entry.header)
    except Malformed:
        return None


def _published(record: Any, names: Mapping[bytes, str]) -> str:
    kind = f"{record.steps} steps" if record.steps else "heartbeat"
    spent = ""
    if record.privacy is not None:
        spent = f", epsilon {record.privacy.cumulative_u / MICRO:.3f} so far{_of_site(record.privacy)}"
    delta = f"delta {_hash(record.delta)} ({record.size} bytes, {kind})"
    return f"update {record.number}, round {record.round}: {delta}{spent}"


def _received(record: Any, names: Mapping[bytes, str]) -> str:
    verdict = "accepted"
    if record.decision != provenance.Decision.ACCEPT:
        verdict = f"refused ({', '.join(provenance.reason_labels(record.reasons))})"
    kind = "snapshot" if record.snapshot else "update"
    return f"{kind} {record.number} of {who(record.sender, names)} {verdict}"


def _refused(record: Any, names: Mapping[bytes, str]) -> str:
    reason = provenance.reason_labels((record.reason,))[0]
    return f"{record.count} messages of {who(record.sender, names)} refused ({reason})"


def _merged(record: Any, names: Mapping[bytes, str]) -> str:
    inputs = ", ".join(
        f"{who(row.log_id, names) if row.log_id else 'genesis'} {row.effective / 1e9:.3f}" for row in record.rows[1:]
    )
    return f"round {record.round}: {_hash(record.result)} from {inputs or 'nobody else'} ({nth(STEPS, record.step)})"


def _reputation(record: Any, names: Mapping[bytes, str]) -> str:
    return f"{who(record.who, names)}: {nth(STANDINGS, record.old)} to {nth(STANDINGS, record.new)}"


def _spent(record: Any, names: Mapping[bytes, str]) -> str:
    return (
        f"round {record.round}: release {record.release}, epsilon {record.cumulative_u / MICRO:.3f} of "
        f"{record.cap_u / MICRO:g} at delta 1e-{record.delta_exp}{_of_site(record)}"
    )


def _of_site(record: Any) -> str:
    """Of whom an epsilon speaks, where it is not one record against everybody."""
    unit: Unit = record.unit
    return SUFFIX[unit]


_SUMMARIES: Mapping[int, Callable[[Any, Mapping[bytes, str]], str]] = {
    EntryType.GENESIS: lambda record, names: f"log of {record.org}",
    EntryType.CHARTER_ADOPT: lambda record, names: f"federation {record.charter.hex()[:16]}, epoch {record.epoch}",
    EntryType.NODE_START: lambda record, names: (
        f"start {record.incarnation}: quidnunc {record.software}, Python {record.python}, torch {record.torch}"
    ),
    EntryType.UPDATE_PUBLISHED: _published,
    EntryType.UPDATE_RECEIVED: _received,
    EntryType.MESSAGE_REFUSED: _refused,
    EntryType.MERGE: _merged,
    EntryType.REPUTATION_CHANGE: _reputation,
    EntryType.DP_SPEND: _spent,
    EntryType.PAYLOAD_ERASED: lambda record, names: (
        f"payloads of {len(record.seqs)} entries erased ({_nth_reason(record.why)}): "
        + ", ".join(str(seq) for seq in record.seqs[:_SHORT])
    ),
    EntryType.EQUIVOCATION_PROOF: lambda record, names: (
        f"a key of {who(record.who, names)} signed two histories (kind {record.kind}): frozen"
    ),
    EntryType.WITNESS_SUMMARY: lambda record, names: (
        f"{record.count} cosignatures, the newest of {', '.join(who(row.witness, names) for row in record.rows)}"
    ),
    EntryType.SUSPICION: lambda record, names: (
        f"{who(record.who, names)} owes an answer (kind {record.kind}): not merged, and not proven of anything"
    ),
    EntryType.SUSPICION_CLEARED: lambda record, names: (
        f"{who(record.who, names)} has answered: entry {record.raised} is taken back"
    ),
    EntryType.MEMBER_NOTICE: lambda record, names: (
        f"entry {record.seq} of {who(record.who, names)}, by its root key: {type_label(record.kind)}"
    ),
    EntryType.KEY_ROTATE: lambda record, names: (
        f"log key {record.epoch}, {record.public.hex()[:16]}, signs behind this entry, by the root key"
    ),
    EntryType.KEY_REVOKE: lambda record, names: (
        f"log key {record.epoch} counts up to {record.since} entries, by the root key"
    ),
    EntryType.LOG_RETIRE: lambda record, names: f"ended by the root key ({retired_words(record)})",
    EntryType.DP_EXHAUSTED: lambda record, names: (
        f"epsilon {record.cumulative_u / MICRO:.3f} of {record.cap_u / MICRO:g}{_of_site(record)}: "
        "no more training is published"
    ),
}


def retired_words(record: LogRetire) -> str:
    """Why a log ended, and which one goes on."""
    return ended_words(retired_data(record))


def key_rows(keys: LogKeys) -> list[dict[str, Any]]:
    """The keys of a log by epoch, JSON-ready: which sizes each may sign (``last`` None: all later ones)."""
    ends = dict(keys.revoked)
    return [
        {
            "epoch": epoch,
            "public": span.public.hex(),
            "first": span.first,
            "last": span.last if epoch < keys.epoch else None,
            "since": ends.get(epoch),
        }
        for epoch, span in enumerate(keys.spans)
    ]


def ended_words(ended: Mapping[str, Any]) -> str:
    """The same of a retirement as JSON has it."""
    heir = "" if ended["successor"] is None else f", log {ended['successor'][:16]} goes on"
    return f"{ended['reason']}{heir}"


def _nth_reason(code: int) -> str:
    return ERASE_REASONS[code - 1] if 0 < code <= len(ERASE_REASONS) else f"code {code}"


def _hash(value: bytes) -> str:
    return value.hex()[:_SHORT]


def nth(words: tuple[str, ...], index: int) -> str:
    return words[index] if index < len(words) else f"code {index}"
