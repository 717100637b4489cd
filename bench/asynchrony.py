"""Rounds without a barrier: the acceptance numbers of asynchronous learning, each beside the same run without the rule.

The real node in virtual time: 16 peers on a random 6-regular graph, digits with Dirichlet(0.5) label skew, training
takes 1 to 5 virtual seconds (log-spaced), messages take 0.02 s + Exp(0.2 s) and 20% of them are lost, unless the row
says otherwise. A run lasts as long as 150 rounds per peer take on average. Accuracy is the mean over the last tenth of
the time, over all peers and over two seeds; "worst" is the worst peer of the worse seed. ``--quick``: 7 peers, 1 seed.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

import numpy as np
import torch
from common import Row, main

from quidnunc.crypto.noise import NoiseStream
from quidnunc.gossip import rounds
from quidnunc.gossip.learning import compute
from quidnunc.gossip.learning.codec import Vector
from quidnunc.gossip.learning.collusion import little_is_enough
from quidnunc.gossip.neighbor import Neighbor, usable
from quidnunc.gossip.rounds import Phase
from quidnunc.gossip.settings import Settings
from quidnunc.gossip.task import Training
from quidnunc.sim.federation import Scenario
from quidnunc.sim.network import Link
from quidnunc.sim.trials import (
    PACE,
    Audit,
    accuracy,
    begin,
    crash,
    digits_trial,
    finish,
    mean_param,
    params,
    quadratic,
    start,
    time_for,
    updates,
)
from quidnunc.sim.world import World

Values = tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Size:
    """How large the trials are: peers, average rounds per peer, seeds; ``dead``, ``joiner`` and ``bad`` are indices."""

    peers: int
    rounds: int
    seeds: int
    dead: tuple[int, int]
    joiner: int
    bad: tuple[int, ...]


FULL = Size(peers=16, rounds=150, seeds=2, dead=(3, 9), joiner=8, bad=(2, 7, 12))
QUICK = Size(peers=7, rounds=150, seeds=1, dead=(2, 5), joiner=4, bad=(3,))
NO_WINDOW = replace(PACE, live_intervals=1e9)


# -- trials: (size, seed) -> numbers -----------------------------------------------------------------------------


def replicas(size: Size, seed: int) -> Values:
    """S1: wrong advances, advances, and snapshots among them."""
    audit = Audit()
    scenario = digits_trial(peers=size.peers, loss=0.5, model="softmax", learning_rate=0.5, seed=seed)
    until = time_for(scenario.periods_s, 1.6 * size.rounds if size.peers > 8 else 4.5 * size.rounds)
    first, *rest = size.bad
    happenings = [(0.2, crash(first)), (0.3, start(first)), (0.4, crash(*rest, 0)), (0.7, start(*rest, 0))]
    world = begin(scenario, until, happenings, hooks=audit.hooks())
    world.run(until)
    return float(audit.wrong), float(audit.advances), float(audit.snapshots)


def kernels(size: Size, seed: int) -> Values:
    """S1: shares of coordinates on which three kernels disagree, with power-of-two and with free scales."""
    generator = torch.Generator().manual_seed(seed)
    before = torch.randn(1_000_003, generator=generator)
    levels = torch.randint(-127, 128, before.shape, generator=generator, dtype=torch.int8).float()

    def differing(scale: float) -> float:
        plain = before + levels * scale
        fused = torch.add(before, levels, alpha=scale)
        wide = (before.double() + levels.double() * scale).float()
        return float(((plain != fused) | (plain != wide)).double().mean())

    return differing(2.0**-9), differing(0.002)


@contextmanager
def fresh_only() -> Iterator[None]:
    """Merge only replicas that advanced since the last merge: the rule that seems natural."""

    def fresh(neighbor: Neighbor, now: float, period: float, settings: Settings) -> bool:
        return neighbor.fresh and usable(neighbor, now, period, settings)

    rounds.usable = fresh
    try:
        yield
    finally:
        rounds.usable = usable


def fairness(size: Size, seed: int, *, ratio: float, drag_cap: float = 1.0) -> Values:
    """S3: where a tug of war between a fast and a slow half settles."""
    half = size.peers // 2
    scenario = Scenario(
        task=quadratic,
        training=Training(0.1, 0.0, 1, 1),
        peers=2 * half,
        rounds=1_000_000,
        periods_s=(1.0,) * half + (ratio,) * half,
        rule="mean",
        drag_cap=drag_cap,
        lead=0,
        link=Link(loss=0.2),
        settings=PACE,
        seed=seed,
    )
    world = begin(scenario, 0.0)
    world.run(40 * ratio)
    return (mean_param(world, 10, ratio),)


def fairness_fresh(size: Size, seed: int) -> Values:
    """S3, control."""
    with fresh_only():
        return fairness(size, seed, ratio=5.0)


def learning(size: Size, seed: int, *, lossy: float = 0.2, **others: Any) -> Values:
    """S4, S5: mean and worst accuracy."""
    scenario = digits_trial(peers=size.peers, loss=lossy, seed=seed, **others)
    until = time_for(scenario.periods_s, size.rounds)
    return finish(begin(scenario, until), until)[:2]


def dying(size: Size, seed: int, *, settings: Settings = PACE) -> Values:
    """S8: two peers die for good at 13%, equal speeds."""
    scenario = digits_trial(peers=size.peers, ratio=1.0, learning_rate=0.4, drag_cap=1.0, settings=settings, seed=seed)
    return finish(begin(scenario, size.rounds, [(0.13, crash(*size.dead))]), size.rounds)[:2]


def joining(size: Size, seed: int, *, settings: Settings = PACE) -> Values:
    """S9: accuracy of a genesis joiner half a round after its start, of its neighbors, and its time to start."""
    scenario = digits_trial(peers=size.peers, start="majority", settings=settings, seed=seed)
    half = time_for(scenario.periods_s, size.rounds / 2)
    world = begin(scenario, 2 * half, absent=(size.joiner,))
    world.run(half)
    world.start(size.joiner)
    joiner = world.peers[size.joiner]
    assert joiner.node is not None
    node = joiner.node
    world.run(half + 30, stop=lambda: node.rounds.phase not in (Phase.STARTING, Phase.ADOPTING))
    took = world.now - half
    world.run(world.now + 0.5 * joiner.period_s)
    near = [peer for peer in world.alive() if peer.log_id in node.neighbors]
    return accuracy(joiner), fmean(accuracy(peer) for peer in near), took


def attacked(size: Size, seed: int, *, attack: str = "", rule: str = "repute") -> Values:
    """S10: mean and worst accuracy of honest peers."""
    bad = size.bad if attack else ()
    scenario = digits_trial(
        peers=size.peers,
        learning_rate=0.4,
        drag_cap=1.5,
        rule=rule,
        attackers=dict.fromkeys(bad, attack),
        seed=seed,
    )
    until = time_for(scenario.periods_s, size.rounds)
    honest = [index for index in range(size.peers) if index not in bad]
    return finish(begin(scenario, until), until, honest)[:2]


def colluding(size: Size, seed: int) -> Values:
    """S10 under ALIE: attackers see what all honest peers hold when they publish, and stay 1.5 deviations off."""
    held: list[World] = []

    def message(trained: Vector, base: Vector, stream: NoiseStream) -> Vector:
        honest = [params(peer) for peer in held[0].alive() if peer.index not in size.bad]
        return little_is_enough(np.stack(honest), 1.5)

    scenario = digits_trial(
        peers=size.peers,
        learning_rate=0.4,
        drag_cap=1.5,
        rule="repute",
        attackers=dict.fromkeys(size.bad, "drift"),
        seed=seed,
    )
    until = time_for(scenario.periods_s, size.rounds)
    honest = [index for index in range(size.peers) if index not in size.bad]
    usual = compute.attack_in
    compute.attack_in = lambda name, number: message if name else None
    try:
        held.append(begin(scenario, until))
        return finish(held[0], until, honest)[:2]
    finally:
        compute.attack_in = usual


def silenced(size: Size, seed: int, *, settings: Settings = PACE) -> Values:
    """S14: attackers drift away and fall silent for good at 30%; mean and worst accuracy of honest peers."""
    scenario = digits_trial(peers=size.peers, attackers=dict.fromkeys(size.bad, "drift"), settings=settings, seed=seed)
    until = time_for(scenario.periods_s, size.rounds)
    honest = [index for index in range(size.peers) if index not in size.bad]
    return finish(begin(scenario, until, [(0.3, crash(*size.bad))]), until, honest)[:2]


def private(size: Size, seed: int, *, lead: int, ratio: float = 5.0, lossy: float = 0.2) -> Values:
    """S11: mean and worst accuracy after 50 private rounds at epsilon 8, and the fewest rounds a peer has done."""
    scenario = digits_trial(
        peers=size.peers,
        ratio=ratio,
        loss=lossy,
        model="softmax",
        learning_rate=3.0,
        epsilon=8.0,
        rounds=50,
        lead=lead,
        seed=seed,
    )
    until = 50 * ratio + 62
    world = begin(scenario, until)
    mean, worst, _ = finish(world, until)
    return mean, worst, float(min(peer.node.rounds.trained for peer in world.alive() if peer.node is not None))


def bounded(size: Size, seed: int, *, lossy: float = 0.2, dead: bool = False, lead: int = 2) -> Values:
    """S12: updates of all peers, as a share of free running."""
    scenario = digits_trial(
        peers=size.peers, loss=lossy, model="softmax", learning_rate=0.5, drag_cap=1.0, lead=lead, seed=seed
    )
    until = time_for(scenario.periods_s, size.rounds)
    world = begin(scenario, until, [(0.13, crash(*size.dead))] if dead else [])
    world.run(until)
    return (updates(world) / (size.peers * size.rounds) * 2400,)


Trial = tuple[Callable[..., Values], dict[str, Any]]
TRIALS: dict[str, Trial] = {
    "replicas": (replicas, {}),
    "kernels": (kernels, {}),
    "fair 5": (fairness, {"ratio": 5.0}),
    "fair 20": (fairness, {"ratio": 20.0}),
    "fair 5 k": (fairness, {"ratio": 5.0, "drag_cap": 3.0}),
    "fair fresh": (fairness_fresh, {}),
    "p .2": (learning, {}),
    "p .2 plain": (learning, {"drag_cap": 1.0}),
    "p 0": (learning, {"lossy": 0.0}),
    "p .5": (learning, {"lossy": 0.5}),
    "p 0 plain": (learning, {"lossy": 0.0, "drag_cap": 1.0}),
    "p .5 plain": (learning, {"lossy": 0.5, "drag_cap": 1.0}),
    "dead": (dying, {}),
    "dead anchors": (dying, {"settings": NO_WINDOW}),
    "join": (joining, {}),
    "join keeping": (joining, {"settings": replace(PACE, absent_rounds=1_000_000)}),
    "clean": (attacked, {}),
    "flip": (attacked, {"attack": "sign_flip"}),
    "flip bare": (attacked, {"attack": "sign_flip", "rule": "mean"}),
    "drift": (attacked, {"attack": "drift"}),
    "alie": (colluding, {}),
    "silent": (silenced, {}),
    "silent anchors": (silenced, {"settings": NO_WINDOW}),
    "dp lead": (private, {"lead": 2}),
    "dp free": (private, {"lead": 0}),
    "dp level": (private, {"lead": 1, "ratio": 1.0, "lossy": 0.0}),
    "lead dead": (bounded, {"dead": True}),
    "lead p .5": (bounded, {"lossy": 0.5}),
}
SLOW = {"fair 20", "p 0 plain", "clean", "drift", "alie", "silent", "silent anchors", "lead dead"}
"""Left out by --quick."""


def run_trial(name: str, size: Size, seed: int) -> Values:
    """One trial, in a process of its own."""
    torch.set_num_threads(1)
    trial, others = TRIALS[name]
    return trial(size, seed, **others)


def measure(quick: bool) -> list[Row]:
    """Run all trials on all cores, then put them into rows."""
    size = QUICK if quick else FULL
    names = [name for name in TRIALS if not (quick and name in SLOW)]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with ProcessPoolExecutor(max_workers=cores) as pool:
        jobs = {name: [pool.submit(run_trial, name, size, seed) for seed in range(size.seeds)] for name in names}
        results: dict[str, list[Values]] = {}
        for name, futures in jobs.items():
            results[name] = [future.result() for future in futures]
            print(f"{name}: {results[name]}", file=sys.stderr)
    return rows(Results(results))


class Results:
    """Trial results by name; what was left out is None."""

    def __init__(self, results: dict[str, list[Values]]) -> None:
        self._results = results

    def mean(self, name: str, column: int = 0) -> float | None:
        """Mean over seeds."""
        found = self._results.get(name)
        return None if found is None else fmean(values[column] for values in found)

    def worst(self, name: str, column: int = 1) -> float | None:
        """Smallest over seeds."""
        found = self._results.get(name)
        return None if found is None else min(values[column] for values in found)

    def largest(self, name: str, column: int = 0) -> float | None:
        """Largest absolute value over seeds."""
        found = self._results.get(name)
        return None if found is None else max(abs(values[column]) for values in found)

    def fall(self, high: str, low: str, column: int = 0) -> float | None:
        """By how much the mean falls from one trial to another."""
        a, b = self.mean(high, column), self.mean(low, column)
        return None if a is None or b is None else a - b


def rows(got: Results) -> list[Row]:
    """The acceptance table."""
    table = [*bit_rows(got), *fairness_rows(got), *learning_rows(got), *attack_rows(got), *lead_rows(got)]
    return [row for row in table if row.value is not None]


def bit_rows(got: Results) -> Sequence[Row]:
    """S1."""
    free = got.mean("kernels", 1)
    return (
        Row("S1 replica advances unlike the signed hash, p .5, 5x, crashes", got.largest("replicas"), "", at_most=0),
        Row("S1 advances compared", got.worst("replicas"), "", at_least=10_000),
        Row("S1 coordinates on which kernels disagree", got.mean("kernels"), "", "free scale", free, at_most=0),
    )


def fairness_rows(got: Results) -> Sequence[Row]:
    """S3."""
    fresh = got.largest("fair fresh")
    name = "S3 bias toward fast peers (0 fair, 1 slow ones ignored)"
    return (
        Row(f"{name}, 5x", got.largest("fair 5"), "", "fresh only", fresh, at_most=0.02),
        Row(f"{name}, 20x", got.largest("fair 20"), "", at_most=0.02),
        Row(f"{name}, 5x, compensated", got.largest("fair 5 k"), "", "fresh only", fresh),
    )


def learning_rows(got: Results) -> Sequence[Row]:
    """S4, S5, S8, S9."""
    cost = got.fall("p 0 plain", "p .5 plain")
    if cost is None:
        cost = got.fall("p 0", "p .5 plain")
    kept = got.mean("join keeping")
    return (
        Row("S4 accuracy, p .2", got.mean("p .2"), "", "uncompensated", got.mean("p .2 plain"), at_least=0.925),
        Row("S4 worst peer", got.worst("p .2"), "", "uncompensated", got.worst("p .2 plain"), at_least=0.90),
        Row("S5 accuracy lost from p 0 to p .5", got.fall("p 0", "p .5"), "", "uncompensated", cost, at_most=0.02),
        Row("S8 accuracy, two dead, 1x", got.mean("dead"), "", "no window", got.mean("dead anchors"), at_least=0.93),
        Row("S9 joiner after half a round", got.mean("join"), "", "keeps its own", kept),
        Row("S9 joiner behind its neighbors", _behind(got), "", at_most=0.03),
        Row("S9 time to fetch and adopt", got.mean("join", 2), "virtual s"),
    )


def _behind(got: Results) -> float | None:
    joined, near = got.mean("join"), got.mean("join", 1)
    return None if joined is None or near is None else near - joined


def attack_rows(got: Results) -> Sequence[Row]:
    """S10, S14."""
    bare = got.mean("flip bare")
    stale = got.mean("silent anchors")
    return (
        Row("S10 accuracy, REPUTE, nobody attacks", got.mean("clean"), "", at_least=0.92),
        Row("S10 accuracy, sign flip, plain mean: the attack bites", bare, "", at_most=0.2),
        Row("S10 accuracy, sign flip", got.mean("flip"), "", "plain mean", bare, at_least=0.90),
        Row("S10 accuracy, ALIE", got.mean("alie"), "", at_least=0.91),
        Row("S10 accuracy, slow drift", got.mean("drift"), "", at_least=0.86),
        Row("S10 worst honest peer, sign flip", got.worst("flip"), "", at_least=0.80),
        Row("S10 worst honest peer, ALIE", got.worst("alie"), "", at_least=0.80),
        Row("S10 worst honest peer, slow drift", got.worst("drift"), "", at_least=0.80),
        Row("S10 worst peer, nobody attacks", got.worst("clean"), "", at_least=0.80),
        Row("S14 accuracy, the same with no window: the control", stale, "", at_most=0.89),
        Row("S14 accuracy, poison and silence from 30%", got.mean("silent"), "", "no window", stale, at_least=0.91),
    )


def lead_rows(got: Results) -> Sequence[Row]:
    """S11, S12."""
    free = got.mean("dp free")
    lag = got.fall("dp level", "dp lead")
    return (
        Row("S11 accuracy, epsilon 8, lead 2", got.mean("dp lead"), "", "free running", free, at_least=0.84),
        Row("S11 below equal speeds without loss", lag, "", at_most=0.03),
        Row("S11 fewest rounds done of 50", got.worst("dp lead", 2), "rounds", at_least=50),
        Row("S12 rounds of 2400, lead 2, two dead", got.mean("lead dead"), "rounds", at_least=800),
        Row("S12 rounds of 2400, lead 2, p .5", got.mean("lead p .5"), "rounds", at_least=600),
    )


if __name__ == "__main__":
    raise SystemExit(main(__doc__, measure))
