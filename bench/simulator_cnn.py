"""A small CNN among 64 peers: the engine in one process and in two, beside a plain functional loop on one thread.

Convolutions 1-6-16 of 5 x 5, then 120-84-10 (107,786 params), on MNIST-10k in $QUIDNUNC_TEST_DATA/mnist10k (or
../shared/data), on digits where that is missing; 64 examples per peer with replacement, Dirichlet 0.5, random
4-regular, two steps of 32. The loop calls the module by ``torch.func.functional_call`` peer by peer and averages with
equal weights. Its rounds and those of the engine take turns, so that a busy moment meets all three; the time of a
round is the best of each, because whatever else runs on the machine only adds to it. Processor time is that of all
processes together. Testing everybody is timed by itself. With --quick there are 16 peers.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from common import Row, main
from torch.func import functional_call
from torch.nn.functional import cross_entropy

from quidnunc.sim.batched.engine import Engine, Setup
from quidnunc.sim.scenarios.crew import Crew
from quidnunc.sim.scenarios.prepare import model_for, prepare
from quidnunc.sim.scenarios.spec import SimScenario
from quidnunc.sim.scenarios.text import to_scenario

ROOT = Path(__file__).resolve().parent.parent
PROCESSES = 2
BATCH = 32
RATE = 0.1
GAIN_MIN = 1.7
"""How many times as fast two processes must be."""


class Spent(NamedTuple):
    """Seconds, and seconds of processor of this process and its children."""

    wall: float
    cpu: float


def measure(quick: bool) -> list[Row]:
    """The engine in one process and in two, and the loop; one seed, because times do not depend on it."""
    torch.set_num_threads(1)
    peers = 16 if quick else 64
    scenario = to_scenario(table(peers))
    setup = prepare(scenario, 0)
    many = to_scenario(table(peers, PROCESSES))
    with Crew(many, 0, Path(), setup) as crew:
        one, two = Engine(setup), Engine(setup, crew)
        step, accuracy = loop(scenario, setup)
        contest: dict[str, Callable[[], object]] = {"loop": step, "one": one.step, "two": two.step}
        best = dict(zip(contest, bests(list(contest.values()), 3 if quick else 8, crew), strict=True))
        tests = bests([one.evaluate, two.evaluate], 1 if quick else 3, crew)
        same = np.array_equal(one.params(), two.params())
        found = float(one.evaluate().accuracy.mean())
        rounds = one.round
    title = f"CNN of {one.dim:,} params on {setup.pool.name}, {peers} peers"
    rows = [
        Row(f"{title}: ms per round, {name}", 1000 * best[which].wall, "ms", "of processor", 1000 * best[which].cpu)
        for which, name in (("loop", "functional loop"), ("one", "one process"), ("two", "two processes"))
    ]
    return [
        *rows,
        Row(f"{title}: times as fast as the loop, by processor", best["loop"].cpu / best["one"].cpu, "x", at_least=1.0),
        Row(
            f"{title}: two processes over one, by the clock",
            best["one"].wall / best["two"].wall,
            "x",
            at_least=GAIN_MIN,
        ),
        Row(f"{title}: the same for testing everybody", tests[0].wall / tests[1].wall, "x"),
        Row(f"{title}: params of both are the same bits", float(same), "", at_least=1.0),
        Row(f"{title}: accuracy after {rounds} rounds", found, "", "loop", accuracy()),
    ]


def table(peers: int, processes: int = 1) -> dict[str, Any]:
    """The scenario."""
    data: dict[str, Any] = {"examples": 64, "replacement": "always"}
    mnist = Path(os.environ.get("QUIDNUNC_TEST_DATA", ROOT.parent / "shared" / "data")) / "mnist10k"
    if mnist.is_dir():
        data |= {"source": "images", "path": str(mnist)}
    return {
        "peers": peers,
        "rounds": 1000,
        "data": data,
        "model": {"kind": "cnn", "channels": [6, 16], "kernel": 5, "hidden": [120, 84]},
        "training": {"learning_rate": RATE, "batch_size": BATCH},
        "topology": {"degree": 4},
        "engine": {"processes": processes, "device": "cpu"},
    }


def bests(calls: list[Callable[[], object]], rounds: int, crew: Crew) -> list[Spent]:
    """The least that each took, after one call to warm up; they take turns."""
    found: list[list[Spent]] = [[] for _ in calls]
    for _ in range(rounds + 1):
        for call, kept in zip(calls, found, strict=True):
            begun, spent = time.perf_counter(), processor(crew)
            call()
            kept.append(Spent(time.perf_counter() - begun, processor(crew) - spent))
    return [Spent(min(each.wall for each in kept[1:]), min(each.cpu for each in kept[1:])) for kept in found]


def processor(crew: Crew) -> float:
    """Seconds of processor so far of this process and its workers."""
    total = time.process_time()
    for pid in crew.pids:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        total += (int(fields[11]) + int(fields[12])) / ticks()
    return total


def ticks() -> int:
    """Ticks of the kernel's clock in a second."""
    return os.sysconf("SC_CLK_TCK")


def loop(scenario: SimScenario, setup: Setup) -> tuple[Callable[[], None], Callable[[], float]]:
    """The plain way to write it with functions: a round, and the mean accuracy."""
    module = model_for(scenario.model, setup.pool)
    names = [slot.name for slot in setup.net.slots]
    start = dict(zip(names, setup.genesis, strict=True))
    peers = [{name: start[name].clone().requires_grad_() for name in names} for _ in range(scenario.peers)]
    x, y = torch.from_numpy(setup.pool.inputs), torch.from_numpy(setup.pool.labels)
    data = [(x[rows], y[rows]) for rows in setup.shares.rows]
    mixing = setup.topology.at(0)
    near = [mixing.indices[mixing.indptr[at] : mixing.indptr[at + 1]].tolist() for at in range(scenario.peers)]
    generator = torch.Generator().manual_seed(0)

    def step() -> None:
        for own, (mine, goals) in zip(peers, data, strict=True):
            params = list(own.values())
            for pick in torch.randperm(len(mine), generator=generator).split(BATCH):
                loss = cross_entropy(functional_call(module, own, (mine[pick],)), goals[pick])
                for param, grad in zip(params, torch.autograd.grad(loss, params), strict=True):
                    param.data.sub_(grad, alpha=RATE)
        merged = [
            {name: torch.stack([peers[other][name].data for other in (at, *near[at])]).mean(0) for name in names}
            for at in range(len(peers))
        ]
        for own, new in zip(peers, merged, strict=True):
            for name in names:
                own[name].data = new[name]

    def accuracy() -> float:
        tests, goals = torch.from_numpy(setup.pool.test_inputs), torch.from_numpy(setup.pool.test_labels)
        module.eval()
        with torch.no_grad():
            right = [(functional_call(module, own, (tests,)).argmax(1) == goals).double().mean() for own in peers]
        return float(torch.stack(right).mean())

    return step, accuracy


if __name__ == "__main__":
    raise SystemExit(main(__doc__, measure))
