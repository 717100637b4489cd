"""Whose training stands in a model: effective contributions, traced through updates and merges.

Averaging is linear. An update is a state plus one *atom*, ``pr = mb + (pr - mb)``, rounding included; a merge is
``mo = sum(eff_j / 1e9 * state_j)``. By induction every state is

    theta_T = sum_g c_g * theta_g  +  sum_u c_u * atom_u,        sum_g c_g = 1,

with g over the states that history begins with and u over updates. One pass from the model back to the beginnings
gives every coefficient: a merge hands ``c * eff_j / 1e9`` to its inputs, an update adds ``c`` to its atom and hands
``c`` to the state it was trained from. The coefficients are algebra, not causes: what a peer learns depends on what
it merged before, and no coefficient says what the model would be without it.

Only what is held can be followed. Weight that reaches an update whose base is not held goes on by what its author
claims of it (:mod:`quidnunc.gossip.claims`), and is marked as claimed. Weight that reaches a state whose making is not
held at all, or without a claim, ends there, as *unexplained*, under the name of the log that published it. Histories
that refer to each other in a circle can only be lies; their weight is unexplained as well.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import NamedTuple, cast

from quidnunc.gossip.claims import BEYOND, ORIGIN, believable
from quidnunc.gossip.jobs import PPB
from quidnunc.gossip.provenance import Merge, MergeRow, UpdatePublished

Event = UpdatePublished | Merge
"""What makes a state."""


class Place(NamedTuple):
    """One entry of one log."""

    log_id: bytes
    seq: int


@dataclass(frozen=True, slots=True)
class Share:
    """What one organization has in a model.

    ``mass`` is the sum of the coefficients of its training updates: how many rounds of its training stand in the
    model; ``claimed`` of it rests on claims. ``share`` is its part of everybody's mass. ``norm_weighted`` sums
    coefficient times the length of the atom over the ``norms`` updates whose length is known, None if none is.
    ``updates`` counts the held updates with any weight at all.
    """

    log_id: bytes
    mass: float
    share: float
    norm_weighted: float | None
    updates: int
    claimed: float = 0.0
    norms: int = 0


@dataclass(frozen=True, slots=True)
class Trace:
    """The answer for one state.

    ``genesis`` is the coefficient of the charter's initial params and ``unexplained`` that of states whose making is
    not held, by the log that published them; the two sum to one. ``claimed`` is the coefficient of states of which only
    their publishers say what they are made of, by publisher, and ``beyond`` the mass, part of nobody's share, that they
    name no organization for. ``approximate`` counts merges on the way that are
    not linear (a median), whose weights stand for it as an average. ``atoms`` has the coefficient of every update on
    the way, heartbeats included, whose atoms are rounding only.
    """

    target: Place
    shares: tuple[Share, ...]
    genesis: float
    unexplained: dict[bytes, float]
    updates: int
    merges: int
    approximate: int
    atoms: dict[Place, float]
    claimed: dict[bytes, float] = field(default_factory=dict)
    beyond: float = 0.0

    @property
    def reach(self) -> frozenset[bytes]:
        """Every organization with any path to the model, however little of it: what erasure and unlearning ask.

        Those as well whose states are part of it and not held: what stands in them is not known.
        """
        trained = {share.log_id for share in self.shares} | {place.log_id for place in self.atoms}
        return frozenset(trained | self.claimed.keys() | self.unexplained.keys())


class _Beginning(NamedTuple):
    """Weight that goes no further: to the initial params, or to what cannot be followed.

    ``claimed`` are the masses in the base of an update whose making is not held, by its author's claim.
    """

    genesis: float
    lost: tuple[tuple[bytes, float], ...]
    claimed: tuple[tuple[bytes, float], ...] = ()


_Edges = tuple[tuple[int, ...], tuple[float, ...], _Beginning | None]
"""Where the weight of a state goes: to parents by index, each by its factor, and to what has no parent.

Plain tuples of numbers: objects for each of a million edges, and the garbage collector's walks through them, cost more
than all the arithmetic.
"""


class Lineage:
    """The updates and merges of any number of logs, and how they hang together.

    ``genesis`` is the hash of the params that the charter names. Without ``claims`` nobody's word counts. Entries of
    one log may be added in any order; what the caller adds, the caller has verified.
    """

    def __init__(self, genesis: bytes, *, claims: bool = True) -> None:
        self._genesis = genesis
        self._claims = claims
        self._index: dict[tuple[bytes, int], int] = {}
        self._places: list[Place] = []
        self._events: list[Event] = []
        self._states: list[bytes] = []
        self._makers: dict[tuple[bytes, bytes], list[int]] = {}
        self._edges: dict[int, _Edges] = {}

    def add(self, log_id: bytes, seq: int, event: Event) -> None:
        """Take in one entry; a second one for the same place is ignored, as it can only be the same."""
        place = Place(log_id, seq)
        if place in self._index:
            return
        self._edges.clear()
        self._index[place] = len(self._places)
        self._places.append(place)
        self._events.append(event)
        made = event.result if isinstance(event, Merge) else event.replica_after
        self._states.append(made)
        self._makers.setdefault((log_id, made), []).append(self._index[place])

    def find(self, prefix: str) -> dict[bytes, Place]:
        """States whose hash begins with the hex digits ``prefix``, each with the first entry that made it."""
        found: dict[bytes, Place] = {}
        for place, state in zip(self._places, self._states, strict=True):
            if state.hex().startswith(prefix) and (state not in found or place.seq < found[state].seq):
                found[state] = place
        return found

    def event(self, place: Place) -> Event:
        """The entry at ``place``; KeyError if it was never added."""
        return self._events[self._index[place]]

    def trace(self, target: Place, norm: Callable[[UpdatePublished], float | None] | None = None) -> Trace:
        """Follow the state made at ``target`` to its beginnings; KeyError if that entry was never added.

        ``norm`` gives the length of an update's atom where it is known. Linear in the number of inputs of the merges
        on the way.
        """
        start = self._index[target]
        order, circular = self._consumers_first(start)
        weight = [0.0] * len(self._places)
        weight[start] = 1.0
        genesis, unexplained = 0.0, dict[bytes, float]()
        claimed, masses = dict[bytes, float](), dict[bytes, float]()
        for at in order:
            own, (parents, factors, beginning) = weight[at], self._edges[at]
            for parent, factor in zip(parents, factors, strict=True):
                weight[parent] += own * factor
            if beginning is None:
                continue
            genesis += own * beginning.genesis
            for log_id, factor in beginning.lost:
                unexplained[log_id] = unexplained.get(log_id, 0.0) + own * factor
            if beginning.claimed:
                author = self._places[at].log_id
                claimed[author] = claimed.get(author, 0.0) + own
                for log_id, mass in beginning.claimed:
                    masses[log_id] = masses.get(log_id, 0.0) + own * mass
        for at in circular:
            if weight[at]:
                log_id = self._places[at].log_id
                unexplained[log_id] = unexplained.get(log_id, 0.0) + weight[at]
        found = self._summary(target, {at: weight[at] for at in order}, masses, norm)
        return replace(found, genesis=genesis, unexplained=unexplained, claimed=claimed)

    def _consumers_first(self, start: int) -> tuple[list[int], list[int]]:
        """Everything ``start`` is made of, each state after all that were made of it (Kahn 1962), and what is in a
        circle or behind one, where nothing comes first and weight from outside is all that gets there.
        """
        waiting: dict[int, int] = {start: 0}
        stack = [start]
        edges, follow = self._edges, self._follow
        while stack:
            at = stack.pop()
            known = edges.get(at)
            if known is None:
                known = edges[at] = follow(self._places[at], self._events[at])
            for parent in known[0]:
                if parent in waiting:
                    waiting[parent] += 1
                else:
                    waiting[parent] = 1
                    stack.append(parent)
        order, ready = [], [start] if waiting[start] == 0 else []
        while ready:
            at = ready.pop()
            order.append(at)
            for parent in edges[at][0]:
                left = waiting[parent] = waiting[parent] - 1
                if not left:
                    ready.append(parent)
        return order, [at for at, left in waiting.items() if left]

    def _follow(self, place: Place, event: Event) -> _Edges:
        known = self._all_held(place, event)
        if known is not None:
            return known
        if isinstance(event, UpdatePublished):
            rows: tuple[MergeRow, ...] = (MergeRow(event.base, None, None, PPB, PPB, PPB),)
        else:
            rows = event.rows
        index, states = self._index, self._states
        parents, factors = list[int](), list[float]()
        genesis, lost = 0.0, list[tuple[bytes, float]]()
        for state, origin, seq, _, effective, _ in rows:
            if not effective:
                continue
            log_id = origin or place.log_id
            maker = self._newest_before(place, state, log_id) if seq is None else index.get((log_id, seq))
            if maker is not None and states[maker] == state:
                parents.append(maker)
                factors.append(effective / PPB)
            elif state == self._genesis and seq is None:
                genesis += effective / PPB
            elif self._claims and isinstance(event, UpdatePublished) and event.claims:
                return _by_claim(event, log_id)
            else:
                lost.append((log_id, effective / PPB))
        beginning = _Beginning(genesis, tuple(lost)) if genesis or lost else None
        return tuple(parents), tuple(factors), beginning

    def _all_held(self, place: Place, event: Event) -> _Edges | None:
        """The edges of an event all of whose inputs count and are held, as nearly every one is; None for any other.

        The same as row by row, without a line of Python for each of a million rows.
        """
        if isinstance(event, UpdatePublished):
            maker = self._newest_before(place, event.base, place.log_id)
            return None if maker is None else ((maker,), (1.0,), None)
        if not event.rows:
            return None
        made, log_ids, seqs, _, effective, _ = zip(*event.rows, strict=True)
        owners = [log_id or place.log_id for log_id in log_ids] if None in log_ids else log_ids
        parents = tuple(map(self._index.get, zip(owners, seqs, strict=True)))
        if None in parents or not all(effective):
            return None
        found = cast(tuple[int, ...], parents)
        if tuple(map(self._states.__getitem__, found)) != made:
            return None
        return found, tuple([each / PPB for each in effective]), None

    def _newest_before(self, place: Place, state: bytes, origin: bytes) -> int | None:
        """The newest entry before ``place`` that made ``state``, in the same log."""
        makers = self._makers.get((origin, state), ()) if origin == place.log_id else ()
        newest, before = None, -1
        for at in makers:
            seq = self._places[at].seq
            if before < seq < place.seq:
                newest, before = at, seq
        return newest

    def _summary(
        self,
        target: Place,
        weight: dict[int, float],
        claimed: dict[bytes, float],
        norm: Callable[[UpdatePublished], float | None] | None,
    ) -> Trace:
        rows: dict[bytes, _Sum] = {}
        atoms: dict[Place, float] = {}
        merges = approximate = 0
        for at, own in weight.items():
            event = self._events[at]
            if isinstance(event, Merge):
                merges += 1
                approximate += event.approximate
                continue
            place = self._places[at]
            atoms[place] = own
            if event.steps:
                rows.setdefault(place.log_id, _Sum()).add(own, None if norm is None else norm(event))
        beyond = claimed.pop(BEYOND, 0.0)
        total = sum(row.mass for row in rows.values()) + sum(claimed.values()) + beyond
        shares = []
        for log_id in rows.keys() | claimed.keys():
            row, said = rows.get(log_id, _Sum()), claimed.get(log_id, 0.0)
            mass = row.mass + said
            share = mass / total if total else 0.0
            shares.append(Share(log_id, mass, share, row.norm_weighted, row.updates, said, row.norms))
        shares.sort(key=lambda share: (-share.mass, share.log_id))
        return Trace(target, tuple(shares), 0.0, {}, len(atoms), merges, approximate, atoms, beyond=beyond)


class _Sum:
    """One organization's row while it is added up."""

    def __init__(self) -> None:
        self.mass = 0.0
        self.updates = 0
        self.norm_weighted: float | None = None
        self.norms = 0

    def add(self, coefficient: float, length: float | None) -> None:
        self.mass += coefficient
        self.updates += 1
        if length is not None:
            self.norms += 1
            self.norm_weighted = (self.norm_weighted or 0.0) + coefficient * length


def _by_claim(update: UpdatePublished, author: bytes) -> _Edges:
    """What the author says of the state it trained from: its claim, without the round that the update itself is."""
    masses = dict(believable(update.claims, author, update.steps))
    origin = masses.pop(ORIGIN, 0) / PPB
    if update.steps and author in masses:
        masses[author] -= PPB
    lost = ((author, 1.0 - origin),) if origin < 1.0 else ()
    claimed = tuple((log_id, mass / PPB) for log_id, mass in masses.items() if mass)
    return (), (), _Beginning(origin, lost, claimed)
