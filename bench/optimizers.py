"""Optimizers of simulated rounds in step, where labels are skewed: momentum of the merged model beside one's own.

Digits, MLP 64-32-10, 16 peers on a ring, Dirichlet 0.1, 300 rounds of one step on 32 examples; the mean over peers of
test accuracy, and over seeds. Every optimizer has the best of the same rates. DSGDm, whose momentum is each peer's own
and lasts, is no optimizer of the simulator, whose momentum starts from zero in every round: it is a loop here, with
the engine's gradients and the graph's dense matrix. Proximal terms act within a round, and have 10 steps in it.
"""

from __future__ import annotations

from collections.abc import Callable
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np
import torch
from common import Row, main

from quidnunc.sim.batched.engine import Engine
from quidnunc.sim.batched.training import Trainer
from quidnunc.sim.scenarios.prepare import prepare
from quidnunc.sim.scenarios.text import to_scenario

PEERS, STEPS, MOMENTUM, PROX = 16, 300, 0.9, 0.1
RATES = (0.2, 0.5, 0.7, 1.0)
FLOOR, GAIN = 0.95, 0.005
"""What quasi-global momentum must reach, and by how much it must be above DSGDm."""


class Found(NamedTuple):
    """Accuracy of the mean and of the worst peer, and the learning rate."""

    mean: float
    worst: float
    rate: float


def measure(quick: bool) -> list[Row]:
    """All optimizers at their best rates."""
    torch.set_num_threads(1)
    seeds, rates = (range(1), RATES[2:]) if quick else (range(3), RATES)

    def best(run: Callable[[float, int], tuple[float, float]]) -> Found:
        tried = []
        for rate in rates:
            each = [run(rate, seed) for seed in seeds]
            tried.append(Found(fmean(mean for mean, _ in each), fmean(worst for _, worst in each), rate))
        return max(tried)

    plain = best(lambda rate, seed: engine(rate, seed))
    own = best(own_momentum)
    merged = best(lambda rate, seed: engine(rate, seed, momentum=MOMENTUM, quasi_global=True))
    many = best(lambda rate, seed: engine(rate, seed, steps=10))
    near = best(lambda rate, seed: engine(rate, seed, steps=10, prox=PROX))
    return [
        _row("DSGD", plain),
        _row("DSGDm", own, "DSGD", plain),
        Row("DSGDm, worst peer", own.worst, "accuracy", "DSGD", plain.worst),
        _row("QG-DSGDm", merged, "DSGDm", own, FLOOR),
        Row("QG-DSGDm above DSGDm", merged.mean - own.mean, "accuracy", at_least=GAIN),
        Row("QG-DSGDm, worst peer", merged.worst, "accuracy", "DSGDm", own.worst),
        _row(f"10 local steps, proximal term {PROX:g}", near, "without", many),
        Row(f"10 local steps, proximal term {PROX:g}, worst peer", near.worst, "accuracy", "without", many.worst),
    ]


def _row(name: str, found: Found, baseline: str = "", held: Found | None = None, floor: float | None = None) -> Row:
    title = f"{name} (learning rate {found.rate:g})"
    return Row(title, found.mean, "accuracy", baseline, None if held is None else held.mean, at_least=floor)


def scenario(rate: float, steps: int = 1, **training: Any) -> dict[str, Any]:
    """The task; as many steps in all, however many are local."""
    return {
        "peers": PEERS,
        "rounds": STEPS // steps,
        "data": {"alpha": 0.1},
        "model": {"kind": "mlp", "hidden": [32]},
        "topology": {"kind": "ring"},
        "training": {"learning_rate": rate, "local_steps": steps, **training},
    }


def engine(rate: float, seed: int, *, steps: int = 1, **training: Any) -> tuple[float, float]:
    """Accuracy of the mean and the worst peer in the batched engine."""
    table = scenario(rate, steps, **training)
    made = Engine(prepare(to_scenario(table), seed))
    for _ in range(table["rounds"]):
        made.step()
    accuracy = made.evaluate().accuracy
    return float(accuracy.mean()), float(accuracy.min())


def own_momentum(rate: float, seed: int) -> tuple[float, float]:
    """The same for DSGDm: m = beta m + g at every peer, x = W (x - rate m)."""
    setup = prepare(to_scenario(scenario(rate, momentum=MOMENTUM)), seed)
    trainer = Trainer(setup)
    params = [tensor.expand(PEERS, *tensor.shape).clone() for tensor in setup.genesis]
    momentum = [torch.zeros_like(tensor) for tensor in params]
    mixing = torch.from_numpy(setup.topology.at(0).reordered(trainer.order).dense()).float()
    for number in range(STEPS):
        before = [tensor.clone() for tensor in params]
        with torch.no_grad():
            trainer.train(params, np.ones(PEERS, dtype=np.bool_), number, momentum)
        # With one step in a round, what it moved is the rate times the new momentum.
        momentum = [(old - new) / rate for old, new in zip(before, params, strict=True)]
        params = [(mixing @ tensor.reshape(PEERS, -1)).view_as(tensor) for tensor in params]
    accuracy = trainer.test(params).accuracy
    return float(accuracy.mean()), float(accuracy.min())


if __name__ == "__main__":
    raise SystemExit(main(__doc__, measure))
