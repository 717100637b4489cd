"""What ``quidnunc demo`` shows: a table that moves while it runs, a table and a verdict at the end."""

from __future__ import annotations

import contextlib
import math
import sys
import time
from collections.abc import Callable
from typing import Any

from quidnunc.gossip.jobs import Unit
from quidnunc.peer.cli import Context
from quidnunc.peer.home import Home
from quidnunc.peer.home_name import quidnunc
from quidnunc.peer.output import Line, Styled

PLAIN_LINE_EVERY_S = 3.0

Show = Callable[[list[dict[str, Any]]], None]


def table(rows: list[dict[str, Any]]) -> list[Line]:
    """One line per peer, and what the marks mean."""
    width = max(12, *(len(row["name"]) + 1 for row in rows))
    lines: list[Line] = [
        "",
        f"{'peer':{width}} {'alone':>6} {'gossip':>7} {'sent':>5} {'merged':>7} {'refused':>8} {'bytes sent':>11} "
        f"{'epsilon':>8} {'entries':>8}  ledger",
    ]
    for row in rows:
        epsilon = "none" if row["epsilon"] is None else f"{row['epsilon']:.3f}"
        verdict = "verified" if row["ledger_verified"] else "DOES NOT VERIFY"
        accuracy = "-" if row["accuracy"] is None else f"{row['accuracy']:.3f}"
        name = f"{row['name']}{'*' if row['attacker'] else ''}{'' if row['ended'] is None else '!'}"
        lines.append(
            f"{name:{width}} {row['alone_accuracy']:6.3f} {accuracy:>7} {row['updates_sent']:5} "
            f"{row['updates_merged']:7} {row['updates_refused']:8} {row['bytes_sent']:11,} {epsilon:>8} "
            f"{row['ledger_entries']:8}  {verdict}"
        )
    if any(row["attacker"] for row in rows):
        lines.append("* attacks; not counted in the means")
    if any(row["ended"] is not None for row in rows):
        lines.append("! ended before the end, as last seen; not counted in the means")
    return lines


def spread(rows: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The worst peer, the 10th percentile, and who gains least over training alone, of honest peers that ran through.

    None where there are none.
    """
    counted = [row for row in rows if not row["attacker"] and row["ended"] is None and row["accuracy"] is not None]
    if not counted:
        return None
    ordered = sorted(row["accuracy"] for row in counted)
    place = 0.1 * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    least = min(counted, key=lambda row: row["accuracy"] - row["alone_accuracy"])
    return {
        "worst_accuracy": ordered[0],
        "p10_accuracy": ordered[below] + (place - below) * (ordered[above] - ordered[below]),
        "least_gain": least["accuracy"] - least["alone_accuracy"],
        "least_gainer": least["name"],
    }


def verdict_lines(
    rows: list[dict[str, Any]], mean: float | None, alone: float | None, epsilon: float, unit: str
) -> list[Line]:
    """What came of it: accuracy, privacy, ledgers, and how to start again what ended too early."""
    lines: list[Line] = []
    if mean is None or alone is None:
        lines.append(Styled("no honest peer ran to the end", "bad"))
    else:
        gain = 100 * (mean - alone)
        what = f"mean accuracy {mean:.3f} together, {alone:.3f} alone: {gain:+.1f} points"
        lines.append(Styled(what, "good" if gain > 0 else "bad"))
    found = spread(rows)
    if found is not None:
        least = 100 * found["least_gain"]
        what = (
            f"worst peer {found['worst_accuracy']:.3f}, 10th percentile {found['p10_accuracy']:.3f}; "
            f"{found['least_gainer']} gains least by joining: {least:+.1f} points"
        )
        lines.append(what if least >= 0 else Styled(what, "warn"))
    if math.isinf(epsilon):
        lines.append("without differential privacy")
    else:
        whom, which = "each record is", "add or remove one record"
        if unit == Unit.SITE.label:
            whom, which = "each peer's training data are", "all of its records there or absent"
        against = "everybody outside its peer"
        if unit == Unit.SUM.label:
            against = "listeners and the few curious peers of a private sum, not all others together,"
        lines.append(
            f"{whom} ({epsilon:g}, 1e-05)-differentially private towards {against} "
            f"({which}; the local holdout is not covered)"
        )
    verified = all(row["ledger_verified"] for row in rows)
    lines.append(Styled("every ledger verifies", "good") if verified else Styled("a ledger does not verify", "bad"))
    for row in rows:
        if row["ended"] is not None:
            what = f"{row['name']} ended with exit code {row['ended']} before the end; start it again:"
            lines += [Styled(what, "warn"), f"  {quidnunc(Home.at(row['home']))} run"]
    return lines


def next_commands(home: str) -> list[Line]:
    """What to try next on one of the homes."""
    called = quidnunc(Home.at(home))
    return [
        "",
        "look around in what it left behind:",
        f"  {called} ledger log -n 20",
        f"  {called} ledger verify",
        f"  {called} budget show",
        f"  {called} federation show",
        f"  {called} run        (and, beside it: status, peers)",
    ]


def display(context: Context) -> Show:
    """A live table on a terminal, a line now and then elsewhere, nothing under --quiet or --json."""
    if context.out.quiet or context.out.json:
        return lambda found: None
    if sys.stderr.isatty():
        return _LiveTable()
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

    def __init__(self) -> None:
        self._drawn = 0

    def __call__(self, found: list[dict[str, Any]]) -> None:
        width = max(12, *(len(each["name"]) for each in found))
        lines = [
            f"{'peer':{width}} {'round':>9} {'accuracy':>9} {'neighbors':>10} {'bytes sent':>12} {'epsilon':>8}  state"
        ]
        for each in found:
            accuracy = "-" if each["accuracy"] is None else f"{each['accuracy']:.3f}"
            spent = each["privacy"]["epsilon"]
            neighbors = f"{each['neighbors']['live']}/{each['neighbors']['total']}"
            lines.append(
                f"{each['name']:{width}} {each['trained']:>4}/{each['rounds']:<4} {accuracy:>9} {neighbors:>10} "
                f"{each['bytes_sent']:>12,} {'none' if spent is None else f'{spent:.3f}':>8}  {each['state']}"
            )
        # A warning stands below a table that has lost a row: the next one begins under it.
        up = f"\x1b[{self._drawn}A" if self._drawn == len(lines) else ""
        with contextlib.suppress(OSError):  # the terminal is gone, and says so by a signal
            sys.stderr.write(up + "".join(f"\x1b[2K{line}\n" for line in lines))
            sys.stderr.flush()
        self._drawn = len(lines)
