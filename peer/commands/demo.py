"""``quidnunc demo``: real peers on this machine learn together from one command."""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from quidnunc.gossip.jobs import Unit
from quidnunc.peer.cli import CommandParser, Context
from quidnunc.peer.commands.demo_data import TableRefused, survey
from quidnunc.peer.commands.demo_drill import drill_lines, held_by_attackers
from quidnunc.peer.commands.demo_plan import apply_defaults, plan_of, with_tables
from quidnunc.peer.commands.demo_silos import silo_lines, with_silos
from quidnunc.peer.commands.demo_view import Show, display, next_commands, spread, table, verdict_lines
from quidnunc.peer.commands.dialect_flags import add_dialect, dialect_options
from quidnunc.peer.commands.rule_words import add_rule
from quidnunc.peer.files import unwritable
from quidnunc.peer.home import Home
from quidnunc.peer.home_name import quidnunc
from quidnunc.peer.output import ExitCode, Outcome, UsageError
from quidnunc.peer.rehearsal import Actor, Rehearsal, RehearsalFailed
from quidnunc.peer.stop_signals import stop_signals

START_TIMEOUT_S = 120.0
ROUND_TIMEOUT_S = 20.0
SETTLING_MERGES = 3
"""Merges after the last training round: what everybody published last must have reached everybody."""
ALONE_TIMEOUT_S = 300.0
FAILURES_MAX = 3
"""Jobs that failed in a row on every peer that has not finished, after which a demo ends."""


def register(parser: CommandParser) -> None:
    """How many peers, what they learn, how privately; their homes go under ``--home``, else a temporary directory."""
    add = parser.add_argument
    add("--data", type=Path, metavar="DIR", help="tables instead of built-in data: one peer per CSV file in DIR")
    add("--schema", type=Path, metavar="FILE", help="how those are read (default: DIR/schema.toml, else inferred)")
    add_dialect(parser)
    add("--peers", type=int, metavar="N", help="number of peers, 2 to 16 (default: 4)")
    add("--rounds", type=int, default=50, metavar="N", help="training rounds (default: 50)")
    add("--task", help="digits, breast-cancer or package.module:function (default: digits)")
    add("--alpha", type=float, help="Dirichlet skew of the shards: 0.1 strong, 100 none (default: 0.5)")
    add("--epsilon", default="8", metavar="E", help="privacy of one record, or inf (default: 8)")
    add(
        "--sampling-rate",
        type=float,
        metavar="Q",
        help="each step takes each record with probability Q, not all of them",
    )
    add(
        "--privacy-unit",
        choices=[unit.label for unit in (Unit.EXAMPLE, Unit.SITE)],
        default=Unit.EXAMPLE.label,
        help="whom epsilon protects: one record (default: example), or all records of a peer together (site)",
    )
    add(
        "--private-sum",
        type=int,
        metavar="Q",
        help="less noise: epsilon holds against listeners and up to Q curious peers only; with --rule mean",
    )
    add("--local-steps", type=int, metavar="N", help="steps per round; not for full batches of records")
    add("--attackers", type=int, metavar="N", help="how many of the peers attack (default: 0)")
    add("--attack", metavar="NAME", help="what they do, as docs/robustness.md lists it (default: sign_flip)")
    add_rule(parser)
    add("--personal", action="append", default=[], metavar="NAME", help="a tensor that peers keep (repeat for more)")
    add("--seed", type=int, default=0, help="draws shards and initial params (default: 0)")
    add("--keep", action="store_true", help="keep the homes even if the demo is interrupted or fails")
    parser.set_defaults(command=demo)


def demo(args: argparse.Namespace, context: Context) -> Outcome:
    """Found a federation, run it, compare with training alone, verify every ledger."""
    apply_defaults(args)
    plan = plan_of(args)
    if 2 * plan.attackers >= plan.peers:
        context.out.warn(
            f"{plan.attackers} of {plan.peers} peers attack: half and more is what no merge rule withstands"
        )
    try:
        found = None if args.data is None else survey(args.data, args.schema, dialect_options(args))
    except TableRefused as refusal:
        return refusal.outcome()
    if found is not None:
        plan = with_tables(plan, found)
        for warning in found.warnings:
            context.out.warn(warning)
        for line in silo_lines(found.silos):
            context.out.talk(line)
    for number in stop_signals():
        if number != signal.SIGINT:
            signal.signal(number, _terminated)
    root, ours = _root(args, context)
    began = time.monotonic()
    rehearsal = Rehearsal(plan, root)
    complete = False
    try:
        context.out.talk(f"{plan.peers} peers under {root}: keys, one charter, {plan.peers} signatures")
        rehearsal.found()
        rows, held = _run(args, rehearsal, context)
        complete = True
    finally:
        if ours and not complete and not args.keep:
            shutil.rmtree(root, ignore_errors=True)
    outcome = _outcome(args, rehearsal, rows, held, time.monotonic() - began)
    return outcome if found is None else with_silos(outcome, found)


def _terminated(number: int, frame: object) -> None:
    """SIGTERM, or a terminal that goes, ends the demo as Ctrl-C does: in order, with nothing left behind."""
    if number == signal.SIGHUP:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # it comes again: that would end the cleaning up
    raise SystemExit(ExitCode.TERMINATED)


def _root(args: argparse.Namespace, context: Context) -> tuple[Path, bool]:
    """Where the homes go, and whether the directory is ours to remove."""
    if not args.home:
        return Path(tempfile.mkdtemp(prefix="quidnunc-demo-")), True
    root = context.home.root
    other = "name a new directory, or none for a temporary one"
    try:
        root.mkdir(parents=True, exist_ok=True)
        empty = not any(root.iterdir())
    except FileExistsError:
        raise UsageError(f"{root}: not a directory", hint=other) from None
    except OSError as error:
        raise unwritable(root, error) from error
    if not empty:
        raise UsageError(f"{root}: not empty", hint=other)
    return root, False


Rows = list[dict[str, Any]]


def _run(args: argparse.Namespace, rehearsal: Rehearsal, context: Context) -> tuple[Rows, Rows]:
    """Start the daemons, watch them finish, stop them; one row of facts per peer, and one per attacker."""
    show = display(context)

    def lost(actor: Actor) -> None:
        context.out.warn(f"{actor.name} ended with exit code {actor.ended}; the others go on")

    def begun(found: list[dict[str, Any]]) -> bool:
        show(found)
        _require_hope(found)
        return all(each["updates_published"] for each in found)

    with rehearsal.running():
        baseline = rehearsal.alone()
        try:
            context.out.talk("starting one daemon per peer")
            rehearsal.until(lambda found: True, START_TIMEOUT_S, "ready")
            rehearsal.until(begun, START_TIMEOUT_S, "begun")
            final = rehearsal.until(_watch(show), ROUND_TIMEOUT_S * args.rounds + 60, "finished", lost)
            held = held_by_attackers(rehearsal.actors)
            alone = _alone(baseline)
        finally:
            if baseline.poll() is None:
                baseline.kill()
            baseline.communicate()
    verdicts = rehearsal.verdicts()
    rows = [
        _row(actor, status, alone[str(actor.home.root)], verdict)
        for actor, status, verdict in zip(rehearsal.actors, final, verdicts, strict=True)
    ]
    return rows, held


def _watch(show: Show) -> Callable[[list[dict[str, Any]]], bool]:
    """A condition that also keeps the display going: all finished, and settled since."""
    finished_at: dict[str, int] = {}

    def done(found: list[dict[str, Any]]) -> bool:
        show(found)
        _require_hope(found)
        if not all(each["finished"] for each in found):
            return False
        for each in found:
            finished_at.setdefault(each["log_id"], each["merges"])
        return all(each["merges"] >= finished_at[each["log_id"]] + SETTLING_MERGES for each in found)

    return done


def _require_hope(found: list[dict[str, Any]]) -> None:
    """Raise RehearsalFailed, with the reason, when no peer that has not finished gets on any more."""
    left = [each for each in found if not each["finished"]]
    if left and all(each["failures"] >= FAILURES_MAX for each in left):
        one = left[0]
        raise RehearsalFailed(
            f"no peer gets on: {one['name']} failed {one['failures']} times in a row: {one['last_failure']}",
            hint="mend the task or its data; --keep leaves the homes with their logs",
        )


def _alone(baseline: subprocess.Popen[bytes]) -> dict[str, float]:
    try:
        out, err = baseline.communicate(timeout=ALONE_TIMEOUT_S)
        found: dict[str, float] = json.loads(out)
    except (subprocess.TimeoutExpired, ValueError):
        baseline.kill()
        raise RehearsalFailed("the baseline without exchange could not be computed") from None
    if baseline.returncode:
        raise RehearsalFailed(f"the baseline without exchange failed: {err.decode(errors='replace')[-400:]}")
    return found


def _row(actor: Actor, status: dict[str, Any], alone: float, verdict: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": actor.name,
        "home": str(actor.home.root),
        "attacker": actor.attacker,
        "ended": actor.ended,
        "accuracy": status["accuracy"],
        "alone_accuracy": alone,
        "updates_sent": status["updates_published"],
        "updates_merged": status["updates_accepted"],
        "updates_refused": status["refused_total"],
        "bytes_sent": status["bytes_sent"],
        "epsilon": status["privacy"]["epsilon"],
        "ledger_entries": (verdict["data"] or {}).get("entries", 0),
        "ledger_verified": verdict["code"] == ExitCode.OK,
    }


def _outcome(args: argparse.Namespace, rehearsal: Rehearsal, rows: Rows, held: Rows, seconds: float) -> Outcome:
    mean, alone = _mean(rows, "accuracy"), _mean(rows, "alone_accuracy")
    data = {
        "peers": rows,
        "attackers": [{"attack": args.attack, **row} for row in held],
        "mean_accuracy": mean,
        "mean_alone_accuracy": alone,
        **(spread(rows) or {}),
        "seconds": round(seconds, 1),
        "federation": rehearsal.actors[0].last_status.get("federation"),
    }
    ended = [row for row in rows if row["ended"] is not None]
    home = next(row["home"] for row in rows if row["ended"] is None)
    unit = args.privacy_unit if args.private_sum is None else Unit.SUM.label
    lines = [
        *table(rows),
        "",
        *verdict_lines(rows, mean, alone, float(args.epsilon), unit),
        *drill_lines(held, args.attack),
        *next_commands(home),
    ]
    bad = ", ".join(row["name"] for row in rows if not row["ledger_verified"])
    if bad:
        return Outcome(data, lines, ExitCode.VERIFY_FAILED, f"ledgers that do not verify: {bad}")
    if ended:
        names = ", ".join(row["name"] for row in ended)
        what = f"{len(ended)} of {len(rows)} daemons ended before the end: {names}"
        return Outcome(
            data, lines, ExitCode.DEGRADED, what, f"start it again: {quidnunc(Home.at(ended[0]['home']))} run"
        )
    return Outcome(data, lines)


def _mean(rows: list[dict[str, Any]], key: str) -> float | None:
    """Over the honest peers that ran to the end; None if there is none."""
    found = [row[key] for row in rows if not row["attacker"] and row["ended"] is None and row["accuracy"] is not None]
    return sum(found) / len(found) if found else None
