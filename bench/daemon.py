"""What a running daemon costs: start, answers, event-loop lag, memory, bytes per round.

Two real daemons on this machine, founded and started with the commands a person would use, round after round without a
pause; so two parents and two compute processes share its cores. ``training`` is the digits model (651 params, int8);
``bulk`` a model of 3.4 million params whose deltas travel as float32, 13.5 MB to the neighbor and back in a round.
The lag is what the daemon says of itself: by how much a timer fires late, 50 times a second, over the last 20 s.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import _large_task
from common import Row, main

from quidnunc.peer.client import ask
from quidnunc.peer.loop_lag import WINDOW_S
from quidnunc.peer.rehearsal import COMMAND, Actor, Plan, Rehearsal

POLL_S = 0.005
SAMPLE_S = 0.05
QUICK_S = 6.0
SLACK_MIB = 8.0
"""For what comes and goes beside the payloads: ledger pages, answers, stacks."""
PATIENCE_S = 120.0
ENDLESS = ("--rounds", "1000000", "--interval", "0", "--epsilon", "inf", "--local-steps", "1")
INT8_BYTES, FLOAT_BYTES = 1, 4
MIB = 1024 * 1024


def measure(quick: bool) -> list[Row]:
    """All rows."""
    os.environ["PYTHONPATH"] = str(Path(__file__).resolve().parent)  # where the daemons find the large task
    with tempfile.TemporaryDirectory(prefix="qn-bench-") as root:
        small = Rehearsal(Plan(2, create=ENDLESS), Path(root) / "small")
        large = Rehearsal(
            Plan(2, task="_large_task:task", create=(*ENDLESS, "--codec", "float32", "--batch", "32")),
            Path(root) / "large",
        )
        return [*training(small, quick), *bulk(large, quick)]


def found(rehearsal: Rehearsal) -> int:
    """Found the federation; returns the number of params."""
    rehearsal.root.mkdir()
    return int(rehearsal.found()["task"]["dim"])


def training(rehearsal: Rehearsal, quick: bool) -> list[Row]:
    """The daemon with a small model."""
    dim = found(rehearsal)
    ready = [time_to_ready(rehearsal.actors[0]) for _ in range(1 if quick else 5)]
    rows = [Row("exec to ready", median(ready), "s")]
    with rehearsal.running():
        before = settled(rehearsal, quick)
        began = time.monotonic()
        rows += latency_rows(rehearsal.actors[0], quick)
        idle_mib = least_memory_mib(before["pid"], (QUICK_S if quick else WINDOW_S) - (time.monotonic() - began))
        span_s = time.monotonic() - began
        return rows + load_rows("training", rehearsal, before, span_s, idle_mib, dim * INT8_BYTES, lag_ms=15)


def bulk(rehearsal: Rehearsal, quick: bool) -> list[Row]:
    """The daemon with a large one."""
    dim = found(rehearsal)
    assert dim == _large_task.DIM
    with rehearsal.running():
        before = settled(rehearsal, quick)
        began = time.monotonic()
        idle_mib = least_memory_mib(before["pid"], QUICK_S if quick else WINDOW_S)
        span_s = time.monotonic() - began
        return load_rows("bulk", rehearsal, before, span_s, idle_mib, dim * FLOAT_BYTES, lag_ms=30)


def time_to_ready(actor: Actor) -> float:
    """Seconds from the start of the process to the first answer, of a daemon that runs alone."""
    began = time.monotonic()
    actor.start()
    try:
        wait_until(lambda: actor.check() is None and actor.status() is not None)
        return time.monotonic() - began
    finally:
        actor.signal(15)
        actor.wait()


def settled(rehearsal: Rehearsal, quick: bool) -> dict[str, Any]:
    """Wait until all have merged a few times, and the start is out of the window of the lag; the status then."""
    rehearsal.until(lambda each: all(one["merges"] >= 3 for one in each), PATIENCE_S, "merging")
    time.sleep(0.0 if quick else WINDOW_S)
    return status(rehearsal.actors[0])


def status(actor: Actor) -> dict[str, Any]:
    """What the daemon says now."""
    answer: dict[str, Any] = ask(actor.home.socket(), "/v1/status", timeout_s=30.0)
    return answer


def wait_until(state: Callable[[], bool]) -> None:
    """Poll for ``state``; RuntimeError after PATIENCE_S."""
    deadline = time.monotonic() + PATIENCE_S
    while not state():
        if time.monotonic() > deadline:
            raise RuntimeError("the daemon is not ready")
        time.sleep(POLL_S)


def latency_rows(actor: Actor, quick: bool) -> list[Row]:
    """``status`` as a command, and what of it is the daemon's answer."""
    command = [*COMMAND, "--home", str(actor.home.root), "--json", "status"]
    whole = [
        seconds(lambda: subprocess.run(command, capture_output=True, check=False)) for _ in range(5 if quick else 20)
    ]
    answers = sorted(seconds(lambda: status(actor)) for _ in range(50 if quick else 200))
    python = [seconds(lambda: subprocess.run([sys.executable, "-c", ""], check=True)) for _ in whole]
    return [
        Row("quidnunc status", 1000 * median(whole), "ms", "python -c ''", 1000 * median(python), at_most=500),
        Row("answer on the socket: median", 1000 * median(answers), "ms"),
        Row("answer on the socket: p99", 1000 * answers[len(answers) * 99 // 100], "ms"),
    ]


def seconds(action: Callable[[], object]) -> float:
    """How long ``action`` takes."""
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def load_rows(
    name: str,
    rehearsal: Rehearsal,
    before: dict[str, Any],
    span_s: float,
    idle_mib: float,
    payload: int,
    *,
    lag_ms: float,
) -> list[Row]:
    """Lag, memory and traffic of one daemon over the last ``span_s``, beside a payload of so many bytes."""
    after = status(rehearsal.actors[0])
    lag = after["loop_lag"]
    updates = after["updates_published"] - before["updates_published"]
    sent = after["bytes_sent"] - before["bytes_sent"]
    parent, compute = after["pid"], after["trainer"]["pid"]
    peak_mib = memory_mib(parent, "VmHWM")
    twice_mib = 2 * 2 * payload / MIB  # twice what is in flight: one payload goes out and one comes in
    return [
        Row(f"{name}: loop lag p50", lag["p50_ms"], "ms"),
        Row(f"{name}: loop lag p99", lag["p99_ms"], "ms", at_most=lag_ms),
        Row(f"{name}: loop lag max", lag["max_ms"], "ms"),
        Row(
            f"{name}: RSS of the parent, peak",
            peak_mib,
            "MiB",
            at_most=60 + twice_mib,
            note=f"least {idle_mib:.0f} MiB",
        ),
        Row(f"{name}: the same over its least", peak_mib - idle_mib, "MiB", at_most=twice_mib + SLACK_MIB),
        Row(f"{name}: RSS of the compute process, peak", memory_mib(compute, "VmHWM"), "MiB"),
        Row(f"{name}: rounds", updates / span_s, "1/s"),
        Row(f"{name}: bytes per update", sent / max(1, updates), "B", "payload alone", float(payload)),
    ]


def least_memory_mib(pid: int, span_s: float) -> float:
    """The smallest RSS of a process within ``span_s``: what it holds between two transfers."""
    deadline = time.monotonic() + span_s
    least = memory_mib(pid, "VmRSS")
    while time.monotonic() < deadline:
        time.sleep(SAMPLE_S)
        least = min(least, memory_mib(pid, "VmRSS"))
    return least


def memory_mib(pid: int, which: str) -> float:
    """A memory figure of a process."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(which)).split()[1]) / 1024


if __name__ == "__main__":
    raise SystemExit(main(__doc__, measure))
