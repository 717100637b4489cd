"""``quidnunc sim sweep``: the grid of a scenario's ``[sweep]`` table, resumed where it was interrupted."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from quidnunc.crypto.errors import ConfigError
from quidnunc.sim.commands.frame import Answer, Context, Verbs, ended_in_order

if TYPE_CHECKING:
    from quidnunc.sim.scenarios.records import Record
    from quidnunc.sim.scenarios.run import Progress
    from quidnunc.sim.scenarios.sweep import Point

RUNS = "runs"
JOBS_MAX = 256
FAILED = 20
"""Exit code where a scenario could not be finished."""


def register(verbs: Verbs) -> None:
    """The arguments."""
    parser = verbs("sweep", help="run every scenario of a grid; what is finished is not run again")
    add = parser.add_argument
    add("scenario", metavar="SCENARIO", help="a TOML file with a table [sweep]; see docs/simulator.md")
    add("--set", action="append", default=[], metavar="KEY=VALUE", help="change a key of all scenarios")
    add("--out", metavar="DIR", help=f"where to write and resume (default: {RUNS}/NAME-sweep)")
    add("--sample", type=int, default=0, metavar="N", help="run only N scenarios of the grid, drawn at random")
    add("--seed", type=int, default=0, metavar="N", help="of --sample (default 0)")
    add("--jobs", type=int, default=1, metavar="N", help="processes at once (default 1)")
    add("--ray", default="", metavar="ADDRESS", help="on a Ray cluster: its address, auto, or local to start one here")
    parser.set_defaults(command=run_sweep)


def run_sweep(args: argparse.Namespace, context: Context) -> Answer:
    """Run what is missing, then compare all of it."""
    from quidnunc.sim.scenarios.compare import compared, read_runs, table
    from quidnunc.sim.scenarios.sweep import read_sweep, sweep

    if args.sample < 0 or not 0 <= args.seed < 2**62:
        raise ConfigError(f"--sample {args.sample} --seed {args.seed}: must be 0 or more", hint="leave them out")
    if not 1 <= args.jobs <= JOBS_MAX:
        raise ConfigError(f"--jobs {args.jobs}, must be 1 to {JOBS_MAX}", hint="as many as there are idle processors")
    if args.ray and args.jobs > 1:
        raise ConfigError(f"--jobs {args.jobs} with --ray: the cluster decides", hint="leave --jobs out")
    path = Path(args.scenario)
    points = read_sweep(path, args.set, args.sample, args.seed)
    out = Path(args.out) if args.out else Path(RUNS) / f"{points[0].scenario.name}-sweep"
    with ended_in_order():
        done = sweep(points, path.parent, out, _announcer(context, len(points)), args.jobs, args.ray)
    resumed = sum(each.resumed for each in done)
    there = [each.directory for each in done if each.directory.exists()]
    rows = compared(read_runs(list(dict.fromkeys(there))))
    told = f"{len(done)} scenarios in {out}" + (f", {resumed} of them finished before" if resumed else "")
    failed = {str(each.directory): each.problem for each in done if each.problem}
    for directory, problem in failed.items():
        context.out.warn(f"{directory}: {problem}")
    data = {"directory": str(out), "resumed": resumed, "failed": failed, "runs": rows}
    lines = [*table(rows), "", told]
    if failed:
        return Answer(data, lines, FAILED, f"{len(failed)} of {len(done)} scenarios failed", "they run again next time")
    return Answer(data, lines)


def _announcer(context: Context, count: int) -> Callable[[int, Point], Progress | None]:
    """Says on stderr which scenario begins, and how far each seed has come at its measured rounds."""

    def begin(number: int, point: Point) -> Progress | None:
        values = ", ".join(f"{key} = {value}" for key, value in point.values.items())
        context.out.talk(f"{number + 1} of {count}: {values}")

        def report(seed: int, done: int, record: Record | None) -> None:
            if done == point.scenario.rounds and record is not None and record["accuracy_mean"] is not None:
                context.out.talk(f"  seed {seed}: mean accuracy {record['accuracy_mean']:.4f}")

        return report

    return begin
