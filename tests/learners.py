"""Small tasks, and a loop of peers without a network: every peer trains, then every peer merges what all published."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import combinations, pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from quidnunc.crypto.noise import NoiseStream
from quidnunc.gossip import Site, Task
from quidnunc.gossip.blobs import MemoryBlobs
from quidnunc.gossip.federation.mixing import metropolis
from quidnunc.gossip.jobs import (
    Described,
    DescribeJob,
    Evaluated,
    EvaluateJob,
    Merged,
    MergeInput,
    MergeJob,
    PrivacyStep,
    Trained,
    TrainJob,
)
from quidnunc.gossip.learning.builtin import BUILTIN
from quidnunc.gossip.learning.codec import INT8
from quidnunc.gossip.learning.compute import Compute
from quidnunc.gossip.reputation import FOUNDER, standing_weight
from quidnunc.gossip.task import Plan, Training


def per_example(outputs: Tensor, targets: Tensor) -> Tensor:
    return cross_entropy(outputs, targets, reduction="none")


def blobs_task(*, model: type[nn.Module] | None = None, examples: int = 60, holdout: int = 20) -> Task:
    """Three well separated clouds in five dimensions; the model is a 5-8-3 stack unless another is given."""
    generator = torch.Generator().manual_seed(5)
    total = examples + holdout + 30
    labels = torch.arange(total) % 3
    centers = 2 * torch.randn(3, 5, generator=generator)
    inputs = centers[labels] + 0.5 * torch.randn(total, 5, generator=generator)
    edges = (0, examples, examples + holdout, total)
    train, held, test = ((inputs[a:b], labels[a:b]) for a, b in pairwise(edges))
    make = model or (lambda: nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3)))
    return Task(model=make, loss=per_example, train=train, holdout=held, test=test)


@dataclass
class Outcome:
    """Test accuracies of the honest peers, and the mean factors they hold on honest and bad neighbors at the end."""

    accuracies: list[float]
    trust_honest: float
    trust_bad: float
    results: list[bytes] = field(default_factory=list)

    @property
    def mean(self) -> float:
        return sum(self.accuracies) / len(self.accuracies)


@dataclass(frozen=True)
class Scenario:
    """A federation on a complete graph."""

    training: Training
    task: str = "digits"
    peers: int = 5
    alpha: float = 0.5
    rounds: int = 50
    privacy: PrivacyStep | None = None
    rule: str = "repute"
    attackers: Mapping[int, str] = field(default_factory=dict)
    exchange: bool = True


def run(scenario: Scenario, seed: int) -> Outcome:
    """Play a scenario; the same seed gives the same bits."""
    peers = range(scenario.peers)
    blobs = MemoryBlobs()
    plan = Plan(seed=7 + seed, codec=INT8, training=scenario.training, merge_rule=scenario.rule)
    computes = [
        Compute(
            BUILTIN[scenario.task],
            Site(index=i, peers=scenario.peers, alpha=scenario.alpha, seed=seed),
            plan,
            blobs,
            NoiseStream(bytes([seed, i]) * 16, b"test"),
            attack=scenario.attackers.get(i, ""),
        )
        for i in peers
    ]
    described = computes[0].handle(DescribeJob())
    assert isinstance(described, Described)
    weights = metropolis(combinations(peers, 2), scenario.peers)
    base, replica = [described.genesis for _ in peers], [described.genesis for _ in peers]
    standing = [dict.fromkeys(peers, FOUNDER) for _ in peers]
    for round_ in range(scenario.rounds):
        for i in peers:
            job = TrainJob(round_, round_ + 1, base[i], replica[i], True, 1.0, scenario.privacy)
            trained = computes[i].handle(job)
            assert isinstance(trained, Trained), trained
            replica[i] = trained.result
        for i in peers:
            near = [j for j in peers if j != i]
            inputs = tuple(MergeInput(bytes([j]) * 32, replica[j], weights[i][j], standing[i][j], True) for j in near)
            merged = computes[i].handle(MergeJob(round_, replica[i], inputs if scenario.exchange else ()))
            assert isinstance(merged, Merged), merged
            standing[i].update({row.author[0]: row.standing for row in merged.rows})
            base[i] = merged.result
    honest = [i for i in peers if i not in scenario.attackers]
    accuracies = []
    for i in honest:
        evaluated = computes[i].handle(EvaluateJob(scenario.rounds, base[i]))
        assert isinstance(evaluated, Evaluated), evaluated
        accuracies.append(evaluated.accuracy)
    good = [standing_weight(standing[i][j]) for i in honest for j in honest if i != j]
    bad = [standing_weight(standing[i][j]) for i in honest for j in scenario.attackers]
    return Outcome(accuracies, sum(good) / max(1, len(good)), sum(bad) / max(1, len(bad)), base)
