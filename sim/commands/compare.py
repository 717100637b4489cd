"""``quidnunc sim compare``: runs beside each other."""

from __future__ import annotations

import argparse
from pathlib import Path

from quidnunc.sim.commands.frame import Answer, Context, Verbs


def register(verbs: Verbs) -> None:
    """The arguments."""
    parser = verbs("compare", help="runs beside each other: what differs, what came of it, mean and spread over seeds")
    parser.add_argument("directory", nargs="+", metavar="DIR", help="run directories, or a directory of them")
    parser.set_defaults(command=compare)


def compare(args: argparse.Namespace, context: Context) -> Answer:
    """Read all of them, one row each."""
    from quidnunc.sim.scenarios.compare import compared, read_runs, table

    rows = compared(read_runs([Path(each) for each in args.directory]))
    spread = ["", "+-: standard deviation over the seeds"] if any(row["seed_count"] > 1 for row in rows) else []
    return Answer({"runs": rows}, [*table(rows), *spread])
