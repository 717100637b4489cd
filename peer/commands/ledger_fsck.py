"""``quidnunc ledger fsck``: every invariant of a ledger by its code, and the entries that break it."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from quidnunc.crypto.errors import CharterError, ConfigError, LedgerCorrupt
from quidnunc.gossip.federation.member import Member
from quidnunc.peer.cli import Context
from quidnunc.peer.commands.entry_view import plain
from quidnunc.peer.commands.ledger_home import members, opened
from quidnunc.peer.commands.ledger_witness import NOBODY, Witnessed, witnessed
from quidnunc.peer.ledger.invariants import Verdict, verdicts
from quidnunc.peer.ledger.ledger_check import Layer, Problem, Report
from quidnunc.peer.ledger.store import Store
from quidnunc.peer.output import ExitCode, Line, Outcome, Styled

_SHOWN = 5
HINT = "do not restart the daemon; restore a backup"


def examine(
    store: Store, known: Sequence[Member], progress: Callable[[int, int], None] | None = None
) -> tuple[Report, Witnessed]:
    """Everything that can be said of a ledger without blobs: rows, meaning, and cosignatures of ``known`` members."""
    report = store.verify(progress)
    vouched = witnessed(store, known) if report.layer("side tables").ok else NOBODY
    more = (vouched.layer,) if vouched.layer.checked else ()
    return replace(report, layers=(*report.layers, *store.meaning(), *more)), vouched


def known_members(context: Context) -> tuple[Member, ...]:
    """The members that this home knows; none, with a warning, where its charter cannot be read."""
    try:
        return members(context)
    except (CharterError, ConfigError) as error:
        context.out.warn(f"cosignatures are not checked: {error.message}")
        return ()


def fsck(args: argparse.Namespace, context: Context) -> Outcome:
    """One verdict per invariant; 30 if one is broken, 65 if the database cannot be read at all. Changes nothing."""
    try:
        with opened(context) as store:
            report, _ = examine(store, known_members(context), context.out.progress("checked", "entries"))
    except LedgerCorrupt as error:
        layer = Layer("database")
        layer.report("I6", error.seq, error.message)
        return _outcome(None, verdicts([layer]), ExitCode.DATA_CORRUPT)
    return _outcome(report, verdicts(report.layers), ExitCode.VERIFY_FAILED)


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
    return Outcome(data, lines, code, f"{first.code} is broken at {_place(first)}: {first.why}{more}", HINT)


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
        return "the database"
    summed = problem.why.startswith("summary")
    sized = problem.why.startswith("checkpoint") or (problem.code == "I16" and not summed)
    return f"{'size' if sized else 'entry'} {problem.seq}"
