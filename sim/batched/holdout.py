"""What judges neighbors: examples of each peer that it does not train on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from quidnunc.gossip.rules.linear import Reals, Stack
from quidnunc.sim.batched.batches import whole_shares
from quidnunc.sim.batched.draws import Indices
from quidnunc.sim.batched.net import Net, Tensors
from quidnunc.sim.data.pool import Pool

if TYPE_CHECKING:
    from quidnunc.sim.batched.probe import Probe

_BLOCK_BYTES = 16 << 20
_TOGETHER = 256
KEPT_BYTES = 64 << 20
"""Examples that stay gathered from round to round; what is more is gathered again."""
Examples = tuple[Tensor, Tensor, Tensor | None]


class Holdout:
    """Mean losses of many params on each peer's own holdout; ``rows`` are places in ``pool``, one array per peer.

    With ``probe`` they are found in compiled code, and agree with torch's to rounding.
    """

    def __init__(
        self, net: Net, pool: Pool, rows: list[Indices], device: torch.device, probe: Probe | None = None
    ) -> None:
        self._net = net
        self._probe = probe
        self._sizes = np.array([len(each) for each in rows], dtype=np.int64)
        self._starts = np.concatenate([[0], np.cumsum(self._sizes)[:-1]])
        self._rows = np.concatenate(rows)
        self._inputs = torch.from_numpy(pool.inputs).to(device)
        self._labels = torch.from_numpy(pool.labels).to(device)
        self._kept: dict[bytes, Examples] = {}
        self._left = KEPT_BYTES
        self._units = sum(slot.shape[0] for slot in net.slots if len(slot.shape) > 1)

    def halfway(self, states: Stack, parts: Reals, peers: Indices) -> Reals:
        """The own loss of ``peers`` [b], and those at ``parts`` [k, b] of the way to each neighbor: [k+1, b].

        ``states`` [k+1, b, d] are the own, and the steps from it to the neighbors'.
        """
        whole = torch.from_numpy(states).to(self._inputs.device)
        params = [whole[..., slot.start : slot.stop].view(*states.shape[:2], *slot.shape) for slot in self._net.slots]
        there = torch.from_numpy(parts.astype(np.float32)).to(whole.device)
        found: Reals = self._net.halfway(params, there, *self._batch(peers)).double().cpu().numpy()
        return found

    def in_place(self, params: Tensors, index: Indices, parts: Reals, peers: Indices) -> Reals:
        """The same with a probe: [k+1, b], of the rows ``index`` [k+1, b] of ``params``, one tensor [m, *shape] per
        slot.
        """
        assert self._probe is not None
        examples = self._inputs, self._labels
        return self._probe.losses(params, index, parts, examples, self._rows, self._starts[peers], self._sizes[peers])

    def of_rows(self, params: Tensors, peers: Indices) -> Reals:
        """Of the params of ``peers`` [b], ascending, themselves, one tensor [n, *shape] per slot: [b]."""
        if self._probe is not None:
            mine: Reals = self.in_place(params, peers[None], np.empty((0, len(peers))), peers)[0]
            return mine
        found = np.empty(len(peers))
        each = 4 * (self._net.slots[-1].stop + int(self._sizes.max()) * (self._inputs.shape[1] + 3 * self._units))
        step = max(1, _BLOCK_BYTES // each)
        for at in range(0, len(peers), step):
            some = peers[at : at + step]
            low, high = int(some[0]), int(some[-1]) + 1
            if high - low == len(some):
                own = [tensor[low:high] for tensor in params]
            else:
                index = torch.from_numpy(some).to(params[0].device)
                own = [tensor.index_select(0, index) for tensor in params]
            found[at : at + step] = self._measured(own, some)
        return found

    def of_genesis(self, genesis: Tensors) -> Reals:
        """Of the params all start from: [n]."""
        found = np.empty(len(self._sizes))
        for at in range(0, len(found), _TOGETHER):
            some = np.arange(at, min(at + _TOGETHER, len(found)))
            same = [tensor.to(self._inputs.device).expand(len(some), *tensor.shape) for tensor in genesis]
            found[some] = self._measured(same, some)
        return found

    def _measured(self, params: Tensors, peers: Indices) -> Reals:
        found: Reals = self._net.loss(params, *self._batch(peers)).double().cpu().numpy()
        return found

    def _batch(self, peers: Indices) -> Examples:
        """Inputs [b, h, f], labels and weights [b, h] (None: all alike) of the holdouts of ``peers``.

        The same peers stand together in most rounds.
        """
        key = peers.tobytes()
        found = self._kept.get(key)
        if found is None:
            found = self._selected(peers)
            size = found[0].nbytes + found[1].nbytes
            if size <= self._left:
                self._kept[key] = found
                self._left -= size
        return found

    def _selected(self, peers: Indices) -> Examples:
        batches = whole_shares(self._sizes[peers])
        picks = self._starts[peers][:, None] + batches.picks[0]
        index = torch.from_numpy(self._rows[picks].reshape(-1)).to(self._inputs.device)
        x = self._inputs.index_select(0, index).view(*picks.shape, -1)
        y = self._labels.index_select(0, index).view(picks.shape)
        counts = None if batches.counts is None else torch.from_numpy(batches.counts).to(x.device)
        return x, y, counts
