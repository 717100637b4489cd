"""``quidnunc ledger``: read and check this peer's provenance ledger, whether its daemon runs or not."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from quidnunc.crypto.entry import EntryType
from quidnunc.crypto.errors import NO_OLD_COPY, LedgerCorrupt
from quidnunc.gossip.federation.terms import MICRO
from quidnunc.gossip.jobs import Unit
from quidnunc.gossip.provenance import PrivacySpend
from quidnunc.gossip.retirement import retired_data
from quidnunc.peer.blobs import read_blob
from quidnunc.peer.cli import CommandParser, Context
from quidnunc.peer.commands import (
    ledger_diff,
    ledger_erase,
    ledger_evidence,
    ledger_export,
    ledger_farewell,
    ledger_fsck,
    ledger_gc,
    ledger_log,
    ledger_peers,
    ledger_proof,
    ledger_recover,
    ledger_retire,
    ledger_succeed,
    ledger_trace,
    ledger_why,
)
from quidnunc.peer.commands.charter_view import when
from quidnunc.peer.commands.entry_view import key_rows, plain, record_of, retired_words, type_label
from quidnunc.peer.commands.files import read_charter
from quidnunc.peer.commands.ledger_fsck import examine, known_members, unknown_members
from quidnunc.peer.commands.ledger_home import electorate, member_names, opened, owner_of, readable
from quidnunc.peer.commands.ledger_judged import Judged, age, judged, vouching
from quidnunc.peer.commands.ledger_witness import Witnessed, witnessed
from quidnunc.peer.commands.unit_words import SUFFIX
from quidnunc.peer.ledger.ending import retirement
from quidnunc.peer.ledger.findings import Report
from quidnunc.peer.ledger.store import Store
from quidnunc.peer.output import ExitCode, Line, Outcome, Styled

if TYPE_CHECKING:
    from quidnunc.peer.ledger.deep_check import Arithmetic

_SHOWN_PROBLEMS = 5


def register(parser: CommandParser) -> None:
    """The second words and their arguments."""
    add = parser.verbs("action")
    readable(add("status", help="size, root, checkpoint, what happened so far"), status)
    ledger_log.register(add)
    below = add("verify", help="check every entry; exit 0 valid, 30 broken, 32 incomplete")
    below.add_argument("--deep", action="store_true", help="also compute merges and updates again, from held blobs")
    readable(below, verify)
    ledger_fsck.register(add("fsck", help="check every invariant, by code and entry; exit 0, 30 or 65"))
    ledger_trace.register(add("trace", help="whose training stands in a model"))
    ledger_why.register(add("why", help="why a merge used, clipped or left out whom; what became of an update"))
    ledger_peers.register(add)
    ledger_diff.register(add("diff", help="two ledgers, or two points of one: what differs, from where, and the proof"))
    ledger_proof.register(add)
    ledger_export.register(add("export", help="the ledger in a form to hand on, to read elsewhere, or to look at"))
    ledger_gc.register(add("gc", help="blobs that nothing will ask for any more; says what would go, --delete deletes"))
    ledger_erase.register(add("erase", help="remove payloads for good; the entries stay and every proof holds"))
    ledger_recover.register(add("recover", help="get a lost or damaged ledger back from the neighbors"))
    ledger_retire.register(add("retire", help="end this log for good, by the root key; another may go on"))
    ledger_succeed.register(add("succeed", help="end this log, begin another under the same root key"))
    ledger_farewell.register(add("farewell", help="tell the neighbors that this log has ended"))
    ledger_evidence.register(add("evidence", help="proofs of equivocation"))


def status(args: argparse.Namespace, context: Context) -> Outcome:
    """What the ledger holds, as it says itself; ``verify`` checks it."""
    with opened(context) as store:
        counts: Counter[str] = Counter()
        spent: dict[Unit, PrivacySpend] = {}
        last_ms = None
        for header, entry in store.headers():
            counts[type_label(header.type)] += 1
            last_ms = header.t_ms
            if header.type == EntryType.DP_SPEND:
                record = record_of(header.type, entry.payload)
                if isinstance(record, PrivacySpend):
                    spent[record.unit] = record
        vouched = witnessed(store, known_members(context), electorate(context, store.log_id))
        owner = owner_of(context, store)
        others = judged(store, member_names(context))
        ended = retirement(store)
        log_keys = key_rows(store.keys)
        data = {
            "log_id": store.log_id.hex(),
            "name": owner.name if owner else "",
            "retired": None if ended is None else retired_data(ended),
            "keys": log_keys,
            "entries": sum(counts.values()),
            "root": store.root.hex(),
            "last_entry": None if last_ms is None else when(last_ms),
            "types": dict(sorted(counts.items())),
            **_spent(spent.get(Unit.EXAMPLE), ""),
            **(_spent(spent[Unit.SITE], "_site") if Unit.SITE in spent else {}),
            **(_spent(spent[Unit.SUM], "_sum") if Unit.SUM in spent else {}),
            "witnesses": len(vouched.seen),
            "verdict": vouched.label,
            **vouching(vouched),
            "exposed": others.exposed,
            "suspected": others.suspected,
        }
    lines: list[Line] = [
        Styled(f"log {data['log_id']} ({data['name']})", "strong"),
        f"  entries    {data['entries']}, the last of {data['last_entry'] or 'never'}",
        f"  root       {data['root']}",
        *(f"  {count:>9}  {name}" for name, count in sorted(counts.items())),
    ]
    for unit, newest in sorted(spent.items()):
        total = f"{newest.cumulative_u / MICRO:.3f} of {newest.cap_u / MICRO:g}"
        lines.append(f"  epsilon    {total}{SUFFIX[unit]}; more with: quidnunc budget show")
    lines.append(f"  witnesses  {len(vouched.seen) or 'none'}: {vouched.label}{_up_to(data)}")
    lines += [Styled(f"  {line.text}", line.style) for line in others.lines]
    if len(log_keys) > 1:
        lines += [
            f"  log key {row['epoch']:<2} {row['public'][:16]}: sizes {row['first']} to {row['last'] or 'now'}"
            + (f", revoked from {row['since']} on" if row["since"] is not None else "")
            for row in log_keys
        ]
    if ended is not None:
        lines.insert(1, Styled(f"  retired    {retired_words(ended)}: nothing follows", "warn"))
    return Outcome(data, lines)


def _up_to(data: Mapping[str, Any]) -> str:
    """Up to where a quorum vouches for a ledger, and since when."""
    if data["witnessed_at"] is None:
        return ""
    return f" up to entry {data['witnessed_size']} of {data['entries']}, {age(data['witnessed_age_s'])} ago"


def _spent(newest: PrivacySpend | None, which: str) -> dict[str, float]:
    """Spent epsilon and its cap, by the newest spend of one unit."""
    spent_u, cap_u = (0, 0) if newest is None else (newest.cumulative_u, newest.cap_u)
    return {f"epsilon{which}": spent_u / MICRO, f"epsilon_cap{which}": cap_u / MICRO}


def verify(args: argparse.Namespace, context: Context) -> Outcome:
    """One verdict per layer, and who vouches for the whole."""
    with opened(context) as store:
        card = owner_of(context, store)
        report, vouched = examine(
            store, known_members(context), electorate(context, store.log_id), context.out.progress("checked", "entries")
        )
        deep = _arithmetic(store, context) if args.deep else None
        if deep is not None:
            report = replace(report, layers=(*report.layers, deep.layer))
        others = _judged(store, context, report)
        own = card is not None and (store.log_id, store.public) == (card.log_id, card.log)
        name = card.name if card else ""
    data = {
        "log_id": report.log_id.hex(),
        "name": name,
        "entries": report.size,
        "root": report.root.hex(),
        "checkpoints": report.checkpoints,
        "identity": own,
        "layers": [
            {"name": layer.name, "ok": layer.ok, "checked": layer.checked, "failed": layer.failed}
            | {"problems": [plain(problem) for problem in layer.problems], "note": layer.note}
            for layer in report.layers
        ],
        "not_held": None if deep is None else deep.not_held,
        "witnesses": vouched.label,
        **vouching(vouched),
        "exposed": others.exposed,
        "suspected": others.suspected,
        "cosigners": [each._asdict() for each in vouched.seen],
        "verified": own and report.ok and report.size > 0,
    }
    lines = _verdicts(report, name, own, vouched, others)
    if deep is not None:
        lines.append(
            f"  {deep.not_held} updates and merges could not be computed again: their blobs are not held any more"
        )
    if not (own and report.ok):
        first = next((p for layer in report.layers for p in layer.problems), None)
        why = f"{first.place}: {first.why} ({first.code})" if first else "it is not the log of this home's card"
        hint = NO_OLD_COPY if first else "put the card and the ledger of one home together again"
        return Outcome(data, lines, ExitCode.VERIFY_FAILED, f"ledger does not verify: {why}", hint)
    if report.size == 0:
        return Outcome(data, lines, ExitCode.INCOMPLETE, "the ledger is empty", "it begins with: quidnunc run")
    if not vouched.known:
        return unknown_members(context, Outcome(data, lines))
    return Outcome(data, lines)


def _judged(store: Store, context: Context, report: Report) -> Judged:
    try:
        return judged(store, member_names(context))
    except LedgerCorrupt:
        if report.ok:
            raise
        return Judged([], [])  # its entries are told of by their own layers


def _arithmetic(store: Store, context: Context) -> Arithmetic:
    """The updates and merges of this ledger computed again from this home's blobs."""
    # numpy: only this check needs it.
    from quidnunc.peer.ledger.deep_check import check_arithmetic

    charter = read_charter(context.home.charter)[1].charter
    blobs = context.home.blobs
    records = ledger_trace.made_here(store)
    rule = "" if charter.merge.mixes else charter.merge.rule
    return check_arithmetic(records, lambda name: read_blob(blobs, name), charter.task.dim, charter.codec, rule)


def _independence(vouched: Witnessed, size: int) -> Line:
    if not vouched.known:
        return Styled(f"  witnesses       {vouched.label}: no charter here says whose cosignatures count", "warn")
    if not vouched.size:
        told = (
            f"only {len(vouched.counted)} of {vouched.witnesses} members have cosigned it, a quorum is {vouched.quorum}"
            if vouched.counted
            else "nobody else has signed this history"
        )
        return Styled(f"  witnesses       {vouched.label}: {told}", "warn")
    unseen = size - vouched.size
    rest = f", the last {unseen} entries not yet" if unseen > 1 else ", the last one not yet" if unseen else ""
    return Styled(
        f"  witnesses       {vouched.label} members, a quorum of {vouched.quorum} up to entry {vouched.size}{rest}",
        "good",
    )


def _verdicts(report: Report, name: str, own: bool, vouched: Witnessed, others: Judged) -> list[Line]:
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
            note = f": {layer.note}" if layer.note else ""
            lines.append(Styled(f"  {layer.name:<15} OK    {layer.checked} checked{note}", "good"))
            continue
        lines.append(Styled(f"  {layer.name:<15} BAD   {layer.failed} of {layer.checked}", "bad"))
        for problem in layer.problems[:_SHOWN_PROBLEMS]:
            place = problem.seq if problem.seq >= 0 else problem.place
            lines.append(Styled(f"      {problem.code} at {place}: {problem.why}", "bad"))
        if layer.failed > _SHOWN_PROBLEMS:
            lines.append(f"      and {layer.failed - _SHOWN_PROBLEMS} more; all with --json")
    told: list[Styled] = others.lines or [Styled("none is exposed or suspected here", "good")]
    lines += [Styled(f"  {'other logs':<15} {line.text}", line.style) for line in told]
    lines.append(f"  root            {report.root.hex()}")
    found = vouching(vouched)
    if found["witnessed_at"] is not None:
        lines.append(f"  vouched for     since {found['witnessed_at']}, {age(found['witnessed_age_s'])} ago")
    lines.append(_independence(vouched, report.size))
    return lines
