"""Scenarios in the protocol engine: the same federation as in the batched one, played by real nodes."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import quidnunc.sim
from quidnunc.crypto.errors import ConfigError
from quidnunc.sim.batched.conditions import Conditions, Weather
from quidnunc.sim.network import Link, Network
from quidnunc.sim.scenarios.run import Run
from quidnunc.sim.scenarios.stored import read_run
from quidnunc.sim.topology.catalog import build_topology
from quidnunc.sim.topology.spec import TopologySpec

NODES = {"engine": {"kind": "protocol"}}


def play(out: Path | None = None, **tables: Any) -> Run:
    """Six peers on independent digits, ten rounds."""
    table = {
        "peers": 6,
        "rounds": 10,
        "evaluate_every": 5,
        "data": {"partition": "iid", "examples": 120},
        "training": {"learning_rate": 0.5},
        "topology": {"kind": "complete"},
    }
    return quidnunc.sim.run(table | tables, out=out)


def test_the_same_seed_gives_the_same_bytes_and_ledgers(tmp_path: Path) -> None:
    rough = {"conditions": {"loss": 0.2, "leave": 0.05}, "network": {"duplicate": 0.1, "mbit_s": 1.0}, **NODES}
    first, again = play(tmp_path / "a", **rough), play(tmp_path / "b", **rough)
    assert (tmp_path / "a" / "metrics.jsonl").read_bytes() == (tmp_path / "b" / "metrics.jsonl").read_bytes()
    other = play(seeds=[7], **rough)
    assert first.final[0]["ledger_heads"] == again.final[0]["ledger_heads"] != other.final[0]["ledger_heads"]
    found = read_run(tmp_path / "a")
    assert [record.round for record in found.records] == [5, 10]
    report = (tmp_path / "a" / "report.html").read_text()
    assert "ledger entries" in report
    assert "Played by real nodes" in report


def test_both_engines_start_from_the_same_and_come_to_the_same() -> None:
    batched, nodes = play(), play(**NODES)
    assert abs(batched.mean("accuracy_mean")[0] - nodes.mean("accuracy_mean")[0]) < 0.04
    assert batched.mean("accuracy_mean")[0] > 0.8
    mine = {name: batched.facts[0][name] for name in ("shares", "params", "topology", "attackers")}
    assert mine == {name: nodes.facts[0][name] for name in mine}
    assert nodes.models[0].shape == batched.models[0].shape


def test_attackers_are_the_same_and_lose_their_weight() -> None:
    attacked = {"attack": {"name": "sign_flip", "count": 1}, "merge": {"rule": "repute"}, "rounds": 15}
    batched, nodes = play(**attacked), play(**attacked, **NODES)
    assert batched.facts[0]["attackers"] == nodes.facts[0]["attackers"]
    last = nodes.final[0]
    assert last["detection_auroc"] == 1.0
    assert last["attacker_weight"] < 0.02 < last["attacker_mixing_weight"]
    assert last["weight_kept"][nodes.facts[0]["attackers"][0]] < 0.2
    assert last["accuracy_mean"] > 0.8


def test_what_befalls_peers_befalls_the_same_ones_in_both_engines() -> None:
    gone = {"conditions": {"die": 0.5, "die_at": 3}, "rounds": 30}
    batched, nodes = play(**gone), play(**gone, **NODES)
    assert batched.final[0]["present"] == nodes.final[0]["present"]
    assert nodes.final[0]["peers_present"] == 3
    assert nodes.final[0]["accuracy_mean"] > 0.88  # the dead are read for a while: nobody knows yet
    slow = play(conditions={"slow": 0.5, "slow_every": 4}, **NODES)
    assert slow.final[0]["virtual_s"] < 4 * 10


def test_a_split_network_is_two_federations_until_it_heals() -> None:
    apart = play(conditions={"split": 2, "split_at": 0, "split_rounds": 100}, rounds=8, **NODES)
    whole = play(rounds=8, **NODES)
    assert apart.final[0]["messages_lost"] > 0 == whole.final[0]["messages_lost"]
    healed = play(conditions={"split": 2, "split_at": 0, "split_rounds": 4}, rounds=20, **NODES)
    assert healed.final[0]["consensus_distance"] < apart.final[0]["consensus_distance"]
    assert healed.final[0]["accuracy_mean"] > 0.85


def test_epsilon_is_what_the_budget_of_the_nodes_says() -> None:
    private = {"privacy": {"epsilon": 8.0}}
    batched, nodes = play(**private), play(**private, **NODES)
    assert (
        nodes.final[0]["epsilon"] == pytest.approx(batched.final[0]["epsilon"], abs=0.01) == pytest.approx(8, abs=0.01)
    )


def test_a_slow_link_holds_up_what_goes_over_it() -> None:
    network = Network(Link(0.0, 0.0, mbit_s=8.0), random.Random(0))
    network.links[frozenset((0, 2))] = Link(0.5, 0.0)
    assert network.arrivals(0, 1, 1_000_000, 10.0) == [pytest.approx(1.0)]
    assert network.arrivals(0, 1, 500_000, 10.5) == [pytest.approx(1.0)]
    assert network.arrivals(1, 0, 500_000, 10.5) == [pytest.approx(0.5)]
    assert network.arrivals(0, 2, 500_000, 10.5) == [pytest.approx(0.5)]
    assert network.arrivals(0, 1, 500_000, 20.0) == [pytest.approx(0.5)]


def test_a_split_in_the_batched_engine_drops_what_crosses_it_for_its_rounds_only() -> None:
    conditions = Conditions(split=3, split_at=2, split_rounds=4, window=0)
    weather = Weather(conditions, build_topology(TopologySpec(kind="complete"), 9), 1)
    for number in range(8):
        links = weather.links(number, weather.turn(number))
        parts = weather.parts(number)
        across = parts[links.mixing.receivers] != parts[links.mixing.indices]
        assert across.any() == (2 <= number < 6)
        assert np.array_equal(links.mixing.weights > 0, ~across)
        assert np.allclose(links.mixing.dense().sum(axis=1), 1)
        if across.any():
            assert np.bincount(parts).tolist() == [3, 3, 3]


@pytest.mark.parametrize(
    ("tables", "says"),
    [
        ({"conditions": {"window": 9}}, "conditions.window"),
        ({"training": {"quasi_global": True, "momentum": 0.9}}, "training.quasi_global"),
        ({"topology": {"kind": "epidemic"}}, "topology.kind = 'epidemic'"),
        ({"topology": {"kind": "exponential"}}, "topology.kind = 'exponential'"),
        ({"peers": 513, "data": {"examples": 4}}, "peers = 513"),
        ({"attack": {"name": "alie", "count": 1}}, "attack.name = 'alie'"),
        ({"attack": {"name": "sign_flip", "count": 1, "begin": 3}}, "attack.begin = 3"),
        ({"codec": {"kind": "top_k"}}, "codec.kind = 'top_k'"),
        ({"engine": {"kind": "protocol", "processes": 2}}, "engine.processes = 2"),
        ({"engine": {"kind": "protocol", "device": "cuda"}}, "engine.device = 'cuda'"),
        ({"network": {"links": [{"between": [0, 0]}]}}, "network.links[0].between = [0, 0]"),
        ({"network": {"links": [{"between": [0, 1]}, {"between": [1, 0]}]}}, "network.links[1].between"),
        ({"network": {"links": [{"between": [0, 6]}]}}, "network.links[0].between = [0, 6]"),
        ({"engine": {"kind": "batched"}, "network": {"mbit_s": 1.0}}, "network: the batched engine"),
    ],
)
def test_what_an_engine_does_not_have_is_refused_before_anything_is_written(
    tables: dict[str, Any], says: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=says.replace("[", r"\[").replace(".", r"\.")) as caught:
        play(tmp_path / "run", **(NODES | tables))
    assert caught.value.hint
    assert not (tmp_path / "run").exists()


def test_a_rule_of_ones_own_is_for_the_batched_engine(tmp_path: Path) -> None:
    custom = quidnunc.sim.Custom(rule=lambda stack, weights: stack[:, 0])
    with pytest.raises(ConfigError, match="merge rule of your own"):
        quidnunc.sim.run({"peers": 6, "rounds": 2, **NODES}, custom=custom, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()
