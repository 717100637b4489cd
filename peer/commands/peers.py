"""``quidnunc peers``: one line per neighbor."""

from __future__ import annotations

import argparse

from quidnunc.peer.cli import CommandParser, Context
from quidnunc.peer.commands.charter_view import when
from quidnunc.peer.commands.entry_view import ended_words
from quidnunc.peer.commands.status import fetch
from quidnunc.peer.output import Line, Outcome, Styled


def register(parser: CommandParser) -> None:
    """No arguments of its own."""
    parser.set_defaults(command=peers)


def peers(args: argparse.Namespace, context: Context) -> Outcome:
    """Name, link, age, update number, weight used last, standing, counts and the last refusal of every neighbor."""
    rows = fetch(context, "/v1/peers")["peers"]
    lines: list[Line] = [
        f"{'name':20} {'link':12} {'age':>8} {'update':>7} {'weight':>14} {'standing':12} {'in':>6} {'refused':>8}"
    ]
    for row in rows:
        link = ("live" if row["live"] else "silent") if row["connected"] else "disconnected"
        link = "retired" if row["retired"] is not None else link
        age = "never" if row["age_s"] is None else f"{row['age_s']:.1f} s"
        weight = f"{row['last_weight']:.3f} of {row['weight']:.3f}"
        why = f"  last: {row['last_reason']}" if row["last_reason"] else ""
        why += "".join(f"  {each}" for each in row["conditions"])
        line = (
            f"{row['name'][:20]:20} {link:12} {age:>8} {row['number']:>7} {weight:>14} {row['standing']:12} "
            f"{row['accepted']:>6} {row['refused']:>8}{why}"
        )
        lines.append(Styled(line, "warn") if row["conditions"] else line)
        if row["retired"] is not None:
            lines.append(f"{'':20} ended its log with entry {row['retired']['entry']}: {ended_words(row['retired'])}")
        if row["suspicion"] is not None:
            owed = "suspected since {since}: {label} (kind {kind}, entry {entry})".format(
                **row["suspicion"], since=when(row["suspicion"]["since_ms"])
            )
            lines.append(Styled(f"{'':20} {owed}", "warn"))
    return Outcome({"peers": rows}, lines)
