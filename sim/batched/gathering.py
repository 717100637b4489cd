"""Neighborhoods of a round, those of equal size together, and the states in them, gathered block by block.

States are a ring of past rounds per slot of the layout, [depth, rows, *shape]: row i of the first n is peer i, further
ones are what attackers publish (``sim/batched/attackers.py``). A link reads a row as old as the link says.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from quidnunc.gossip.rules.linear import Stack
from quidnunc.sim.batched.conditions import Links
from quidnunc.sim.batched.draws import Indices

GATHERED_BYTES = 4 << 20
"""States gathered at a time; with their copies they stay in the last cache."""
_FEW, _MOST_BYTES = 8, 16 << 20
"""Of large models so many peers at least, as long as that is no more than this: calls cost more than caches then."""


class Group(NamedTuple):
    """Peers that hear equally many neighbors: ``peers`` [g], the numbers of their links ``links`` [g, k]."""

    peers: Indices
    links: Indices

    def blocks(self, dim: int, times: int = 1) -> Iterator[Group]:
        """Parts of the group whose states of ``dim`` params, ``times`` over, are about GATHERED_BYTES."""
        step = together(dim, (self.links.shape[1] + 1) * times)
        for at in range(0, len(self.peers), step):
            yield Group(self.peers[at : at + step], self.links[at : at + step])


def together(dim: int, rows: int) -> int:
    """How many peers are gathered at a time with ``rows`` states of ``dim`` params each."""
    each = 4 * dim * rows
    return max(1, GATHERED_BYTES // each, min(_FEW, _MOST_BYTES // each))


def neighborhoods(links: Links) -> list[Group]:
    """Everybody who hears a neighbor this round, by the number of neighbors heard."""
    mixing = links.mixing
    live = np.flatnonzero(mixing.weights > 0)
    counts = np.bincount(mixing.receivers[live], minlength=mixing.peers)
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    found = []
    for count in np.unique(counts[counts > 0]).tolist():
        peers = np.flatnonzero(counts == count)
        found.append(Group(peers, live[starts[peers][:, None] + np.arange(count)]))
    return found


def sources(ring: list[Tensor], links: Links, now: int) -> Indices:
    """Where each link reads, int64 [m]: a row of the ring seen as [depth * rows, ...]."""
    depth, rows = ring[0].shape[:2]
    read = links.mixing.indices if links.rows is None else links.rows
    slots = np.full(len(read), now) if links.ages is None else (now - links.ages) % depth
    found: Indices = slots * rows + read
    return found


def gathered(ring: list[Tensor], index: Indices, into: Stack | None = None) -> Stack:
    """The states ``index`` [...] of all slots side by side, float32 [..., d]; in ``into`` of that shape, if given."""
    device = ring[0].device
    flat = torch.from_numpy(np.ascontiguousarray(index).reshape(-1)).to(device)
    shape = len(flat), width_of(ring)
    here = into is not None and device.type == "cpu"
    whole = torch.from_numpy(into).view(shape) if here else torch.empty(shape, device=device)
    left = 0
    for tensor in ring:
        right = left + tensor[0, 0].numel()
        # Straight into its columns: a copy of what was selected took five times as long.
        torch.index_select(tensor.view(-1, right - left), 0, flat, out=whole[:, left:right])
        left = right
    stack: Stack = whole.cpu().numpy().reshape(*index.shape, -1)
    return stack


def scatter(ring: list[Tensor], into: int, rows: Indices, states: Stack) -> None:
    """Write ``states`` [b, d] to ``rows`` [b] of place ``into``."""
    device = ring[0].device
    chosen = torch.from_numpy(rows).to(device)
    values = torch.from_numpy(np.ascontiguousarray(states, dtype=np.float32)).to(device)
    left = 0
    for tensor in ring:
        right = left + tensor[0, 0].numel()
        tensor[into].index_copy_(0, chosen, values[:, left:right].reshape(len(rows), *tensor.shape[2:]))
        left = right


def width_of(ring: list[Tensor]) -> int:
    """Params of one peer."""
    return sum(tensor[0, 0].numel() for tensor in ring)
