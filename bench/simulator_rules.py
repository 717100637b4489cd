"""What merge rules, attackers and privacy cost in the batched engine, beside plain averaging, on one thread.

Small: MLP 64-32-10 on digits, 80 examples per peer with replacement, 16 of them held out; random 4-regular. Large: MLP
784-128-10 on synthetic clouds, 128 examples, 26 held out. Milliseconds are of processor time per round, the middle of
three seeds; a round is training, publishing and merging of everybody. "Merging" is the part of it that is no training:
for plain averaging one sparse product.
"""

from __future__ import annotations

import time
from statistics import median
from typing import Any

import torch
from common import Row, main

from quidnunc.sim.batched.engine import Engine
from quidnunc.sim.scenarios.prepare import prepare
from quidnunc.sim.scenarios.text import to_scenario

COSTS_MAX = 3.0
"""How many times plain averaging REPUTE may take."""
PRIVACY_MAX = 2.0
RULES: dict[str, dict[str, float]] = {
    "mean": {},
    "repute": {},
    "median": {},
    "trimmed_mean": {"bad": 1},
    "cs_plus": {"bad": 1},
    "monna": {"bad": 1},
    "ios": {"bad": 1},
    "krum": {"bad": 1},
    "geometric_median": {},
}
Times = tuple[float, float]
"""Seconds of processor per round, and of merging in it."""


def measure(quick: bool) -> list[Row]:
    """Rules at 256 peers, REPUTE at other sizes, privacy, attackers."""
    torch.set_num_threads(1)
    rounds = 6 if quick else 20
    rows = []
    mean = timed(scenario(256, "mean"), rounds)
    for rule in RULES:
        found = mean if rule == "mean" else timed(scenario(256, rule), rounds)
        rows += compared(f"small, 256 peers, {rule}", found, mean, bounded=rule == "repute")
    alone = timed(scenario(256, "repute", holdout=0.0), rounds)
    plain = timed(scenario(256, "mean", holdout=0.0), rounds)
    rows += compared("small, 256 peers, repute without a holdout", alone, plain)
    for peers in () if quick else (64, 1024):
        rows += compared(
            f"small, {peers:,} peers, repute",
            timed(scenario(peers, "repute"), rounds // 2),
            timed(scenario(peers, "mean"), rounds // 2),
            bounded=True,
        )
    for peers in (64,) if quick else (64, 256):
        rows += compared(
            f"large, {peers:,} peers, repute",
            timed(scenario(peers, "repute", large=True), 3),
            timed(scenario(peers, "mean", large=True), 3),
            bounded=True,
        )
    rows += privacy(rounds)
    for attack in ("sign_flip", "alie", "optimized_ipm"):
        found = timed(scenario(256, "mean", attack={"name": attack, "count": 16}), rounds)
        rows += compared(f"small, 256 peers, mean, 16 attackers by {attack}", found, mean)
    return rows


def scenario(
    peers: int, rule: str, *, holdout: float = 0.2, large: bool = False, attack: dict[str, Any] | None = None
) -> dict[str, Any]:
    """One task under one rule; what is held out is the same for all rules."""
    table: dict[str, Any] = {
        "peers": peers,
        "rounds": 1000,
        "data": {"examples": 80, "replacement": "always"},
        "model": {"kind": "mlp", "hidden": [32]},
        "topology": {"degree": 4},
        "merge": {"rule": rule, "options": RULES[rule], "holdout": holdout},
    }
    if large:
        table["data"] = {"source": "synthetic", "features": 784, "classes": 10, "pool": 8000, "examples": 128}
        table["data"]["replacement"] = "always"
        table["model"]["hidden"] = [128]
        table["training"] = {"local_steps": 4}
    if attack is not None:
        table["attack"] = {**attack, "beyond": True}
    return table


def timed(table: dict[str, Any], rounds: int) -> Times:
    """The middle of three seeds."""
    found = [_timed(table, rounds, seed) for seed in range(3)]
    return median(each[0] for each in found), median(each[1] for each in found)


def _timed(table: dict[str, Any], rounds: int, seed: int) -> Times:
    engine = Engine(prepare(to_scenario(table), seed))
    merge, spent = engine._merger.merge, [0.0]

    def counting(*args: Any) -> Any:
        begun = time.process_time()
        found = merge(*args)
        spent[0] += time.process_time() - begun
        return found

    engine._merger.merge = counting  # type: ignore[method-assign]
    for _ in range(2):
        engine.step()
    spent[0] = 0.0
    begun = time.process_time()
    for _ in range(rounds):
        engine.step()
    return (time.process_time() - begun) / rounds, spent[0] / rounds


def compared(title: str, found: Times, mean: Times, *, bounded: bool = False) -> list[Row]:
    """Round and merging beside those of plain averaging."""
    bound = COSTS_MAX if bounded else None
    return [
        Row(f"{title}: ms per round", 1000 * found[0], "ms", "mean", 1000 * mean[0]),
        Row(f"{title}: ms of it for merging", 1000 * found[1], "ms", "mean", 1000 * mean[1]),
        Row(f"{title}: round over that of the mean", found[0] / mean[0], "x", at_most=bound),
        Row(f"{title}: merging over that of the mean", found[1] / mean[1], "x", at_most=bound),
    ]


def privacy(rounds: int) -> list[Row]:
    """One full-batch step with clipping and noise beside the same step without."""
    plain = scenario(256, "mean") | {"training": {"local_steps": 1, "batch_size": 64}}
    private = plain | {"privacy": {"epsilon": 8.0}}
    with_noise, without = timed(private, rounds), timed(plain, rounds)
    step, bare = with_noise[0] - with_noise[1], without[0] - without[1]
    title = "small, 256 peers, DP-SGD: a full-batch step over one of SGD"
    return [Row(title, step / bare, "x", "ms of a step of SGD", 1000 * bare, at_most=PRIVACY_MAX)]


if __name__ == "__main__":
    raise SystemExit(main(__doc__, measure))
