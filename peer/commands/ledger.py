"""``quidnunc ledger``: read and check this peer's provenance ledger, whether its daemon runs or not."""

from __future__ import annotations

import argparse
from collections import Counter, deque
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from quidnunc.crypto.entry import Entry, EntryType, open_entry, parse_header
from quidnunc.crypto.errors import NO_OLD_COPY, Malformed
from quidnunc.crypto.policy import TimeBounds
from quidnunc.gossip.federation.terms import MICRO
from quidnunc.peer.blobs import read_blob
from quidnunc.peer.cli import CommandParser, Context
from quidnunc.peer.commands import ledger_evidence, ledger_proof, ledger_trace
from quidnunc.peer.commands.charter_view import when
from quidnunc.peer.commands.entry_times import bounds, witnessings
from quidnunc.peer.commands.entry_view import entry_data, entry_line, plain, record_of, type_label
from quidnunc.peer.commands.files import own_card, read_charter
from quidnunc.peer.commands.ledger_fsck import examine, fsck, known_members
from quidnunc.peer.commands.ledger_home import find_entry, member_names, opened
from quidnunc.peer.commands.ledger_witness import Witnessed, witnessed
from quidnunc.peer.ledger.ledger_check import Report
from quidnunc.peer.ledger.store import Store
from quidnunc.peer.output import ExitCode, Line, Outcome, Styled, UsageError

if TYPE_CHECKING:
    from quidnunc.peer.ledger.deep_check import Arithmetic

_SHOWN_PROBLEMS = 5
_BOUNDS = (("not before", "not_before"), ("not after", "not_after"))


def register(parser: CommandParser) -> None:
    """The second words and their arguments."""
    add = parser.verbs("action")
    add("status", help="size, root, checkpoint, what happened so far").set_defaults(command=status)

    below = add("log", help="one line per entry, newest last")
    below.add_argument("-n", type=int, default=20, metavar="N", help="the last N entries (default: 20; 0: all)")
    below.add_argument("--type", metavar="TYPE", help="only this type, for example merge or update.published")
    below.set_defaults(command=log)

    below = add("show", help="one entry, decoded")
    below.add_argument("ref", metavar="REF", help="sequence number, or 8 or more hex digits of the entry's hash")
    below.set_defaults(command=show)

    below = add("verify", help="check every entry; exit 0 valid, 30 broken, 32 incomplete")
    below.add_argument("--deep", action="store_true", help="also compute merges and updates again, from held blobs")
    below.set_defaults(command=verify)
    add("fsck", help="check every invariant, by code and entry; exit 0, 30 or 65").set_defaults(command=fsck)
    ledger_trace.register(add("trace", help="whose training stands in a model"))
    ledger_proof.register(add)
    ledger_evidence.register(add("evidence", help="proofs of equivocation"))


def status(args: argparse.Namespace, context: Context) -> Outcome:
    """What the ledger holds, as it says itself; ``verify`` checks it."""
    with opened(context) as store:
        counts: Counter[str] = Counter()
        spent_u = cap_u = 0
        last_ms = None
        for entry in store.entries():
            header = parse_header(entry.header)
            counts[type_label(header.type)] += 1
            last_ms = header.t_ms
            if header.type == EntryType.DP_SPEND:
                record: Any = record_of(header.type, entry.payload)
                spent_u, cap_u = (record.cumulative_u, record.cap_u) if record else (spent_u, cap_u)
        vouched = witnessed(store, known_members(context))
        data = {
            "log_id": store.log_id.hex(),
            "name": _own_name(context),
            "entries": sum(counts.values()),
            "root": store.root.hex(),
            "last_entry": None if last_ms is None else when(last_ms),
            "types": dict(sorted(counts.items())),
            "epsilon": spent_u / MICRO,
            "epsilon_cap": cap_u / MICRO,
            "witnesses": len(vouched.seen),
            "verdict": vouched.label,
        }
    lines: list[Line] = [
        Styled(f"log {data['log_id']} ({data['name']})", "strong"),
        f"  entries    {data['entries']}, the last of {data['last_entry'] or 'never'}",
        f"  root       {data['root']}",
        *(f"  {count:>9}  {name}" for name, count in sorted(counts.items())),
    ]
    if cap_u:
        lines.append(f"  epsilon    {spent_u / MICRO:.3f} of {cap_u / MICRO:g}; more with: quidnunc budget show")
    lines.append(f"  witnesses  {len(vouched.seen) or 'none'}: {vouched.label}")
    return Outcome(data, lines)


def log(args: argparse.Namespace, context: Context) -> Outcome:
    """One line per entry."""
    if args.n < 0:
        raise UsageError(f"-n is {args.n}, must be 0 or more")
    wanted = None if args.type is None else _type_code(args.type)
    names = member_names(context)
    kept: deque[Entry] = deque(maxlen=args.n or None)
    with opened(context) as store:
        kept.extend(entry for entry in store.entries() if wanted is None or parse_header(entry.header).type == wanted)
        total = store.size
    data = {"entries": total, "log": [entry_data(entry, names) for entry in kept]}
    return Outcome(data, [entry_line(entry, names) for entry in kept])


def show(args: argparse.Namespace, context: Context) -> Outcome:
    """One entry: header, decoded payload, private part, and whether the payload is the committed one."""
    names = member_names(context)
    with opened(context) as store:
        entry = find_entry(store, args.ref)
        known = known_members(context)
        seen = witnessings(store, known)
        others = sum(each.log_id != store.log_id for each in known)
    data = entry_data(entry, names)
    try:
        header = open_entry(entry)
    except Malformed as error:
        return Outcome(data, [], ExitCode.VERIFY_FAILED, error.message, "check all of it with: quidnunc ledger verify")
    times = bounds(header.seq, header.t_ms, seen, others)
    data |= {
        "times": _times_data(times),
        "prev": header.prev.hex(),
        "payload_bytes": header.payload_len,
        "payload_commitment": header.payload_cmt.hex(),
        "private_bytes": len(entry.private),
    }
    lines: list[Line] = [
        Styled(f"entry {header.seq}  {data['type']}", "strong"),
        f"  hash        {data['hash']}",
        f"  previous    {data['prev']}",
        f"  claimed     {data['time']}{_told(times)}",
        f"  says        {data['summary']}",
        f"  payload     {header.payload_len} bytes, as committed to by the header",
    ]
    if entry.private:
        lines.append(f"  private     {len(entry.private)} bytes, as committed to by the payload; never sent")
    return Outcome(data, [*lines, *_fields(data["payload"], "    ")])


def _times_data(times: TimeBounds) -> dict[str, str | None]:
    """The bounds as text; ``flag`` is BACKDATED or POSTDATED where the claim lies outside of them."""
    told = {name: getattr(times, name) for name in ("not_before", "not_after", "first_unseen")}
    return {name: None if time is None else when(time * 1000) for name, time in told.items()} | {"flag": times.flag}


def _told(times: TimeBounds) -> str:
    data = _times_data(times)
    known = [f"{label} {data[name]}" for label, name in _BOUNDS if data[name]]
    return "".join(f" · {each}" for each in [*known, *([times.flag] if times.flag else [])])


def verify(args: argparse.Namespace, context: Context) -> Outcome:
    """One verdict per layer, and who vouches for the whole."""
    card = own_card(context.home)
    with opened(context) as store:
        report, vouched = examine(store, known_members(context), context.out.progress("checked", "entries"))
        deep = _arithmetic(store, context) if args.deep else None
        if deep is not None:
            report = replace(report, layers=(*report.layers, deep.layer))
        own = (store.log_id, store.public) == (card.log_id, card.log)
    data = {
        "log_id": report.log_id.hex(),
        "name": card.name,
        "entries": report.size,
        "root": report.root.hex(),
        "checkpoints": report.checkpoints,
        "identity": own,
        "layers": [
            {"name": layer.name, "ok": layer.ok, "checked": layer.checked, "failed": layer.failed}
            | {"problems": [plain(problem) for problem in layer.problems]}
            for layer in report.layers
        ],
        "not_held": None if deep is None else deep.not_held,
        "witnesses": vouched.label,
        "witnessed_size": vouched.size,
        "cosigners": [each._asdict() for each in vouched.seen],
        "verified": own and report.ok and report.size > 0,
    }
    lines = _verdicts(report, card.name, own, vouched)
    if deep is not None:
        lines.append(
            f"  {deep.not_held} updates and merges could not be computed again: their blobs are not held any more"
        )
    if not (own and report.ok):
        first = next((p for layer in report.layers for p in layer.problems), None)
        why = f"entry {first.seq}: {first.why} ({first.code})" if first else "it is not the log of this home's card"
        return Outcome(data, lines, ExitCode.VERIFY_FAILED, f"ledger does not verify: {why}", NO_OLD_COPY)
    if report.size == 0:
        return Outcome(data, lines, ExitCode.INCOMPLETE, "the ledger is empty", "it begins with: quidnunc run")
    return Outcome(data, lines)


def _arithmetic(store: Store, context: Context) -> Arithmetic:
    """The updates and merges of this ledger computed again from this home's blobs."""
    # numpy: only this check needs it.
    from quidnunc.peer.ledger.deep_check import check_arithmetic

    charter = read_charter(context.home.charter)[1].charter
    blobs = context.home.blobs
    records = ledger_trace.made_here(store)
    return check_arithmetic(records, lambda name: read_blob(blobs, name), charter.task.dim, charter.codec)


def _independence(vouched: Witnessed, size: int) -> Line:
    if not vouched.size:
        told = (
            f"only {len(vouched.seen)} of {vouched.witnesses} members have cosigned it, a quorum is {vouched.quorum}"
            if vouched.seen
            else "nobody else has signed this history"
        )
        return Styled(f"  witnesses       {vouched.label}: {told}", "warn")
    unseen = size - vouched.size
    rest = f", the last {unseen} entries not yet" if unseen else ""
    return Styled(
        f"  witnesses       {vouched.label} members, a quorum of {vouched.quorum} up to entry {vouched.size}{rest}",
        "good",
    )


def _verdicts(report: Report, name: str, own: bool, vouched: Witnessed) -> list[Line]:
    lines: list[Line] = [
        Styled(
            f"log {report.log_id.hex()} ({name})  entries {report.size}  checkpoints {report.checkpoints}",
            "strong",
        ),
        Styled("  identity        OK    log and key are those on this home's card", "good")
        if own
        else Styled("  identity        BAD   not the log of this home's card", "bad"),
    ]
    for layer in report.layers:
        if layer.ok:
            lines.append(Styled(f"  {layer.name:<15} OK    {layer.checked} checked", "good"))
            continue
        lines.append(Styled(f"  {layer.name:<15} BAD   {layer.failed} of {layer.checked}", "bad"))
        for problem in layer.problems[:_SHOWN_PROBLEMS]:
            lines.append(Styled(f"      {problem.code} at {problem.seq}: {problem.why}", "bad"))
        if layer.failed > _SHOWN_PROBLEMS:
            lines.append(f"      and {layer.failed - _SHOWN_PROBLEMS} more; all with --json")
    lines.append(f"  root            {report.root.hex()}")
    lines.append(_independence(vouched, report.size))
    return lines


def _own_name(context: Context) -> str:
    return own_card(context.home).name


def _type_code(text: str) -> int:
    labels = {kind.label: int(kind) for kind in EntryType}
    if text in labels:
        return labels[text]
    raise UsageError(f"no entry type {text!r}", hint=f"there are: {', '.join(labels)}")


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
