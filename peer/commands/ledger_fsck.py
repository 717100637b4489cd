"""``quidnunc ledger fsck``: every invariant of a ledger by its code, and the entries that break it."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import Any

from quidnunc.crypto.errors import NO_OLD_COPY, CharterError, ConfigError, LedgerCorrupt, StoreLocked
from quidnunc.gossip.federation.member import Member
from quidnunc.peer.cli import CommandParser, Context
from quidnunc.peer.commands.entry_view import plain
from quidnunc.peer.commands.ledger_home import electorate, members, opened, readable, require_ledger
from quidnunc.peer.commands.ledger_witness import NOBODY, Witnessed, witnessed
from quidnunc.peer.ledger.findings import Layer, Problem, Report
from quidnunc.peer.ledger.invariants import Verdict, verdicts
from quidnunc.peer.ledger.repair import Derived, damaged, in_the_way, repair
from quidnunc.peer.ledger.store import Store
from quidnunc.peer.output import ExitCode, Line, Outcome, Styled, UsageError

_SHOWN = 5


def examine(
    store: Store,
    known: Sequence[Member],
    elected: Collection[bytes] | None,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Report, Witnessed]:
    """Everything that can be said of a ledger without blobs: rows, meaning, and cosignatures of ``known`` members."""
    report = store.verify(progress)
    try:
        vouched = witnessed(store, known, elected) if report.layer("side tables").ok else NOBODY
    except LedgerCorrupt:
        # What stopped it is among the findings, or nothing can be said.
        if report.ok:
            raise
        vouched = NOBODY
    more = (vouched.layer,) if vouched.layer.checked else ()
    return replace(report, layers=(*report.layers, *store.meaning(), *more)), vouched


def known_members(context: Context) -> tuple[Member, ...]:
    """The members that this home knows; none, with a warning, where its charter cannot be read."""
    try:
        return members(context)
    except (CharterError, ConfigError) as error:
        context.out.warn(f"cosignatures are not checked: {error.message}")
        return ()


def unknown_members(context: Context, outcome: Outcome) -> Outcome:
    """``outcome`` of a ledger that is whole, but whose charter is not at hand: incomplete, and no word of damage."""
    hint = "every member has the same charter file: take theirs, or that in a backup (tar xf FILE charter.note)"
    why = f"the cosignatures are not checked: {context.home.charter} does not say whose they may be"
    return replace(outcome, code=ExitCode.INCOMPLETE, message=why, hint=hint)


def register(parser: CommandParser) -> None:
    """The arguments of ``ledger fsck``."""
    parser.add_argument(
        "--repair-derived",
        action="store_true",
        help="also say which derived rows (subtrees, types, own tokens, indexes) would be written anew",
    )
    parser.add_argument("--write", action="store_true", help="with --repair-derived: write them; the peer must not run")
    readable(parser, fsck)


def fsck(args: argparse.Namespace, context: Context) -> Outcome:
    """One verdict per invariant; 30 if one is broken, 65 if the database cannot be read at all.

    Changes nothing but with ``--repair-derived --write``, and then derived rows of this home only.
    """
    if args.write and not args.repair_derived:
        raise UsageError("--write says that derived rows are to be written", hint="add --repair-derived")
    if args.write and args.ledger is not None:
        raise UsageError("--write repairs this home's ledger only", hint="leave --ledger out")
    if not args.write:
        return _look(args, context)
    require_ledger(context.home)
    try:
        with context.home.lock():
            return _look(args, context)
    except StoreLocked as error:
        raise StoreLocked(error.message, hint="stop the peer first") from None


def _look(args: argparse.Namespace, context: Context) -> Outcome:
    derived, why, known = None, "", True
    try:
        report, derived, why, known = _examined(args, context)
        if derived and args.write and not why:
            repair(context.home.ledger, report.log_id, derived)
            report, _, why, known = _examined(args, context)
    except LedgerCorrupt as error:
        layer = Layer("database")
        layer.report("I6", error.seq, error.message)
        return _outcome(None, verdicts([layer]), ExitCode.DATA_CORRUPT)
    outcome = _outcome(report, verdicts(report.layers), ExitCode.VERIFY_FAILED)
    if args.repair_derived:
        outcome = _with_repair(outcome, derived, why, written=args.write)
    return outcome if known or not report.ok else unknown_members(context, outcome)


def _examined(args: argparse.Namespace, context: Context) -> tuple[Report, Derived | None, str, bool]:
    """Every finding; of the derived rows which to write anew, None without ``--repair-derived``, or why none may be;
    whether the members are known."""
    with opened(context) as store:
        report, vouched = examine(
            store, known_members(context), electorate(context, store.log_id), context.out.progress("checked", "entries")
        )
        if not args.repair_derived:
            return report, None, "", vouched.known
        first = in_the_way(report)
        if first is not None:
            return report, None, f"{first.code} is broken at {_place(first)}: {first.why}", vouched.known
    return report, damaged(context.home.ledger, report), "", vouched.known


def _with_repair(outcome: Outcome, derived: Derived | None, why: str, *, written: bool) -> Outcome:
    """``outcome`` with what of the derived rows was, or would be, written anew."""
    repaired = bool(written and derived and not why)
    counts = {
        "subtrees": len(derived.nodes) if derived else 0,
        "types": len(derived.types) if derived else 0,
        "tokens": len(derived.tokens) if derived else 0,
        "indexes": bool(derived and derived.indexes),
    }
    data = outcome.data | {"repair": counts | {"written": repaired, "refused": why or None}}
    if why:
        line = Styled(f"nothing is repaired: {why}", "bad")
    elif not derived:
        line = Styled("no derived row needs repair", "good")
    else:
        parts = [f"{number} {what}" for what, number in counts.items() if number and what != "indexes"]
        parts += ["the indexes"] if derived.indexes else []
        end = "written anew" if repaired else "would be written anew; add --write, with the peer stopped"
        line = Styled(f"derived: {', '.join(parts)} {end}", "good" if repaired else "warn")
    return replace(outcome, data=data, lines=[*outcome.lines, line])


def _outcome(report: Report | None, found: Sequence[Verdict], code: ExitCode) -> Outcome:
    broken = [each for each in found if each.failed]
    data = {
        "entries": None if report is None else report.size,
        "checkpoints": None if report is None else report.checkpoints,
        "ok": not broken,
        "invariants": [_verdict_data(each, report) for each in found],
    }
    lines: list[Line] = []
    if report is not None:
        head = f"log {report.log_id.hex()}  entries {report.size}  checkpoints {report.checkpoints}"
        lines.append(Styled(head, "strong"))
    for each in found:
        lines += _lines(each, report)
    if not broken:
        return Outcome(data, lines)
    first = broken[0].problems[0]
    others = sum(each.failed for each in broken) - 1
    more = f", and {others} more" if others else ""
    return Outcome(data, lines, code, f"{first.code} is broken at {_place(first)}: {first.why}{more}", NO_OLD_COPY)


def _verdict_data(each: Verdict, report: Report | None) -> dict[str, Any]:
    ok = not each.failed and report is not None
    return {"code": each.code, "about": each.about, "ok": ok, "problems": [plain(p) for p in each.problems]}


def _lines(each: Verdict, report: Report | None) -> list[Line]:
    if not each.failed:
        if report is None:
            return [f"  {each.code:<4} ?    {each.about}"]
        return [Styled(f"  {each.code:<4} OK   {each.about}", "good")]
    lines: list[Line] = [Styled(f"  {each.code:<4} BAD  {each.about}", "bad")]
    lines += [Styled(f"      {_place(problem)}: {problem.why}", "bad") for problem in each.problems[:_SHOWN]]
    if each.failed > _SHOWN:
        lines.append(f"      and {each.failed - _SHOWN} more; all with --json")
    return lines


def _place(problem: Problem) -> str:
    """Where: an entry, for I7 and what else is about checkpoints the size of one, or the database as a whole."""
    if problem.seq < 0:
        return problem.place
    summed = problem.why.startswith("summary")
    sized = problem.why.startswith("checkpoint") or (problem.code == "I16" and not summed)
    return f"{'size' if sized else 'entry'} {problem.seq}"
