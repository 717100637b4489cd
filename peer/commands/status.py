"""``quidnunc status`` and ``quidnunc peers``: what a running daemon says of itself and of its neighbors."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from quidnunc.crypto.errors import QuidnuncError
from quidnunc.peer.cli import CommandParser, Context
from quidnunc.peer.client import DEFAULT_TIMEOUT_S, NotReachable, ask
from quidnunc.peer.commands.files import require_home
from quidnunc.peer.home_name import quidnunc
from quidnunc.peer.output import ExitCode, Line, Outcome, Styled

RECENT_SHOWN = 3


_STYLES = {"stalled": "bad", "degraded": "warn", "note": "strong"}


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


def fetch(context: Context, target: str, method: str = "GET") -> Any:
    """Ask this home's daemon; raises NotReachable, or Starting while a process holds this home and is not up yet."""
    home = context.home
    require_home(home)
    try:
        timeout_s = context.timeout_s or DEFAULT_TIMEOUT_S
        return ask(home.socket(), target, method=method, timeout_s=timeout_s, command=quidnunc(home))
    except NotReachable as error:
        holder = home.locked_by()
        if holder is None or error.__cause__ is None:
            raise
        # One that took the call and then said nothing, or nothing sensible, is up: it hangs.
        if not isinstance(error.__cause__, FileNotFoundError | ConnectionError):
            raise _hanging(holder, home.root, error) from error
        raise Starting(
            f"starting (process {holder or 'unknown'}): it holds {home.root} and does not answer yet",
            hint="ask again in a moment; its log says what it is doing",
        ) from error


def _hanging(holder: int, root: Path, error: NotReachable) -> NotReachable:
    """A daemon that is there, and does not answer."""
    who = f"process {holder or 'unknown'} holds {root} and does not answer: {error.__cause__ or 'nothing came'}"
    if holder and _stopped(holder):
        return NotReachable(f"{who}; it is stopped (suspended)", hint=f"let it go on: kill -CONT {holder}")
    end = f"end it with kill {holder} and" if holder else "end it, and"
    return NotReachable(
        who, hint=f"its log says what it is doing; if that is nothing, {end} start it again: what was committed is safe"
    )


def _stopped(pid: int) -> bool:
    """Whether a signal has suspended that process, as far as /proc tells."""
    try:
        # The name in parentheses may hold anything; the state is the first word behind it.
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0] in (b"T", b"t")
    except (OSError, IndexError):
        return False


def health(data: dict[str, Any]) -> ExitCode:
    """12 if a condition says that nothing moves, 11 paused, recovering or waiting to start, 10 degraded, 0 well."""
    severities = {each["severity"] for each in data["conditions"]}
    if "stalled" in severities:
        return ExitCode.STALLED
    waiting = data["state"] == "waiting" and (not data["updates_published"] or data["phase"] == "starting")
    if waiting or data["state"] in ("paused", "starting", "recovering"):
        return ExitCode.PENDING
    return ExitCode.DEGRADED if "degraded" in severities else ExitCode.OK


def _lines(data: dict[str, Any], code: ExitCode) -> list[Line]:
    style = {ExitCode.OK: "good", ExitCode.PENDING: "strong"}.get(code, "warn")
    lines: list[Line] = [Styled(f"{data['name']}: {data['sentence']}", style)]
    lines += [
        Styled(f"{each['severity']:12} {each['subject']}: {each['text']} [{each['id']}]", _STYLES[each["severity"]])
        for each in data["conditions"]
    ]
    lines.append(f"federation   {data['federation'][:16]}" + (f" (epoch {data['epoch']})" if "epoch" in data else ""))
    if "neighbors" in data:  # else it waits, and has not opened anything
        lines += _running(data)
    past = [f"was          {each['subject']}: {each['text']} [{each['id']}]" for each in data["recent_conditions"]]
    return [*lines, *past[:RECENT_SHOWN]]


_LEVELS = {
    "example": "record-level",
    "site": "site-level",
    "sum": "record-level against few only (private sum, see budget show)",
}


def _running(data: dict[str, Any]) -> list[Line]:
    neighbors, privacy = data["neighbors"], data["privacy"]
    accuracy = "not measured yet" if data["accuracy"] is None else f"{data['accuracy']:.3f} (local test split)"
    if privacy["epsilon"] is None:
        spent = "no differential privacy in this charter"
    else:
        spent = (
            f"epsilon {privacy['epsilon']:.3f} of {privacy['epsilon_cap']:g} at delta {privacy['delta']:g} spent, "
            f"{_LEVELS[privacy['unit']]}, {privacy['releases']} releases"
        )
    return [
        f"neighbors    {neighbors['connected']} of {neighbors['total']} connected, {neighbors['live']} live",
        f"updates      {data['updates_published']} published, {data['updates_accepted']} received, "
        f"{data['refused_total']} refused, {data['merges']} merges",
        f"model        {data['model'][:16]}  accuracy {accuracy}",
        f"privacy      {spent}",
        *_robustness(privacy),
        f"ledger       {data['ledger_entries']} entries, {data['witnessed']['verdict']}",
        f"traffic      {_size(data['bytes_sent'])} sent, {_size(data['bytes_received'])} received since the start",
        _lag(data["loop_lag"]),
        *([f"last failure {data['last_failure']}"] if data["last_failure"] else []),
        *([f"trainer      {data['trainer']['last_exit']}; started again"] if data["trainer"]["last_exit"] else []),
        *(f"note         {report['text']}" for report in data["reports"][-3:]),
    ]


def _robustness(privacy: dict[str, Any]) -> list[Line]:
    """A line where so much noise is added that robustness cannot be claimed."""
    gate = privacy["robustness"]
    return [] if gate is None or gate["feasible"] else [Styled(f"robustness   not claimed: {gate['text']}", "warn")]


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
