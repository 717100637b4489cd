"""Scenarios in several processes at once; a worker that is killed is replaced."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import msgspec

from quidnunc.sim.scenarios.spec import SimScenario
from quidnunc.sim.worker import REFUSED, Order, Refusal

TRIES = 3
"""How often a scenario is begun before a worker that dies is taken for the scenario's fault."""
COMMAND = (sys.executable, "-m", "quidnunc.sim.worker")
_TOLD_CHARS = 500


class Job(NamedTuple):
    """A scenario and the directory it goes to."""

    scenario: SimScenario
    out: Path


def run_all(jobs: Sequence[Job], base: Path, processes: int, clear: Callable[[Path], None]) -> Iterator[str]:
    """Run ``jobs`` in up to ``processes`` at once; for each in order what was wrong with it, empty where nothing was.

    ``clear`` removes what is left of an earlier try. A worker ended by a signal is begun again, TRIES times in all.
    """
    with ThreadPoolExecutor(processes) as pool:
        yield from pool.map(lambda job: _run(job, base, clear), jobs)


def _run(job: Job, base: Path, clear: Callable[[Path], None]) -> str:
    order = msgspec.json.encode(Order(job.scenario, str(base), str(job.out)))
    for _ in range(TRIES):
        clear(job.out)
        done = subprocess.run(COMMAND, input=order, capture_output=True, check=False)
        if done.returncode == 0:
            return ""
        if done.returncode == REFUSED:
            return msgspec.json.decode(done.stdout, type=Refusal).message
        if done.returncode > 0:
            break
    told = done.stderr.decode("utf-8", "replace").strip()[-_TOLD_CHARS:]
    return f"the worker failed: {told or f'ended by signal {-done.returncode}'}"
