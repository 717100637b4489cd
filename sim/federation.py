"""A whole federation from one seed: keys, charter and workers of simulated peers."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from statistics import fmean

from quidnunc.crypto.entry import log_id_of
from quidnunc.crypto.identity import Role, SecretKey, derive_seed
from quidnunc.crypto.noise import NoiseStream
from quidnunc.gossip.federation.charter import (
    Charter,
    Member,
    MergeSpec,
    PrivacySpec,
    RoundSpec,
    TaskSpec,
    TrainingSpec,
    default_quorum,
)
from quidnunc.gossip.federation.genesis import make_genesis
from quidnunc.gossip.federation.privacy_terms import DP_FULL_BATCH, DP_SITE
from quidnunc.gossip.federation.sum_terms import LEAD
from quidnunc.gossip.federation.topology import founding_edges
from quidnunc.gossip.jobs import Unit
from quidnunc.gossip.learning.accountant import noise_for
from quidnunc.gossip.learning.compute import Compute
from quidnunc.gossip.private_sum import pair_keys, summed
from quidnunc.gossip.settings import Settings
from quidnunc.gossip.task import Plan, Site, TaskFunction, Training
from quidnunc.sim.disk import Disk
from quidnunc.sim.network import Link, Network
from quidnunc.sim.world import Hooks, Peer, World, describe

MICRO = 1_000_000


@dataclass(frozen=True, slots=True)
class Scenario:
    """What a simulated federation is: size, task, pace, privacy, rule, network, attackers.

    ``periods_s`` are the virtual seconds one training takes, per peer (one value for all, or one each). ``attackers``
    maps a peer index to the name of its attack. ``epsilon`` None means no privacy; with ``unit`` site it is about all
    records of a peer together; with ``colluders`` it is a private sum against so many curious members, among peers that
    are all linked.
    """

    task: TaskFunction
    training: Training
    peers: int = 4
    reference: str = "digits"
    options: Mapping[str, str | int | bool] = field(default_factory=dict)
    personal: tuple[str, ...] = ()
    alpha: float = 0.5
    rounds: int = 50
    periods_s: Sequence[float] = (1.0,)
    edges: tuple[tuple[int, int], ...] | None = None
    epsilon: float | None = None
    delta_exp: int = 5
    clip: float = 1.0
    unit: Unit = Unit.EXAMPLE
    colluders: int = 0
    rule: str = "repute"
    rule_options: Mapping[str, float] = field(default_factory=dict)
    drag_cap: float = 1.5
    lead: int | None = None
    codec: int = 1
    interval_s: float = 0.0
    start: str = "all"
    link: Link = field(default_factory=Link)
    attackers: Mapping[int, str] = field(default_factory=dict)
    settings: Settings = field(default_factory=lambda: Settings(repair_retry_s=0.5))
    seed: int = 0


def _seed(scenario: Scenario, name: str) -> bytes:
    return hashlib.sha256(f"quidnunc-sim-{scenario.seed}-{name}".encode()).digest()


def build(scenario: Scenario, hooks: Hooks | None = None) -> World:
    """The world of a scenario; nobody is started yet. Peer i is the i-th by order of creation, not of log ids."""
    periods = list(scenario.periods_s)
    if len(periods) == 1:
        periods *= scenario.peers
    plan = Plan(
        *(scenario.seed, scenario.codec, scenario.training, scenario.rule, dict(scenario.rule_options)),
        rounds=scenario.rounds,
        personal=scenario.personal,
    )
    made = [_peer(scenario, index, periods[index], plan) for index in range(scenario.peers)]
    peers = [peer for peer, _ in made]
    members = _members(scenario, peers)
    place = {member.log_id: i for i, member in enumerate(members)}
    edges = scenario.edges or _edges(scenario)
    by_place = sorted(tuple(sorted((place[peers[a].log_id], place[peers[b].log_id]))) for a, b in edges)
    described = peers[0].described
    charter = Charter(
        purpose="simulation",
        nonce=_seed(scenario, "nonce")[:16],
        t_ms=0,
        members=tuple(members),
        task=TaskSpec(
            *(scenario.reference, described.schema, described.genesis, described.dim, scenario.seed),
            scenario.options,
            personal=scenario.personal,
        ),
        training=_training_spec(scenario.training),
        merge=MergeSpec(
            scenario.rule,
            round(_drag_cap(scenario) * MICRO),
            {key: round(value * MICRO) for key, value in scenario.rule_options.items()},
        ),
        privacy=_privacy(scenario, [peer.described.examples for peer in peers]),
        rounds=RoundSpec(scenario.rounds, round(scenario.interval_s * 1000), _lead(scenario), scenario.start),
        edges=tuple((a, b) for a, b in by_place),
        codec=scenario.codec,
        quorum=default_quorum(scenario.peers),
        payload_bytes=max(1024, 8 * described.dim),
    )
    for peer, compute in made:
        secret = SecretKey(derive_seed(_seed(scenario, f"operational-{peer.index}"), Role.TRANSPORT, 0))
        compute.pairs = pair_keys(charter, peer.log_id, secret)
    network = Network(scenario.link, random.Random(f"network-{scenario.seed}"))
    return World(charter, peers, network, seed=scenario.seed, settings=scenario.settings, hooks=hooks)


def _edges(scenario: Scenario) -> tuple[tuple[int, int], ...]:
    if scenario.colluders:
        return tuple(combinations(range(scenario.peers), 2))
    return founding_edges(scenario.peers, scenario.seed)


def _drag_cap(scenario: Scenario) -> float:
    return 1.0 if scenario.epsilon is not None else scenario.drag_cap


def _lead(scenario: Scenario) -> int:
    if scenario.lead is not None:
        return scenario.lead
    if scenario.colluders:
        return LEAD
    return 2 if scenario.epsilon is not None else 0


def _training_spec(training: Training) -> TrainingSpec:
    return TrainingSpec(
        round(training.learning_rate * MICRO),
        round(training.momentum * MICRO),
        training.local_steps,
        training.batch_size,
        round(training.prox * MICRO),
    )


def _privacy(scenario: Scenario, examples: Sequence[int]) -> PrivacySpec:
    if scenario.epsilon is None:
        return PrivacySpec("none")
    if scenario.colluders:
        return summed(
            round(scenario.epsilon * MICRO),
            scenario.delta_exp,
            round(scenario.clip * MICRO),
            scenario.rounds,
            members=scenario.peers,
            colluders=scenario.colluders,
            records=round(fmean(examples)),
        )
    noise = noise_for(scenario.epsilon, scenario.rounds, 10.0**-scenario.delta_exp)
    return PrivacySpec(
        DP_SITE if scenario.unit == Unit.SITE else DP_FULL_BATCH,
        round(scenario.epsilon * MICRO),
        scenario.delta_exp,
        round(scenario.clip * MICRO),
        int(noise * MICRO) + 1,
        scenario.rounds,
        unit=scenario.unit,
    )


def _peer(scenario: Scenario, index: int, period: float, plan: Plan) -> tuple[Peer, Compute]:
    secret = _seed(scenario, f"operational-{index}")
    root = SecretKey.from_seed(_seed(scenario, f"root-{index}"))
    log_key = SecretKey.from_seed(derive_seed(secret, Role.LOG, 0))
    transport = SecretKey.from_seed(derive_seed(secret, Role.TRANSPORT, 0))
    genesis = make_genesis(root.public, log_key, _seed(scenario, f"genesis-{index}")[:16], f"peer-{index}")
    site = Site(index, scenario.peers, scenario.alpha, scenario.seed, "", dict(scenario.options))
    disk = Disk()
    noise = NoiseStream(_seed(scenario, f"noise-{index}"), b"compute")
    attack = scenario.attackers.get(index, "")
    compute = Compute(scenario.task, site, plan, disk.blobs, noise, attack)
    worker = compute.handle
    made = Peer(
        index=index,
        secret=log_key,
        witness=SecretKey.from_seed(derive_seed(secret, Role.WITNESS, 0)),
        genesis=genesis,
        log_id=log_id_of(genesis),
        transport=transport.public,
        worker=worker,
        described=describe(worker),
        disk=disk,
        period_s=period,
    )
    return made, compute


def _members(scenario: Scenario, peers: list[Peer]) -> list[Member]:
    members = []
    for peer in peers:
        root = SecretKey.from_seed(_seed(scenario, f"root-{peer.index}"))
        members.append(
            Member(
                name=f"peer-{peer.index}",
                log_id=peer.log_id,
                root=root.public,
                log=peer.secret.public,
                witness=peer.witness.public,
                transport=peer.transport,
                genesis=peer.genesis,
            )
        )
    return sorted(members, key=lambda member: member.log_id)
