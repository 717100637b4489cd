"""``quidnunc status`` and ``quidnunc peers``: what a running daemon says of itself and of its neighbors."""

from __future__ import annotations

import argparse
from typing import Any

from quidnunc.crypto.errors import QuidnuncError
from quidnunc.peer.cli import CommandParser, Context
from quidnunc.peer.client import DEFAULT_TIMEOUT_S, NotReachable, ask
from quidnunc.peer.commands.files import require_home
from quidnunc.peer.output import ExitCode, Line, Outcome, Styled

RESTARTS_DEGRADED = 3


class Starting(QuidnuncError):
    """A daemon has this home, and is not up yet or just going down."""

    exit_code = ExitCode.PENDING


def register(parser: CommandParser) -> None:
    """No arguments of its own."""
    parser.set_defaults(command=status)


def status(args: argparse.Namespace, context: Context) -> Outcome:
    """One screen: who, which federation, round, neighbors, privacy, ledger; the exit code says how healthy."""
    data = fetch(context, "/v1/status")
    code = health(data)
    return Outcome(data, _lines(data, code), code)


def fetch(context: Context, target: str) -> Any:
    """Ask this home's daemon; raises NotReachable, or Starting while a process holds this home and is not up yet."""
    home = context.home
    require_home(home)
    try:
        return ask(home.socket(), target, timeout_s=context.timeout_s or DEFAULT_TIMEOUT_S)
    except NotReachable as error:
        # One that took the call and then said nothing, or nothing sensible, is up: it hangs.
        if not isinstance(error.__cause__, FileNotFoundError | ConnectionError):
            raise
        holder = home.locked_by()
        if holder is None:
            raise
        raise Starting(
            f"starting (process {holder or 'unknown'}): it holds {home.root} and does not answer yet",
            hint="ask again in a moment; its log says what it is doing",
        ) from error


def health(data: dict[str, Any]) -> ExitCode:
    """0 healthy, 10 degraded, 11 paused, recovering or still waiting to start, 12 stalled."""
    waiting = data["state"] == "waiting" and not data["updates_published"]
    if waiting or data["state"] in ("paused", "starting", "recovering"):
        return ExitCode.PENDING
    if data["failures"] >= RESTARTS_DEGRADED:
        return ExitCode.STALLED
    neighbors = data["neighbors"]
    if data["state"] == "isolated" or neighbors["connected"] * 2 < neighbors["total"] or data["failures"]:
        return ExitCode.DEGRADED
    return ExitCode.OK


def _lines(data: dict[str, Any], code: ExitCode) -> list[Line]:
    neighbors, privacy = data["neighbors"], data["privacy"]
    style = {ExitCode.OK: "good", ExitCode.PENDING: "strong"}.get(code, "warn")
    accuracy = "not measured yet" if data["accuracy"] is None else f"{data['accuracy']:.3f} (local test split)"
    if privacy["epsilon"] is None:
        spent = "no differential privacy in this charter"
    else:
        spent = (
            f"epsilon {privacy['epsilon']:.3f} of {privacy['epsilon_cap']:g} at delta {privacy['delta']:g} spent, "
            f"record-level, {privacy['releases']} releases"
        )
    return [
        Styled(f"{data['name']}: {data['sentence']}", style),
        f"federation   {data['federation'][:16]} (epoch {data['epoch']})",
        f"neighbors    {neighbors['connected']} of {neighbors['total']} connected, {neighbors['live']} live",
        f"updates      {data['updates_published']} published, {data['updates_accepted']} received, "
        f"{data['refused_total']} refused, {data['merges']} merges",
        f"model        {data['model'][:16]}  accuracy {accuracy}",
        f"privacy      {spent}",
        f"ledger       {data['ledger_entries']} entries",
        f"traffic      {_size(data['bytes_sent'])} sent, {_size(data['bytes_received'])} received",
        _lag(data["loop_lag"]),
        *([f"last failure {data['last_failure']}"] if data["last_failure"] else []),
        *([f"trainer      {data['trainer']['last_exit']}; started again"] if data["trainer"]["last_exit"] else []),
        *(f"note         {report['text']}" for report in data["reports"][-3:]),
    ]


def _lag(lag: dict[str, Any]) -> str:
    if lag["p99_ms"] is None:
        return "event loop   not measured yet"
    late = f"{lag['p99_ms']:.1f} ms at the 99th percentile, {lag['max_ms']:.1f} ms at most"
    return f"event loop   late by {late}, last {lag['window_s']:g} s"


def _size(count: int) -> str:
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000 or unit == "GB":
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    raise AssertionError
