"""``quidnunc demo``: real peers on this machine learn together from one command."""

from __future__ import annotations

import argparse
import json
import math
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from quidnunc.peer.cli import CommandParser, Context
from quidnunc.peer.output import ExitCode, Line, Outcome, Styled, UsageError
from quidnunc.peer.rehearsal import Actor, Plan, Rehearsal, RehearsalFailed

PEERS_MAX = 16
START_TIMEOUT_S = 120.0
ROUND_TIMEOUT_S = 20.0
SETTLING_MERGES = 3
"""Merges after the last training round: what everybody published last must have reached everybody."""
ALONE_TIMEOUT_S = 300.0
PLAIN_LINE_EVERY_S = 3.0


def register(parser: CommandParser) -> None:
    """How many peers, what they learn, how privately; their homes go under ``--home``, else a temporary directory."""
    add = parser.add_argument
    add("--peers", type=int, default=4, metavar="N", help="number of peers, 2 to 16 (default: 4)")
    add("--rounds", type=int, default=50, metavar="N", help="training rounds (default: 50)")
    add("--task", default="digits", help="digits, breast-cancer or package.module:function (default: digits)")
    add("--alpha", type=float, default=0.5, help="Dirichlet skew of the shards: 0.1 strong, 100 none (default: 0.5)")
    add("--epsilon", default="8", metavar="E", help="privacy of one record, or inf (default: 8)")
    add("--attackers", type=int, default=0, metavar="N", help="how many of the peers attack (default: 0)")
    add("--attack", default="sign_flip", help="what they do (default: sign_flip)")
    add("--rule", default="repute", help="merge rule (default: repute)")
    add("--seed", type=int, default=0, help="draws shards and initial params (default: 0)")
    add("--keep", action="store_true", help="keep the homes even if the demo is interrupted or fails")
    parser.set_defaults(command=demo)


def demo(args: argparse.Namespace, context: Context) -> Outcome:
    """Found a federation, run it, compare with training alone, verify every ledger."""
    plan = _plan(args)
    signal.signal(signal.SIGTERM, _terminated)
    root, ours = _root(args, context)
    began = time.monotonic()
    rehearsal = Rehearsal(plan, root)
    complete = False
    try:
        context.out.talk(f"{plan.peers} peers under {root}: keys, one charter, {plan.peers} signatures")
        rehearsal.found()
        rows = _run(args, rehearsal, context)
        complete = True
    finally:
        if ours and not complete and not args.keep:
            shutil.rmtree(root, ignore_errors=True)
    return _outcome(args, rehearsal, rows, time.monotonic() - began)


def _terminated(number: int, frame: object) -> None:
    """SIGTERM ends the demo as Ctrl-C does: in order, with nothing left behind."""
    raise SystemExit(ExitCode.TERMINATED)


def _plan(args: argparse.Namespace) -> Plan:
    if not 2 <= args.peers <= PEERS_MAX:
        raise UsageError(f"--peers is {args.peers}, must be 2 to {PEERS_MAX}")
    if not 0 <= args.attackers < args.peers:
        raise UsageError(f"--attackers is {args.attackers}, must be 0 to {args.peers - 1}")
    if args.rounds < 1:
        raise UsageError(f"--rounds is {args.rounds}, must be 1 or more")
    if not _number(args.epsilon) > 0:
        raise UsageError(f"--epsilon is {args.epsilon[:40]!r}, must be a number above 0, or inf")
    if args.attackers:
        from quidnunc.gossip.learning.attack import check_attack

        check_attack(args.attack)
    create = ("--rounds", str(args.rounds), "--interval", "0.1", "--epsilon", str(args.epsilon), "--rule", args.rule)
    return Plan(args.peers, args.task, args.alpha, args.seed, create, args.attackers, args.attack)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _root(args: argparse.Namespace, context: Context) -> tuple[Path, bool]:
    """Where the homes go, and whether the directory is ours to remove."""
    if not args.home:
        return Path(tempfile.mkdtemp(prefix="quidnunc-demo-")), True
    root = context.home.root
    if root.exists() and any(root.iterdir()):
        raise UsageError(f"{root}: not empty", hint="name a new directory, or none for a temporary one")
    root.mkdir(parents=True, exist_ok=True)
    return root, False


def _run(args: argparse.Namespace, rehearsal: Rehearsal, context: Context) -> list[dict[str, Any]]:
    """Start the daemons, watch them finish, stop them; one row of facts per peer."""
    show = _display(context, rehearsal)
    with rehearsal.running():
        baseline = rehearsal.alone()
        try:
            context.out.talk("starting one daemon per peer")
            rehearsal.until(lambda found: True, START_TIMEOUT_S, "ready")
            final = rehearsal.until(_watch(show, args.rounds), ROUND_TIMEOUT_S * args.rounds + 60, "finished")
            alone = _alone(baseline)
        finally:
            if baseline.poll() is None:
                baseline.kill()
            baseline.communicate()
    verdicts = rehearsal.verdicts()
    return [
        _row(actor, status, alone[str(actor.home.root)], verdict)
        for actor, status, verdict in zip(rehearsal.actors, final, verdicts, strict=True)
    ]


def _watch(show: Callable[[list[dict[str, Any]]], None], rounds: int) -> Callable[[list[dict[str, Any]]], bool]:
    """A condition that also keeps the display going: all finished, and settled since."""
    finished_at: dict[str, int] = {}

    def done(found: list[dict[str, Any]]) -> bool:
        show(found)
        if not all(each["finished"] for each in found):
            return False
        for each in found:
            finished_at.setdefault(each["log_id"], each["merges"])
        return all(each["merges"] >= finished_at[each["log_id"]] + SETTLING_MERGES for each in found)

    return done


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
        "accuracy": status["accuracy"],
        "alone_accuracy": alone,
        "updates_sent": status["updates_published"],
        "updates_merged": status["updates_accepted"],
        "updates_refused": status["refused_total"],
        "bytes_sent": status["bytes_sent"],
        "epsilon": status["privacy"]["epsilon"],
        "ledger_entries": verdict["data"]["entries"],
        "ledger_verified": verdict["code"] == ExitCode.OK,
    }


def _outcome(args: argparse.Namespace, rehearsal: Rehearsal, rows: list[dict[str, Any]], seconds: float) -> Outcome:
    honest = [row for row in rows if not row["attacker"]]
    mean = sum(row["accuracy"] for row in honest) / len(honest)
    alone = sum(row["alone_accuracy"] for row in honest) / len(honest)
    verified = all(row["ledger_verified"] for row in rows)
    data = {
        "peers": rows,
        "mean_accuracy": mean,
        "mean_alone_accuracy": alone,
        "seconds": round(seconds, 1),
        "federation": rehearsal.actors[0].last_status.get("federation"),
    }
    lines = [*_table(rows), "", *_verdict(mean, alone, verified, args), *_next_commands(rows[0]["home"])]
    if verified:
        return Outcome(data, lines)
    bad = ", ".join(row["name"] for row in rows if not row["ledger_verified"])
    return Outcome(data, lines, ExitCode.VERIFY_FAILED, f"ledgers that do not verify: {bad}")


def _table(rows: list[dict[str, Any]]) -> list[Line]:
    lines: list[Line] = [
        "",
        f"{'peer':12} {'alone':>6} {'gossip':>7} {'sent':>5} {'merged':>7} {'refused':>8} {'bytes sent':>11} "
        f"{'epsilon':>8} {'entries':>8}  ledger",
    ]
    for row in rows:
        epsilon = "none" if row["epsilon"] is None else f"{row['epsilon']:.3f}"
        verdict = "verified" if row["ledger_verified"] else "DOES NOT VERIFY"
        name = f"{row['name']}*" if row["attacker"] else row["name"]
        lines.append(
            f"{name:12} {row['alone_accuracy']:6.3f} {row['accuracy']:7.3f} {row['updates_sent']:5} "
            f"{row['updates_merged']:7} {row['updates_refused']:8} {row['bytes_sent']:11,} {epsilon:>8} "
            f"{row['ledger_entries']:8}  {verdict}"
        )
    if any(row["attacker"] for row in rows):
        lines.append("* attacks; not counted in the means")
    return lines


def _verdict(mean: float, alone: float, verified: bool, args: argparse.Namespace) -> list[Line]:
    gain = 100 * (mean - alone)
    private = not math.isinf(float(args.epsilon))
    privacy = (
        f"each record is ({float(args.epsilon):g}, 1e-05)-differentially private towards everybody outside its peer "
        "(add or remove one record; the local holdout is not covered)"
        if private
        else "without differential privacy"
    )
    return [
        Styled(
            f"mean accuracy {mean:.3f} together, {alone:.3f} alone: {gain:+.1f} points", "good" if gain > 0 else "bad"
        ),
        privacy,
        Styled("every ledger verifies", "good") if verified else Styled("a ledger does not verify", "bad"),
    ]


def _next_commands(home: str) -> list[Line]:
    return [
        "",
        "look around in what it left behind:",
        f"  quidnunc --home {home} ledger log -n 20",
        f"  quidnunc --home {home} ledger verify",
        f"  quidnunc --home {home} budget show",
        f"  quidnunc --home {home} federation show",
        f"  quidnunc --home {home} run        (and, beside it: status, peers)",
    ]


def _display(context: Context, rehearsal: Rehearsal) -> Callable[[list[dict[str, Any]]], None]:
    """A live table on a terminal, a line now and then elsewhere, nothing under --quiet or --json."""
    if context.out.quiet or context.out.json:
        return lambda found: None
    if sys.stderr.isatty():
        return _LiveTable(rehearsal)
    return _PlainLines(context)


class _PlainLines:
    """One line every few seconds, on stderr."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._last = -PLAIN_LINE_EVERY_S

    def __call__(self, found: list[dict[str, Any]]) -> None:
        now = time.monotonic()
        if now - self._last < PLAIN_LINE_EVERY_S:
            return
        self._last = now
        rounds = " ".join(f"{each['trained']}/{each['rounds']}" for each in found)
        accuracy = " ".join("-" if each["accuracy"] is None else f"{each['accuracy']:.3f}" for each in found)
        self._context.out.talk(f"rounds {rounds}   accuracy {accuracy}")


class _LiveTable:
    """The table that moves, on stderr, drawn in place."""

    def __init__(self, rehearsal: Rehearsal) -> None:
        self._drawn = 0

    def __call__(self, found: list[dict[str, Any]]) -> None:
        lines = [f"{'peer':12} {'round':>9} {'accuracy':>9} {'neighbors':>10} {'bytes sent':>12} {'epsilon':>8}  state"]
        for each in found:
            accuracy = "-" if each["accuracy"] is None else f"{each['accuracy']:.3f}"
            spent = each["privacy"]["epsilon"]
            neighbors = f"{each['neighbors']['live']}/{each['neighbors']['total']}"
            lines.append(
                f"{each['name']:12} {each['trained']:>4}/{each['rounds']:<4} {accuracy:>9} {neighbors:>10} "
                f"{each['bytes_sent']:>12,} {'none' if spent is None else f'{spent:.3f}':>8}  {each['state']}"
            )
        up = f"\x1b[{self._drawn}A" if self._drawn else ""
        sys.stderr.write(up + "".join(f"\x1b[2K{line}\n" for line in lines))
        sys.stderr.flush()
        self._drawn = len(lines)
