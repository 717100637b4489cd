"""Attackers among simulated peers: what they publish instead of what they have learned.

Attackers train and merge like everybody else, so that what they know stays current; what others read of them stands in
further rows of the ring. There is one row per attacker where all read the same, and one per link to an honest peer
where every victim is sent what harms it most: such attackers see all states of the round before they choose.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from quidnunc.crypto.errors import ConfigError
from quidnunc.crypto.noise import NoiseStream
from quidnunc.gossip.learning import collusion
from quidnunc.gossip.learning.attack import ATTACKS, DATA_ATTACKS, EXAMPLE_ATTACKS, TIMED_ATTACKS, attack_in
from quidnunc.gossip.rules.linear import Reals, Stack, Vector
from quidnunc.sim.batched.conditions import Flags, Links
from quidnunc.sim.batched.draws import Indices
from quidnunc.sim.batched.gathering import gathered, neighborhoods, scatter, sources
from quidnunc.sim.batched.merging import Merger
from quidnunc.sim.topology.mixing import Mixing

if TYPE_CHECKING:
    from quidnunc.sim.topology.catalog import Topology

STRENGTHS: Mapping[str, float] = {
    "ipm": 0.1,
    "alie": 1.5,
    "dissensus": 1.5,
    "spectral": 1.0,
    "sybil": 0.1,
    "replay": 10.0,
    "optimized_ipm": 8,
    "optimized_alie": 8,
}
"""What may be tuned, and its default: the factor of IPM, ALIE's deviations, dissensus and spectral strength, the
spread of sybils' voices, the age of what is replayed in rounds, the evaluations of a line search."""
PER_VICTIM = ("ipm", "alie", "optimized_ipm", "optimized_alie", "dissensus", "spectral", "mimic", "slow", "sybil")
"""Attacks of ``gossip/learning/collusion.py`` that choose a message for every victim."""
COLLUDING = (*PER_VICTIM, "replacement")
SEARCHING = ("optimized_ipm", "optimized_alie")
AIMED = ("slow", "sybil", "replacement")
"""Attacks with a goal: the model of everybody's examples under flipped labels."""
SPECTRAL_PEERS_MAX = 2048
_PROBED_ROUNDS = 32


def known_attacks() -> tuple[str, ...]:
    """Every attack by name."""
    return (*ATTACKS, *TIMED_ATTACKS, *DATA_ATTACKS, *EXAMPLE_ATTACKS, *COLLUDING, "replay")


@dataclass(frozen=True, slots=True)
class Attack:
    """Who attacks how: ``peers`` in the scenario's numbering, from round ``begin`` on; ``strength`` as in STRENGTHS."""

    name: str
    peers: tuple[int, ...]
    begin: int = 0
    strength: float | None = None

    @property
    def force(self) -> float:
        """The strength or its default."""
        return STRENGTHS.get(self.name, 1.0) if self.strength is None else self.strength


class Scene(NamedTuple):
    """What attackers work with in a round."""

    ring: list[Tensor]
    now: int
    number: int
    links: Links
    merger: Merger
    over: float


class Attackers:
    """The attackers of a simulation; peers are numbered as in the engine, ``names`` [n] are the scenario's numbers.

    ``goal`` [d] is what :data:`AIMED` attacks lead to. Raises ConfigError for a graph on which an attack has no
    meaning.
    """

    def __init__(self, attack: Attack, names: Indices, topology: Topology, seed: int, goal: Vector | None) -> None:
        self.attack = attack
        self.flags: Flags = np.isin(names, attack.peers)
        self.peers = np.flatnonzero(self.flags)
        self._goal = goal
        self._names = names
        self._past: list[Stack] = []
        self._slot = np.cumsum(self.flags) - 1
        self._streams = [
            NoiseStream(hashlib.sha256(f"quidnunc-sim-{seed}-attack-{names[peer]}".encode()).digest(), b"attack")
            for peer in self.peers
        ]
        self._fiedler = _fiedler(topology, self.flags) if attack.name == "spectral" else None
        self.rows = self._rows_needed(topology)

    def _rows_needed(self, topology: Topology) -> int:
        """How many rows of the ring the attackers publish in."""
        if self.attack.name not in COLLUDING:
            return len(self.peers)
        rounds = range(topology.period or _PROBED_ROUNDS)
        return max(len(self._to_victims(topology.at(number))) for number in rounds)

    def rows_in(self, links: Links) -> int:
        """How many rows this round takes; more than :attr:`rows` where a changing graph has more links than before."""
        return self.rows if self.attack.name not in COLLUDING else len(self._to_victims(links.mixing))

    def _to_victims(self, mixing: Mixing) -> Indices:
        """The links over which an honest peer reads an attacker."""
        return np.flatnonzero(self.flags[mixing.indices] & ~self.flags[mixing.receivers])

    def before(self, ring: list[Tensor], now: int) -> Stack:
        """What attackers start a round from, [a, d]; to be asked before they train."""
        return gathered(ring, now * ring[0].shape[1] + self.peers)

    def publish(self, scene: Scene, base: Stack, active: Flags) -> Links:
        """Write what attackers publish in this round into the ring; the links as honest peers then read them."""
        mixing = scene.links.mixing
        told = self._to_victims(mixing)
        rows = mixing.indices.copy()
        first = mixing.peers
        if self.attack.name not in COLLUDING:
            rows[told] = first + self._slot[mixing.indices[told]]
            self._publish_alike(scene, base, active)
        else:
            rows[told] = first + np.arange(len(told))
            self._publish_each(scene, told)
        return scene.links._replace(rows=rows)

    def _publish_alike(self, scene: Scene, base: Stack, active: Flags) -> None:
        ring, now, number = scene.ring, scene.now, scene.number
        depth, rows = ring[0].shape[:2]
        own = gathered(ring, now * rows + self.peers)
        first = len(self.flags)
        if number:
            before = gathered(ring, (number - 1) % depth * rows + first + np.arange(len(self.peers)))
        else:
            before = base
        if self.attack.name == "replay":
            self._past = [*self._past[-int(self.attack.force) :], own]
        published = np.empty_like(own)
        for at, peer in enumerate(self.peers):
            published[at] = self._message_of(at, own[at], base[at], number) if active[peer] else before[at]
        scatter(ring, now, first + np.arange(len(self.peers)), published)

    def _message_of(self, at: int, trained: Vector, base: Vector, number: int) -> Vector:
        if number < self.attack.begin:
            return trained
        if self.attack.name == "replay":
            return collusion.replay(np.stack([each[at] for each in self._past]), int(self.attack.force))
        attack = attack_in(self.attack.name, number)
        # Numbers beyond float32 are what an honest peer refuses; the simulator ends with a word instead.
        with np.errstate(over="ignore"):
            return trained if attack is None else attack(trained, base, self._streams[at])

    def _publish_each(self, scene: Scene, told: Indices) -> None:
        """Everybody's own state where nothing is known of a victim's neighbors or it is too early; else messages."""
        ring, now, mixing = scene.ring, scene.now, scene.links.mixing
        rows = ring[0].shape[1]
        first = mixing.peers
        scatter(ring, now, first + np.arange(len(told)), gathered(ring, now * rows + mixing.indices[told]))
        if scene.number < self.attack.begin:
            return
        victims = np.zeros(mixing.peers, dtype=np.bool_)
        victims[mixing.receivers[told]] = True
        honest = np.where(self.flags[mixing.indices] | ~victims[mixing.receivers], 0.0, mixing.weights)
        seen = scene.links._replace(mixing=Mixing(mixing.indptr, mixing.indices, honest, mixing.own))
        reads = sources(ring, seen, now)
        weights = mixing.weights[told]
        bad: Reals = np.bincount(mixing.receivers[told], weights, minlength=mixing.peers).astype(np.float64)
        mode = self._mode(scene) if self._fiedler is not None else None
        dim = sum(tensor[0, 0].numel() for tensor in ring)
        for group in neighborhoods(seen):
            for peers, near in group.blocks(dim, 2):
                stack = gathered(ring, np.concatenate([(now * rows + peers)[:, None], reads[near]], axis=1))
                # Attackers who are not heard weigh nothing, and what they send has no effect.
                about = _Victims(peers, near, stack[:, 0], stack[:, 1:], mixing.weights[near], bad[peers, None])
                places = np.flatnonzero(np.isin(mixing.receivers[told], peers))
                which = np.searchsorted(peers, mixing.receivers[told][places])
                scatter(ring, now, first + places, self._messages(scene, about, mode)[which])
        if self.attack.name == "sybil":
            self._voices(scene, told)

    def _messages(self, scene: Scene, about: _Victims, mode: Vector | None) -> Stack:
        """One message for each victim, [b, d]."""
        name, force = self.attack.name, self.attack.force
        victim, honest = about.own, about.honest
        if name in SEARCHING:
            return np.stack([self._searched(scene, about, at) for at in range(len(victim))])
        if name == "ipm":
            return collusion.inner_product(honest, force)
        if name == "alie":
            return collusion.little_is_enough(honest, force)
        if name == "dissensus":
            return collusion.dissensus(victim, honest, about.weights, np.maximum(about.bad, 1e-9), force)
        if name == "mimic":
            return collusion.mimic(honest, 0)
        if name == "spectral":
            assert self._fiedler is not None
            assert mode is not None
            away = np.linalg.norm(honest - victim[:, None], axis=-1).mean(axis=1)
            size = force * away * self._fiedler[about.peers] / np.abs(self._fiedler).max()
            moved: Stack = victim + size.astype(np.float32)[:, None] * mode
            return moved
        assert self._goal is not None
        if name == "replacement":
            return collusion.replacement(victim, self._goal, np.maximum(about.bad, 1e-9))
        return collusion.slow_drift(victim, honest, self._goal)

    def _mode(self, scene: Scene) -> Vector:
        """The honest states' Fiedler mode, of norm one."""
        assert self._fiedler is not None
        honest = np.flatnonzero(~self.flags)
        states = gathered(scene.ring, scene.now * scene.ring[0].shape[1] + honest)
        fiedler = self._fiedler[honest]
        return collusion.spectral(np.zeros_like(states[0]), states, fiedler, float(np.abs(fiedler).max()), 1.0)

    def _searched(self, scene: Scene, about: _Victims, at: int) -> Vector:
        """The message that the victim's own rule suffers from most, by line search."""
        mixing = scene.links.mixing
        peer = int(about.peers[at])
        all_links = np.arange(mixing.indptr[peer], mixing.indptr[peer + 1])
        live = all_links[mixing.weights[all_links] > 0]
        evil = self.flags[mixing.indices[live]]
        weights = np.concatenate([[mixing.own[peer]], mixing.weights[live]])
        stack = np.empty((1 + len(live), about.own.shape[1]), np.float32)
        stack[0], stack[1:][~evil] = about.own[at], about.honest[at]

        def answer(message: Vector) -> Vector:
            stack[1:][evil] = message
            return scene.merger.answer(stack, weights, live, scene.over)

        evaluations = max(2, int(self.attack.force))
        ipm = self.attack.name == "optimized_ipm"
        aim = collusion.optimized_inner_product if ipm else collusion.optimized_little
        return aim(about.honest[at], answer, evaluations=evaluations)

    def _voices(self, scene: Scene, told: Indices) -> None:
        """Every attacker's own voice for the message of all."""
        ring, now, first = scene.ring, scene.now, len(self.flags)
        rows = now * ring[0].shape[1] + first + np.arange(len(told))
        said = gathered(ring, rows)
        mixing = scene.links.mixing
        for at, link in enumerate(told):
            victim = self._names[mixing.receivers[link]]
            stream = self._streams[self._slot[mixing.indices[link]]].child(b"voice/%d/%d" % (scene.number, victim))
            said[at] = collusion.sybils(said[at], 1, self.attack.force, stream)[0]
        scatter(ring, now, first + np.arange(len(told)), said)


class _Victims(NamedTuple):
    """Some victims: numbers [b], links to honest neighbors [b, h], own and their states, weights, attackers' [b, 1]."""

    peers: Indices
    links: Indices
    own: Stack
    honest: Stack
    weights: Reals
    bad: Reals


def _fiedler(topology: Topology, flags: Flags) -> Reals:
    """The second eigenvector of the honest peers' Laplacian, [n]; 0 for attackers."""
    honest = np.flatnonzero(~flags)
    if topology.directed or topology.period != 1 or len(honest) > SPECTRAL_PEERS_MAX:
        raise ConfigError(
            f"attack.name = 'spectral' on {topology.kind} with {topology.peers:,} peers: it needs mutual edges that "
            f"stay, and at most {SPECTRAL_PEERS_MAX:,} honest peers",
            hint="choose another attack or topology",
        )
    mixing = topology.at(0)
    edges = np.zeros((topology.peers, topology.peers))
    edges[mixing.receivers, mixing.indices] = 1.0
    edges = edges[np.ix_(honest, honest)]
    vectors = np.linalg.eigh(np.diag(edges.sum(axis=1)) - edges)[1]
    found = np.zeros(topology.peers)
    found[honest] = vectors[:, 1]
    return found


def widened(ring: list[Tensor], rows: int) -> None:
    """Make room for ``rows`` rows in every place of the ring."""
    for at, tensor in enumerate(ring):
        missing = rows - tensor.shape[1]
        if missing > 0:
            room = tensor.new_zeros((tensor.shape[0], missing, *tensor.shape[2:]))
            ring[at] = torch.cat([tensor, room], dim=1)
