"""Scenarios in several processes at once; a worker that is killed is replaced."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
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
    Whoever leaves before the end, as by Ctrl-C, takes the workers that run along.
    """
    workers = _Workers()
    with ThreadPoolExecutor(processes) as pool:
        try:
            yield from pool.map(lambda job: _run(job, base, clear, workers), jobs)
        finally:
            workers.stop()


class _Workers:
    """The processes that run. Once stopped, none is begun."""

    def __init__(self) -> None:
        self._running: set[subprocess.Popen[bytes]] = set()
        self._lock = threading.Lock()
        self._stopped = False

    def run(self, order: bytes) -> tuple[int, bytes, bytes] | None:
        """Exit code, stdout and stderr of a worker that was given ``order``; None once stopped."""
        with self._lock:
            if self._stopped:
                return None
            pipe = subprocess.PIPE
            worker = subprocess.Popen(COMMAND, stdin=pipe, stdout=pipe, stderr=pipe)
            self._running.add(worker)
        with worker:
            answer, told = worker.communicate(order)
        with self._lock:
            self._running.discard(worker)
            return None if self._stopped else (worker.returncode, answer, told)

    def stop(self) -> None:
        """Ask all that run to end."""
        with self._lock:
            self._stopped = True
            for worker in self._running:
                with contextlib.suppress(ProcessLookupError):
                    worker.terminate()


def _run(job: Job, base: Path, clear: Callable[[Path], None], workers: _Workers) -> str:
    order = msgspec.json.encode(Order(job.scenario, str(base), str(job.out)))
    code, told = 0, b""
    for _ in range(TRIES):
        clear(job.out)
        done = workers.run(order)
        if done is None:
            return "the sweep was ended"
        code, answer, told = done
        if code == 0:
            return ""
        if code == REFUSED:
            return msgspec.json.decode(answer, type=Refusal).message
        if code > 0:
            break
    said = told.decode("utf-8", "replace").strip()[-_TOLD_CHARS:]
    return f"the worker failed: {said or f'ended by signal {-code}'}"
