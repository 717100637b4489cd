"""Merge rules beside ByzFL and the time of one read of the stack, one thread.

Each rule at k = 8, 16, 32 and d = 1e5, 1e6, 1e7 (with --quick k = 8, 16 and d = 1e5). ByzFL is installed by name in a
virtual environment of its own and borrows numpy, torch and scipy from this one; it gets float32 torch tensors.
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
from collections.abc import Callable
from pathlib import Path

import numpy as np
from common import Row, main

from quidnunc.gossip.rules.registry import RULES, apply

ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
"""Read by the numeric libraries when they load, hence the second start."""
AT_LEAST = {"median": 30.0, "trimmed_mean": 30.0, "krum": 6.0, "multi_krum": 6.0, "geometric_median": 6.0}
"""Target ratios to ByzFL, at d = 1e6; median and trimmed mean up to k = 16."""
NEAR_FLOOR = ("centered_clip", "clipped_gossip", "cs_plus", "rtc")
PEER = """
import json, sys, time
sys.path.insert(0, sys.argv[1])
import numpy as np, torch
from make_rule_vectors import load
torch.set_num_threads(1)
rules, k, d = load("byzfl.aggregators.aggregators"), int(sys.argv[2]), int(sys.argv[3])
stack = torch.from_numpy(np.random.Generator(np.random.PCG64(0)).normal(size=(k, d)).astype(np.float32))
f, found = k // 4, {}
for name, rule in {"mean": rules.Average(), "median": rules.Median(), "trimmed_mean": rules.TrMean(f=f),
                   "krum": rules.Krum(f=f), "multi_krum": rules.MultiKrum(f=f),
                   "geometric_median": rules.GeometricMedian(nu=0.1, T=3)}.items():
    times = []
    for _ in range(2):
        at = time.perf_counter(); rule(stack); times.append(time.perf_counter() - at)
    found[name] = min(times)
print(json.dumps(found))
"""


def options(name: str, k: int) -> dict[str, float]:
    known = {"bad": k // 4, "mass": 0.25, "steps": 3.0 if name == "geometric_median" else 1.0, "radius": 1.0}
    wanted = {key: value for key, value in known.items() if key in RULES[name].parameters}
    return wanted | ({"floor": 0.1} if name == "geometric_median" else {})


def best(action: Callable[[], object], times: int = 3) -> float:
    found = []
    for _ in range(times):
        at = time.perf_counter()
        action()
        found.append(time.perf_counter() - at)
    return min(found)


def install(home: Path) -> tuple[str, str]:
    """The interpreter that has ByzFL, and why there is none."""
    venv.create(home, with_pip=True)
    python = home / "bin" / "python"
    site = next((home / "lib").glob("python*/site-packages"))
    (site / "borrowed.pth").write_text("\n".join(part for part in sys.path if part.endswith("site-packages")) + "\n")
    command = [python, "-m", "pip", "install", "--quiet", "--no-deps", "byzfl==0.0.11"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return (str(python), "") if done.returncode == 0 else ("", "byzfl could not be installed")


def peer(python: str, k: int, d: int) -> dict[str, float]:
    tools = str(Path(__file__).resolve().parent.parent / "tools")
    command = [python, "-c", PEER, tools, str(k), str(d)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    found: dict[str, float] = json.loads(done.stdout) if done.returncode == 0 else {}
    return found


def cell(k: int, d: int, python: str, why: str) -> list[Row]:
    stack = np.random.Generator(np.random.PCG64(0)).normal(size=(k, d)).astype(np.float32)
    weights, rows = np.full(k, 1 / k), []
    floor = best(lambda: np.add.reduce(stack, axis=None))
    theirs = peer(python, k, d) if python else {}
    rows.append(Row(f"one read, k={k} d={d:.0e}", 1000 * floor, "ms"))
    for name in RULES:
        chosen = options(name, k)
        ours = best(lambda name=name, chosen=chosen: apply(name, stack, weights, chosen))
        judged = d == 10**6
        if name in theirs:
            least = AT_LEAST.get(name) if judged and (k <= 16 or AT_LEAST.get(name) != 30.0) else None
            ratio = theirs[name] / ours
            rows.append(Row(f"{name}, k={k} d={d:.0e}", ratio, "x ByzFL", at_least=least, note=f"{1000 * ours:.3g} ms"))
        most = 2.5 if judged and name in NEAR_FLOOR else None
        rows.append(Row(f"{name}, k={k} d={d:.0e}", ours / floor, "x read", at_most=most, note=why))
        tracemalloc.start()
        apply(name, stack, weights, chosen)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        limit = 0.25 if judged else None
        rows.append(Row(f"{name}, k={k} d={d:.0e}, extra memory", peak / stack.nbytes, "x stack", at_most=limit))
    return rows


def measure(quick: bool) -> list[Row]:
    cells = [(k, 10**5) for k in (8, 16)] if quick else [(k, d) for d in (10**5, 10**6, 10**7) for k in (8, 16, 32)]
    with tempfile.TemporaryDirectory() as folder:
        python, why = install(Path(folder) / "byzfl")
        return [row for k, d in cells for row in cell(k, d, python, why)]


if __name__ == "__main__":
    if os.environ.get("OMP_NUM_THREADS") != "1":
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | ONE_THREAD)
    raise SystemExit(main(__doc__, measure))
