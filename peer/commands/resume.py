"""``quidnunc resume``: the running daemon trains again, after ``quidnunc pause`` or ``run --paused``."""

from __future__ import annotations

import argparse

from quidnunc.peer.cli import CommandParser, Context
from quidnunc.peer.commands.status import fetch
from quidnunc.peer.output import Outcome


def register(parser: CommandParser) -> None:
    """No arguments of its own."""
    parser.set_defaults(command=resume)


def resume(args: argparse.Namespace, context: Context) -> Outcome:
    """Ask for it; again is no harm. NotReachable without a daemon."""
    answer = fetch(context, "/v1/resume", "POST")
    return Outcome({"paused": bool(answer["paused"])}, ["training goes on"])
