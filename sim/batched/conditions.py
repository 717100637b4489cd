"""What goes wrong among simulated peers: lost messages, peers that leave, return, die or are slow.

The tracked replicas of the protocol, in short: a neighbor's state is read every round as it was last heard of. A lost
message makes it one round older; older than the liveness window, it is left out and its weight goes to the reader.
"""

from __future__ import annotations

from typing import Annotated, NamedTuple

import numpy as np
from msgspec import Meta, Struct
from numpy.typing import NDArray

from quidnunc.sim.batched.draws import Indices, keys, uniforms
from quidnunc.sim.topology.catalog import Topology
from quidnunc.sim.topology.mixing import Mixing

Flags = NDArray[np.bool_]
Share = Annotated[float, Meta(ge=0.0, le=1.0)]


class Conditions(Struct, frozen=True, forbid_unknown_fields=True):
    """Probabilities and shares; all zero is a perfect world.

    ``loss`` is the probability that a message is lost, ``window`` the age in rounds up to which an old state is read.
    In every round a peer leaves with probability ``leave`` and one that is away returns with ``back``, as it was.
    ``die`` is the share of peers that is gone for good from round ``die_at`` on. ``slow`` is the share of peers that
    take a turn only every ``slow_every`` rounds. With ``split`` the peers fall into so many equal parts that hear
    nothing of each other, for ``split_rounds`` rounds from round ``split_at`` on.
    """

    loss: Share = 0.0
    window: Annotated[int, Meta(ge=0, le=64)] = 5
    leave: Share = 0.0
    back: Share = 0.2
    die: Share = 0.0
    die_at: Annotated[int, Meta(ge=0)] = 0
    slow: Share = 0.0
    slow_every: Annotated[int, Meta(ge=2, le=1000)] = 2
    split: Annotated[int, Meta(ge=0, le=64)] = 0
    split_at: Annotated[int, Meta(ge=0)] = 0
    split_rounds: Annotated[int, Meta(ge=1)] = 10

    @property
    def lossy(self) -> bool:
        """Whether anything that is sent may not arrive."""
        return self.loss > 0 or self.split > 1

    @property
    def perfect(self) -> bool:
        """Whether every peer takes every turn and hears everything."""
        return not (self.lossy or self.leave or self.die or self.slow)


class Links(NamedTuple):
    """One round's mixing with the age in rounds, int64 [m], of what is read over each link; ``ages`` None: all new.

    ``news`` bool [m] says over which links a new state has come, None: over all. ``rows`` int64 [m] are the places that
    are read; None is the senders' own, ``mixing.indices``.
    """

    mixing: Mixing
    ages: Indices | None
    news: Flags | None = None
    rows: Indices | None = None

    def weighted(self, weights: NDArray[np.float64]) -> Links:
        """The same links with other weights [m]; the rest of one is the readers' own."""
        old = self.mixing
        own = 1.0 - np.bincount(old.receivers, weights=weights, minlength=old.peers).astype(np.float64)
        return self._replace(mixing=Mixing(old.indptr, old.indices, weights, own))


class Weather:
    """The conditions as they come about, round by round; call :meth:`turn`, then :meth:`links`, once per round.

    Peers are numbered as in ``topology``; what befalls them follows their ``names`` (default: their numbers), the seed
    and the round alone.
    """

    def __init__(self, conditions: Conditions, topology: Topology, seed: int, names: Indices | None = None) -> None:
        self._conditions = conditions
        self._topology = topology
        self._seed = seed
        self._names = np.arange(topology.peers) if names is None else names
        self.present: Flags = np.ones(topology.peers, dtype=np.bool_)
        self._doomed = self._chosen("die", conditions.die)
        self._slow = self._chosen("slow", conditions.slow)
        self._phase = (self._uniform("phase", 0) * conditions.slow_every).astype(np.int64)
        self._parts = self._drawn_parts()
        self._ages: Indices | None = None

    @property
    def depth(self) -> int:
        """How many past states may be read: 0 where nothing old ever is."""
        return self._conditions.window if self._conditions.lossy and self._topology.period == 1 else 0

    def turn(self, number: int) -> Flags:
        """Who takes a turn in round ``number`` (from 0), bool [n]; :attr:`present` is who is there at all."""
        c = self._conditions
        if c.leave:
            draw = self._uniform("churn", number)
            self.present = np.where(self.present, draw >= c.leave, draw < c.back)
        if c.die and number >= c.die_at:
            self.present = self.present & ~self._doomed
        if not c.slow:
            return self.present
        waits = self._slow & ((number + self._phase) % c.slow_every != 0)
        turn: Flags = self.present & ~waits
        return turn

    @property
    def slow(self) -> Flags:
        """Who takes a turn only every ``slow_every`` rounds, bool [n]."""
        return self._slow

    def parts(self, number: int) -> Indices:
        """The part of the network that every peer is in, in round ``number``, int64 [n]: 0 where it is whole."""
        c = self._conditions
        apart = c.split > 1 and 0 <= number - c.split_at < c.split_rounds
        return self._parts if apart else np.zeros_like(self._parts)

    def links(self, number: int, takes_turn: Flags) -> Links:
        """What everybody reads in round ``number``: who is away, unheard or has no turn reads and gives nothing."""
        mixing = self._topology.at(number)
        if self._conditions.perfect:
            return Links(mixing, None)
        receivers = mixing.receivers
        sent = takes_turn[mixing.indices]
        heard = self._heard(number, mixing) & sent
        alive = self.present[mixing.indices] & takes_turn[receivers]
        ages = None
        if self.depth:
            # Genesis is no news: who has not been heard of yet is left out.
            before = np.full(len(heard), self.depth + 1) if self._ages is None else self._ages
            # What was not sent cannot be missed: the newest state of a peer without a turn is the one before.
            self._ages = np.where(heard | (~sent & (before == 0)), 0, before + 1)
            alive &= self._ages <= self.depth
            ages = np.minimum(self._ages, min(number, self.depth))
        else:
            alive &= heard | ~sent
        weights = np.where(alive, mixing.weights, 0.0)
        lost = np.bincount(receivers, weights=mixing.weights - weights, minlength=mixing.peers)
        return Links(Mixing(mixing.indptr, mixing.indices, weights, mixing.own + lost), ages, heard)

    def _heard(self, number: int, mixing: Mixing) -> Flags:
        parts = self.parts(number)
        together: Flags = parts[mixing.receivers] == parts[mixing.indices]
        if not self._conditions.loss:
            return together
        link = self._names[mixing.receivers] * np.int64(mixing.peers) + self._names[mixing.indices]
        draw = uniforms(keys(self._seed, "loss", number, link), 1)[:, 0]
        return together & np.asarray(draw >= self._conditions.loss)

    def _drawn_parts(self) -> Indices:
        parts: Indices = np.zeros(len(self._names), dtype=np.int64)
        if self._conditions.split > 1:
            order = np.argsort(self._uniform("split", 0), kind="stable")
            parts[order] = np.arange(len(order)) * self._conditions.split // len(order)
        return parts

    def _uniform(self, purpose: str, number: int) -> NDArray[np.float64]:
        return uniforms(keys(self._seed, purpose, number, self._names), 1)[:, 0]

    def _chosen(self, purpose: str, share: float) -> Flags:
        """A share of the peers, rounded to a whole number of them."""
        chosen = np.zeros(len(self._names), dtype=np.bool_)
        chosen[np.argsort(self._uniform(purpose, 0), kind="stable")[: round(share * len(self._names))]] = True
        return chosen
