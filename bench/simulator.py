"""The batched engine beside gossipy 0.0.1 and a plain per-peer torch loop, on the same task, in the same run.

Small: MLP 64-32-10 on digits, 64 examples per peer with replacement, Dirichlet 0.5, random 4-regular (6 at 1,024).
Large, where MNIST-10k lies in $QUIDNUNC_TEST_DATA/mnist10k (or ../shared/data): MLP 784-128-10, 128 examples. Each
simulator runs on one thread in a process of its own and does the same rounds; ratios are of processor time, because
that is what a busy machine leaves comparable. gossipy gets a virtual environment of its own in build/, from PyPI; it
counts as not measured where it cannot be installed. The floor is the time of the round's matrix products at the best
rate measured here in their own shapes, features that are 0 in a whole batch (the margins of images) left out, plus one
copy of all params at the rate of memory. Mixing stands beside that copy alone. With numba mixing is compiled where all
peers have more than two million params together, and so are local steps of long runs; what making the code takes, some
seconds in the first round, is not counted.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np
import torch
from common import Row, main
from torch import nn

from quidnunc.gossip.learning.params import scoped_rng
from quidnunc.sim.data.pool import load_pool
from quidnunc.sim.data.shares import share_out
from quidnunc.sim.data.spec import DataSpec
from quidnunc.sim.topology.catalog import build_topology
from quidnunc.sim.topology.spec import TopologySpec

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / "build" / "gossipy-venv"
CONTESTANTS = ("ours", "loop", "gossipy")
RATE = 0.1


class Size(NamedTuple):
    """One task: its name, peers, degree, rounds, examples per peer, hidden units."""

    name: str
    peers: int
    degree: int
    rounds: int
    examples: int
    hidden: int


SMALL = tuple(Size("small", *numbers, 64, 32) for numbers in ((16, 4, 60), (64, 4, 40), (256, 4, 12), (1024, 6, 5)))
LARGE = tuple(Size("large", *numbers, 128, 128) for numbers in ((64, 4, 6), (256, 4, 3)))
QUICK = (Size("small", 16, 4, 20, 64, 32), Size("small", 64, 4, 8, 64, 32), Size("small", 256, 4, 3, 64, 32))


def measure(quick: bool) -> list[Row]:
    """All sizes; three seeds, one with --quick."""
    torch.set_num_threads(1)
    python = gossipy_python()
    seeds = (0,) if quick else (0, 1, 2)
    sizes = QUICK if quick else (*SMALL, *(LARGE if mnist() else ()))
    rows: list[Row] = []
    for size in sizes:
        used = []
        with tempfile.TemporaryDirectory() as folder:
            runs: dict[str, list[dict[str, float]]] = {which: [] for which in CONTESTANTS}
            for seed in seeds:
                file = Path(folder) / f"{seed}.npz"
                made = task(size, seed)
                used.append(used_features(made))
                np.savez(file, **made)
                for which in CONTESTANTS:
                    found = contest(which, file, size.rounds, seed, python)
                    if found is not None:
                        runs[which].append(found)
        rows += compared(size, runs, fmean(used))
    return rows


def mnist() -> Path | None:
    """Where the large task's images lie, if they do."""
    path = Path(os.environ.get("QUIDNUNC_TEST_DATA", ROOT.parent / "shared" / "data")) / "mnist10k"
    return path if path.is_dir() else None


def task(size: Size, seed: int) -> dict[str, Any]:
    """Everything a contestant needs."""
    spec = DataSpec(examples=size.examples, replacement="always")
    if size.name == "large":
        spec = DataSpec(source="images", path=str(mnist()), examples=size.examples, replacement="always")
    pool = load_pool(spec)
    shares = share_out(pool, spec, size.peers, seed)
    with scoped_rng(seed):
        net = nn.Sequential(nn.Linear(pool.features, size.hidden), nn.ReLU(), nn.Linear(size.hidden, pool.classes))
    return {
        "x": pool.inputs,
        "y": pool.labels,
        "tx": pool.test_inputs,
        "ty": pool.test_labels,
        "rows": np.stack(shares.rows),
        "edges": build_topology(TopologySpec(degree=size.degree), size.peers, seed).edges(),
        "sizes": np.array([pool.features, size.hidden, pool.classes]),
        **{f"p{at}": p.detach().numpy() for at, p in enumerate(net.parameters())},
    }


def contest(which: str, file: Path, rounds: int, seed: int, python: str | None) -> dict[str, float] | None:
    """One contestant's numbers; None where it could not run."""
    interpreter = python if which == "gossipy" else sys.executable
    if interpreter is None:
        return None
    script = str(Path(__file__).with_name("_simulator_peers.py"))
    done = subprocess.run(
        [interpreter, script, which, str(file), str(rounds), str(RATE), str(seed)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
    )
    if done.returncode:
        print(f"{which} failed: {done.stderr.strip().splitlines()[-1:]}", file=sys.stderr)
        return None
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def compared(size: Size, runs: dict[str, list[dict[str, float]]], used: float) -> list[Row]:
    """Rows of one size: time, ratios, distance to the floor, accuracy, memory; ``used`` as of :func:`floor`."""

    def mean(which: str, name: str) -> float | None:
        return fmean(run[name] for run in runs[which]) if runs[which] else None

    title = f"{size.name}, {size.peers:,} peers"
    cpu = mean("ours", "cpu_s")
    if cpu is None:
        return [Row(title, None, note="the engine failed")]
    least = floor(size, used)
    rows = [
        Row(f"{title}: ms per round", 1000 * (mean("ours", "wall_s") or 0), "ms", "floor", 1000 * least),
        Row(f"{title}: ms of processor per round", 1000 * cpu, "ms", "floor", 1000 * least),
        Row(f"{title}: peer-updates per second of processor", size.peers / cpu, "1/s"),
        Row(
            f"{title}: processor time over the floor",
            cpu / least,
            "x",
            at_most=(5.0 if size.name == "small" else 2.5) if size.peers >= 256 else None,
            note=f"of a batch's features {100 * used:.0f} % are not all 0",
        ),
    ]
    copied = 8 * params_of(size) / _copy()
    bound = 2.0 if size.name == "large" or size.peers >= 1024 else None
    mixing = mean("ours", "mixing_s")
    if mixing is not None:
        note = f"{1000 * mixing:.3g} ms, a copy {1000 * copied:.3g} ms"
        rows.append(Row(f"{title}: mixing over one copy of all params", mixing / copied, "x", at_most=bound, note=note))
        rate = _operations(size, used) / (cpu - mixing) / 1e9
        best = _gemm(shape(size)[0], size.hidden) / 1e9
        rows.append(Row(f"{title}: GFLOP/s of all but mixing", rate, "", "torch's best product", best))
    goals = {"small": {"gossipy": 60.0, "loop": 20.0}, "large": {"gossipy": 6.0, "loop": 3.5}}[size.name]
    for which in ("gossipy", "loop"):
        other = mean(which, "cpu_s")
        bound = goals[which] if size.name == "large" or size.peers >= 256 else None
        ratio = None if other is None else other / cpu
        note = "gossipy 0.0.1 is not installed" if which == "gossipy" and other is None else ""
        rows.append(
            Row(
                f"{title}: times as fast as {which}",
                ratio,
                "x",
                f"{which}, ms of processor",
                other and 1000 * other,
                at_least=bound,
                note=note,
            )
        )
    accuracy = mean("ours", "accuracy")
    for which in ("gossipy", "loop"):
        rows.append(Row(f"{title}: accuracy after {size.rounds} rounds", accuracy, "", which, mean(which, "accuracy")))
    rows.append(Row(f"{title}: memory", mean("ours", "rss_mib"), "MiB", "gossipy", mean("gossipy", "rss_mib")))
    return rows


def used_features(made: dict[str, Any]) -> float:
    """The share of features that are not 0 in all 32 examples of a batch, mean over everybody's batches."""
    batches = made["rows"].reshape(-1, 32)
    return fmean(float((made["x"][batch] != 0).any(0).mean()) for batch in batches[:512])


def floor(size: Size, used: float) -> float:
    """Seconds of a round at the machine's own rates: matrix products with ``used`` features, one copy of all params."""
    return _operations(size, used) / _gemm(shape(size)[0], size.hidden) + 8 * params_of(size) / _copy()


def _operations(size: Size, used: float) -> float:
    """Multiplications and additions of a round's matrix products."""
    inputs, classes = shape(size)
    return size.peers * size.examples * size.hidden * (4 * inputs * used + 6 * classes)


def shape(size: Size) -> tuple[int, int]:
    """Features and classes."""
    return (64, 10) if size.name == "small" else (784, 10)


def params_of(size: Size) -> int:
    """Params of all peers together."""
    inputs, classes = shape(size)
    return size.peers * (size.hidden * (inputs + 1) + classes * (size.hidden + 1))


def _gemm(inputs: int, hidden: int) -> float:
    """Best rate of batched products in the shape of the first layer, operations per second of processor."""
    count = 64 if inputs < 100 else 8
    weight, batch = torch.randn(count, hidden, inputs), torch.randn(count, inputs, 32)
    return 2 * count * hidden * inputs * 32 / _best(lambda: torch.bmm(weight, batch))


def _copy() -> float:
    """Best rate of memory, bytes read and written per second of processor."""
    source = torch.empty(16 << 20)
    target = torch.empty_like(source)
    return 8 * source.numel() / _best(lambda: target.copy_(source))


def _best(call: Callable[[], object]) -> float:
    call()
    best = float("inf")
    for _ in range(30):
        begun = time.process_time()
        call()
        best = min(best, time.process_time() - begun)
    return best


def gossipy_python() -> str | None:
    """The interpreter of an environment with gossipy 0.0.1, made at the first call; None where that fails.

    The environment sees this one's packages (torch, numpy, scikit-learn), so that all contestants use the same.
    """
    python = VENV / "bin" / "python"
    if not (VENV / "ready").exists():
        venv.create(VENV, with_pip=False, clear=True)
        (site,) = VENV.glob("lib/python*/site-packages")
        (site / "base.pth").write_text("\n".join(path for path in sys.path if path.endswith("site-packages")) + "\n")
        wanted = ["--no-deps", "--no-build-isolation", "--target", str(site), "gossipy-dfl==0.0.1"]
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *wanted]
        done = subprocess.run(pip, capture_output=True, text=True, check=False)
        if done.returncode:
            print(f"gossipy cannot be installed: {done.stderr.strip().splitlines()[-1:]}", file=sys.stderr)
            return None
        (VENV / "ready").touch()
    return str(python)


if __name__ == "__main__":
    raise SystemExit(main(__doc__, measure))
