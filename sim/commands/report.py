"""``quidnunc sim report``: a run directory as one page, drawn anew."""

from __future__ import annotations

import argparse
from pathlib import Path

from quidnunc.crypto.errors import ConfigError, StoreUnwritable
from quidnunc.sim.commands.frame import Answer, Context, Verbs


def register(verbs: Verbs) -> None:
    """The arguments."""
    parser = verbs("report", help="draw a run directory as one self-contained HTML page")
    add = parser.add_argument
    add("directory", metavar="DIR", help="what quidnunc sim run has written")
    add("--out", metavar="FILE", help="where to write (default: DIR/report.html)")
    add("--tensorboard", action="store_true", help="also write event files for TensorBoard: DIR/tensorboard")
    parser.set_defaults(command=report)


def report(args: argparse.Namespace, context: Context) -> Answer:
    """Read, draw, write."""
    from quidnunc.sim.report.page import page
    from quidnunc.sim.report.tensorboard import write_events
    from quidnunc.sim.scenarios.directory import REPORT, replace_file
    from quidnunc.sim.scenarios.stored import read_run

    source = Path(args.directory)
    stored = read_run(source)
    drawn = page(stored)
    out = Path(args.out) if args.out else source / REPORT
    if args.out and out.exists():
        raise ConfigError(f"{out}: is there already", hint="nothing is overwritten: name another path with --out")
    try:
        replace_file(out, drawn)
    except OSError as error:
        why = (error.strerror or type(error).__name__).lower()
        raise StoreUnwritable(f"{out}: cannot be written: {why}", hint="choose another place with --out") from None
    if args.tensorboard:
        write_events(stored)
    return Answer({"path": str(out), "bytes": len(drawn.encode())}, [f"written to {out}"])
