"""Accuracy against epsilon: alone, together and in one place, each beside the number it is held against.

Digits and breast cancer (softmax) among 8 peers on random 4-regular graphs, independent and Dirichlet 0.5, 50
releases on full batches at delta 1e-5, the default rule. Alone is every peer by itself with the same training and
privacy, central all training rows under one noise. Every column takes the best of some learning rates, as the study
behind the targets did, by rounds in step without a network (``_attack_trials.py``); that tuning is not accounted.
What stands as gossip are then the real nodes in virtual time, with int8 deltas, at the better of the two best rates in
step, and what is judged of them is the mean over eight seeds: three spread by a point, and one test row of breast
cancer is a third of one. Breast cancer is scaled by public ranges; one more column has it standardized by the pooled
training rows, for which nothing was paid: what those ranges cost under noise. The study's own numbers are the
baselines; the targets are its acceptance numbers (A9),
or else its table less .02, which is how far its runs spread.

Private sums are the real nodes as well, 8 peers that are all linked, with an epsilon against listeners and one curious
member, not against everybody: another promise than the other columns'. Their learning rate is the best of all rows in
one place under the noise that their mean has. They are to close half of the gap between gossip and central at epsilon 1
and 2 or, where there is none, to be no worse than central by more than runs spread: there they and central have eight
seeds as well. A last one has one of its peers killed half-way, for good.

Then the noise that the accountant asks for (A8), and privacy with attackers (A16). What an audit would find (A10 to
A12) is not measured here. ``--quick`` has the two ends of the scale of epsilon, independent data, one seed and two
learning rates, and takes about two minutes.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import combinations
from statistics import fmean

import torch
from _attack_trials import Trial, play
from common import Row, main

from quidnunc.crypto.noise import NoiseStream
from quidnunc.gossip.feasibility import feasibility
from quidnunc.gossip.federation.charter import MergeSpec, PrivacySpec
from quidnunc.gossip.jobs import PPM, Evaluated, EvaluateJob, PrivacyStep, Release
from quidnunc.gossip.learning.accountant import noise_for
from quidnunc.gossip.learning.builtin import BUILTIN, DEFAULTS
from quidnunc.gossip.learning.compute import top1
from quidnunc.gossip.learning.functional import Functional
from quidnunc.gossip.learning.params import build, to_vector
from quidnunc.gossip.learning.sampled import epsilon_sampled
from quidnunc.gossip.learning.trainer import train
from quidnunc.gossip.private_sum import calibrated
from quidnunc.gossip.task import Site, Task, Training
from quidnunc.sim.federation import Scenario
from quidnunc.sim.federation import build as founded
from quidnunc.sim.network import Link
from quidnunc.sim.topology.edges import draw
from quidnunc.sim.topology.spec import TopologySpec
from quidnunc.sim.trials import PACE

PEERS, DEGREE, ROUNDS = 8, 4, 50
EPSILONS = (8.0, 4.0, 2.0, 1.0)
SPLITS = {"iid": 100.0, "Dirichlet 0.5": 0.5}
RATES, QUICK_RATES = (2.0, 1.0, 0.7, 0.5, 0.25, 0.1), (1.0, 0.25)
"""Learning rates tried, as parts of the default one."""

STUDY: dict[tuple[str, str, str], tuple[float, float, float, float]] = {
    ("digits", "central", ""): (0.938, 0.930, 0.916, 0.890),
    ("digits", "alone", "iid"): (0.837, 0.712, 0.562, 0.343),
    ("digits", "gossip", "iid"): (0.923, 0.899, 0.830, 0.692),
    ("digits", "alone", "Dirichlet 0.5"): (0.507, 0.442, 0.344, 0.285),
    ("digits", "gossip", "Dirichlet 0.5"): (0.905, 0.874, 0.761, 0.594),
    ("breast-cancer", "central", ""): (0.974, 0.974, 0.968, 0.959),
    ("breast-cancer", "alone", "iid"): (0.942, 0.937, 0.916, 0.875),
    ("breast-cancer", "gossip", "iid"): (0.969, 0.959, 0.952, 0.941),
    ("breast-cancer", "gossip", "Dirichlet 0.5"): (0.947, 0.942, 0.925, 0.900),
}
"""Table 3.4 of the study, by epsilon as above."""
ACCEPTED = {
    ("digits", 8.0): 0.90,
    ("digits", 4.0): 0.87,
    ("digits", 2.0): 0.80,
    ("breast-cancer", 8.0): 0.955,
    ("breast-cancer", 4.0): 0.945,
    ("breast-cancer", 1.0): 0.925,
}
"""A9: gossip on independent data."""
SUMMED = {"digits": (0.945, 0.943, 0.919, 0.883), "breast-cancer": (0.978, 0.975, 0.965, 0.956)}
"""The same table's ideal secure sum, which has the noise of one place and trusts everybody."""
SPREAD = 0.02
MOMENTS = "central, pooled moments"
COLLUDERS = 1
PROXY, LOST = "rate of a private sum", "private sum, one of eight lost"
GAP = 0.01
"""Less than this between gossip and central is no gap."""
SUM_EPSILONS = (2.0, 1.0)
"""Where a private sum is to close half of the gap."""
MANY_SEEDS = 8
MANY = ", many seeds"
NOISE = {8.0: 4.24, 4.0: 7.64, 2.0: 14.1, 1.0: 26.4}


@dataclass(frozen=True, slots=True)
class Cell:
    """One training: which data, split how, under which epsilon, at which learning rate; ``how`` names the column."""

    task: str
    how: str
    split: str
    epsilon: float
    rate: float
    seed: int
    many: bool = False

    @property
    def training(self) -> Training:
        """The default private training at this learning rate."""
        training = DEFAULTS[self.task].private
        return replace(training, learning_rate=training.learning_rate * self.rate)

    @property
    def step(self) -> PrivacyStep:
        """The noise that the epsilon takes; in one place, for a private sum, that which its members' mean has."""
        if self.how == PROXY:
            noise = calibrated(self.epsilon, ROUNDS, 1e-5, PEERS - COLLUDERS).own_u / 1e6 * PEERS**0.5
        else:
            noise = noise_for(self.epsilon, ROUNDS, 1e-5)
        return PrivacyStep(DEFAULTS[self.task].clip, noise)

    @property
    def summed(self) -> bool:
        """Whether it is a private sum of real nodes."""
        return self.how in ("private sum", LOST)

    def tasks(self) -> list[Task]:
        """Every peer's data."""
        alpha = SPLITS.get(self.split, 1.0)
        return [BUILTIN[self.task](Site(index, PEERS, alpha, self.seed)) for index in range(PEERS)]


def accuracies(cell: Cell) -> list[float]:
    """Test accuracy of every peer; of the one model where there is one place."""
    if cell.how in ("nodes", "private sum", LOST):
        return together(cell)
    if cell.how == "gossip":
        return in_step(cell)
    tasks = cell.tasks()
    if cell.how.startswith("central") or cell.how == PROXY:
        rows = torch.cat([task.train[0] for task in tasks]), torch.cat([task.train[1] for task in tasks])
        tasks = [replace(tasks[0], train=rows)]
    if cell.how == MOMENTS:
        mean, deviation = rows[0].mean(0), rows[0].std(0)
        (train_in, train_out), (test_in, test_out) = tasks[0].train, tasks[0].test
        scaled = ((train_in - mean) / deviation, train_out), ((test_in - mean) / deviation, test_out)
        tasks = [replace(tasks[0], train=scaled[0], test=scaled[1])]
    return [alone(cell, task, index) for index, task in enumerate(tasks)]


def alone(cell: Cell, task: Task, index: int) -> float:
    """Test accuracy after the same releases on ``task`` by itself."""
    net = Functional(build(task, cell.seed), task)
    state, stream = to_vector(build(task, cell.seed)), NoiseStream(bytes([cell.seed, index]) * 16, b"bench")
    for number in range(ROUNDS):
        state, _ = train(net, task.train, state, cell.training, cell.step, stream.child(b"%d" % number))
    return top1(net.predict(state, task.test[0]), task.test[1])


def in_step(cell: Cell) -> list[float]:
    """Mean test accuracy after rounds in step, without a network."""
    trial = Trial("repute", attackers=0, peers=PEERS, degree=DEGREE, bad_near=0, task=cell.task, model="softmax")
    private = replace(trial, alpha=SPLITS[cell.split], rounds=ROUNDS, training=cell.training, epsilon=cell.epsilon)
    return [play(replace(private, seed=cell.seed)).mean]


def together(cell: Cell) -> list[float]:
    """Test accuracy of every peer when all have trained their rounds."""
    spec = TopologySpec(kind="random-regular", degree=DEGREE)
    drawn = combinations(range(PEERS), 2) if cell.summed else draw(spec, PEERS, cell.seed).tolist()
    edges = sorted((min(pair), max(pair)) for pair in drawn)
    world = founded(
        Scenario(
            task=BUILTIN[cell.task],
            reference=cell.task,
            training=cell.training,
            peers=PEERS,
            alpha=SPLITS[cell.split],
            rounds=ROUNDS,
            edges=tuple((a, b) for a, b in edges),
            epsilon=cell.epsilon,
            clip=DEFAULTS[cell.task].clip,
            colluders=COLLUDERS if cell.summed else 0,
            rule="mean" if cell.summed else "repute",
            link=Link(0.05, 0.05),
            settings=PACE,
            seed=cell.seed,
        )
    )
    for peer in world.peers:
        world.start(peer.index)
    if cell.how == LOST:
        world.at(ROUNDS / 2, lambda: world.crash(PEERS - 1))
        world.run(ROUNDS / 2)
    world.run(10 * ROUNDS, stop=lambda: all(p.node is not None and p.node.rounds.finished for p in world.alive()))
    world.run(world.now + 5)
    found = []
    for peer in world.alive():
        assert peer.node is not None
        measured = peer.worker(EvaluateJob(0, peer.node.rounds.base))
        assert isinstance(measured, Evaluated), measured
        found.append(measured.accuracy)
    return found


def cells(quick: bool) -> Iterator[Cell]:
    """All trainings in step; ``quick`` has one seed, the ends of both scales and independent data."""
    for task in sorted(BUILTIN):
        for epsilon in (EPSILONS[0], EPSILONS[-1]) if quick else EPSILONS:
            for rate in QUICK_RATES if quick else RATES:
                for seed in range(1 if quick else 3):
                    yield Cell(task, "central", "", epsilon, rate, seed)
                    yield Cell(task, PROXY, "", epsilon, rate, seed)
                    if task == "breast-cancer":
                        yield Cell(task, MOMENTS, "", epsilon, rate, seed)
                    for split in ("iid",) if quick else SPLITS:
                        yield Cell(task, "alone", split, epsilon, rate, seed)
                        yield Cell(task, "gossip", split, epsilon, rate, seed)


@dataclass(frozen=True, slots=True)
class Best:
    """A column at its best learning rate: the mean over peers and seeds, and the worst peer's mean."""

    mean: float
    worst: float
    rate: float


Measured = dict[tuple[str, str, str, float], Best]


def measured(quick: bool) -> Measured:
    """Every column of every cell, on all cores, a single thread each."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(len(os.sched_getaffinity(0)), torch.set_num_threads, (1,)) as pool:
        tuned = list(cells(quick))
        told = pool.map(accuracies, tuned, 1)
        best = chosen(tuned, told)
        rates = {place: found.rate for place, found in best.items()}
        close = two_best(tuned, told)
        tried = [replace(cell, how="nodes") for cell in tuned if (_place(cell), cell.rate) in close]
        told = pool.map(accuracies, tried, 1)
        rates |= {place: found.rate for place, found in chosen(tried, told).items()}
        kept = [(cell, one) for cell, one in zip(tried, told, strict=True) if rates[_place(cell)] == cell.rate]
        nodes = [cell for cell, _ in kept]
        sums = [
            replace(cell, how=how, rate=rates[cell.task, PROXY, "", cell.epsilon])
            for cell in nodes
            for how in ("private sum", LOST)
            if how != LOST or (cell.split == "iid" and cell.epsilon in SUM_EPSILONS)
        ]
        judged = list(again([*nodes, *sums], rates, 1 if quick else MANY_SEEDS))
        told = [*(one for _, one in kept), *pool.map(accuracies, [*sums, *judged], 1)]
        for place, found in chosen([*nodes, *sums, *judged], told).items():
            best[place[0], place[1].replace("nodes", "gossip"), place[2], place[3]] = found
    return {place: found for place, found in best.items() if place[1] != PROXY}


def again(cells: list[Cell], rates: dict[tuple[str, str, str, float], float], seeds: int) -> Iterator[Cell]:
    """Gossip over more seeds, and where a sum is judged that and one place, too; at the rates found for them."""
    kinds = {
        replace(cell, seed=0) for cell in cells if cell.how == "nodes" or (cell.summed and cell.epsilon in SUM_EPSILONS)
    }
    kinds = {cell for cell in kinds if cell.how != LOST}
    kinds |= {
        replace(cell, how="central", split="", rate=rates[cell.task, "central", "", cell.epsilon])
        for cell in kinds
        if cell.epsilon in SUM_EPSILONS
    }
    for cell in sorted(kinds, key=lambda each: (_place(each), each.rate)):
        for seed in range(seeds):
            yield replace(cell, seed=seed, many=True)


def chosen(cells: list[Cell], found: list[list[float]]) -> Measured:
    """The best learning rate of each column, by the mean over seeds."""
    best: Measured = {}
    runs: dict[Cell, list[list[float]]] = {}
    for cell, one in zip(cells, found, strict=True):
        runs.setdefault(replace(cell, seed=0), []).append(one)
    for cell, each in runs.items():
        mean = fmean(fmean(one) for one in each)
        place = _place(cell)
        if place not in best or mean > best[place].mean:
            best[place] = Best(mean, fmean(min(one) for one in each), cell.rate)
    return best


def two_best(cells: list[Cell], found: list[list[float]]) -> set[tuple[tuple[str, str, str, float], float]]:
    """Of each place of gossip the two best learning rates, by the mean over seeds: three seeds in step do not tell them
    apart, and real nodes may.
    """
    means: dict[tuple[str, str, str, float], dict[float, list[float]]] = {}
    for cell, one in zip(cells, found, strict=True):
        if cell.how == "gossip":
            means.setdefault(_place(cell), {}).setdefault(cell.rate, []).append(fmean(one))
    best = {place: sorted(((fmean(each), rate) for rate, each in rates.items()))[-2:] for place, rates in means.items()}
    return {(place, rate) for place, rates in best.items() for _, rate in rates}


def _place(cell: Cell) -> tuple[str, str, str, float]:
    return cell.task, cell.how + (MANY if cell.many else ""), cell.split, cell.epsilon


def table(best: Measured) -> Iterator[Row]:
    """The columns against epsilon, what gossip is worth on digits, and what of its gap to central a sum closes."""
    for (task, how, split, epsilon), found in sorted(best.items(), key=lambda item: (*item[0][:3], -item[0][3])):
        study = STUDY.get((task, how.partition(",")[0], split))
        known = None if study is None else study[EPSILONS.index(epsilon)]
        floor = None
        if known is not None and how.partition(",")[0] == "gossip" and how.endswith(MANY):
            floor = round(known - SPREAD, 3) if split != "iid" else ACCEPTED.get((task, epsilon), known - SPREAD)
        name = ", ".join(part for part in (task, split, f"epsilon {epsilon:g}", how) if part)
        rate = found.rate * DEFAULTS[task].private.learning_rate
        if how == "private sum":
            known = SUMMED[task][EPSILONS.index(epsilon)] if split == "iid" else None
        note = f"learning rate {rate:g}" + ("" if how.startswith("central") else f", worst peer {found.worst:.3f}")
        yield Row(name, found.mean, "accuracy", "the study", known, at_least=floor, note=note)
        if how == "private sum":
            asked = epsilon in SUM_EPSILONS
            tail = MANY if asked else ""
            below, above = (
                best[task, "gossip" + tail, split, epsilon].mean,
                best[task, "central" + tail, "", epsilon].mean,
            )
            reached = best[task, how + tail, split, epsilon].mean
            if above - below >= GAP:
                closed = (reached - below) / (above - below)
                yield Row(f"{name}, of the gap to central", closed, at_least=0.5 if asked else None)
            else:
                yield Row(
                    *(f"{name} less central", reached - above, "accuracy"),
                    at_least=-SPREAD if asked else None,
                    note="gossip leaves no gap",
                )
        if how == "gossip":
            by_itself = best[task, "alone", split, epsilon].mean
            gain = 0.07 if (task, split, epsilon) == ("digits", "iid", 8.0) else None
            yield Row(f"{name} less alone", found.mean - by_itself, "accuracy", at_least=gain)


def accounting() -> Iterator[Row]:
    """A8: the noise of 50 releases, and dp-accounting beside Opacus' PRV accountant (2.65 there)."""
    for epsilon, study in NOISE.items():
        noise = noise_for(epsilon, ROUNDS, 1e-5)
        bounds = {"at_least": 0.99 * study, "at_most": 1.01 * study}
        yield Row(f"noise multiplier for epsilon {epsilon:g}", noise, "", "the study", study, **bounds)
    spent = epsilon_sampled(((Release(PPM, round(0.0445 * PPM), 69), 1),), 1e-5)
    yield Row("69 steps at rate .0445, noise 1", spent, "epsilon", "Opacus, PRV", 2.65, at_least=2.55, at_most=2.75)


def attacked(quick: bool, seeds: range) -> Iterator[Row]:
    """A16: sixteen peers, independent data, three of them flip signs; and what the gate says of less privacy."""
    base = Trial("repute", model="softmax", alpha=100.0, rounds=ROUNDS, training=DEFAULTS["digits"].private)
    for rule, options, bounds in (
        ("repute", {}, {"at_least": 0.85}),
        ("cs_plus", {"bad": 2.0, "mass": 2 / 7}, {"at_most": 0.55}),
    ):
        known = {key: value for key, value in options.items() if key in _asked(rule)}
        trial = replace(base, rule=rule, options=known, epsilon=8.0, attack="sign_flip")
        value = fmean(play(replace(trial, seed=seed)).mean for seed in seeds)
        yield Row(f"16 peers, iid, epsilon 8, 3 flip signs, {rule}", value, "accuracy", **bounds)
    merge = MergeSpec("repute", 1_000_000)
    for epsilon, robust in ((8.0, 1), (4.0, 0)):
        noise_u = int(noise_for(epsilon, ROUNDS, 1e-5) * 1e6) + 1
        privacy = PrivacySpec("dp-sgd-full-batch", int(epsilon * 1e6), 5, 1_000_000, noise_u, ROUNDS)
        gate = feasibility(privacy, merge, 650, 75)
        assert gate is not None
        name = f"robustness claimed for 75 records at epsilon {epsilon:g}"
        yield Row(name, int(gate.robust), "", at_least=robust, at_most=robust, note=f"noise ratio {gate.ratio:.2f}")


def _asked(rule: str) -> tuple[str, ...]:
    from quidnunc.gossip.rules.terms import TERMS

    return tuple(TERMS[rule].options) if rule in TERMS else ()


def measure(quick: bool) -> list[Row]:
    """Everything."""
    torch.set_num_threads(1)
    rows = list(accounting())
    rows += table(measured(quick))
    return rows + list(attacked(quick, range(1 if quick else 2)))


if __name__ == "__main__":
    raise SystemExit(main(__doc__, measure))
