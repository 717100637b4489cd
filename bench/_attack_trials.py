"""Synchronous rounds among peers of which some attack: the real training and merge functions, without a network.

In every round everybody trains, everybody publishes, and every honest peer merges what its neighbors published, through
``gossip/learning/merge.py`` with its own holdout and standings, as the daemon does. Attackers see every state and send
each victim what hurts that victim. Params travel as float32.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import combinations
from statistics import fmean

import numpy as np
import torch
from numpy.typing import NDArray

from quidnunc.crypto.errors import ConfigError
from quidnunc.crypto.noise import NoiseStream
from quidnunc.gossip.federation.mixing import metropolis
from quidnunc.gossip.jobs import PPB, PrivacyStep, Standing
from quidnunc.gossip.learning import collusion
from quidnunc.gossip.learning.accountant import noise_for
from quidnunc.gossip.learning.attack import BACKDOOR_CLASS, poisoned, stamped
from quidnunc.gossip.learning.builtin import BUILTIN, DEFAULTS
from quidnunc.gossip.learning.functional import Functional
from quidnunc.gossip.learning.merge import merge
from quidnunc.gossip.learning.merged import Inputs, Merge
from quidnunc.gossip.learning.params import build, to_vector
from quidnunc.gossip.learning.trainer import train
from quidnunc.gossip.reputation import FOUNDER, JOINER
from quidnunc.gossip.rules.linear import Reals, Stack, Vector, distances, recompute
from quidnunc.gossip.task import Site, Training
from quidnunc.sim.topology.edges import draw
from quidnunc.sim.topology.spec import TopologySpec

ISOLATED = 0.01
"""A bad neighbor that counts for less than this part of its mixing weight is isolated."""
_ON_OFF = 5
_REPLAY_ROUNDS = 10
_FORCE = 1.5
"""Spectral steps in usual distances: what no rule of that radius clips."""


PLAIN = Training(0.2, 0.0, 2, 32)


@dataclass(frozen=True, slots=True)
class Trial:
    """Who learns what under which rule, and who attacks how; ``degree`` 0 is the complete graph."""

    rule: str
    options: Mapping[str, float] = field(default_factory=dict)
    attack: str = ""
    attackers: int = 3
    peers: int = 16
    degree: int = 6
    bad_near: int = 2
    task: str = "digits"
    model: str = "mlp"
    alpha: float = 0.5
    rounds: int = 150
    training: Training = PLAIN
    epsilon: float | None = None
    seed: int = 0


@dataclass(slots=True)
class Found:
    """Of the honest peers at the end: mean and worst test accuracy, and the share of triggered examples they take for
    the backdoor's class. ``auroc`` is how well the last third's counted share of the mixing weight tells honest from
    bad neighbors; ``held`` the bad ones' share of all that neighbors count for; ``isolated`` the round from which bad
    neighbors count for nothing, None for never.
    """

    mean: float
    worst: float
    triggered: float
    auroc: float
    held: float
    isolated: int | None


def graph(trial: Trial) -> tuple[list[tuple[int, int]], list[int]]:
    """The edges, and attackers of whom no honest peer has more than ``bad_near`` as neighbors."""
    n = trial.peers
    if not trial.degree:
        return list(combinations(range(n), 2)), list(range(n - trial.attackers, n))
    spec = TopologySpec(kind="random-regular", degree=trial.degree)
    edges = [(int(a), int(b)) for a, b in draw(spec, n, trial.seed)]
    generator = np.random.Generator(np.random.PCG64([trial.seed, 77]))
    for _ in range(10_000):
        bad = generator.choice(n, trial.attackers, replace=False).tolist()
        near = [sum(1 for edge in edges if i in edge and sum(edge) - i in bad) for i in range(n)]
        if max((near[i] for i in range(n) if i not in bad), default=0) <= trial.bad_near:
            return edges, bad
    raise ValueError(f"no {trial.attackers} attackers leave everybody at most {trial.bad_near} of them")


class Play:
    """One trial in progress."""

    def __init__(self, trial: Trial) -> None:
        self.trial = trial
        n = trial.peers
        self.edges, self.bad = graph(trial)
        self.honest = [i for i in range(n) if i not in self.bad]
        self.weights = metropolis(self.edges, n)
        sites = [Site(i, n, trial.alpha, trial.seed, "", {"model": trial.model}) for i in range(n)]
        self.tasks = [BUILTIN[trial.task](site) for site in sites]
        self.nets = [Functional(build(task, trial.seed), task) for task in self.tasks]
        self.genesis = to_vector(build(self.tasks[0], trial.seed))
        self.untrained = [
            float(net.mean_losses(self.genesis[None], *task.holdout)[0])
            for net, task in zip(self.nets, self.tasks, strict=True)
        ]
        self.data = [poisoned(trial.attack if i in self.bad else "", task.train) for i, task in enumerate(self.tasks)]
        self.privacy = None
        if trial.epsilon is not None:
            noise = noise_for(trial.epsilon, trial.rounds, 1e-5)
            self.privacy = PrivacyStep(DEFAULTS[trial.task].clip, noise)
        start = JOINER if trial.attack == "sybil" else FOUNDER
        self.standing: list[dict[int, Standing]] = [
            {j: start if j in self.bad else FOUNDER for j in range(n)} for _ in range(n)
        ]
        self.base: list[Vector] = [self.genesis for _ in range(n)]
        self.past: list[list[Vector]] = [[] for _ in range(n)]
        self.counted: dict[tuple[int, int], list[float]] = {}
        self.streams = [NoiseStream(bytes([trial.seed, i]) * 16, b"attacks") for i in range(n)]
        self.strides = [0.0] * n
        self.fiedler = _fiedler(self.edges, self.honest)
        self.goal = self._goal() if trial.attack in ("slow", "sybil") else self.genesis

    def _goal(self) -> Vector:
        """The model of everybody's examples with flipped labels: where slow poison leads."""
        inputs = torch.cat([task.train[0] for task in self.tasks])
        flipped = poisoned("label_flip", (inputs, torch.cat([task.train[1] for task in self.tasks])))
        training = replace(self.trial.training, local_steps=200)
        return train(self.nets[0], flipped, self.genesis, training, None, NoiseStream(bytes(32), b"goal"))[0]

    def round(self, number: int) -> None:
        """Everybody trains, publishes and merges."""
        published = []
        for i in range(self.trial.peers):
            published.append(self._trained(i, self.streams[i].child(b"%d" % number)))
            self.strides[i] = float(np.linalg.norm(published[i] - self.base[i]))
            self.past[i] = [*self.past[i][-_REPLAY_ROUNDS:], published[i]]
        before = self.base
        self.base = [self._merged(i, number, published, before) for i in range(self.trial.peers)]

    def _trained(self, i: int, stream: NoiseStream) -> Vector:
        """Params after training; untrained where it led nowhere: a daemon whose training fails publishes none."""
        try:
            return train(self.nets[i], self.data[i], self.base[i], self.trial.training, self.privacy, stream)[0]
        except ConfigError:
            return self.base[i]

    def _merged(self, i: int, number: int, published: list[Vector], before: list[Vector]) -> Vector:
        near = [j for j in self.weights[i] if j != i]
        if i in self.bad:
            # Attackers keep up with what the honest have learned.
            return recompute(published[i], [(published[j], self.weights[i][j]) for j in near])
        there = [j for j in near if j not in self.bad or self._present(number)]
        rows = [published[j] for j in there]
        victims = [at for at, j in enumerate(there) if j in self.bad]
        honest = np.stack([published[j] for j in there if j not in self.bad])
        for at in victims:
            rows[at] = self._message(i, there[at], number, honest, published, before)
        given = Inputs(
            np.stack(rows),
            [self.weights[i][j] for j in there],
            [self.standing[i][j] for j in there],
            [True] * len(rows),
        )
        over = number / self.trial.rounds
        result = self._answer(i, published[i], given, over)
        if not np.isfinite(result.result).all():
            return published[i]  # as a daemon does, which refuses such a result
        for j, row in zip(there, result.rows, strict=True):
            self.standing[i][j] = row.standing
            self.counted.setdefault((i, j), []).append(row.effective / max(1, self.weights[i][j]))
        return result.result

    def _answer(self, i: int, pivot: Vector, given: Inputs, over: float) -> Merge:
        def probe(stack: Stack) -> Reals:
            return self.nets[i].mean_losses(stack, *self.tasks[i].holdout)

        trial = self.trial
        return merge(
            *(trial.rule, pivot, given, probe, trial.options, self.untrained[i]),
            private=self.privacy is not None,
            over=over,
            stride=self.strides[i],
        )

    def _present(self, number: int) -> bool:
        """Sybils come when a third of the rounds are over."""
        return self.trial.attack != "sybil" or 3 * number >= self.trial.rounds

    def _message(
        self, i: int, j: int, number: int, honest: Stack, published: list[Vector], before: list[Vector]
    ) -> Vector:
        """What attacker ``j`` sends to its victim ``i``."""
        attack = self.trial.attack
        victim = published[i]
        if attack == "betray":
            attack = "sign_flip" if 2 * number >= self.trial.rounds else ""
        if attack == "on_off":
            attack = "sign_flip" if number % _ON_OFF == 0 else ""
        if attack == "slow":
            return collusion.slow_drift(victim, honest, self.goal)
        if attack == "sybil":
            drift = collusion.slow_drift(victim, honest, self.goal)
            return collusion.sybils(drift, 1, 0.1, self.streams[j].child(b"voice/%d/%d" % (number, i)))[0]
        if attack == "sign_flip":
            return collusion.inner_product(honest, 1.0)
        if attack == "ipm":
            return collusion.inner_product(honest, 0.1)
        if attack == "gaussian":
            noise = self.streams[j].child(b"loud/%d/%d" % (number, i)).gaussian(len(victim))
            return honest.mean(axis=0) + noise.astype(np.float32)
        if attack == "alie":
            return collusion.little_is_enough(honest, 1.5)
        if attack == "dissensus":
            weights = np.array([self.weights[i][k] / PPB for k in self.weights[i] if k != i and k not in self.bad])
            mine = sum(self.weights[i][k] / PPB for k in self.weights[i] if k in self.bad)
            return collusion.dissensus(victim, honest, weights, mine, 1.5)
        if attack == "spectral":
            everyone = np.stack([published[k] for k in self.honest])
            size = _FORCE * float(np.median(distances(victim, honest)))
            return collusion.spectral(victim, everyone, self.fiedler, self.fiedler[self.honest.index(i)], size)
        if attack == "mimic":
            return collusion.mimic(honest, 0)
        if attack == "replay":
            return collusion.replay(np.stack(self.past[j]), _REPLAY_ROUNDS)
        if attack == "free_ride":
            return before[j]
        if attack == "backdoor":
            return collusion.replacement(before[j], published[j], self.weights[i][j] / PPB)
        if attack in ("optimized_ipm", "optimized_alie"):
            return self._optimized(attack, i, number, honest, published)
        return published[j]

    def _optimized(self, attack: str, i: int, number: int, honest: Stack, published: list[Vector]) -> Vector:
        there = [k for k in self.weights[i] if k != i]
        weights = [self.weights[i][k] for k in there]
        standings = [self.standing[i][k] for k in there]

        def answer(message: Vector) -> Vector:
            rows = [message if k in self.bad else published[k] for k in there]
            given = Inputs(np.stack(rows), weights, standings, [True] * len(rows))
            return self._answer(i, published[i], given, number / self.trial.rounds).result

        aim = collusion.optimized_inner_product if attack == "optimized_ipm" else collusion.optimized_little
        return aim(honest, answer, evaluations=8)

    def found(self) -> Found:
        """What has come of it."""
        accuracies, triggered = [], []
        for i in self.honest:
            inputs, targets = self.tasks[i].test
            guessed = self.nets[i].predict(self.base[i], inputs).argmax(1)
            accuracies.append(float((guessed == targets).double().mean()))
            others = targets != BACKDOOR_CLASS
            taken = self.nets[i].predict(self.base[i], stamped(inputs[others])).argmax(1)
            triggered.append(float((taken == BACKDOOR_CLASS).double().mean()))
        late = {pair: values[-max(1, len(values) // 3) :] for pair, values in self.counted.items()}
        good = [fmean(values) for (_, j), values in late.items() if j not in self.bad]
        bad = [fmean(values) for (_, j), values in late.items() if j in self.bad]
        return Found(
            *(fmean(accuracies), min(accuracies), fmean(triggered)),
            _auroc(good, bad),
            sum(bad) / max(1e-12, sum(bad) + sum(good)),
            self._isolated(),
        )

    def _isolated(self) -> int | None:
        series: list[NDArray[np.float64]] = [
            np.array(values) for (_, j), values in self.counted.items() if j in self.bad
        ]
        if not series or not self.trial.attack:
            return None
        shares = np.mean(np.stack(series), axis=0)
        loud = np.flatnonzero(shares > ISOLATED)
        first = int(loud[-1]) + 1 if len(loud) else 0
        return first + 1 if first < len(shares) else None


def _fiedler(edges: list[tuple[int, int]], honest: list[int]) -> NDArray[np.float64]:
    """The second eigenvector of the Laplacian of the ``honest`` peers' graph, [h]: its sparsest cut, by sign."""
    place = {peer: at for at, peer in enumerate(honest)}
    laplacian = np.zeros((len(honest), len(honest)))
    for a, b in edges:
        if a in place and b in place:
            i, j = place[a], place[b]
            laplacian[i, j] = laplacian[j, i] = -1.0
    laplacian -= np.diag(laplacian.sum(axis=1))
    second: NDArray[np.float64] = np.linalg.eigh(laplacian)[1][:, min(1, len(honest) - 1)]
    return second


def _auroc(good: list[float], bad: list[float]) -> float:
    """The probability that an honest neighbor counts for more than a bad one; ties are half."""
    if not good or not bad:
        return float("nan")
    pairs = [(1.0 if a > b else 0.5 if a == b else 0.0) for a in good for b in bad]
    return fmean(pairs)


def play(trial: Trial) -> Found:
    """Play a trial to its end; the same trial gives the same numbers."""
    torch.set_num_threads(1)
    running = Play(trial)
    for number in range(trial.rounds):
        running.round(number)
    return running.found()
