"""Everything that decides what a simulation computes, and the parts of it that follow from more than one field."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch

from quidnunc.gossip.jobs import PrivacyStep
from quidnunc.gossip.rules.thresholds import REPUTE, repute_options
from quidnunc.gossip.task import Training
from quidnunc.sim.batched.attackers import AIMED, Attack, Attackers
from quidnunc.sim.batched.codec import CodecSpec
from quidnunc.sim.batched.compiled import insight_for
from quidnunc.sim.batched.conditions import Conditions
from quidnunc.sim.batched.draws import Indices
from quidnunc.sim.batched.holdout import Holdout
from quidnunc.sim.batched.merging import Catalogued, Mean, Merger, Merging, OnStacks, StackRule
from quidnunc.sim.batched.net import Net, Tensors
from quidnunc.sim.batched.poison import goal_of
from quidnunc.sim.batched.repute import Repute
from quidnunc.sim.batched.sights import Sights
from quidnunc.sim.data.pool import Pool
from quidnunc.sim.data.shares import Shares
from quidnunc.sim.topology.catalog import Topology


@dataclass(frozen=True, slots=True, eq=False)
class Setup:
    """Everything a simulation needs. ``genesis`` are the params all peers start from, one tensor per slot of ``net``.

    ``rule`` is one of the user's own, in place of ``merging``. ``holdout`` are places in the pool by which REPUTE
    judges neighbors, one array per peer; ``rounds`` is how many there will be, for rules that change with time (0: not
    known). ``quasi_global`` takes momentum from the merged model (QG-DSGDm: Lin et al. 2021). With ``privacy`` a round
    is one noised full-batch step, as in the daemon; ``delta`` is what its epsilon is stated at.
    """

    net: Net
    genesis: Tensors
    pool: Pool
    shares: Shares
    topology: Topology
    training: Training
    privacy: PrivacyStep | None = None
    delta: float = 1e-5
    codec: CodecSpec = field(default_factory=CodecSpec)
    conditions: Conditions = field(default_factory=Conditions)
    merging: Merging = field(default_factory=Merging)
    rule: StackRule | None = None
    attack: Attack | None = None
    holdout: list[Indices] | None = None
    quasi_global: bool = False
    rounds: int = 0
    seed: int = 0
    device: str = "cpu"


def attackers_of(setup: Setup, order: Indices, topology: Topology, device: torch.device) -> Attackers | None:
    """The attackers among peers that the scenario calls ``order``; ``topology`` is in the engine's numbering."""
    if setup.attack is None:
        return None
    goal = None
    if setup.attack.name in AIMED:
        goal = goal_of(setup.net, setup.genesis, setup.pool, setup.shares.rows, setup.training, setup.seed, device)
    return Attackers(setup.attack, order, topology, setup.seed, goal)


def merger_of(setup: Setup, order: Indices, device: torch.device) -> Merger:
    """How everybody merges. Raises ConfigError for an unknown rule or option."""
    if setup.rule is not None:
        return OnStacks(setup.rule)
    if setup.merging.rule == "mean":
        return Mean()
    if setup.merging.rule != REPUTE:
        return Catalogued(setup.merging)
    insight = insight_for(setup)
    holdout, untrained = None, np.zeros(len(order))
    if setup.holdout is not None:
        probe = None if insight is None else insight.probe
        holdout = Holdout(setup.net, setup.pool, [setup.holdout[peer] for peer in order], device, probe)
        untrained = holdout.of_genesis(setup.genesis)
    options = repute_options(setup.merging.options, private=setup.privacy is not None)
    return Repute(options, holdout, untrained, Sights(holdout, insight))
