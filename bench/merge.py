"""Merge rules beside ByzFL and the time of one read of the stack, on one thread and on two.

Each rule at k = 8, 16, 32 and d = 1e5, 1e6, 1e7 (with --quick k = 8, 16 and d = 1e5); targets are for d = 1e6. ByzFL is
installed by name in a virtual environment of its own and borrows numpy, torch and scipy from this one; it gets float32
torch tensors, of 10^7 coordinates once and else twice. One thread is timed by the processor time it took, so that other
work on the machine counts less, two by the clock. A rule is run up to five times, until that took three seconds.
Threads wait for the next pass, as in a daemon.
REPUTE is the daemon's whole merge without a holdout, whose cost is the model's and not the rule's.

Where numba is installed (extra [fast]) the rules that have compiled code are measured both ways, and that is the way
that is judged; a rule without a way in its name has one only. Compilation comes before the clock, and is a row itself.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
import tracemalloc
import venv
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib.util import find_spec
from math import exp, log
from pathlib import Path
from statistics import fmean
from threading import Timer

import numpy as np
import torch
from common import Row, main
from threadpoolctl import threadpool_limits

from quidnunc.gossip.learning.merge import merge
from quidnunc.gossip.learning.merged import Inputs
from quidnunc.gossip.reputation import FOUNDER
from quidnunc.gossip.rules import compiled
from quidnunc.gossip.rules.registry import RULES, apply
from quidnunc.gossip.rules.spans import crew

THREADS = (1, 2)
AT_LEAST = {"median": 30.0, "trimmed_mean": 30.0, "krum": 6.0, "multi_krum": 6.0, "geometric_median": 6.0}
"""Target ratios to ByzFL; median and trimmed mean up to k = 16."""
IN_ALL = 8.0
"""Target of the geometric mean of these ratios, over the rules that ByzFL has too."""
WAYS = {"numpy": sys.maxsize, "compiled": 0} if find_spec("numba") else {"numpy": sys.maxsize}
"""From how many elements of a stack on compiled code is used; the last is judged."""
MIXED = "nearest trimmed_mean"
BY_BOTH = {
    *("median", "trimmed_mean", "centered_clip", "clipped_gossip", "cs_plus", "monna", "rtc", "balance", "repute"),
    *("geometric_median", "krum", "multi_krum", "ios", MIXED),
}
"""The rules that have compiled code."""
NEAR_FLOOR = ("centered_clip", "clipped_gossip", "cs_plus", "rtc", "repute")
FLOORS_MAX = 2.5
MEMORY_MAX = 0.25
MIXED_MAX_BYTES = 4 << 30
"""ByzFL's nearest-neighbor mixing holds k (k - f) d floats; where these are more it is not asked."""
PEER_MAX_S = 180
"""After so long ByzFL is not asked for the rest of its rules at a size."""
TIMES, TIMES_MAX_S = 5, 3.0
PEER = """
import json, sys, time
sys.path.insert(0, sys.argv[1])
import numpy as np, torch
from make_rule_vectors import load
rules, before = load("byzfl.aggregators.aggregators"), load("byzfl.aggregators.preaggregators")
k, d, threads, mixed = (int(each) for each in sys.argv[2:])
torch.set_num_threads(threads)
stack = torch.from_numpy(np.random.Generator(np.random.PCG64(0)).standard_normal((k, d), dtype=np.float32))
f = k // 4
named = {"mean": rules.Average(), "median": rules.Median(), "trimmed_mean": rules.TrMean(f=f),
         "krum": rules.Krum(f=f), "multi_krum": rules.MultiKrum(f=f),
         "geometric_median": rules.GeometricMedian(nu=0.1, T=3),
         "centered_clip": rules.CenteredClipping(m=None, L=1, tau=1.0)}
if mixed:
    nearest, trimmed = before.NNM(f=f), rules.TrMean(f=f)
    named["nearest trimmed_mean"] = lambda rows: trimmed(nearest(rows))
for name, rule in named.items():
    times, clock = [], time.process_time if threads == 1 else time.perf_counter
    for _ in range(1 if d > 10**6 else 2):
        at = clock(); rule(stack); times.append(clock() - at)
    print(json.dumps([name, min(times)]), flush=True)
"""


def options(name: str, k: int) -> dict[str, float]:
    known = {"bad": k // 4, "mass": 0.25, "steps": 3.0 if name == "geometric_median" else 1.0, "radius": 1.0}
    wanted = {key: value for key, value in known.items() if key in RULES[name].parameters}
    return wanted | ({"floor": 0.1} if name == "geometric_median" else {})


def actions(stack: np.ndarray) -> dict[str, Callable[[], object]]:
    """How each rule merges ``stack`` [k, d], by name."""
    k = len(stack)
    weights = np.full(k, 1 / k)
    found: dict[str, Callable[[], object]] = {
        name: lambda name=name: apply(name, stack, weights, options(name, k)) for name in RULES
    }
    found[MIXED] = lambda: apply("trimmed_mean", stack, weights, {"bad": k // 4, "nearest": k // 4})
    near = k - 1
    inputs = Inputs(stack[1:], [10**9 // k] * near, [FOUNDER] * near, [True] * near)
    found["repute"] = lambda: merge("repute", stack[0], inputs, None, {})
    return found


def once(action: Callable[[], object]) -> float:
    """The processor time of one run."""
    at = time.process_time()
    action()
    return time.process_time() - at


def best(action: Callable[[], object], threads: int) -> float:
    """The seconds of the fastest of TIMES runs, or of as many as TIMES_MAX_S allow."""
    clock = time.process_time if threads == 1 else time.perf_counter
    found: list[float] = []
    while len(found) < TIMES and sum(found) < TIMES_MAX_S:
        at = clock()
        action()
        found.append(clock() - at)
    return min(found)


def peak(action: Callable[[], object]) -> int:
    """The most bytes that ``action`` held at a time, its result included."""
    tracemalloc.start()
    action()
    found = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return found


def install(home: Path) -> tuple[str, str]:
    """The interpreter that has ByzFL, and why there is none."""
    venv.create(home, with_pip=True)
    python = home / "bin" / "python"
    site = next((home / "lib").glob("python*/site-packages"))
    (site / "borrowed.pth").write_text("\n".join(part for part in sys.path if part.endswith("site-packages")) + "\n")
    command = [python, "-m", "pip", "install", "--quiet", "--no-deps", "byzfl==0.0.11"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return (str(python), "") if done.returncode == 0 else ("", "byzfl could not be installed")


def peer(python: str, k: int, d: int, threads: int) -> dict[str, float]:
    tools = str(Path(__file__).resolve().parent.parent / "tools")
    mixed = 4 * k * (k - k // 4) * d <= MIXED_MAX_BYTES
    command = [python, "-c", PEER, tools, *(str(int(each)) for each in (k, d, threads, mixed))]
    one = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), str(threads))
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | one) as asked:
        assert asked.stdout is not None
        until = Timer(PEER_MAX_S, asked.kill)
        until.start()
        found = dict(json.loads(line) for line in asked.stdout if line.endswith("]\n"))
        until.cancel()
    return found


@contextmanager
def going(way: str) -> Iterator[None]:
    """Merges go by this way of WAYS."""
    before, compiled.LEAST_ELEMENTS = compiled.LEAST_ELEMENTS, WAYS[way]
    try:
        yield
    finally:
        compiled.LEAST_ELEMENTS = before


def cell(k: int, d: int, threads: int, python: str, why: str) -> list[Row]:
    """Every rule at one size, on some threads."""
    stack = np.random.Generator(np.random.PCG64(0)).standard_normal((k, d), dtype=np.float32)
    at, rows = f"k={k} d={d:.0e} threads={threads}", []
    theirs = peer(python, k, d, threads) if python else {}
    torch.set_num_threads(threads)
    with threadpool_limits(threads), ThreadPoolExecutor(threads) as pool, crew(pool):
        # The faster of two ways to read everything once: a sum, and a product that uses the threads.
        ones = np.ones(k, np.float32)
        floor = min(best(action, threads) for action in (lambda: np.add.reduce(stack, axis=None), lambda: ones @ stack))
        rows.append(Row(f"one read, {at}", 1000 * floor, "ms"))
        seconds: dict[str, float] = {}
        for way in WAYS:
            with going(way):
                rows += by_one_way(way, stack, threads, floor, theirs, why, seconds)
    return rows


def by_one_way(
    way: str,
    stack: np.ndarray,
    threads: int,
    floor: float,
    theirs: dict[str, float],
    why: str,
    seconds: dict[str, float],
) -> list[Row]:
    """The rules at one size by one way; ``seconds`` has those that were measured by another and keeps what is found."""
    (k, d), rows, compiling = stack.shape, [], 0.0
    at, last = f"k={k} d={d:.0e} threads={threads}", way == list(WAYS)[-1]
    for name, action in actions(stack).items():
        both = name in BY_BOTH and len(WAYS) > 1
        if name in seconds and not both:
            continue
        first = once(action)
        seconds[name] = best(action, threads)
        compiling += max(0.0, first - seconds[name])
        judged = d == 10**6 and (last or not both)
        label, ours = f"{name}, {at}{f' {way}' if both else ''}", seconds[name]
        ratio = theirs[name] / ours if name in theirs else None
        least = AT_LEAST.get(name) if judged and (k <= 16 or AT_LEAST.get(name) != 30.0) else None
        if ratio is not None or least:
            rows.append(Row(label, ratio, "x ByzFL", at_least=least, note=why or f"{1000 * ours:.3g} ms"))
        most = FLOORS_MAX if judged and name in NEAR_FLOOR else None
        rows.append(Row(label, ours / floor, "x read", at_most=most, note=f"{1000 * ours:.3g} ms"))
        if threads == 1:
            most = MEMORY_MAX if judged else None
            rows.append(Row(f"{label}, extra memory", peak(action) / stack.nbytes, "x stack", at_most=most))
    ratios = [theirs[name] / ours for name, ours in seconds.items() if name in theirs]
    mean = exp(fmean(log(each) for each in ratios)) if ratios else None
    note = why or f"geometric mean of {len(ratios)}"
    label = f"all rules that ByzFL has, {at} {way}"
    rows.append(Row(label, mean, "x ByzFL", at_least=IN_ALL if last and d == 10**6 else None, note=note))
    if way == "compiled" and threads == 1:
        rows.append(Row(f"compilation, {at}", compiling, "s", note="what first calls took longer"))
    return rows


def measure(quick: bool) -> list[Row]:
    """All sizes; ``quick`` two small ones."""
    cells = [(k, 10**5) for k in (8, 16)] if quick else [(k, d) for d in (10**5, 10**6, 10**7) for k in (8, 16, 32)]
    with tempfile.TemporaryDirectory() as folder:
        python, why = install(Path(folder) / "byzfl")
        return [row for k, d in cells for threads in THREADS for row in cell(k, d, threads, python, why)]


if __name__ == "__main__":
    raise SystemExit(main(__doc__, measure))
