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
from torch import Tensor

from quidnunc.crypto.errors import ConfigError
from quidnunc.gossip.jobs import PrivacyStep
from quidnunc.gossip.learning.attack import BACKDOOR_CLASS, EXAMPLE_ATTACKS, stamped
from quidnunc.gossip.rules.gram import RefusedRows
from quidnunc.sim.batched.attackers import Scene, widened
from quidnunc.sim.batched.batches import Batches, draw_batches, whole_shares
from quidnunc.sim.batched.conditions import Flags, Links, Weather
from quidnunc.sim.batched.draws import Indices, keys
from quidnunc.sim.batched.measures import consensus, traffic
from quidnunc.sim.batched.merging import Catalogued
from quidnunc.sim.batched.net import Tensors
from quidnunc.sim.batched.poison import poisoned_examples
from quidnunc.sim.batched.setup import Setup, attackers_of, merger_of
from quidnunc.sim.batched.witness import Held, held
from quidnunc.sim.topology.catalog import Topology

__all__ = ["Engine", "Evaluation", "RoundFacts", "Setup"]

CHUNK_BYTES = 16 << 20
"""Params and activations of the peers that are worked on together: they should stay in the processor's caches."""
EVALUATED_BYTES = 16 << 20
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
    """A simulation in progress. Raises ConfigError when params are no longer finite."""

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self.round = 0
        self.peers = len(setup.shares.rows)
        device = torch.device(setup.device)
        sizes = setup.shares.sizes
        self._order = np.argsort(-sizes, kind="stable")
        self._sizes = sizes[self._order]
        self._starts = np.concatenate([[0], np.cumsum(self._sizes)[:-1]])
        inputs, labels, rows = poisoned_examples(setup.pool, setup.shares.rows, setup.attack)
        self._examples = np.concatenate([rows[peer] for peer in self._order])
        topology = _reordered(setup.topology, self._order)
        self._weather = Weather(setup.conditions, topology, setup.seed, self._order)
        self._inputs = torch.from_numpy(inputs).to(device)
        self._labels = torch.from_numpy(labels).to(device)
        self._tests = torch.from_numpy(setup.pool.test_inputs).to(device)
        self._goals = torch.from_numpy(setup.pool.test_labels).to(device)
        self._attackers = attackers_of(setup, self._order, topology, device)
        self._merger = merger_of(setup, self._order, device)
        self._merged: tuple[Links, NDArray[np.float64] | None] | None = None
        depth = self._weather.depth + 2
        places = self.peers + (self._attackers.rows if self._attackers is not None else 0)
        self._ring = [torch.zeros(depth, places, *tensor.shape, device=device) for tensor in setup.genesis]
        for ring, tensor in zip(self._ring, setup.genesis, strict=True):
            ring[0].copy_(tensor.to(device).expand_as(ring[0]))
        self._drift: Tensors | None = None
        if setup.quasi_global:
            self._drift = [torch.zeros_like(ring[0, : self.peers]) for ring in self._ring]
        self._units = sum(slot.shape[0] for slot in setup.net.slots if len(slot.shape) > 1)
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
            loss = self._train([ring[now] for ring in self._ring], active)
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
        setup = self.setup
        now = self.round % self._ring[0].shape[0]
        params = [ring[now, : self.peers] for ring in self._ring]
        accuracy, loss = np.empty(self.peers), np.empty(self.peers)
        step = max(1, EVALUATED_BYTES // (4 * len(self._tests) * max(1, self._units)))
        with torch.no_grad():
            for at in range(0, self.peers, step):
                outputs = setup.net.outputs([tensor[at : at + step] for tensor in params], self._tests)
                target = self._goals.expand(len(outputs), -1)
                right = (outputs.argmax(1) == target).double().mean(1)
                spent = torch.logsumexp(outputs, 1) - outputs.gather(1, target.unsqueeze(1)).squeeze(1)
                accuracy[self._order[at : at + step]] = right.cpu().numpy()
                loss[self._order[at : at + step]] = spent.double().mean(1).cpu().numpy()
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
        inputs = stamped(self._tests[self._goals != BACKDOOR_CLASS])
        found = np.empty(self.peers)
        step = max(1, EVALUATED_BYTES // (4 * len(inputs) * max(1, self._units)))
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

    def _train(self, params: Tensors, active: NDArray[np.bool_]) -> float:
        total, trained = 0.0, int(active.sum())
        for low, high in self._chunks():
            rows = np.flatnonzero(active[low:high]) + low
            if not len(rows):
                continue
            mine = [tensor[low:high] for tensor in params]
            if len(rows) == high - low:
                total += self._train_rows(mine, rows)
                continue
            places = torch.from_numpy(rows - low).to(mine[0].device)
            some = [tensor.index_select(0, places) for tensor in mine]
            total += self._train_rows(some, rows)
            for tensor, changed in zip(mine, some, strict=True):
                tensor.index_copy_(0, places, changed)
        return total / trained if trained else float("nan")

    def _chunks(self) -> list[tuple[int, int]]:
        """Neighbors in size, as many as CHUNK_BYTES hold; never more than one generous chunk for tiny models."""
        setup = self.setup
        found, low = [], 0
        while low < self.peers:
            size = int(self._sizes[low])
            batch = size if setup.privacy is not None else min(size, setup.training.batch_size)
            each = 4 * (self.dim + batch * (setup.pool.features + 3 * self._units))
            high = min(self.peers, low + max(1, CHUNK_BYTES // each))
            found.append((low, high))
            low = high
        return found

    def _train_rows(self, params: Tensors, rows: Indices) -> float:
        """Train the peers ``rows``, whose params are ``params``, in place; the sum of their mean losses."""
        setup = self.setup
        sizes, starts = self._sizes[rows], self._starts[rows]
        if setup.privacy is not None:
            return self._private(params, rows, setup.privacy, whole_shares(sizes))
        training = setup.training
        names = keys(setup.seed, "batches", self.round, self._order[rows])
        batches = draw_batches(names, sizes, training.local_steps, training.batch_size)
        velocity = [torch.zeros_like(tensor) for tensor in params] if training.momentum else None
        losses = []
        for x, y, counts in self._batches(batches, starts):
            if self._drift is not None:
                # All peers take every turn here: rows are a range.
                velocity = [mean[int(rows[0]) : int(rows[-1]) + 1].clone() for mean in self._drift]
            loss = setup.net.train(params, velocity, x, y, counts, training.learning_rate, training.momentum)
            losses.append(loss)
        return float(torch.stack(losses).mean(0).double().sum())

    def _private(self, params: Tensors, rows: Indices, privacy: PrivacyStep, batches: Batches) -> float:
        """One full-batch step of DP-SGD; the noise is simulated and protects nobody."""
        setup = self.setup
        ((x, y, counts),) = self._batches(batches, self._starts[rows])
        grads, loss = setup.net.private(params, x, y, counts, privacy.clip)
        rate = setup.training.learning_rate
        noise = self._noise(rows, rate * privacy.noise_multiplier * privacy.clip).to(params[0].device)
        for tensor, grad, slot in zip(params, grads, setup.net.slots, strict=True):
            tensor.sub_(grad, alpha=rate).sub_(noise[:, slot.start : slot.stop].view_as(grad))
        return float(loss.double().sum())

    def _noise(self, rows: Indices, scale: float) -> Tensor:
        """Normal numbers of deviation ``scale`` over the size of each peer's share, [c, d], named by round and peer."""
        noise = torch.empty(len(rows), self.dim)
        generator = torch.Generator()
        names = keys(self.setup.seed, "noise", self.round, self._order[rows])
        for row, key, size in zip(noise, names.tolist(), self._sizes[rows].tolist(), strict=True):
            row.normal_(0.0, scale / size, generator=generator.manual_seed(key >> 1))
        return noise

    def _batches(self, batches: Batches, starts: Indices) -> list[tuple[Tensor, Tensor, Tensor | None]]:
        """Inputs [c, b, f], labels [c, b] and counts of every step."""
        device = self._inputs.device
        counts = None if batches.counts is None else torch.from_numpy(batches.counts).to(device)
        found = []
        for picks in batches.picks:
            index = torch.from_numpy(self._examples[starts[:, None] + picks].reshape(-1)).to(device)
            x = self._inputs.index_select(0, index).view(*picks.shape, -1)
            found.append((x, self._labels.index_select(0, index).view(picks.shape), counts))
        return found


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
