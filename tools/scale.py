"""A sweep and a population on a real Ray cluster of two nodes on this machine, held against the same in one process.

Of the population one worker is killed on the way. Ray is no part of the tested installation: it is installed into
build/ray-venv, an environment that sees this one's packages. Both nodes are processes of their own with one processor
each; they are ended with this script. Ends with 0 where everything wrote the same bytes.
"""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / "build" / "ray-venv"
SWEEP = """
name = "scale"
peers = 64
rounds = 40
seeds = [0, 1]
[model]
kind = "mlp"
[merge]
holdout = 0.2
[sweep]
merge.rule = ["mean", "repute", "median"]
data.alpha = [0.1, 1.0]
"""
CROWD: dict[str, Any] = {
    "peers": 32,
    "rounds": 10,
    "evaluate_every": 2,
    "model": {"kind": "cnn"},
    "data": {"examples": 64, "replacement": "always"},
    "merge": {"rule": "repute"},
}
OBJECTS_BYTES = 100 << 20


def main() -> int:
    """Start the cluster, run everything twice, compare."""
    if importlib.util.find_spec("ray") is None:
        return subprocess.run([str(environment()), str(Path(__file__).resolve())], check=False).returncode
    from ray.cluster_utils import Cluster

    node = {"num_cpus": 1, "object_store_memory": OBJECTS_BYTES}
    cluster = Cluster(initialize_head=True, head_node_args=node | {"include_dashboard": False})
    try:
        cluster.add_node(**node)
        print(f"a cluster of {len(cluster.list_all_nodes())} nodes at {cluster.address}")
        with tempfile.TemporaryDirectory() as folder:
            same = [swept(Path(folder), cluster.address), crowd(Path(folder), cluster.address)]
    finally:
        cluster.shutdown()
    return 0 if all(same) else 1


def swept(folder: Path, address: str) -> bool:
    """Whole scenarios, each on one node: whether all wrote the same."""
    from quidnunc.sim.scenarios.sweep import read_sweep, sweep

    file = folder / "scale.toml"
    file.write_text(SWEEP)
    points = read_sweep(file, [])
    begun = time.monotonic()
    sweep(points, folder, folder / "alone")
    alone = time.monotonic()
    done = sweep(points, folder, folder / "cluster", ray=address)
    ended = time.monotonic()
    same = [metrics(folder / "alone" / p.name) == metrics(each.directory) for p, each in zip(points, done, strict=True)]
    print(f"{len(points)} scenarios: {alone - begun:.1f} s in one process, {ended - alone:.1f} s on the cluster")
    print(f"{sum(same)} of {len(same)} wrote the same metrics, byte for byte")
    return all(same) and not any(each.problem for each in done)


def crowd(folder: Path, address: str) -> bool:
    """One population over both nodes, one worker of which is killed half-way: whether it wrote the same."""
    from quidnunc.sim.scenarios.run import run

    killed: list[int] = []

    def kill(seed: int, number: int, record: dict[str, Any] | None) -> None:
        if number == CROWD["rounds"] // 2:
            killed.append(workers()[0])
            os.kill(killed[0], signal.SIGKILL)

    begun = time.monotonic()
    run(CROWD, out=folder / "one")
    alone = time.monotonic()
    run(CROWD, out=folder / "spread", ray=address, progress=kill)
    ended = time.monotonic()
    same = metrics(folder / "one") == metrics(folder / "spread")
    left = len(workers())
    print(f"{CROWD['peers']} peers: {alone - begun:.1f} s in one process, {ended - alone:.1f} s on the cluster")
    print(f"worker {killed[0]} killed; {'the same metrics, byte for byte' if same else 'OTHER METRICS'}; {left} left")
    return same and not left


def workers() -> list[int]:
    """The processes of the cluster in which a part of a population is, by what Ray calls them."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if file.read_bytes().startswith(b"ray::Station"):
                found.append(int(file.parent.name))
        except OSError:
            continue
    return sorted(found)


def metrics(directory: Path) -> bytes:
    """What a run measured."""
    return (directory / "metrics.jsonl").read_bytes()


def environment() -> Path:
    """The interpreter of an environment with Ray, made at the first call."""
    python = VENV / "bin" / "python"
    if not (VENV / "ready").exists():
        venv.create(VENV, with_pip=True, clear=True)
        subprocess.run(
            [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "ray"], check=True
        )
        (site,) = VENV.glob("lib/python*/site-packages")
        here = [path for path in sys.path if path.endswith("site-packages")]
        # As site directories, not only as paths: an editable installation is found by a file in one of them.
        (site / "base.pth").write_text("".join(f"import site; site.addsitedir({path!r})\n" for path in here))
        (VENV / "ready").touch()
    return python


if __name__ == "__main__":
    raise SystemExit(main())
