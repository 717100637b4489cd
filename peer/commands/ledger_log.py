"""``quidnunc ledger log`` and ``show``: entries one a line, and one entry with all that hangs on it."""

from __future__ import annotations

import argparse
import re
import sys
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from quidnunc.crypto.entry import Entry, EntryType, open_entry, parse_header
from quidnunc.crypto.errors import Malformed, RemoteProtocolError
from quidnunc.crypto.policy import TimeBounds, quorum_of
from quidnunc.gossip.provenance import Merge, parse_standings
from quidnunc.peer.blobs import blob_path
from quidnunc.peer.cli import CommandParser, Context
from quidnunc.peer.commands.charter_view import when
from quidnunc.peer.commands.entry_graph import graph
from quidnunc.peer.commands.entry_links import blobs_of, cited_entries, foreign_entries, made_state, read_states
from quidnunc.peer.commands.entry_times import Witnessing, bounds, witnessings
from quidnunc.peer.commands.entry_view import entry_data, entry_line, record_of, who
from quidnunc.peer.commands.ledger_fsck import known_members
from quidnunc.peer.commands.ledger_home import electorate, find_entry, member_names, opened, readable
from quidnunc.peer.commands.ledger_witness import NOT_CHECKED, SELF_ATTESTED, counting
from quidnunc.peer.ledger.store import Store
from quidnunc.peer.output import ExitCode, Line, Outcome, Styled, UsageError

CITED_WITHIN = 4096
"""How many entries after the one that is shown are searched for those that name it."""

_PREFIX = re.compile(r"[0-9a-f]{8,64}")

_BOUNDS = (("not before", "not_before"), ("not after", "not_after"))

Wanted = Callable[[Entry, int, int, object], bool]
"""Whether to show (entry, type, time in ms, record)."""


def register(add: Callable[..., CommandParser]) -> None:
    """The arguments of both commands."""
    below = add("log", help="one line per entry, newest last")
    below.add_argument("-n", type=int, default=20, metavar="N", help="the last N entries (default: 20; 0: all)")
    below.add_argument("--type", metavar="TYPE", help="only this type, for example merge, update.published or 0x7f")
    below.add_argument("--peer", metavar="NAME", help="only what names this member, by name or 8 digits of its log id")
    below.add_argument("--model", metavar="HASH", help="only what made or used this state, 8 or more hex digits")
    below.add_argument("--round", type=int, metavar="R", help="only entries of this round")
    below.add_argument("--since", type=_time, metavar="TIME", help="only entries of this time (ISO 8601) or later")
    below.add_argument("--until", type=_time, metavar="TIME", help="only entries before this time")
    below.add_argument("--graph", action="store_true", help="draw who published what and what merges read")
    readable(below, log)

    below = add("show", help="one entry, decoded, and what it has to do with")
    below.add_argument("ref", metavar="REF", help="sequence number, or 8 or more hex digits of its hash or model")
    below.add_argument("--raw", action="store_true", help="also the bytes of header, payload and salt, in hex")
    below.add_argument("--private", action="store_true", help="also the private part, which no export holds")
    readable(below, show)


def log(args: argparse.Namespace, context: Context) -> Outcome:
    """One line per entry that all the filters let through."""
    if args.n < 0:
        raise UsageError(f"-n is {args.n}, must be 0 or more")
    names = member_names(context)
    with opened(context) as store:
        filters = _filters(args, names)
        kept: deque[Entry] = deque(maxlen=min(args.n, sys.maxsize) or None)
        kept.extend(entry for entry in store.entries() if _passes(entry, filters))
        total, own = store.size, store.log_id
    data = {"entries": total, "log": [entry_data(entry, names) for entry in kept]}
    lines = [entry_line(entry, names) for entry in kept]
    if args.graph:
        heads, lanes = graph(own, list(kept), names)
        lines = [*heads, *(f"{drawn} {line}" for drawn, line in zip(lanes, lines, strict=True))]
    return Outcome(data, lines)


def show(args: argparse.Namespace, context: Context) -> Outcome:
    """One entry: header, decoded payload, private part, whether they are the committed ones, and its relations."""
    names = member_names(context)
    with opened(context) as store:
        entry = find_entry(store, args.ref)
        known = known_members(context)
        seen = witnessings(store, known)
        voters = {each.log_id for each in counting(store, known, electorate(context, store.log_id))} - {store.log_id}
        data = entry_data(entry, names)
        try:
            header = parse_header(entry.header) if entry.erased else open_entry(entry)
        except Malformed as error:
            hint = "check all of it with: quidnunc ledger verify"
            return Outcome(data, [], ExitCode.VERIFY_FAILED, error.message, hint)
        record = record_of(header.type, entry.payload)
        cites = [seq for seq in cited_entries(store.log_id, record) if seq < header.seq]
        cited_by = _citing(store, header.seq)
        foreign = foreign_entries(store.log_id, record)
        proven = _proof_state(store, header.seq, seen, voters, bool(known))
    blobs = [
        {"what": what, "hash": name.hex(), "held": blob_path(context.home.blobs, name).exists()}
        for what, name in blobs_of(record)
    ]
    times = bounds(header.seq, header.t_ms, seen, voters)
    data |= {
        "times": _times_data(times),
        "proof": proven,
        "prev": header.prev.hex(),
        "payload_bytes": header.payload_len,
        "payload_commitment": header.payload_cmt.hex(),
        "private_bytes": len(entry.private),
        "cites": cites,
        "cited_by": cited_by,
        "elsewhere": [{"log_id": at.log_id.hex(), "name": names.get(at.log_id, ""), "seq": at.seq} for at in foreign],
        "blobs": blobs,
    }
    lines: list[Line] = [
        Styled(f"entry {header.seq}  {data['type']}", "strong"),
        f"  hash        {data['hash']}",
        f"  previous    {data['prev']}",
        f"  claimed     {data['time']}{_told(times)}",
        f"  proof       {_proof_words(proven, names)}",
        f"  says        {data['summary']}",
        f"  payload     {header.payload_len} bytes, {'erased' if entry.erased else 'as committed to by the header'}",
    ]
    if entry.private:
        lines.append(f"  private     {len(entry.private)} bytes, as committed to by the payload; never sent")
    lines += [f"  {label:<11} {_numbers(seqs)}" for label, seqs in (("cites", cites), ("cited by", cited_by)) if seqs]
    lines += [f"  elsewhere   entry {at.seq} of {who(at.log_id, names)}" for at in foreign]
    lines += [f"  {each['what']:<11} {each['hash']} ({'held' if each['held'] else 'not held'})" for each in blobs]
    lines += _fields(data["payload"], "    ")
    if args.raw:
        data["raw"] = {"header": entry.header.hex(), "payload": entry.payload.hex(), "salt": entry.salt.hex()}
        lines += [f"  raw {name:<9} {value}" for name, value in data["raw"].items()]
    if args.private:
        data["private"] = private_data(header.type, entry, names)
        lines += [Styled("  private part:", "warn"), *_fields(data["private"], "    ")]
    return Outcome(data, lines)


def _proof_state(
    store: Store, seq: int, seen: Sequence[Witnessing], voters: Collection[bytes], known: bool
) -> dict[str, Any]:
    """From which size on an entry is signed, and who has cosigned it: what a proof of it would show."""
    by = sorted({each.witness.hex() for each in seen if each.size > seq and each.witness in voters})
    quorum = quorum_of(len(voters)) if voters else 0
    verdict = f"WITNESSED {len(by)} of {len(voters)}" if quorum and len(by) >= quorum else SELF_ATTESTED
    if not known and store.cosignatures():
        verdict = NOT_CHECKED
    return {"signed_from": store.signed_from(seq), "cosigned_by": by, "verdict": verdict}


def _proof_words(proven: Mapping[str, Any], names: Mapping[bytes, str]) -> str:
    if proven["signed_from"] is None:
        return "none: it is under no checkpoint"
    by = ", ".join(who(bytes.fromhex(each), names) for each in proven["cosigned_by"])
    return f"signed from size {proven['signed_from']} on, {proven['verdict']}{f': {by}' if by else ''}"


def _times_data(times: TimeBounds) -> dict[str, str | None]:
    """The bounds as text; ``flag`` is BACKDATED or POSTDATED where the claim lies outside of them."""
    told = {name: getattr(times, name) for name in ("not_before", "not_after", "first_unseen")}
    return {name: None if time is None else when(time * 1000) for name, time in told.items()} | {"flag": times.flag}


def _told(times: TimeBounds) -> str:
    data = _times_data(times)
    known = [f"{label} {data[name]}" for label, name in _BOUNDS if data[name]]
    return "".join(f" · {each}" for each in [*known, *([times.flag] if times.flag else [])])


def private_data(kind: int, entry: Entry, names: Mapping[bytes, str]) -> dict[str, Any] | None:
    """The private part of an entry as JSON knows it: the standings behind a merge, else its bytes; None without one."""
    if not entry.private:
        return None
    if kind == EntryType.MERGE:
        try:
            standings = parse_standings(entry.private)
        except RemoteProtocolError:
            return {"bytes": entry.private.hex()}
        rows = [
            {"name": names.get(log_id, ""), "log_id": log_id.hex(), "good": s.good, "bad": s.bad, "harm": s.harm}
            for log_id, s in standings.items()
        ]
        return {"standings": rows}
    return {"bytes": entry.private.hex()}


def _passes(entry: Entry, filters: list[Wanted]) -> bool:
    if not filters:
        return True
    try:
        header = parse_header(entry.header)
    except Malformed:
        return False
    record = record_of(header.type, entry.payload)
    return all(wanted(entry, header.type, header.t_ms, record) for wanted in filters)


def _filters(args: argparse.Namespace, names: Mapping[bytes, str]) -> list[Wanted]:
    """What the arguments ask for, one condition each."""
    found: list[Wanted] = []
    if args.type is not None:
        code = _type_code(args.type)
        found.append(lambda entry, kind, t_ms, record: kind == code)
    if args.round is not None:
        found.append(lambda entry, kind, t_ms, record: getattr(record, "round", None) == args.round)
    if args.since is not None:
        found.append(lambda entry, kind, t_ms, record: t_ms >= args.since)
    if args.until is not None:
        found.append(lambda entry, kind, t_ms, record: t_ms < args.until)
    if args.peer is not None:
        log_id = peer_named(args.peer, names)
        found.append(lambda entry, kind, t_ms, record: log_id in named_in(record))
    if args.model is not None:
        prefix = args.model.lower()
        if not _PREFIX.fullmatch(prefix):
            raise UsageError(f"--model {args.model[:70]!r} is not 8 to 64 hex digits of a state's hash")
        found.append(
            lambda entry, kind, t_ms, record: any(
                state.hex().startswith(prefix) for state in (made_state(record) or b"", *read_states(record))
            )
        )
    return found


def peer_named(text: str, names: Mapping[bytes, str]) -> bytes:
    """The log id of the one member with this name, or whose log id begins so; raises UsageError without exactly one."""
    found = [log_id for log_id, name in names.items() if name == text]
    if not found and _PREFIX.fullmatch(text.lower()):
        found = [log_id for log_id in names if log_id.hex().startswith(text.lower())]
    if len(found) == 1:
        return found[0]
    raise UsageError(
        f"{len(found)} members are called {text[:70]!r}", hint=f"there are: {', '.join(sorted(names.values()))}"
    )


def named_in(record: object) -> set[bytes]:
    """The members whom a record names."""
    found = {getattr(record, "sender", None), getattr(record, "who", None)}
    found |= {row.log_id for row in record.rows} if isinstance(record, Merge) else set()
    return {each for each in found if isinstance(each, bytes)}


def _citing(store: Store, seq: int) -> list[int]:
    """The entries, of the next CITED_WITHIN, that name entry ``seq`` of their own log."""
    found = []
    for entry in store.entries(seq + 1, seq + 1 + CITED_WITHIN):
        try:
            header = parse_header(entry.header)
        except Malformed:
            continue
        if seq in cited_entries(store.log_id, record_of(header.type, entry.payload)):
            found.append(header.seq)
    return found


def _numbers(seqs: list[int]) -> str:
    return ", ".join(str(seq) for seq in seqs)


def _time(text: str) -> int:
    try:
        found = datetime.fromisoformat(text)
        return round((found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp() * 1000)
    except (ValueError, OverflowError):
        raise argparse.ArgumentTypeError(
            f"{text[:70]!r} is not a time as 2026-11-26 or 2026-11-26T18:00:00Z (UTC unless it says otherwise)"
        ) from None


def _type_code(text: str) -> int:
    labels = {kind.label: int(kind) for kind in EntryType}
    if text in labels:
        return labels[text]
    if re.fullmatch("0x[0-9a-f]{1,4}", text.lower()):
        return int(text, 16)
    raise UsageError(
        f"no entry type {text[:70]!r}", hint=f"there are: {', '.join(labels)}; others by number, for example 0x7f"
    )


def _fields(value: Any, indent: str) -> list[Line]:
    """A decoded payload, one field per line, in full."""
    if not isinstance(value, dict):
        return [f"{indent}{value}"]
    lines: list[Line] = []
    for key, item in value.items():
        if isinstance(item, dict):
            lines += [f"{indent}{key}", *_fields(item, indent + "  ")]
        elif isinstance(item, list) and item and isinstance(item[0], dict):
            for number, each in enumerate(item):
                lines += [f"{indent}{key}[{number}]", *_fields(each, indent + "  ")]
        else:
            lines.append(f"{indent}{key:<16} {'-' if item is None else item}")
    return lines
