"""How far the simulator goes: 10,000 peers, memory by peers and params, real nodes in virtual time, churn, a split.

Each run is ``quidnunc sim run`` in a process of its own; memory is the most that it had resident. Memory is fitted by a
constant, one term in n x d and one in n (examples), and drawn into ``build/simulator-memory.svg``. Churn and splits are
digits (softmax, 64 examples for each peer) over three seeds, in both engines, each held against the same seeds without
trouble. Half of the peers are lost for good half-way: beside it stands what it costs if they were never there. Where
labels are skewed (Dirichlet 0.5) they go with those who had them, which no protocol can make good: that row misses the
bound, which is judged where data are independent. The network is cut in two halves for ten rounds, and looked at five
rounds later. ``--quick`` has a tenth of the peers and one seed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from common import Row, main

from quidnunc.sim.report.axes import marks

ROOT = Path(__file__).resolve().parent.parent
SECONDS_MAX, GIB_MAX, NODES_SECONDS_MAX = 180.0, 4.0, 60.0
STRAIGHT_MIN = 0.99
"""The part of the variance of memory that a line must explain."""
COSTS_MAX, DISTANCE_MAX = 0.01, 1.2
SEEDS = [0, 1, 2]
DIGITS = {"examples": 64, "replacement": "always"}
TASK = {"alone": False, "data": DIGITS, "training": {"learning_rate": 0.3}, "topology": {"degree": 4}}
SPLIT_AT, SPLIT_ROUNDS, HEALED = 20, 10, 5


class Point(NamedTuple):
    """Memory of a run by its size."""

    peers: int
    dim: int
    mib: float


class Played(NamedTuple):
    """What a run took, and its records."""

    wall_s: float
    cpu_s: float
    rss_mib: float
    records: list[dict[str, Any]]

    def mean(self, name: str, round_: int = 0) -> float:
        """A column of round ``round_`` over the seeds; of the last round by default."""
        wanted = round_ or max(record["round"] for record in self.records)
        return float(np.mean([record[name] for record in self.records if record["round"] == wanted]))


def measure(quick: bool) -> list[Row]:
    """All rows."""
    return [*crowd(quick), *memory(quick), *nodes(quick), *churn(quick), *split(quick)]


def play(**table: Any) -> Played:
    """Run a scenario as a person would."""
    with tempfile.TemporaryDirectory() as folder:
        file, out = Path(folder) / "scenario.toml", Path(folder) / "run"
        file.write_text(_toml(TASK | table))
        begun = time.monotonic()
        command = [sys.executable, "-m", "quidnunc.peer", "sim", "run", str(file), "--out", str(out), "--quiet"]
        with (Path(folder) / "said").open("w+", encoding="utf-8") as said:
            one_thread = os.environ | {"OMP_NUM_THREADS": "1"}
            child = subprocess.Popen(command, stdout=said, stderr=said, env=one_thread)
            _, status, used = os.wait4(child.pid, 0)
            child.returncode = os.waitstatus_to_exitcode(status)
            wall_s = time.monotonic() - begun
            if child.returncode:
                said.seek(0)
                raise SystemExit(f"quidnunc sim run ended with code {child.returncode}: {said.read()[-400:]}")
        records = [json.loads(each) for each in (out / "metrics.jsonl").read_text().splitlines()]
    return Played(wall_s, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024, records)


def _toml(table: dict[str, Any]) -> str:
    """Inline tables all the way down; JSON's spelling of numbers, words and lists is TOML's."""

    def value(given: Any) -> str:
        if isinstance(given, dict):
            return "{" + ", ".join(f"{key} = {value(inner)}" for key, inner in given.items()) + "}"
        return json.dumps(given)

    return "\n".join(f"{key} = {value(given)}" for key, given in table.items())


def crowd(quick: bool) -> list[Row]:
    """10,000 peers, 100 rounds."""
    peers = 1_000 if quick else 10_000
    found = play(peers=peers, rounds=100, evaluate_every=50)
    title = f"softmax digits, {peers:,} peers, 100 rounds"
    return [
        Row(f"{title}: seconds", found.wall_s, "s", "of processor", found.cpu_s, at_most=SECONDS_MAX),
        Row(f"{title}: memory", found.rss_mib / 1024, "GiB", at_most=GIB_MAX),
        Row(f"{title}: accuracy", found.mean("accuracy_mean")),
    ]


def memory(quick: bool) -> list[Row]:
    """The most that runs of a few rounds had resident, by peers and params."""
    softmax, mlp = {"kind": "softmax"}, {"kind": "mlp", "hidden": [128]}
    sizes = [(1000, softmax, 650), (4000, softmax, 650), (16_000, softmax, 650)]
    sizes += [(count, mlp, 9610) for count in (500, 1000, 2000, 4000)]
    if quick:
        sizes = [(count // 4, model, dim) for count, model, dim in sizes]
    points = [
        Point(peers, dim, play(peers=peers, rounds=3, evaluate_every=3, model=m).rss_mib) for peers, m, dim in sizes
    ]
    terms = np.array([[1.0, p.peers * p.dim, p.peers] for p in points])
    found = np.array([p.mib for p in points])
    (base, by_param, by_peer), *_ = np.linalg.lstsq(terms, found, rcond=None)
    rest = found - terms @ np.array([base, by_param, by_peer])
    straight = 1 - float(np.square(rest).sum() / np.square(found - found.mean()).sum())
    picture = ROOT / "build" / "simulator-memory.svg"
    picture.parent.mkdir(exist_ok=True)
    picture.write_text(_drawn(points, lambda n, dim: base + by_param * n * dim + by_peer * n))
    return [
        Row("memory: part explained by base + a n d + b n", straight, at_least=STRAIGHT_MIN),
        Row("memory: bytes for each param of each peer", by_param * 2**20, "B", "float32", 4.0),
        Row("memory: each peer besides its params", by_peer * 2**10, "KiB", "64 examples", 64 * 65 * 4 / 1024),
        Row("memory: what is there without peers", base, "MiB"),
    ]


def _drawn(points: list[Point], fitted: Callable[[float, int], float]) -> str:
    """The points and what was fitted through them, as a picture that stands alone."""
    width, height, left, bottom = 560, 270, 64, 48
    most_x, most_y = 1.05 * max(p.peers * p.dim for p in points), 1.1 * max(p.mib for p in points)

    def x(value: float) -> float:
        return round(left + value / most_x * (width - left - 24), 1)

    def y(value: float) -> float:
        return round(height - bottom - value / most_y * (height - bottom - 24), 1)

    def words(at: tuple[float, float], what: str, anchor: str) -> str:
        return f'<text x="{at[0]}" y="{at[1]}" text-anchor="{anchor}">{what}</text>'

    parts = [f'<path d="M{x(0)} {y(most_y)}V{y(0)}H{x(most_x)}" fill="none" stroke="#444"/>']
    for dim, color in zip(sorted({p.dim for p in points}), ("#d55e00", "#0072b2"), strict=True):
        ours = [p for p in points if p.dim == dim]
        most = max(p.peers for p in ours)
        ends = f"M{x(0)} {y(fitted(0, dim))}L{x(most * dim)} {y(fitted(most, dim))}"
        parts.append(f'<path d="{ends}" fill="none" stroke="{color}"/>')
        parts += [f'<circle cx="{x(p.peers * dim)}" cy="{y(p.mib)}" r="4" fill="{color}"/>' for p in ours]
        parts.append(words((x(most * dim) - 8, y(fitted(most, dim)) - 10), f"{dim:,} params", "end"))
    parts += [words((x(n), height - 30), f"{n / 1e6:.0f}", "middle") for n in marks(0, most_x, 5)]
    parts += [words((left - 6, y(mib) + 4), f"{mib:,.0f}", "end") for mib in marks(0, most_y, 5)]
    parts.append(words(((left + width) / 2, height - 10), "peers x params, millions", "middle"))
    parts.append(words((left + 8, 14), "most MiB resident", "start"))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        'font-family="sans-serif" font-size="12"><title>Memory of the batched engine by peers x params</title>'
        f'<rect width="{width}" height="{height}" fill="#fff"/>{"".join(parts)}</svg>\n'
    )


def nodes(quick: bool) -> list[Row]:
    """Real nodes with signatures and ledgers."""
    peers, rounds = (16, 20) if quick else (64, 50)
    found = play(
        peers=peers, rounds=rounds, evaluate_every=rounds, conditions={"loss": 0.1}, engine={"kind": "protocol"}
    )
    title = f"real nodes, {peers} peers, {rounds} rounds, a tenth of the messages lost"
    return [
        Row(f"{title}: seconds", found.wall_s, "s", "of processor", found.cpu_s, at_most=NODES_SECONDS_MAX),
        Row(f"{title}: memory", found.rss_mib, "MiB"),
        Row(f"{title}: accuracy", found.mean("accuracy_mean")),
        Row(f"{title}: ledger entries", found.mean("ledger_entries")),
    ]


def engines(quick: bool) -> list[tuple[str, dict[str, Any]]]:
    """Both engines, and the size at which each is tried."""
    seeds = SEEDS[:1] if quick else SEEDS
    nodes = {"seeds": seeds, "engine": {"kind": "protocol"}, "peers": 16}
    return [("batched, 64 peers", {"seeds": seeds, "peers": 64}), ("real nodes, 16 peers", nodes)]


def churn(quick: bool) -> list[Row]:
    """Half of the peers lost half-way, beside the same half never having been there."""
    rows = []
    for title, table in engines(quick):
        for split, data in (("iid", {"partition": "iid"}), ("Dirichlet 0.5 (labels go with them)", {})):
            shape = table | {"rounds": 80, "evaluate_every": 80, "data": DIGITS | data, "topology": {"degree": 6}}
            calm = play(**shape).mean("accuracy_mean")
            left = play(conditions={"die": 0.5, "die_at": 40}, **shape).mean("accuracy_mean")
            # Nodes would wait: a charter's first round is that of all neighbors.
            never = None
            if "engine" not in table:
                never = calm - play(conditions={"die": 0.5}, **shape).mean("accuracy_mean")
            name = f"half of the peers lost, {title}, {split}: accuracy lost"
            rows.append(Row(name, calm - left, "", "had they never been there", never, at_most=COSTS_MAX))
    return rows


def split(quick: bool) -> list[Row]:
    """Two halves for ten rounds, five rounds after."""
    rows, end = [], SPLIT_AT + SPLIT_ROUNDS
    apart = {"split": 2, "split_at": SPLIT_AT, "split_rounds": SPLIT_ROUNDS}
    for title, table in engines(quick):
        calm = play(rounds=end + HEALED, evaluate_every=5, **table)
        torn = play(rounds=end + HEALED, evaluate_every=5, conditions=apart, **table)
        far, then = (
            torn.mean("consensus_distance", at) / calm.mean("consensus_distance", at) for at in (end + HEALED, end)
        )
        cost = calm.mean("accuracy_mean") - torn.mean("accuracy_mean")
        name = f"{HEALED} rounds after {SPLIT_ROUNDS} in two halves, {title}"
        rows += [
            Row(f"{name}: distance over that of a whole", far, "x", "at its end", then, at_most=DISTANCE_MAX),
            Row(f"{name}: accuracy lost", cost, "", "whole", calm.mean("accuracy_mean")),
        ]
    return rows


if __name__ == "__main__":
    raise SystemExit(main(__doc__, measure))
