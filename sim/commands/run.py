"""``quidnunc sim run``: a scenario from its file into a run directory."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from quidnunc.sim.commands.frame import Answer, Context, Verbs, ended_in_order
from quidnunc.sim.scenarios.columns import COLUMNS
from quidnunc.sim.scenarios.columns import spread as written

if TYPE_CHECKING:
    from quidnunc.sim.scenarios.run import Run

RUNS = "runs"


def register(verbs: Verbs) -> None:
    """The arguments."""
    parser = verbs("run", help="simulate a scenario and write a run directory")
    add = parser.add_argument
    add("scenario", metavar="SCENARIO", help="a TOML file; see docs/simulator.md")
    add("--set", action="append", default=[], metavar="KEY=VALUE", help="change a key, for example data.alpha=0.1")
    add("--out", metavar="DIR", help=f"where to write (default: {RUNS}/NAME-1, -2, ...)")
    add("--tensorboard", action="store_true", help="also write event files for TensorBoard: DIR/tensorboard")
    add("--ray", metavar="ADDRESS", default="", help="train on the nodes of a Ray cluster; auto, local, or its address")
    parser.set_defaults(command=run_scenario)


def run_scenario(args: argparse.Namespace, context: Context) -> Answer:
    """Run it; the table at the end is the mean over the seeds."""
    from quidnunc.sim.commands.progress import progress
    from quidnunc.sim.scenarios.directory import next_directory
    from quidnunc.sim.scenarios.run import run
    from quidnunc.sim.scenarios.text import read_scenario

    path = Path(args.scenario)
    scenario = read_scenario(path, args.set)
    out = Path(args.out) if args.out else next_directory(Path(RUNS), scenario.name)
    with ended_in_order(), progress(context.out, scenario.seeds, scenario.rounds) as shown:
        done = run(path, changes=args.set, out=out, progress=shown, ray=args.ray)
    if done.facts[0]["with_replacement"]:
        context.out.warn(done.facts[0]["shares"])
    if args.tensorboard:
        from quidnunc.sim.report.tensorboard import write_events
        from quidnunc.sim.scenarios.stored import read_run

        write_events(read_run(out))
    data = {"directory": str(out), "seeds": done.facts, "final": done.final}
    return Answer(data, [*final_table(done), f"written to {out}"])


def _adversary(done: Run) -> list[str]:
    """The merge rule, and who attacks it how."""
    spec, rule = done.scenario.attack, done.scenario.merge.rule
    options = ", ".join(f"{name} {value:g}" for name, value in done.scenario.merge.options.items())
    lines = [f"merge: {rule}{f' ({options})' if options else ''}"]
    bad = done.facts[0]["attackers"]
    if spec is not None and not bad:
        lines.append(f"attack: {spec.name} by nobody (attack.count = 0)")
    if spec is not None and bad:
        shown = ", ".join(map(str, bad[:8])) + (", ..." if len(bad) > 8 else "")
        lines.append(f"attack: {spec.name} by {len(bad)} peers ({shown}); accuracies are of the honest ones")
    return lines


def final_table(done: Run) -> list[str]:
    """What was run in a few lines, then mean and spread of the last round over the seeds."""
    scenario, facts = done.scenario, done.facts[0]
    graph = facts["topology"]
    seeds = "1 seed" if len(scenario.seeds) == 1 else f"{len(scenario.seeds)} seeds"
    speed = "never" if graph["rounds"] is None else f"in {graph['rounds']:,} rounds"
    lines = [
        f"{scenario.name}: {scenario.peers:,} peers, {scenario.rounds:,} rounds, {seeds}; {facts['params']:,} params",
        f"data: {facts['data']}, {scenario.data.partition}; {facts['shares']}",
        f"topology: {graph['kind']}, degree {graph['degree_mean']:.3g}, gap {graph['gap']:.3g}, consensus {speed}",
        *_adversary(done),
        "",
        f"{'after the last round':24} {'mean':>14} {'+- over seeds':>14}",
    ]
    for name, title, shape in COLUMNS:
        mean, spread = done.mean(name)
        if mean == mean:
            lines.append(f"{title:24} {shape.format(mean):>14} {written(shape, spread):>14}")
    if scenario.privacy is not None:
        lines.append(
            f"epsilon at delta 1e-{scenario.privacy.delta_exp} for one record of a peer, add or remove; "
            "the noise here is simulated and protects nobody"
        )
    return lines
