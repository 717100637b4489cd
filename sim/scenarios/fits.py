"""What of a scenario can never come about as it is written: refused, rather than left out without a word."""

from __future__ import annotations

import numpy as np

from quidnunc.crypto.errors import ConfigError
from quidnunc.gossip.rules.terms import least_rows
from quidnunc.sim.batched.merging import Merging
from quidnunc.sim.scenarios.spec import SimScenario
from quidnunc.sim.topology.catalog import Topology

CHECKED_ROUNDS = 32
"""Of a graph that is drawn anew, so many rounds are looked at."""


def check_events(scenario: SimScenario) -> None:
    """Raise ConfigError for what begins when all is over, for parts without peers, and where nobody is left."""
    conditions, attack = scenario.conditions, scenario.attack
    begins = []
    if attack is not None:
        begins.append(("attack.begin", attack.begin))
    if conditions.die:
        begins.append(("conditions.die_at", conditions.die_at))
    if conditions.split > 1:
        begins.append(("conditions.split_at", conditions.split_at))
    for name, begin in begins:
        if begin >= scenario.rounds:
            raise ConfigError(
                f"{name} = {begin:,} with {scenario.rounds:,} rounds: it never comes to that",
                hint=f"choose {name} from 0 to {scenario.rounds - 1:,}, or raise rounds",
            )
    if conditions.split > scenario.peers:
        raise ConfigError(
            f"conditions.split = {conditions.split} with {scenario.peers} peers: parts without peers",
            hint=f"choose 2 to {scenario.peers}",
        )
    if round(conditions.die * scenario.peers) >= scenario.peers:
        raise ConfigError(
            f"conditions.die = {conditions.die:g}: all {scenario.peers} peers, at most {scenario.peers - 1}",
            hint="lower conditions.die",
        )


def check_rows(scenario: SimScenario, merging: Merging, topology: Topology) -> None:
    """Raise ConfigError where no peer has enough neighbors for the rule, so that nobody would ever merge.

    A single peer that has too few keeps its own state, as the daemon does. With ``attack.beyond`` nothing is refused.
    """
    bad = merging.options.get("bad")
    needed = least_rows(merging.rule, merging.options)
    if bad is None or (scenario.attack is not None and scenario.attack.beyond):
        return
    rounds = range(topology.period or CHECKED_ROUNDS)
    most = 1 + max(int(np.diff(topology.at(number).indptr).max()) for number in rounds)
    if most < needed:
        raise ConfigError(
            f"merge.options.bad = {bad:g}: {merging.rule} needs {needed} states, peers have at most {most} "
            "with their own",
            hint="lower merge.options.bad, or raise topology.degree",
        )
