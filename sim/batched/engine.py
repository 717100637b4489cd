"""Thousands of peers, round by round: train, publish, merge, everybody side by side in one process.

The same round as in the protocol (merge, train, publish) with merging moved to its end, so that what is measured is
what a peer would train from next. Peers are kept in order of the size of their shares: those that work side by side
then pad their batches little. Every draw is named by seed, round and peer, so that the same setup gives the same bits.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from quidnunc.crypto.errors import ConfigError
from quidnunc.gossip.jobs import PrivacyStep
from quidnunc.gossip.task import Training
from quidnunc.sim.batched.batches import Batches, draw_batches, whole_shares
from quidnunc.sim.batched.conditions import Conditions, Links, Weather
from quidnunc.sim.batched.draws import Indices, keys
from quidnunc.sim.batched.merging import StackRule, merge_stacks, mix
from quidnunc.sim.batched.net import Net, Tensors
from quidnunc.sim.data.pool import Pool
from quidnunc.sim.data.shares import Shares
from quidnunc.sim.topology.catalog import Topology

CHUNK_BYTES = 16 << 20
"""Params and activations of the peers that are worked on together: they should stay in the processor's caches."""
EVALUATED_BYTES = 16 << 20


@dataclass(frozen=True, slots=True, eq=False)
class Setup:
    """Everything a simulation needs. ``genesis`` are the params all peers start from, one tensor per slot of ``net``.

    ``rule`` None is mixing. With ``privacy`` a round is one noised full-batch step, as in the daemon;
    ``delta`` is what its epsilon is stated at.
    """

    net: Net
    genesis: Tensors
    pool: Pool
    shares: Shares
    topology: Topology
    training: Training
    privacy: PrivacyStep | None = None
    delta: float = 1e-5
    conditions: Conditions = field(default_factory=Conditions)
    rule: StackRule | None = None
    seed: int = 0
    device: str = "cpu"


class RoundFacts(NamedTuple):
    """One round: the mean training loss of those who trained (nan if nobody did), and messages sent and lost."""

    loss: float
    messages: int
    lost: int


class Evaluation(NamedTuple):
    """Test accuracy and mean loss of every peer, float64 [n], who is present, and the consensus distance.

    The latter is the mean over present peers of the distance between their params and the average of those.
    """

    accuracy: NDArray[np.float64]
    loss: NDArray[np.float64]
    present: NDArray[np.bool_]
    consensus: float


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
        self._examples = np.concatenate([setup.shares.rows[peer] for peer in self._order])
        self._weather = Weather(setup.conditions, _reordered(setup.topology, self._order), setup.seed, self._order)
        self._inputs = torch.from_numpy(setup.pool.inputs).to(device)
        self._labels = torch.from_numpy(setup.pool.labels).to(device)
        self._tests = torch.from_numpy(setup.pool.test_inputs).to(device)
        self._goals = torch.from_numpy(setup.pool.test_labels).to(device)
        depth = self._weather.depth + 2
        self._ring = [torch.empty(depth, self.peers, *tensor.shape, device=device) for tensor in setup.genesis]
        for ring, tensor in zip(self._ring, setup.genesis, strict=True):
            ring[0].copy_(tensor.to(device).expand_as(ring[0]))
        self._units = sum(slot.shape[0] for slot in setup.net.slots if len(slot.shape) > 1)
        self.dim = setup.net.slots[-1].stop

    def step(self) -> RoundFacts:
        """One round of everybody."""
        with torch.no_grad():
            active = self._weather.turn(self.round)
            depth = self._ring[0].shape[0]
            now, into = self.round % depth, (self.round + 1) % depth
            loss = self._train([ring[now] for ring in self._ring], active)
            links = self._weather.links(self.round, active)
            if self.setup.rule is None:
                mix(self._ring, links, now, into)
            else:
                merge_stacks(self._ring, links, now, into, self.setup.rule)
        self.round += 1
        return RoundFacts(loss, *_traffic(links, active))

    def evaluate(self) -> Evaluation:
        """How good everybody is now, on the pool's test set; arrays in the order of the scenario's peers."""
        setup = self.setup
        now = self.round % self._ring[0].shape[0]
        params = [ring[now] for ring in self._ring]
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
            consensus = _consensus(params, present)
        if not np.isfinite(consensus):
            raise ConfigError(
                f"params are not finite after round {self.round} (learning_rate {setup.training.learning_rate})",
                hint="lower training.learning_rate",
            )
        there = np.empty_like(present)
        there[self._order] = present
        return Evaluation(accuracy, loss, there, consensus)

    def params(self) -> NDArray[np.float32]:
        """A copy of everybody's params in the order of the scenario's peers, float32 [n, d]."""
        now = self.round % self._ring[0].shape[0]
        flat = torch.cat([ring[now].reshape(self.peers, -1) for ring in self._ring], dim=1).cpu().numpy()
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


def _traffic(links: Links, active: NDArray[np.bool_]) -> tuple[int, int]:
    """Messages sent this round, one per link whose sender took a turn, and those that were not heard."""
    senders = active[links.mixing.indices]
    heard = links.mixing.weights > 0 if links.ages is None else (links.mixing.weights > 0) & (links.ages == 0)
    sent = int(senders.sum())
    return sent, sent - int((senders & heard).sum())


def _consensus(params: Tensors, present: NDArray[np.bool_]) -> float:
    rows = torch.from_numpy(np.flatnonzero(present)).to(params[0].device)
    if not len(rows):
        return 0.0
    square = torch.zeros(len(rows), dtype=torch.float64, device=params[0].device)
    for tensor in params:
        mean = tensor.index_select(0, rows).mean(0)
        for at in range(0, len(rows), 256):
            part = rows[at : at + 256]
            square[at : at + 256] += (tensor.index_select(0, part) - mean).flatten(1).double().square().sum(1)
    return float(square.sqrt().mean())
