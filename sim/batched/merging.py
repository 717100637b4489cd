"""Merging for all peers at once: sparse mixing in blocks, or a rule on gathered neighbors.

States are a ring of past rounds per slot of the layout, [depth, n, *shape]: a link reads the sender's state as old as
the link says.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from quidnunc.gossip.rules.linear import Reals, Stack
from quidnunc.gossip.rules.median import coordinate_median
from quidnunc.sim.batched.conditions import Links
from quidnunc.sim.batched.draws import Indices

StackRule = Callable[[Stack, Reals], Stack]
"""A merge rule on gathered neighbors: float32 [b, k, d] and float64 weights [b, k] to [b, d].

Row 0 of each stack is the peer's own state, the others are neighbors that were heard; weights sum to one. This is the
shape of every rule in ``gossip/rules``, so that one of those can be given as it is.
"""

RULES: Mapping[str, StackRule | None] = {
    "mean": None,
    "median": lambda stack, weights: coordinate_median(stack),
}
"""Rules by name; None is sparse mixing, which needs no stacks."""

WHOLE_BYTES = 16 << 20
"""States below this size are mixed whole: they stay in the last cache."""
COLUMNS = 2048
TEMPORARY_BYTES = 4 << 20
GATHERED_BYTES = 64 << 20


def mix(ring: list[Tensor], links: Links, now: int, into: int) -> None:
    """Write W x to place ``into`` of each ring, where x are the states at ``now`` (or older, as ``links`` say)."""
    depth, peers = ring[0].shape[:2]
    mixing = links.mixing
    slots = np.full(len(mixing.indices), now) if links.ages is None else (now - links.ages) % depth
    starts = mixing.indptr[:-1]
    own = np.arange(peers)
    sources = np.insert(slots * peers + mixing.indices, starts, now * peers + own)
    weights = np.insert(mixing.weights, starts, mixing.own).astype(np.float32)
    bags = starts + own
    device = ring[0].device
    index, offsets, factors = (torch.from_numpy(part).to(device) for part in (sources, bags, weights))
    for tensor in ring:
        flat = tensor.view(depth * peers, -1)
        _bags(flat, index, offsets, factors, tensor[into].view(peers, -1))


def _bags(flat: Tensor, index: Tensor, offsets: Tensor, factors: Tensor, result: Tensor) -> None:
    """result[i] = sum over bag i of factors * flat[index], by columns and rows so that temporaries stay in a cache."""
    peers, width = result.shape
    columns = width if 4 * flat.numel() <= WHOLE_BYTES else COLUMNS
    rows = max(1, TEMPORARY_BYTES // (4 * min(columns, width)))
    bounds = offsets.tolist() if rows < peers else []
    for left in range(0, width, columns):
        part = flat[:, left : left + columns]
        if not bounds:
            result[:, left : left + columns] = embedding_bag(
                index, part, offsets, mode="sum", per_sample_weights=factors
            )
            continue
        for top in range(0, peers, rows):
            low = bounds[top]
            high = bounds[top + rows] if top + rows < peers else len(index)
            result[top : top + rows, left : left + columns] = embedding_bag(
                index[low:high], part, offsets[top : top + rows] - low, mode="sum", per_sample_weights=factors[low:high]
            )


def merge_stacks(ring: list[Tensor], links: Links, now: int, into: int, rule: StackRule) -> None:
    """Write what ``rule`` makes of each peer and the neighbors it hears to place ``into`` of each ring.

    Peers with the same number of neighbors are gathered together, so that no stack has rows that are no peer's.
    """
    depth, peers = ring[0].shape[:2]
    mixing = links.mixing
    live = np.flatnonzero(mixing.weights > 0)
    receivers = mixing.receivers[live]
    slots = np.full(len(live), now) if links.ages is None else (now - links.ages[live]) % depth
    sources = slots * peers + mixing.indices[live]
    counts = np.bincount(receivers, minlength=peers)
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    width = sum(tensor[0, 0].numel() for tensor in ring)
    for count in np.unique(counts).tolist():
        group = np.flatnonzero(counts == count)
        step = max(1, GATHERED_BYTES // (4 * width * (count + 1)))
        for at in range(0, len(group), step):
            chosen = group[at : at + step]
            places = starts[chosen][:, None] + np.arange(count)
            neighbors = sources[places]
            index = np.concatenate([(now * peers + chosen)[:, None], neighbors], axis=1)
            weights = np.concatenate([mixing.own[chosen][:, None], mixing.weights[live][places]], axis=1)
            _scatter(ring, into, chosen, rule(_gathered(ring, index), weights))


def _gathered(ring: list[Tensor], index: Indices) -> Stack:
    """The states ``index`` [b, k] of all slots side by side, float32 [b, k, d]."""
    flat = torch.from_numpy(index.reshape(-1)).to(ring[0].device)
    parts = [tensor.flatten(0, 1).index_select(0, flat).view(*index.shape, -1) for tensor in ring]
    stack: Stack = torch.cat(parts, dim=2).cpu().numpy()
    return stack


def _scatter(ring: list[Tensor], into: int, chosen: Indices, merged: Stack) -> None:
    rows = torch.from_numpy(chosen).to(ring[0].device)
    values = torch.from_numpy(np.ascontiguousarray(merged, dtype=np.float32)).to(ring[0].device)
    left = 0
    for tensor in ring:
        right = left + tensor[0, 0].numel()
        tensor[into].index_copy_(0, rows, values[:, left:right].reshape(len(chosen), *tensor.shape[2:]))
        left = right
