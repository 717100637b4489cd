"""Attacks of a member of a real federation: made of what its neighbors published, or of what it published itself.

The attacks of :mod:`quidnunc.gossip.learning.collusion` by one that does not see everything. It knows the newest state
of each of its own neighbors, signs one body for all of them, and does not know its victims' other neighbors; in a
complete graph it lacks only what they publish in the same moment. A single victim, where an attack aims at one, is its
first neighbor.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from quidnunc.crypto.noise import NoiseStream
from quidnunc.gossip.jobs import PPB, Standing
from quidnunc.gossip.learning import collusion
from quidnunc.gossip.learning.merge import merge
from quidnunc.gossip.learning.merged import Inputs
from quidnunc.gossip.reputation import GOOD_CAP
from quidnunc.gossip.rules.linear import Stack, Vector

FACTOR = 0.1
"""The factor of ``ipm``: a negative inner product at a small norm."""
DEVIATIONS = 1.5
"""Standard deviations of ``alie``; its formula gives less than one among few peers."""
STRENGTH = 1.5
"""Of ``dissensus``: beyond 1 its victim is driven away from the others."""
REPLAY_AGE = 10
"""How many rounds old ``replay`` is."""
EVALUATIONS = 8
"""Merges that a line search of the optimized attacks tries in a round."""
TRUSTED = Standing(GOOD_CAP, 0.0, 0.0)

INSIDER_ATTACKS: Mapping[str, int] = {
    "ipm": 1,
    "alie": 2,
    "optimized_ipm": 2,
    "optimized_alie": 2,
    "dissensus": 2,
    "mimic": 1,
    "slow": 1,
    "replay": 0,
}
"""Attacks by name, and how many neighbors must have been seen first."""


class Insider:
    """What one attacker knows. ``rule`` and ``options`` are the merge rule of the charter, which it can read."""

    def __init__(self, name: str, rule: str, options: Mapping[str, float]) -> None:
        self._name = name
        self._rule = rule
        self._options = options
        self._seen: Stack = np.empty((0, 0), np.float32)
        self._past: list[Vector] = []

    def see(self, states: Sequence[Vector]) -> None:
        """Take note of the newest ``states`` [d] of the neighbors, in an order that stays."""
        if states:
            self._seen = np.stack(states)

    def attack(self, trained: Vector, base: Vector, stream: NoiseStream) -> Vector:
        """What is published instead of ``trained`` [d]; that itself as long as too little was seen."""
        seen, name = self._seen, self._name
        if name == "replay":
            self._past = [*self._past[-REPLAY_AGE:], trained]
            return collusion.replay(np.stack(self._past), REPLAY_AGE)
        if len(seen) < INSIDER_ATTACKS[name]:
            return trained
        if name == "ipm":
            return collusion.inner_product(seen, FACTOR)
        if name == "alie":
            return collusion.little_is_enough(seen, DEVIATIONS)
        if name == "optimized_ipm":
            return collusion.optimized_inner_product(seen, self._answer, evaluations=EVALUATIONS)
        if name == "optimized_alie":
            return collusion.optimized_little(seen, self._answer, evaluations=EVALUATIONS)
        if name == "mimic":
            return collusion.mimic(seen, 0)
        if name == "dissensus":
            share = 1 / (1 + len(seen))
            return collusion.dissensus(seen[0], seen[1:], np.full(len(seen) - 1, share), share, STRENGTH)
        # What was trained stands for flipped labels: the goal.
        return collusion.slow_drift(seen.mean(axis=0), seen, trained)

    def _answer(self, message: Vector) -> Vector:
        """What the first neighbor's merge would make of ``message``, as far as can be told from outside.

        Taken to trust everybody and to weigh all alike; its holdout is its own secret.
        """
        rows = np.concatenate([self._seen[1:], message[None]])
        count = len(rows)
        inputs = Inputs(rows, [PPB // (1 + count)] * count, [TRUSTED] * count, [True] * count)
        return merge(self._rule, self._seen[0], inputs, None, self._options).result
