"""The batched engine, the protocol engine with the real node, and real daemons learn the same from the same data."""

from __future__ import annotations

import json
import subprocess
from itertools import pairwise
from pathlib import Path
from statistics import fmean

import numpy as np
import pytest
import torch

from quidnunc.gossip.learning.builtin import DEFAULTS, digits
from quidnunc.gossip.learning.codec import CODECS
from quidnunc.gossip.learning.params import build as build_model
from quidnunc.gossip.task import Site, Training
from quidnunc.peer.rehearsal import COMMAND
from quidnunc.sim.batched.attackers import Attack
from quidnunc.sim.batched.codec import CodecSpec
from quidnunc.sim.batched.engine import Engine, Setup
from quidnunc.sim.batched.merging import Merging
from quidnunc.sim.batched.net import net_of
from quidnunc.sim.data.pool import Pool
from quidnunc.sim.data.shares import Shares
from quidnunc.sim.federation import Scenario
from quidnunc.sim.network import Link
from quidnunc.sim.topology.catalog import build_topology
from quidnunc.sim.topology.spec import TopologySpec
from quidnunc.sim.trials import accuracy, begin

PEERS, ROUNDS, SEED = 4, 20, 1
TRAINING = Training(0.5, 0.0, 2, 32)
ALPHA = 100.0
"""Almost equal label mixes: with skewed ones accuracy swings by several points from round to round, in both engines."""
TOLERANCE = 0.04


@pytest.mark.parametrize(
    ("rule", "bad", "codec"), [("mean", (), "float32"), ("mean", (), "int8"), ("repute", (2,), "int8")]
)
def test_both_engines_reach_the_same_accuracy_on_the_same_scenario(rule: str, bad: tuple[int, ...], codec: str) -> None:
    """Everybody honest and averaging; and one of four flipping signs from the first round on against REPUTE."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        protocol, batched = _protocol(rule, bad, codec), _batched(rule, bad, codec)
    finally:
        torch.set_num_threads(before)
    assert abs(protocol - batched) < TOLERANCE
    assert min(protocol, batched) > 0.8


@pytest.mark.slow
def test_real_daemons_reach_what_both_engines_foretell(tmp_path: Path) -> None:
    training = DEFAULTS["digits"].plain
    shape = ("--peers", str(PEERS), "--rounds", str(ROUNDS), "--alpha", str(ALPHA), "--seed", str(SEED))
    done = subprocess.run(
        [*COMMAND, "--json", "demo", *shape, "--epsilon", "inf", "--rule", "mean", "--home", str(tmp_path / "homes")],
        capture_output=True,
        text=True,
        check=False,
        timeout=250,
    )
    assert done.returncode == 0, done.stderr
    real = fmean(peer["accuracy"] for peer in json.loads(done.stdout)["data"]["peers"])
    foretold = _protocol("mean", (), "int8", training), _batched("mean", (), "int8", training)
    assert max(abs(real - each) for each in foretold) < TOLERANCE
    assert min(real, *foretold) > 0.85


def _protocol(rule: str, bad: tuple[int, ...], codec: str, training: Training = TRAINING) -> float:
    scenario = Scenario(
        task=digits,
        training=training,
        peers=PEERS,
        alpha=ALPHA,
        rounds=ROUNDS,
        rule=rule,
        attackers=dict.fromkeys(bad, "sign_flip"),
        drag_cap=1.0,
        codec=CODECS[codec],
        link=Link(delay_s=0.01, jitter_s=0.0),
        seed=SEED,
    )
    world = begin(scenario, 1.5 * ROUNDS)
    world.run(1.5 * ROUNDS)
    return fmean(accuracy(peer) for peer in world.peers if peer.index not in bad)


def _batched(rule: str, bad: tuple[int, ...], codec: str, training: Training = TRAINING) -> float:
    tasks = [digits(Site(index, PEERS, ALPHA, SEED)) for index in range(PEERS)]
    module = build_model(tasks[0], SEED)
    net = net_of(module)
    named = dict(module.named_parameters())
    parts = [task.train for task in tasks] + [task.holdout for task in tasks]
    bounds = np.cumsum([0, *(len(part[0]) for part in parts)])
    pool = Pool(
        "digits",
        torch.cat([inputs for inputs, _ in parts]).numpy(),
        torch.cat([labels for _, labels in parts]).numpy(),
        tasks[0].test[0].numpy(),
        tasks[0].test[1].numpy(),
        10,
        (64,),
    )
    rows = [np.arange(low, high) for low, high in pairwise(bounds)]
    engine = Engine(
        Setup(
            net,
            [named[slot.name].detach() for slot in net.slots],
            pool,
            Shares(rows[:PEERS], False),
            build_topology(TopologySpec(kind="complete"), PEERS),
            training,
            merging=Merging(rule),
            codec=CodecSpec("int8" if codec == "int8" else "float32"),
            attack=Attack("sign_flip", bad) if bad else None,
            holdout=rows[PEERS:] if rule == "repute" else None,
        )
    )
    for _ in range(ROUNDS):
        engine.step()
    found = engine.evaluate()
    return float(found.accuracy[found.honest].mean())
