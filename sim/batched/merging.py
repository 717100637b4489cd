"""Merging for all peers at once: sparse mixing in blocks, or a rule on gathered neighbors.

A rule that weighs whole rows is done in two steps: its weights are found on gathered neighborhoods, block by block, and
applied by the same sparse mixing as the plain mean. Other rules give states of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from quidnunc.gossip.rules.linear import Reals, Stack, Vector
from quidnunc.gossip.rules.registry import apply, coefficients
from quidnunc.gossip.rules.shares import coordinate_shares
from quidnunc.gossip.rules.terms import TERMS, Counting, checked_options, least_rows
from quidnunc.sim.batched import compiled
from quidnunc.sim.batched.conditions import Links
from quidnunc.sim.batched.draws import Indices
from quidnunc.sim.batched.gathering import gathered, neighborhoods, scatter, sources, width_of

StackRule = Callable[[Stack, Reals], Stack]
"""A merge rule on gathered neighbors: float32 [b, k, d] and float64 weights [b, k] to [b, d].

Row 0 of each stack is the peer's own state, the others are neighbors that were heard; weights sum to one. This is the
shape of every rule in ``gossip/rules``, so that one of those can be given as it is.
"""

WHOLE_BYTES = 16 << 20
"""States below this size are mixed whole: they stay in the last cache."""
COLUMNS = 2048
TEMPORARY_BYTES = 4 << 20


@dataclass(frozen=True, slots=True)
class Merging:
    """A merge rule by name, with its options: ``repute``, or one of ``gossip/rules``."""

    rule: str = "mean"
    options: Mapping[str, float] = field(default_factory=dict)


class Merger(Protocol):
    """How everybody merges."""

    def merge(self, ring: list[Tensor], links: Links, now: int, into: int, over: float) -> Reals | None:
        """Merge the states at ``now`` into place ``into``; the weight that each link came to, [m], None if not known.

        ``over`` is the part of all rounds that is over, 0 to 1.
        """
        ...

    def answer(self, stack: Stack, weights: Reals, links: Indices, over: float) -> Vector:
        """What one peer would make of ``stack`` [k, d] over its ``links`` [k-1], without remembering it."""
        ...


class Mean:
    """Mixing weights as they are."""

    def merge(self, ring: list[Tensor], links: Links, now: int, into: int, over: float) -> Reals | None:
        """See :class:`Merger`."""
        mix(ring, links, now, into)
        return links.mixing.weights

    def answer(self, stack: Stack, weights: Reals, links: Indices, over: float) -> Vector:
        """See :class:`Merger`."""
        merged: Vector = weights.astype(np.float32) @ stack
        return merged


class OnStacks:
    """A rule of the user's own, on gathered neighbors."""

    def __init__(self, rule: StackRule) -> None:
        self._rule = rule

    def merge(self, ring: list[Tensor], links: Links, now: int, into: int, over: float) -> Reals | None:
        """See :class:`Merger`; such a rule does not say what a row counted for."""
        _by_states(ring, links, now, into, self._rule, 1)
        return None

    def answer(self, stack: Stack, weights: Reals, links: Indices, over: float) -> Vector:
        """See :class:`Merger`."""
        merged: Vector = self._rule(stack[None], weights[None])[0]
        return merged


class Catalogued:
    """A rule of ``gossip/rules``. Where too few neighbors are heard for it, a peer keeps its own state, as the daemon
    does. Raises ConfigError for an unknown rule and for options that are unknown, missing or out of bounds.
    """

    def __init__(self, merging: Merging) -> None:
        self._name = merging.rule
        self._options = checked_options(merging.rule, merging.options)
        self._by_coordinate = TERMS[merging.rule].counting is Counting.COORDINATE
        self._least = least_rows(merging.rule, self._options)

    def merge(self, ring: list[Tensor], links: Links, now: int, into: int, over: float) -> Reals | None:
        """See :class:`Merger`; None for a rule that treats every coordinate by itself."""
        options = self._options_at(over)
        if self._by_coordinate:
            _by_states(ring, links, now, into, lambda x, w: apply(self._name, x, w, options), self._least)
            return None
        found = np.zeros(len(links.mixing.indices))
        reads, dim = sources(ring, links, now), width_of(ring)
        rows = ring[0].shape[1]
        for group in neighborhoods(links):
            if 1 + group.links.shape[1] < self._least:
                continue
            for peers, near in group.blocks(dim):
                index = np.concatenate([(now * rows + peers)[:, None], reads[near]], axis=1)
                weights = np.concatenate([links.mixing.own[peers][:, None], links.mixing.weights[near]], axis=1)
                found[near] = coefficients(self._name, gathered(ring, index), weights, options)[:, 1:]
        mix(ring, links.weighted(found), now, into)
        return found

    def answer(self, stack: Stack, weights: Reals, links: Indices, over: float) -> Vector:
        """See :class:`Merger`."""
        if len(stack) < self._least:
            own: Vector = stack[0]
            return own
        merged: Vector = apply(self._name, stack, weights, self._options_at(over))
        return merged

    def shares(self, ring: list[Tensor], links: Links, now: int, peers: Indices) -> Reals:
        """What each link of ``peers`` came to on average over coordinates, [m], nan elsewhere; None has weights."""
        found = np.full(len(links.mixing.indices), np.nan)
        reads, rows = sources(ring, links, now), ring[0].shape[1]
        for group in neighborhoods(links):
            wanted = np.isin(group.peers, peers)
            for peer, near in zip(group.peers[wanted], group.links[wanted], strict=True):
                if 1 + len(near) < self._least:
                    found[near] = 0.0
                    continue
                stack = gathered(ring, np.concatenate([[now * rows + peer], reads[near]]))
                weights = np.concatenate([[links.mixing.own[peer]], links.mixing.weights[near]])
                found[near] = coordinate_shares(self._name, stack, weights, self._options)[1:]
        return found

    def _options_at(self, over: float) -> Mapping[str, float]:
        return {**self._options, "t": min(1.0, over)} if "t" in self._options else self._options


def mix(ring: list[Tensor], links: Links, now: int, into: int) -> None:
    """Write W x to place ``into`` of each ring, where x are the states at ``now`` (or older, as ``links`` say)."""
    depth, rows = ring[0].shape[:2]
    mixing, device = links.mixing, ring[0].device
    reads, peers = sources(ring, links, now), mixing.peers
    large = peers * width_of(ring) >= compiled.LEAST_PARAMS
    sums = compiled.sums() if device.type == "cpu" and large else None
    if sums is not None:
        shares, factors = mixing.own.astype(np.float32), mixing.weights.astype(np.float32)
        for tensor in ring:
            whole, written = tensor.view(depth * rows, -1).numpy(), tensor[into, :peers].view(peers, -1).numpy()
            sums.weighted_sums(whole, now * rows, shares, reads, mixing.indptr, factors, written)
        return
    starts, own = mixing.indptr[:-1], np.arange(peers)
    index = np.insert(reads, starts, now * rows + own)
    weights = np.insert(mixing.weights, starts, mixing.own).astype(np.float32)
    where, offsets, parts = (torch.from_numpy(part).to(device) for part in (index, starts + own, weights))
    for tensor in ring:
        _bags(tensor.view(depth * rows, -1), where, offsets, parts, tensor[into, :peers].view(peers, -1))


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


def _by_states(ring: list[Tensor], links: Links, now: int, into: int, rule: StackRule, least: int) -> None:
    """Write what ``rule`` makes of each peer and the neighbors it hears to place ``into`` of each ring.

    Peers with the same number of neighbors are gathered together, so that no stack has rows that are no peer's. Who
    hears fewer than ``least - 1`` keeps its own state.
    """
    mixing = links.mixing
    reads, dim, rows = sources(ring, links, now), width_of(ring), ring[0].shape[1]
    for tensor in ring:
        tensor[into, : mixing.peers].copy_(tensor[now, : mixing.peers])
    for group in neighborhoods(links):
        if 1 + group.links.shape[1] < least:
            continue
        for peers, near in group.blocks(dim):
            index = np.concatenate([(now * rows + peers)[:, None], reads[near]], axis=1)
            weights = np.concatenate([mixing.own[peers][:, None], mixing.weights[near]], axis=1)
            scatter(ring, into, peers, rule(gathered(ring, index), weights))
