"""``quidnunc ledger peers`` and ``watch``: what the ledger says of every member, and its entries as they come."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

from quidnunc.crypto.entry import Entry, EntryType, Header
from quidnunc.crypto.errors import CharterError, ConfigError
from quidnunc.crypto.suspicion import SuspicionKind
from quidnunc.gossip.attestation import SuspicionCleared, SuspicionRaised
from quidnunc.gossip.provenance import (
    Decision,
    EquivocationProof,
    MemberNotice,
    MessageRefused,
    ReputationChange,
    UpdateReceived,
)
from quidnunc.peer.cli import CommandParser, Context
from quidnunc.peer.commands.charter_view import when
from quidnunc.peer.commands.entry_view import STANDINGS, entry_data, entry_line, nth, record_of, who
from quidnunc.peer.commands.ledger_home import member_names, members, opened, readable
from quidnunc.peer.commands.ledger_log import named_in
from quidnunc.peer.commands.ledger_witness import witnessed
from quidnunc.peer.output import Line, Outcome, Styled, UsageError

WATCH_S = 0.5
"""Seconds between two looks at a ledger that is watched."""

ALARMS = frozenset(
    {EntryType.EQUIVOCATION_PROOF, EntryType.MESSAGE_REFUSED, EntryType.DP_EXHAUSTED, EntryType.SUSPICION}
)
"""Entry types that deserve a look whenever they come; so does a standing that got worse, and a refused update."""


def register(add: Callable[..., CommandParser]) -> None:
    """The arguments of both commands."""
    readable(add("peers", help="every member as this ledger knows it: updates, heads, cosignatures, standing"), peers)
    below = add("watch", help="new entries as they come, one a line (with --json: one object a line)")
    below.add_argument("-n", type=int, default=0, metavar="N", help="begin with the last N entries (default: 0)")
    below.add_argument("--count", type=int, metavar="N", help="end after N entries (default: go on until stopped)")
    below.add_argument("--alarms", action="store_true", help="only what deserves a look")
    readable(below, watch)


def peers(args: argparse.Namespace, context: Context) -> Outcome:
    """One row per member: what came from it, what it has cosigned, what it was seen to have."""
    names = member_names(context)
    with opened(context) as store:
        rows = {log_id: _row(log_id, name) for log_id, name in names.items() if log_id != store.log_id}
        alone = not rows
        for header, entry in store.headers():
            record = record_of(header.type, entry.payload)
            if alone:
                for log_id in named_in(record) - {store.log_id}:
                    rows.setdefault(log_id, _row(log_id, ""))
            _count(rows, header, record)
        try:
            vouched = witnessed(store, members(context), None).seen
        except (CharterError, ConfigError) as error:
            context.out.warn(f"cosignatures are not checked: {error.message}")
            vouched = ()
        for seen in vouched:
            if seen.log_id in rows:
                rows[seen.log_id] |= {
                    "cosigned": seen.size,
                    "cosigned_at": when(seen.time * 1000),
                    "behind": store.size - seen.size,
                }
        for log_id, (size, root, _) in store.heads().items():
            rows.setdefault(log_id, _row(log_id, "")).update(head=size, head_root=root.hex())
        size = store.size
    ordered = sorted(rows.values(), key=lambda row: (row["name"], row["log_id"]))
    lines: list[Line] = [
        f"{'member':<20} {'accepted':>8} {'refused':>8} {'update':>7} {'head':>7} "
        f"{'cosigned':>9} {'behind':>7}  standing"
    ]
    for row in ordered:
        told = ["-" if row[key] is None else row[key] for key in ("update", "head", "cosigned", "behind")]
        frozen = row["frozen"] is not None
        standing = f"EXPOSED: two histories, entry {row['frozen']}" if frozen else row["standing"]
        if row["suspected"] is not None and not frozen:
            standing += ", suspected ({label}) since {since}, entry {entry}".format(**row["suspected"])
        if row["retired"] is not None and not frozen:
            standing += f", ended its log, entry {row['retired']}"
        text = f"{(row['name'] or row['log_id'][:16]):<20} {row['accepted']:>8} {row['refused']:>8} "
        text += f"{told[0]:>7} {told[1]:>7} {told[2]:>9} {told[3]:>7}  {standing}"
        style = "bad" if frozen else "warn" if row["suspected"] is not None else ""
        lines.append(Styled(text, style) if style else text)
    return Outcome({"entries": size, "peers": ordered}, lines)


def _row(log_id: bytes, name: str) -> dict[str, Any]:
    return {
        "name": name,
        "log_id": log_id.hex(),
        "accepted": 0,
        "refused": 0,
        "update": None,
        "last": None,
        "standing": STANDINGS[0],
        "frozen": None,
        "retired": None,
        "suspected": None,
        "head": None,
        "head_root": None,
        "cosigned": None,
        "cosigned_at": None,
        "behind": None,
    }


def _count(rows: dict[bytes, dict[str, Any]], header: Header, record: object) -> None:
    match record:
        case UpdateReceived(sender=sender, decision=decision, number=number) if sender in rows:
            accepted = decision == Decision.ACCEPT
            rows[sender]["accepted" if accepted else "refused"] += 1
            rows[sender]["last"] = when(header.t_ms)
            if accepted:
                rows[sender]["update"] = number
        case MessageRefused(sender=sender, count=count) if sender in rows:
            rows[sender]["refused"] += count
        case ReputationChange(who=log_id, new=new) if log_id in rows:
            rows[log_id]["standing"] = nth(STANDINGS, new)
        case EquivocationProof(who=log_id) if log_id in rows:
            rows[log_id]["frozen"] = header.seq
        case MemberNotice(who=log_id, kind=kind) if log_id in rows and kind == EntryType.LOG_RETIRE:
            rows[log_id]["retired"] = header.seq
        case SuspicionRaised(who=log_id, kind=kind, deadline_ms=since) if log_id in rows:
            label = SuspicionKind(kind).label if kind in set(SuspicionKind) else kind
            rows[log_id]["suspected"] = {"kind": kind, "label": label, "since": when(since), "entry": header.seq}
        case SuspicionCleared(who=log_id) if log_id in rows:
            rows[log_id]["suspected"] = None


def watch(args: argparse.Namespace, context: Context) -> Outcome:
    """Follow the ledger until stopped, or for ``--count`` entries; ends by itself with nothing to add."""
    for flag, value, least in (("-n", args.n, 0), ("--count", args.count, 1)):
        if value is not None and value < least:
            raise UsageError(f"{flag} is {value}, must be {least} or more")
    names = member_names(context)
    left = args.count
    with opened(context) as store:
        seq = max(0, store.size - args.n)
        while True:
            for header, entry in store.headers(seq):
                seq += 1
                alarm = _alarm(header, entry, names)
                if args.alarms and not alarm:
                    continue
                _tell(context, entry, names, alarm)
                if left is not None:
                    left -= 1
                    if not left:
                        return Outcome(None, [])
            time.sleep(WATCH_S)


def _tell(context: Context, entry: Entry, names: dict[bytes, str], alarm: str) -> None:
    if context.out.json:
        context.out.record(entry_data(entry, names) | {"alarm": alarm or None})
        return
    text = entry_line(entry, names)
    context.out.line(Styled(f"{text}  ALARM: {alarm}", "bad") if alarm else text)


def _alarm(header: Header, entry: Entry, names: dict[bytes, str]) -> str:
    """Why an entry deserves a look, "" if it does not."""
    match record_of(header.type, entry.payload):
        case EquivocationProof(who=log_id):
            return f"{who(log_id, names)} signed two histories"
        case UpdateReceived(sender=sender, decision=decision) if decision != Decision.ACCEPT:
            return f"an update of {who(sender, names)} was refused"
        case ReputationChange(who=log_id, old=old, new=new) if new > old:
            return f"the standing of {who(log_id, names)} fell to {nth(STANDINGS, new)}"
        case None:
            return "its payload does not parse"
    return "see the entry" if header.type in ALARMS else ""
