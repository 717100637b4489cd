"""What everybody would reach without anybody: the same training on the same examples, and no exchange."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from quidnunc.crypto.errors import ConfigError
from quidnunc.sim.batched.setup import Setup
from quidnunc.sim.batched.training import Trainer, Workers


class Alone:
    """Every peer of a setup by itself, round by round, with the batches and the noise it has in the federation.

    Nobody is away or slow here; quasi-global momentum, which is of merged models, starts from zero in every round.
    ``workers`` are those of the federation; whoever made them closes them.
    """

    def __init__(self, setup: Setup, workers: Workers | None = None) -> None:
        trainer = Trainer(setup)
        self._setup, self._order = setup, trainer.order
        self._workers = workers or trainer
        peers = len(setup.shares.rows)
        self._params = [tensor.to(setup.device).expand(peers, *tensor.shape).clone() for tensor in setup.genesis]
        self._still = [torch.zeros_like(tensor) for tensor in self._params] if setup.quasi_global else None
        self._round = 0

    def step(self) -> None:
        """One round of everybody's training."""
        everybody = np.ones(len(self._order), dtype=np.bool_)
        with torch.no_grad():
            self._workers.train(self._params, everybody, self._round, self._still)
        self._round += 1

    def accuracies(self) -> NDArray[np.float64]:
        """Test accuracy of every peer, float64 [n]. Raises ConfigError where params are no longer finite."""
        if not all(bool(tensor.isfinite().all()) for tensor in self._params):
            raise ConfigError(
                f"params of peers by themselves are not finite after round {self._round} "
                f"(learning_rate {self._setup.training.learning_rate})",
                hint="lower training.learning_rate, or set alone = false",
            )
        found = np.empty(len(self._order))
        found[self._order] = self._workers.test(self._params).accuracy
        return found
