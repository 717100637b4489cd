"""REPUTE for all peers at once: the order of steps, thresholds and standings of ``gossip/learning/merge.py``.

Evidence is found neighborhood by neighborhood (``sights.py``); its weights are then applied by sparse mixing. What is
rounded differs from the daemon's: weights are not cut to parts per billion, and sums of squares are float32.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from quidnunc.gossip.rules import repute
from quidnunc.gossip.rules.linear import Reals, Stack, Vector
from quidnunc.gossip.rules.neighborhoods import aligned, observed, standing_weights, weighted_medians
from quidnunc.gossip.rules.repute import Flags, Geometry
from quidnunc.gossip.rules.thresholds import ReputeOptions
from quidnunc.sim.batched.conditions import Links
from quidnunc.sim.batched.draws import Indices
from quidnunc.sim.batched.gathering import Group, neighborhoods, sources, width_of
from quidnunc.sim.batched.holdout import Holdout
from quidnunc.sim.batched.merging import mix
from quidnunc.sim.batched.sights import Sights
from quidnunc.sim.topology.mixing import Mixing


class Standings:
    """What every peer has seen of every neighbor it ever had: good and bad mass, smoothed harm, and unjudged news.

    A standing belongs to the pair, not to the link of a round: where the graph changes, it waits.
    """

    def __init__(self) -> None:
        self._pairs: Indices = np.empty(0, dtype=np.int64)
        self.good, self.bad, self.harm = np.empty(0), np.empty(0), np.empty(0)
        self.news: Flags = np.empty(0, dtype=np.bool_)
        self._known: tuple[Indices, Indices] | None = None

    def places(self, mixing: Mixing) -> Indices:
        """Where the standings of this round's links are, int64 [m]; a new pair starts as a founder."""
        if self._known is not None and self._known[0] is mixing.indices:
            return self._known[1]
        pairs = mixing.receivers * np.int64(mixing.peers) + mixing.indices
        new = np.setdiff1d(pairs, self._pairs)
        if len(new):
            at = np.searchsorted(self._pairs, new)
            self._pairs = np.insert(self._pairs, at, new)
            self.good, self.bad, self.harm = (np.insert(each, at, 0.0) for each in (self.good, self.bad, self.harm))
            self.news = np.insert(self.news, at, False)
        found = np.searchsorted(self._pairs, pairs)
        self._known = mixing.indices, found
        return found

    def weights_of(self, links: Indices) -> Reals:
        """The factors of the last round's ``links``; a founder's before there was one."""
        if self._known is None:
            return standing_weights(np.zeros(len(links)), np.zeros(len(links)))
        at = self._known[1][links]
        return standing_weights(self.good[at], self.bad[at])


class _Seen(NamedTuple):
    """What a group of peers sees of its neighbors: arrays [g, k], the own holdout loss [g] (nan without a holdout)."""

    clips: Reals
    losses: Reals
    own: Reals
    places: Geometry
    outside: Flags


class Repute:
    """The default rule. ``holdout`` None leaves distances and directions as the only evidence.

    ``untrained`` are the holdout losses of the params all start from, [n]; ``sights`` is how neighborhoods are seen.
    """

    def __init__(self, options: ReputeOptions, holdout: Holdout | None, untrained: Reals, sights: Sights) -> None:
        self._options = options
        self._holdout = holdout
        self._untrained = untrained
        self._sights = sights
        self.standings = Standings()
        self.shortened = 0
        self.refused = 0

    def merge(self, ring: list[Tensor], links: Links, now: int, into: int, over: float) -> Reals | None:
        """See :class:`quidnunc.sim.batched.merging.Merger`."""
        store, mixing = self.standings, links.mixing
        at = store.places(mixing)
        store.news[at] |= True if links.news is None else links.news
        found = np.zeros(len(mixing.indices))
        own = np.full(mixing.peers, np.nan)
        reads = sources(ring, links, now)
        for group in neighborhoods(links):
            seen = self._look(ring, group, reads, now, at)
            own[group.peers] = seen.own
            found[group.links] = mixing.weights[group.links] * self._judge(group, seen, at)
        mix(ring, links.weighted(found), now, into)
        if self._holdout is not None:
            found *= self._validate(ring, now, into, own)[mixing.receivers]
        return found

    def answer(self, stack: Stack, weights: Reals, links: Indices, over: float) -> Vector:
        """See :class:`quidnunc.sim.batched.merging.Merger`; at the standings as they are, without new evidence."""
        trust = self.standings.weights_of(links)
        away = np.linalg.norm((stack[1:] - stack[0]).astype(np.float64), axis=1)
        clips = repute.clip_factors(away, repute.clip_radius(away, trust, self._options.radius))
        pulls = (weights[1:] * trust * clips).astype(np.float32)
        merged: Vector = stack[0] + pulls @ (stack[1:] - stack[0])
        return merged

    def _look(self, ring: list[Tensor], group: Group, reads: Indices, now: int, at: Indices) -> _Seen:
        """Distances, losses and geometry of a whole group, part by part."""
        rows, parts = ring[0].shape[1], []
        for peers, near in self._sights.parts(group, width_of(ring)):
            # Row by row [k+1, b]: what one pass works on lies together.
            index = np.concatenate([(now * rows + peers)[None], reads[near].T])
            parts.append(self._look_at(ring, index, peers, at[near]))
        return _Seen(
            np.concatenate([part.clips for part in parts]),
            np.concatenate([part.losses for part in parts]),
            np.concatenate([part.own for part in parts]),
            Geometry(
                np.concatenate([part.places.away for part in parts]),
                np.concatenate([part.places.share for part in parts]),
            ),
            np.concatenate([part.outside for part in parts]),
        )

    def _look_at(self, ring: list[Tensor], index: Indices, peers: Indices, at: Indices) -> _Seen:
        """The same for the states at ``index`` [k+1, b]."""
        options, sight = self._options, self._sights.look(ring, index)
        norms, away = sight.norms, sight.away
        trust = standing_weights(self.standings.good[at], self.standings.bad[at])
        clips = repute.clip_factors(away, (options.radius * weighted_medians(away, trust))[:, None])
        outside = np.zeros(away.shape, dtype=np.bool_)
        if options.gate > 0:
            outside = away > options.gate * norms[:, None]
            outside &= 2 * outside.sum(axis=1, keepdims=True) <= away.shape[1]
        losses, mine = np.zeros(away.shape), np.full(len(peers), np.nan)
        if self._holdout is not None:
            measured = sight.losses(options.probe_step * clips.T, peers)
            losses, mine = measured[1:].T, measured[0]
        places = Geometry(sight.spreads(), np.ones((len(peers), len(index))))
        doubtful = np.flatnonzero(~aligned(norms, away, options.least_share))
        if len(doubtful):
            places.share[doubtful] = self._sights.shares(ring, index[:, doubtful])
        return _Seen(clips, losses, mine, places, outside)

    def _judge(self, group: Group, seen: _Seen, at: Indices) -> Reals:
        """New standings of a group's neighbors; the part [g, k] of its mixing weight that each keeps."""
        store, options = self.standings, self._options
        near = at[group.links]
        fresh, harm = store.news[near], store.harm[near]
        own = seen.own[:, None]
        probed = fresh & np.isfinite(own)
        if probed.any():
            unit = own + options.harm_scale * self._untrained[group.peers][:, None]
            told = repute.relative_harm(seen.losses, own, unit, options.harm_cap)
            harm = np.where(probed, options.harm_memory * harm + (1 - options.harm_memory) * told, harm)
        suspect = repute.bad_by_loss(harm, options.harm_floor, options.harm_spread, options.harm_margin)
        suspect |= repute.bad_by_distance_and_harm(seen.places, harm, np.isfinite(own), options)
        suspect |= repute.bad_by_direction(seen.places, options.least_share)
        suspect |= seen.outside
        good, bad = observed(store.good[near], store.bad[near], suspect)
        store.good[near] = good = np.where(fresh, good, store.good[near])
        store.bad[near] = bad = np.where(fresh, bad, store.bad[near])
        store.harm[near] = np.where(fresh, harm, store.harm[near])
        store.news[near] = False
        return standing_weights(good, bad) * seen.clips

    def _validate(self, ring: list[Tensor], now: int, into: int, own: Reals) -> Reals:
        """Shorten steps that the holdout clearly suffers from, to a quarter or to none: the factor of each peer [n]."""
        assert self._holdout is not None
        options, factors = self._options, np.ones(len(own))
        limit = np.maximum(options.validate_factor * own + options.validate_margin, self._untrained)
        self.shortened = self.refused = 0
        doubtful = np.flatnonzero(np.isfinite(limit))
        for factor in (0.25, 0.0):
            spent = self._holdout.of_rows([tensor[into, : len(own)] for tensor in ring], doubtful)
            doubtful = doubtful[~(spent <= limit[doubtful])]
            if not len(doubtful):
                break
            chosen = torch.from_numpy(doubtful).to(ring[0].device)
            for tensor in ring:
                pivot, merged = tensor[now].index_select(0, chosen), tensor[into].index_select(0, chosen)
                # From a quarter to nothing is a step back of all that is left.
                kept = pivot + 0.25 * (merged - pivot) if factor else pivot
                tensor[into].index_copy_(0, chosen, kept)
            factors[doubtful] = factor
            self.shortened, self.refused = (len(doubtful), 0) if factor else (self.shortened, len(doubtful))
        self.shortened -= self.refused
        return factors
