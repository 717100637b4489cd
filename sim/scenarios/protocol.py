"""A scenario as a federation of real nodes: ``engine.kind = "protocol"``.

Topology, shares, holdout, attackers and model are those that the batched engine would take from the same scenario and
seed; keys, signatures, ledgers, codecs and messages are the daemon's. What only one of the engines knows is refused.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from quidnunc.crypto.errors import CharterError, ConfigError
from quidnunc.gossip.federation.charter import MAX_EDGES, MAX_MEMBERS
from quidnunc.gossip.learning.attack import ATTACKS, DATA_ATTACKS, EXAMPLE_ATTACKS, TIMED_ATTACKS
from quidnunc.gossip.learning.codec import CODECS
from quidnunc.gossip.learning.losses import row_cross_entropy
from quidnunc.gossip.task import Site, Task, TaskFunction
from quidnunc.sim.batched.conditions import Conditions, Weather
from quidnunc.sim.batched.draws import Indices
from quidnunc.sim.batched.setup import Setup
from quidnunc.sim.federation import Scenario, build
from quidnunc.sim.network import Link
from quidnunc.sim.scenarios.spec import BATCHED, NetworkSpec, SimScenario
from quidnunc.sim.world import Hooks, World

Model = Callable[[], nn.Module]
Loss = Callable[[Tensor, Tensor], Tensor]

ROUND_S = 1.0
"""Virtual seconds that one training takes; those of a slow peer are ``conditions.slow_every`` times as many."""
_HINT = 'change it, or set engine.kind = "batched"'
_NODES_OWN = (*ATTACKS, *TIMED_ATTACKS, *DATA_ATTACKS, *EXAMPLE_ATTACKS)


def check_engine(scenario: SimScenario) -> None:
    """Raise ConfigError for what the scenario's engine does not have."""
    if scenario.engine.kind == BATCHED:
        if scenario.network != NetworkSpec():
            raise ConfigError(
                "network: the batched engine has rounds instead of seconds",
                hint='leave the table out, or set engine.kind = "protocol"',
            )
        return
    spec = scenario.attack
    for wrong, what in (
        (scenario.peers > MAX_MEMBERS, f"peers = {scenario.peers:,}: a charter takes up to {MAX_MEMBERS} members"),
        (scenario.training.quasi_global, "training.quasi_global = true: it needs rounds in step"),
        (scenario.conditions.window != Conditions().window, "conditions.window: a node has a window of its own"),
        (scenario.codec.kind not in CODECS, f"codec.kind = {scenario.codec.kind!r}"),
        (scenario.engine.processes > 1, f"engine.processes = {scenario.engine.processes}"),
        (scenario.engine.device == "cuda", "engine.device = 'cuda': nodes compute on the CPU"),
        (spec is not None and spec.name not in _NODES_OWN, f"attack.name = {spec.name if spec else ''!r}"),
        (spec is not None and spec.begin > 0, f"attack.begin = {spec.begin if spec else 0}"),
        (spec is not None and spec.strength >= 0, f"attack.strength = {spec.strength if spec else 0:g}"),
    ):
        if wrong:
            raise ConfigError(f"{what}; not in the protocol engine", hint=_HINT)
    _check_links(scenario)


def _check_links(scenario: SimScenario) -> None:
    seen = set()
    for at, link in enumerate(scenario.network.links):
        pair = frozenset(link.between)
        if len(pair) != 2 or max(pair) >= scenario.peers or pair in seen:
            raise ConfigError(
                f"network.links[{at}].between = {list(link.between)}: must be two different peers from 0 to "
                f"{scenario.peers - 1}, each pair once",
                hint="peers are numbered from 0",
            )
        seen.add(pair)


def world_of(scenario: SimScenario, setup: Setup, model: Model, loss: Loss | None, hooks: Hooks) -> World:
    """The world of one seed, nobody started; ``model()`` makes the model anew, ``loss`` None is cross entropy.

    Raises ConfigError for what no charter takes.
    """
    topology = setup.topology
    if topology.period != 1 or topology.directed:
        raise ConfigError(
            f"topology.kind = {topology.kind!r}: the edges of a federation are mutual and stay", hint=_HINT
        )
    edges = tuple((int(a), int(b)) for a, b in topology.edges())
    if len(edges) > MAX_EDGES:
        raise ConfigError(f"topology: {len(edges):,} edges, a charter takes up to {MAX_EDGES:,}", hint=_HINT)
    slow = Weather(scenario.conditions, topology, setup.seed).slow
    network = scenario.network
    link = Link(network.delay_s, network.jitter_s, scenario.conditions.loss, network.duplicate, network.mbit_s)
    spec = Scenario(
        task=task_of(setup, model, loss),
        training=setup.training,
        peers=scenario.peers,
        reference="quidnunc.sim.scenarios.protocol:task_of",
        rounds=scenario.rounds,
        periods_s=[ROUND_S * (scenario.conditions.slow_every if each else 1) for each in slow],
        edges=edges,
        epsilon=None if scenario.privacy is None else scenario.privacy.epsilon,
        delta_exp=5 if scenario.privacy is None else scenario.privacy.delta_exp,
        clip=1.0 if scenario.privacy is None else scenario.privacy.clip,
        rule=scenario.merge.rule,
        rule_options=scenario.merge.options,
        codec=CODECS[scenario.codec.kind],
        link=link,
        attackers={} if setup.attack is None else dict.fromkeys(setup.attack.peers, setup.attack.name),
        seed=setup.seed,
    )
    try:
        world = build(spec, hooks)
    except CharterError as error:
        raise ConfigError(f"as a charter: {error.message}", hint=error.hint) from None
    for each in network.links:
        lost = scenario.conditions.loss if each.loss is None else each.loss
        twice = network.duplicate if each.duplicate is None else each.duplicate
        world.network.links[frozenset(each.between)] = Link(each.delay_s, each.jitter_s, lost, twice, each.mbit_s)
    return world


def task_of(setup: Setup, model: Model, loss: Loss | None) -> TaskFunction:
    """What the peers of a setup train, each on its share of the pool; everybody is tested on the same examples."""
    pool = setup.pool

    def rows(places: Indices | None) -> tuple[Tensor, Tensor]:
        chosen = np.zeros(0, dtype=np.int64) if places is None else places
        return torch.from_numpy(pool.inputs[chosen]), torch.from_numpy(pool.labels[chosen])

    tested = torch.from_numpy(pool.test_inputs), torch.from_numpy(pool.test_labels)

    def task(site: Site) -> Task:
        held_out = None if setup.holdout is None else setup.holdout[site.index]
        return Task(
            model=model,
            loss=loss or row_cross_entropy,
            train=rows(setup.shares.rows[site.index]),
            holdout=rows(held_out),
            test=tested,
        )

    return task
