"""What merge rules, attackers and privacy cost in the batched engine, beside plain averaging, on one thread.

Small: MLP 64-32-10 on digits, 80 examples per peer with replacement, 16 of them held out; random 4-regular. Large: MLP
784-128-10 on synthetic clouds, 128 examples, 26 held out. Milliseconds are of processor time per round, the median of
rounds and the middle of three seeds; what is compared takes turns round by round, so that a busy moment meets both. A
round is training, publishing and merging of everybody, and is what REPUTE's bound is about. "Merging" is the part of it
that is no training: for plain averaging one sparse product, which reads every state once. A rule that looks at what it
merges reads it once for each neighbor, and REPUTE evaluates it, too: that row says how much dearer, and has no bound.
Runs are planned for 1,000 rounds, or 10,000, of which the first are timed; where numba is installed that makes those of
1,024 small peers, of the large model and the long one compiled, whose rows say so. Making the code is not timed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any, NamedTuple

import torch
from common import Row, main

from quidnunc.sim.batched.compiled import insight_for
from quidnunc.sim.batched.engine import Engine
from quidnunc.sim.scenarios.prepare import prepare
from quidnunc.sim.scenarios.text import to_scenario

COSTS_MAX = 3.0
"""How many times a round of plain averaging one under REPUTE may take."""
PRIVACY_MAX = 2.0
LONG = 10_000
"""Rounds of a run that is compiled, of which the first ones are timed."""
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


class Times(NamedTuple):
    """Seconds of processor of a round, and of merging in it."""

    round: float
    merging: float


def measure(quick: bool) -> list[Row]:
    """Rules at 256 peers, REPUTE at other sizes, privacy, attackers."""
    torch.set_num_threads(1)
    rounds = 6 if quick else 20
    rows = []
    for rule in RULES:
        if rule != "mean":
            title = f"small, 256 peers, {rule}"
            rows += compared(title, scenario(256, rule), scenario(256, "mean"), rounds, bounded=rule == "repute")
    if not quick:
        long = [scenario(256, rule) | {"rounds": LONG} for rule in ("repute", "mean")]
        rows += compared("small, 256 peers, repute in a long run", long[0], long[1], rounds, bounded=True)
    alone, plain = scenario(256, "repute", holdout=0.0), scenario(256, "mean", holdout=0.0)
    rows += compared("small, 256 peers, repute without a holdout", alone, plain, rounds)
    for peers in () if quick else (64, 1024):
        given = scenario(peers, "repute"), scenario(peers, "mean")
        rows += compared(f"small, {peers:,} peers, repute", *given, rounds // 2, bounded=True)
    for peers in (64,) if quick else (64, 256):
        given = scenario(peers, "repute", large=True), scenario(peers, "mean", large=True)
        rows += compared(f"large, {peers:,} peers, repute", *given, 3 if quick else 6, bounded=True)
    rows += privacy(rounds)
    for attack in ("sign_flip", "alie", "optimized_ipm"):
        attacked = scenario(256, "mean", attack={"name": attack, "count": 16})
        rows += compared(f"small, 256 peers, mean, 16 attackers by {attack}", attacked, scenario(256, "mean"), rounds)
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


def timed(tables: Sequence[dict[str, Any]], rounds: int) -> list[Times]:
    """The middle of three seeds, for each of what takes turns."""
    seeds = [_timed(tables, rounds, seed) for seed in range(3)]
    return [Times(*(median(part) for part in zip(*each, strict=True))) for each in zip(*seeds, strict=True)]


def _timed(tables: Sequence[dict[str, Any]], rounds: int, seed: int) -> list[Times]:
    engines = [Engine(prepare(to_scenario(table), seed)) for table in tables]
    spent = [0.0]
    for engine in engines:
        engine._merger.merge = _counting(engine._merger.merge, spent)  # type: ignore[method-assign]
    found: list[list[Times]] = [[] for _ in engines]
    for number in range(rounds + 2):
        for engine, kept in zip(engines, found, strict=True):
            spent[0], begun = 0.0, time.process_time()
            engine.step()
            if number >= 2:
                kept.append(Times(time.process_time() - begun, spent[0]))
    return [Times(*(median(part) for part in zip(*each, strict=True))) for each in found]


def _counting(merge: Callable[..., Any], spent: list[float]) -> Callable[..., Any]:
    def counting(*args: Any) -> Any:
        begun = time.process_time()
        found = merge(*args)
        spent[0] += time.process_time() - begun
        return found

    return counting


def compared(
    title: str, table: dict[str, Any], plain: dict[str, Any], rounds: int, *, bounded: bool = False
) -> list[Row]:
    """Round and merging beside those of plain averaging."""
    bound = COSTS_MAX if bounded else None
    found, mean = timed((table, plain), rounds)
    return [
        Row(f"{title}: ms per round", 1000 * found.round, "ms", "mean", 1000 * mean.round),
        Row(f"{title}: ms of it for merging", 1000 * found.merging, "ms", "mean", 1000 * mean.merging),
        Row(f"{title}: round over that of the mean", found.round / mean.round, "x", at_most=bound, note=made_of(table)),
        Row(f"{title}: merging over that of the mean", found.merging / mean.merging, "x"),
    ]


def made_of(table: dict[str, Any]) -> str:
    """Whether both runs, which differ in their rule, train by compiled code; REPUTE then looks by it, too."""
    return "compiled" if insight_for(prepare(to_scenario(table), 0)) is not None else "by torch"


def privacy(rounds: int) -> list[Row]:
    """One full-batch step with clipping and noise beside the same step without."""
    plain = scenario(256, "mean") | {"training": {"local_steps": 1, "batch_size": 64}}
    private = plain | {"privacy": {"epsilon": 8.0}}
    with_noise, without = timed((private, plain), rounds)
    step, bare = with_noise.round - with_noise.merging, without.round - without.merging
    title = "small, 256 peers, DP-SGD: a full-batch step over one of SGD"
    return [Row(title, step / bare, "x", "ms of a step of SGD", 1000 * bare, at_most=PRIVACY_MAX)]


if __name__ == "__main__":
    raise SystemExit(main(__doc__, measure))
