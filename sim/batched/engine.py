"""Thousands of peers, round by round: train, publish, merge, everybody side by side in one process.

The same round as in the protocol (merge, train, publish) with merging moved to its end, so that what is measured is
what a peer would train from next. Peers are kept in order of the size of their shares: those that work side by side
then pad their batches little. Every draw is named by seed, round and peer, so that the same setup gives the same bits.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from quidnunc.crypto.errors import ConfigError
from quidnunc.gossip.learning.attack import BACKDOOR_CLASS, EXAMPLE_ATTACKS, stamped
from quidnunc.gossip.rules.gram import RefusedRows
from quidnunc.sim.batched.attackers import Scene, widened
from quidnunc.sim.batched.codec import Codec
from quidnunc.sim.batched.conditions import Flags, Links, Weather
from quidnunc.sim.batched.draws import Indices
from quidnunc.sim.batched.measures import consensus, traffic
from quidnunc.sim.batched.merging import Catalogued
from quidnunc.sim.batched.net import Tensors
from quidnunc.sim.batched.setup import Setup, attackers_of, merger_of
from quidnunc.sim.batched.training import Trainer, Workers
from quidnunc.sim.batched.witness import Held, held
from quidnunc.sim.topology.catalog import Topology

__all__ = ["Engine", "Evaluation", "RoundFacts", "Setup"]

SAMPLED_READERS = 128
"""Honest peers whose medians are looked at to tell what attackers have of them."""


class RoundFacts(NamedTuple):
    """One round: the mean training loss of those who trained (nan if nobody did), and messages sent and lost."""

    loss: float
    messages: int
    lost: int


class Evaluation(NamedTuple):
    """Test accuracy and mean loss of every peer, float64 [n], who is present, who is honest, and more.

    ``consensus`` is the mean over honest peers that are present of the distance between their params and the average
    of those. ``triggered`` is the share of examples with the backdoor's trigger that each takes for its class, None
    without a backdoor. ``held`` is what attackers had of the last merge.
    """

    accuracy: NDArray[np.float64]
    loss: NDArray[np.float64]
    present: NDArray[np.bool_]
    honest: NDArray[np.bool_]
    consensus: float
    triggered: NDArray[np.float64] | None
    held: Held | None


class Engine:
    """A simulation in progress. Raises ConfigError when params are no longer finite.

    ``workers`` train and test everybody in place of this process; whoever made them closes them.
    """

    def __init__(self, setup: Setup, workers: Workers | None = None) -> None:
        self.setup = setup
        self.round = 0
        self.peers = len(setup.shares.rows)
        device = torch.device(setup.device)
        self._trainer = Trainer(setup)
        self._workers = workers or self._trainer
        self._order = self._trainer.order
        topology = _reordered(setup.topology, self._order)
        self._weather = Weather(setup.conditions, topology, setup.seed, self._order)
        self._attackers = attackers_of(setup, self._order, topology, device)
        self._merger = merger_of(setup, self._order, device)
        self._merged: tuple[Links, NDArray[np.float64] | None] | None = None
        depth = self._weather.depth + 2
        places = self.peers + (self._attackers.rows if self._attackers is not None else 0)
        self._ring = [torch.zeros(depth, places, *tensor.shape, device=device) for tensor in setup.genesis]
        for ring, tensor in zip(self._ring, setup.genesis, strict=True):
            ring[0].copy_(tensor.to(device).expand_as(ring[0]))
        self._codec: Codec | None = None
        if setup.codec.kind != "float32":
            self._codec = Codec(setup.codec, setup.genesis, self._order, setup.seed)
        self._drift: Tensors | None = None
        if setup.quasi_global:
            self._drift = [torch.zeros_like(ring[0, : self.peers]) for ring in self._ring]
        self.dim = setup.net.slots[-1].stop

    def step(self) -> RoundFacts:
        """One round of everybody."""
        with torch.no_grad():
            active = self._weather.turn(self.round)
            depth = self._ring[0].shape[0]
            now, into = self.round % depth, (self.round + 1) % depth
            bad = self._attackers
            base = None if bad is None else bad.before(self._ring, now)
            begun = [ring[now, : self.peers].clone() for ring in self._ring] if self._drift is not None else []
            own = [ring[now, : self.peers] for ring in self._ring]
            loss = self._workers.train(own, active, self.round, self._drift)
            if self._codec is not None:
                self._codec.publish(own, active, self.round)
            links = self._weather.links(self.round, active)
            over = self.round / self.setup.rounds if self.setup.rounds else 0.0
            try:
                seen = links
                if bad is not None and base is not None:
                    scene = Scene(self._ring, now, self.round, links, self._merger, over)
                    widened(self._ring, self.peers + bad.rows_in(links))
                    seen = bad.publish(scene, base, active)
                self._merged = seen, self._merger.merge(self._ring, seen, now, into, over)
            except RefusedRows:
                raise self._diverged() from None
            if self._drift is not None:
                self._follow(self._drift, begun, into)
        self.round += 1
        return RoundFacts(loss, *traffic(links, active))

    def _follow(self, drift: Tensors, begun: Tensors, into: int) -> None:
        """Quasi-global momentum: the average of how far a round has taken the merged model, per local step."""
        training = self.setup.training
        scale = (1 - training.momentum) / (training.learning_rate * training.local_steps)
        for mean, before, ring in zip(drift, begun, self._ring, strict=True):
            mean.mul_(training.momentum).add_(before - ring[into, : self.peers], alpha=scale)

    def _diverged(self) -> ConfigError:
        setup = self.setup
        under = f" under attack {setup.attack.name}" if setup.attack is not None else ""
        return ConfigError(
            f"params are not finite after round {self.round}{under} "
            f"(merge rule {setup.merging.rule}, learning_rate {setup.training.learning_rate})",
            hint="lower training.learning_rate" + (", or choose a merge rule that bears the attack" if under else ""),
        )

    def evaluate(self) -> Evaluation:
        """How good everybody is now, on the pool's test set; arrays in the order of the scenario's peers."""
        now = self.round % self._ring[0].shape[0]
        params = [ring[now, : self.peers] for ring in self._ring]
        tested = self._workers.test(params)
        accuracy, loss = np.empty(self.peers), np.empty(self.peers)
        accuracy[self._order], loss[self._order] = tested
        with torch.no_grad():
            present = self._weather.present
            honest = np.ones(self.peers, dtype=np.bool_) if self._attackers is None else ~self._attackers.flags
            distance = consensus(params, present & honest)
            triggered = self._triggered(params)
        if not np.isfinite(distance):
            raise self._diverged()
        found = self._held(honest)
        there, good = np.empty_like(present), np.empty_like(honest)
        there[self._order], good[self._order] = present, honest
        return Evaluation(accuracy, loss, there, good, distance, triggered, found)

    def _triggered(self, params: Tensors) -> NDArray[np.float64] | None:
        attack = self.setup.attack
        if attack is None or attack.name not in EXAMPLE_ATTACKS:
            return None
        inputs = stamped(self._trainer.tests[self._trainer.goals != BACKDOOR_CLASS])
        found = np.empty(self.peers)
        step = self._trainer.tested_together(len(inputs))
        for at in range(0, self.peers, step):
            outputs = self.setup.net.outputs([tensor[at : at + step] for tensor in params], inputs)
            taken = (outputs.argmax(1) == BACKDOOR_CLASS).double().mean(1)
            found[self._order[at : at + step]] = taken.cpu().numpy()
        return found

    def _held(self, honest: Flags) -> Held | None:
        """What attackers had of the last round's merges; None without attackers or a merge."""
        if self._attackers is None or self._merged is None:
            return None
        links, counted = self._merged
        if counted is None and isinstance(self._merger, Catalogued):
            readers = np.flatnonzero(honest)
            some = readers[np.unique(np.linspace(0, len(readers) - 1, SAMPLED_READERS).astype(np.int64))]
            counted = self._merger.shares(self._ring, links, (self.round - 1) % self._ring[0].shape[0], some)
        return None if counted is None else held(links, counted, honest, self._order)

    def params(self) -> NDArray[np.float32]:
        """A copy of everybody's params in the order of the scenario's peers, float32 [n, d]."""
        now = self.round % self._ring[0].shape[0]
        flat = torch.cat([ring[now, : self.peers].reshape(self.peers, -1) for ring in self._ring], dim=1).cpu().numpy()
        result = np.empty_like(flat)
        result[self._order] = flat
        return result


def _reordered(topology: Topology, order: Indices) -> Topology:
    """The topology under the engine's numbering; a graph that stays is renumbered once."""
    if (order == np.arange(len(order))).all():
        return topology
    if topology.period == 1:
        once = topology.at(0).reordered(order)
        return Topology(topology.kind, topology.peers, lambda r: once, 1, topology.directed)
    return Topology(
        topology.kind, topology.peers, lambda r: topology.at(r).reordered(order), topology.period, topology.directed
    )
