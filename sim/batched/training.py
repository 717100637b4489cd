"""Local training and testing of many peers: which of them side by side, on which examples, with which noise.

Everything follows from the setup and from names of draws, so that any process that holds the same setup computes the
same bits for the same peers.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from quidnunc.gossip.jobs import PrivacyStep
from quidnunc.sim.batched.batches import Batches, draw_batches, whole_shares
from quidnunc.sim.batched.compiled import descent_for
from quidnunc.sim.batched.draws import Indices, keys
from quidnunc.sim.batched.net import Tensors
from quidnunc.sim.batched.poison import poisoned_examples
from quidnunc.sim.batched.setup import Setup

if TYPE_CHECKING:
    from quidnunc.sim.batched.descent import Descent

CHUNK_BYTES = 4 << 20
"""Params and activations of the peers that are worked on together: they should stay in the processor's nearer caches
(measured: 16 MiB took a fifth longer with small models)."""
EVALUATED_BYTES = 16 << 20

Range = tuple[int, int]


class Tested(NamedTuple):
    """Test accuracy and mean test loss of some peers, float64 [c]."""

    accuracy: NDArray[np.float64]
    loss: NDArray[np.float64]


class Workers(Protocol):
    """Whoever trains and tests everybody: this process, or several. Peers are in the order of their shares' sizes."""

    def train(self, params: Tensors, active: NDArray[np.bool_], number: int, drift: Tensors | None) -> float:
        """Train the ``active`` peers in place for round ``number``; their mean loss, nan where nobody is.

        ``drift`` is the momentum of the merged model, None without.
        """
        ...

    def test(self, params: Tensors) -> Tested:
        """How good all ``params`` are on the pool's test set."""
        ...


def of_part(params: Tensors, part: Range) -> Tensors:
    """The params of some peers in a row, not copied."""
    return [tensor[slice(*part)] for tensor in params]


class Trainer:
    """The :class:`Workers` that is this process."""

    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        device = torch.device(setup.device)
        sizes = setup.shares.sizes
        self.order: Indices = np.argsort(-sizes, kind="stable")
        self._sizes = sizes[self.order]
        self._starts = np.concatenate([[0], np.cumsum(self._sizes)[:-1]])
        inputs, labels, rows = poisoned_examples(setup.pool, setup.shares.rows, setup.attack)
        self._examples = np.concatenate([rows[peer] for peer in self.order])
        self._inputs = torch.from_numpy(inputs).to(device).contiguous()
        self._labels = torch.from_numpy(labels).to(device)
        self._units = sum(slot.shape[0] for slot in setup.net.slots if len(slot.shape) > 1)
        self._dim = setup.net.slots[-1].stop
        self.tests = torch.from_numpy(setup.pool.test_inputs).to(device)
        self.goals = torch.from_numpy(setup.pool.test_labels).to(device)

    @cached_property
    def _descent(self) -> Descent | None:
        """Made where it is first asked for: not in a process whose workers train."""
        return descent_for(self._setup)

    def train(self, params: Tensors, active: NDArray[np.bool_], number: int, drift: Tensors | None) -> float:
        """See :class:`Workers`."""
        total, trained = 0.0, int(active.sum())
        for part in self.chunks():
            moved = None if drift is None else of_part(drift, part)
            total += self.train_part(of_part(params, part), part, active[slice(*part)], number, moved)
        return total / trained if trained else float("nan")

    def train_part(
        self, params: Tensors, part: Range, active: NDArray[np.bool_], number: int, drift: Tensors | None
    ) -> float:
        """Train the ``active`` peers of one of :meth:`chunks`, bool [high-low], in place; the sum of their losses.

        ``params`` and ``drift`` are those of the part, [high-low, *shape].
        """
        low, high = part
        rows = np.flatnonzero(active) + low
        if not len(rows):
            return 0.0
        if len(rows) == high - low:
            return self._rows(params, rows, number, drift)
        places = torch.from_numpy(rows - low).to(params[0].device)
        some = [tensor.index_select(0, places) for tensor in params]
        total = self._rows(some, rows, number, drift)
        for tensor, changed in zip(params, some, strict=True):
            tensor.index_copy_(0, places, changed)
        return total

    def test(self, params: Tensors) -> Tested:
        """See :class:`Workers`."""
        parts = [self.test_part(of_part(params, part)) for part in self.test_chunks()]
        return Tested(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))

    def test_part(self, params: Tensors) -> Tested:
        """How good the peers of one of :meth:`test_chunks` are, whose params these are."""
        with torch.no_grad():
            outputs = self._setup.net.outputs(params, self.tests)
            target = self.goals.expand(len(outputs), -1)
            right = (outputs.argmax(1) == target).double().mean(1)
            spent = torch.logsumexp(outputs, 1) - outputs.gather(1, target.unsqueeze(1)).squeeze(1)
            return Tested(right.cpu().numpy(), spent.double().mean(1).cpu().numpy())

    def chunks(self) -> list[Range]:
        """Neighbors in size, as many as CHUNK_BYTES hold; never more than one generous chunk for tiny models."""
        setup = self._setup
        found, low = [], 0
        while low < len(self._sizes):
            size = int(self._sizes[low])
            batch = size if setup.privacy is not None else min(size, setup.training.batch_size)
            each = 4 * (self._dim + batch * (setup.pool.features + 3 * self._units))
            high = min(len(self._sizes), low + self._together(CHUNK_BYTES // each))
            found.append((low, high))
            low = high
        return found

    def test_chunks(self) -> list[Range]:
        """Peers whose outputs on the test set are formed together."""
        step = self.tested_together(len(self.goals))
        return [(low, min(low + step, len(self._sizes))) for low in range(0, len(self._sizes), step)]

    def tested_together(self, examples: int) -> int:
        """How many peers are evaluated together on so many examples."""
        return self._together(EVALUATED_BYTES // (4 * examples * max(1, self._units)))

    def _together(self, fitting: int) -> int:
        most = self._setup.net.chunk_max
        return max(1, min(fitting, most) if most else fitting)

    def _rows(self, params: Tensors, rows: Indices, number: int, drift: Tensors | None) -> float:
        """Train the peers ``rows``, whose params are ``params``, in place; the sum of their mean losses."""
        setup = self._setup
        sizes, starts = self._sizes[rows], self._starts[rows]
        if setup.privacy is not None:
            return self._private(params, rows, number, setup.privacy, whole_shares(sizes))
        training = setup.training
        names = keys(setup.seed, "batches", number, self.order[rows])
        batches = draw_batches(names, sizes, training.local_steps, training.batch_size)
        if self._descent is not None:
            own = np.minimum(sizes, training.batch_size)
            picks = self._examples[starts[:, None] + batches.picks]
            return self._descent.descend(params, self._inputs, self._labels, picks, own, training.learning_rate)
        velocity = [torch.zeros_like(tensor) for tensor in params] if training.momentum else None
        begun = [tensor.clone() for tensor in params] if training.prox else None
        losses = []
        for x, y, counts in self._batches(batches, starts):
            if drift is not None:
                # All peers take every turn here: these are the whole part.
                velocity = [mean.clone() for mean in drift]
            pull = None if begun is None else [tensor - start for tensor, start in zip(params, begun, strict=True)]
            if pull is not None and velocity is not None:
                # The net multiplies velocity by the momentum before it adds the gradient.
                _add(velocity, pull, training.prox / training.momentum)
            loss = setup.net.train(params, velocity, x, y, counts, training.learning_rate, training.momentum)
            if pull is not None and velocity is None:
                _add(params, pull, -training.learning_rate * training.prox)
            losses.append(loss)
        return float(torch.stack(losses).mean(0).double().sum())

    def _private(self, params: Tensors, rows: Indices, number: int, privacy: PrivacyStep, batches: Batches) -> float:
        """One full-batch step of DP-SGD; the noise is simulated and protects nobody."""
        setup = self._setup
        ((x, y, counts),) = self._batches(batches, self._starts[rows])
        grads, loss = setup.net.private(params, x, y, counts, privacy.clip)
        rate = setup.training.learning_rate
        noise = self._noise(rows, number, rate * privacy.noise_multiplier * privacy.clip).to(params[0].device)
        for tensor, grad, slot in zip(params, grads, setup.net.slots, strict=True):
            tensor.sub_(grad, alpha=rate).sub_(noise[:, slot.start : slot.stop].view_as(grad))
        return float(loss.double().sum())

    def _noise(self, rows: Indices, number: int, scale: float) -> Tensor:
        """Normal numbers of deviation ``scale`` over the size of each peer's share, [c, d], named by round and peer."""
        noise = torch.empty(len(rows), self._dim)
        generator = torch.Generator()
        names = keys(self._setup.seed, "noise", number, self.order[rows])
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


def _add(tensors: Tensors, others: Tensors, scale: float) -> None:
    for tensor, other in zip(tensors, others, strict=True):
        tensor.add_(other, alpha=scale)
