"""Merge rules and attackers of a scenario, and what of them cannot go together."""

from __future__ import annotations

import numpy as np

from quidnunc.crypto.errors import ConfigError
from quidnunc.gossip.rules.terms import TERMS, checked_options, least_rows, nearest
from quidnunc.gossip.rules.thresholds import REPUTE, repute_options
from quidnunc.sim.batched.attackers import STRENGTHS, Attack, known_attacks
from quidnunc.sim.batched.conditions import Flags
from quidnunc.sim.batched.draws import Indices, keys, uniforms
from quidnunc.sim.batched.merging import Merging
from quidnunc.sim.scenarios.fits import CHECKED_ROUNDS
from quidnunc.sim.scenarios.spec import AttackSpec, MergeSpec, SimScenario
from quidnunc.sim.topology.catalog import Topology

TRIALS = 200
"""Draws among which "spread" takes the one that leaves every honest peer the fewest attackers beside it."""
_ARCS_PER_DRAW = 4_000_000


def merging_of(spec: MergeSpec) -> Merging:
    """The rule of a scenario. Raises ConfigError for an unknown rule and for options it does not take."""
    if spec.rule not in TERMS and spec.rule != REPUTE:
        raise ConfigError(f"merge.rule = {spec.rule[:60]!r}: not known", hint=f"one of: {', '.join([*TERMS, REPUTE])}")
    try:
        if spec.rule == REPUTE:
            repute_options(spec.options)
        else:
            checked_options(spec.rule, spec.options, charter=True)
    except ConfigError as error:
        raise ConfigError(f"merge.options: {error.message}", hint=f"change merge.options: {error.hint}") from None
    return Merging(spec.rule, dict(spec.options))


def attack_of(scenario: SimScenario, topology: Topology, seed: int) -> Attack | None:
    """The attackers of one seed; None where there are none. Raises ConfigError for what cannot be."""
    spec = scenario.attack
    if spec is None:
        return None
    if spec.name not in known_attacks():
        raise ConfigError(
            f"attack.name = {spec.name[:60]!r}: not known", hint=nearest(spec.name, sorted(known_attacks()))
        )
    if spec.strength >= 0 and spec.name not in STRENGTHS:
        raise ConfigError(
            f"attack.strength = {spec.strength:g}: {spec.name} takes none",
            hint=f"leave it out; it is for {', '.join(STRENGTHS)}",
        )
    chosen = _named(spec, scenario.peers) if spec.peers else _drawn(spec, topology, seed)
    if not chosen:
        return None
    return Attack(spec.name, chosen, spec.begin, None if spec.strength < 0 else spec.strength)


def _named(spec: AttackSpec, peers: int) -> tuple[int, ...]:
    if len(set(spec.peers)) != len(spec.peers) or max(spec.peers) >= peers:
        raise ConfigError(
            f"attack.peers = {list(spec.peers)[:8]}: must be different numbers from 0 to {peers - 1}",
            hint="peers are numbered from 0",
        )
    if spec.count not in (0, len(spec.peers)):
        raise ConfigError(f"attack.count = {spec.count} beside {len(spec.peers)} attack.peers", hint="leave count out")
    _check_honest(len(spec.peers), peers, "attack.peers")
    return tuple(sorted(spec.peers))


def _drawn(spec: AttackSpec, topology: Topology, seed: int) -> tuple[int, ...]:
    peers = topology.peers
    _check_honest(spec.count, peers, "attack.count")
    if not spec.count:
        return ()
    mixing = topology.at(0)
    trials = 1 if spec.placement == "random" else max(1, min(TRIALS, _ARCS_PER_DRAW // max(1, len(mixing.indices))))
    draws = [np.argsort(uniforms(keys(seed, "attackers", trial, np.arange(peers)), 1)[:, 0]) for trial in range(trials)]
    chosen = [order[: spec.count] for order in draws]
    best = min(chosen, key=lambda bad: _crowding(mixing.receivers, mixing.indices, bad, peers))
    return tuple(sorted(best.tolist()))


def _crowding(receivers: Indices, senders: Indices, bad: Indices, peers: int) -> tuple[int, int]:
    """The most attackers that an honest peer has beside it, and how many have so many."""
    evil = np.zeros(peers, dtype=np.bool_)
    evil[bad] = True
    near = np.bincount(receivers[evil[senders]], minlength=peers)[~evil]
    most = int(near.max())
    return most, int((near == most).sum())


def _check_honest(count: int, peers: int, path: str) -> None:
    if count > peers - 2:
        raise ConfigError(
            f"{path}: {count} attackers among {peers} peers, at most {peers - 2}: somebody must be honest",
            hint="lower attack.count, or raise peers",
        )


def check_borne(scenario: SimScenario, merging: Merging, topology: Topology, attack: Attack) -> None:
    """Raise ConfigError where an honest peer has more attackers beside it than its rule bears.

    ``mean`` bears none and is what others are held against: it is not refused. With ``attack.beyond`` nothing is.
    """
    assert scenario.attack is not None
    if merging.rule == "mean" or scenario.attack.beyond:
        return
    spec = scenario.attack
    told = f"attack.peers = {list(spec.peers)[:8]}" if spec.peers else f"attack.count = {spec.count}"
    evil = np.zeros(topology.peers, dtype=np.bool_)
    evil[list(attack.peers)] = True
    _check_connected(topology, evil, told)
    for number in range(topology.period or CHECKED_ROUNDS):
        mixing = topology.at(number)
        bad = evil[mixing.indices]
        near = np.bincount(mixing.receivers[bad], minlength=topology.peers)
        mass = np.bincount(mixing.receivers[bad], weights=mixing.weights[bad], minlength=topology.peers)
        rows = 1 + np.diff(mixing.indptr)
        for peer in np.flatnonzero(~evil):
            _check_peer(merging, told, int(peer), int(near[peer]), float(mass[peer]), int(rows[peer]))


def _check_connected(topology: Topology, evil: Flags, told: str) -> None:
    """Raise ConfigError where attackers cut the honest peers of a graph that stays apart: no rule can help them."""
    if topology.period != 1:
        return
    mixing = topology.at(0)
    inside = ~evil[mixing.receivers] & ~evil[mixing.indices]
    readers, read = mixing.receivers[inside], mixing.indices[inside]
    reached = np.zeros(topology.peers, dtype=np.bool_)
    reached[np.flatnonzero(~evil)[0]] = True
    before = 0
    while (count := int(reached.sum())) > before:
        before = count
        reached[readers[reached[read]]] = True
        reached[read[reached[readers]]] = True
    if count < int((~evil).sum()):
        raise ConfigError(
            f"{told}: {int(evil.sum())} attackers cut the honest peers apart, which no merge rule bears",
            hint="lower attack.count, choose a graph with more neighbors, or set attack.beyond = true to see it break",
        )


def _check_peer(merging: Merging, told: str, peer: int, near: int, mass: float, rows: int) -> None:
    bad, options = merging.options.get("bad"), merging.options
    needed = least_rows(merging.rule, options)
    remedy = "lower attack.count, choose a graph with more neighbors, or set attack.beyond = true to see it break"
    if bad is not None and rows < needed:
        raise ConfigError(
            f"merge.options.bad = {bad:g}: {merging.rule} needs {needed} states, peer {peer} has {rows} with its own",
            hint="lower merge.options.bad, or raise topology.degree",
        )
    if bad is not None and near > bad:
        raise ConfigError(
            f"{told}: peer {peer} has {near} attackers beside it, merge.options.bad = {bad:g} bears {bad:g}",
            hint=f"raise merge.options.bad, or {remedy}",
        )
    if "mass" in options and mass > options["mass"] + 1e-9:
        raise ConfigError(
            f"{told}: attackers have {mass:.3g} of the weight of peer {peer}, merge.options.mass = "
            f"{options['mass']:g} bears that",
            hint=f"raise merge.options.mass, or {remedy}",
        )
    if 2 * near >= rows:
        raise ConfigError(
            f"{told}: peer {peer} has {near} attackers among {rows} states with its own, {merging.rule} bears "
            f"{(rows - 1) // 2}",
            hint=remedy,
        )
