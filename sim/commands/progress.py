"""Progress of a run on a terminal; nothing elsewhere, under ``--quiet`` or ``--json``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from quidnunc.sim.commands.frame import Out
from quidnunc.sim.scenarios.records import Record
from quidnunc.sim.scenarios.run import Progress as Report


@contextmanager
def progress(out: Out, seeds: Sequence[int], rounds: int) -> Iterator[Report | None]:
    """A callback for ``run`` that keeps one bar per run up to date, or None where nobody watches."""
    if out.quiet or out.json or not out.stderr.isatty():
        yield None
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("accuracy {task.fields[accuracy]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(file=out.stderr), transient=True) as bar:
        task = bar.add_task("", total=len(seeds) * rounds, accuracy="-")
        place = {seed: at for at, seed in enumerate(seeds)}

        def report(seed: int, done: int, record: Record | None) -> None:
            bar.update(task, completed=place[seed] * rounds + done, description=f"seed {seed}")
            if record is not None and record["accuracy_mean"] is not None:
                bar.update(task, accuracy=f"{record['accuracy_mean']:.3f}")

        yield report
