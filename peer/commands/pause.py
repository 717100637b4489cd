"""``quidnunc pause``: the running daemon trains no more until it is told to; it goes on merging and answering."""

from __future__ import annotations

import argparse

from quidnunc.peer.cli import CommandParser, Context
from quidnunc.peer.commands.status import fetch
from quidnunc.peer.output import Outcome


def register(parser: CommandParser) -> None:
    """No arguments of its own."""
    parser.set_defaults(command=pause)


def pause(args: argparse.Namespace, context: Context) -> Outcome:
    """Ask for it; again is no harm. Lasts until ``resume`` or the next start. NotReachable without a daemon."""
    answer = fetch(context, "/v1/pause", "POST")
    return Outcome(
        {"paused": bool(answer["paused"])},
        [
            "paused: no training and no privacy spent; it goes on answering, merging and publishing signs of life",
            "a round that is being trained is finished; go on with: quidnunc resume",
        ],
    )
