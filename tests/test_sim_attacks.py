"""Merge rules and attackers in the batched engine: against the daemon's rules, against hand-made messages, refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cli_helpers import quidnunc as command

from quidnunc.crypto.errors import ConfigError
from quidnunc.gossip.jobs import PPB, Standing
from quidnunc.gossip.learning import collusion
from quidnunc.gossip.learning.attack import BETRAYAL_ROUND
from quidnunc.gossip.learning.merge import merge_repute
from quidnunc.gossip.learning.merged import Inputs
from quidnunc.gossip.rules.linear import Reals, Stack
from quidnunc.gossip.rules.registry import RULES, apply
from quidnunc.gossip.rules.terms import least_rows
from quidnunc.gossip.rules.thresholds import ReputeOptions
from quidnunc.sim.batched import compiled, gathering
from quidnunc.sim.batched.attackers import STRENGTHS, known_attacks
from quidnunc.sim.batched.conditions import Links
from quidnunc.sim.batched.engine import Engine, Setup
from quidnunc.sim.batched.holdout import Holdout
from quidnunc.sim.batched.merging import Merging
from quidnunc.sim.batched.repute import Repute
from quidnunc.sim.batched.witness import auroc
from quidnunc.sim.scenarios.prepare import prepare
from quidnunc.sim.scenarios.run import run
from quidnunc.sim.scenarios.text import to_scenario

SMALL: dict[str, Any] = {
    "peers": 10,
    "rounds": 4,
    "evaluate_every": 2,
    "data": {"source": "synthetic", "pool": 600, "features": 5, "classes": 3},
    "topology": {"degree": 4},
}
OPTIONS = {
    **{
        name: {"bad": 1} for name in ("trimmed_mean", "krum", "multi_krum", "clipped_gossip", "cs_plus", "monna", "ios")
    },
    "mass_trimmed_mean": {"mass": 0.25},
    "rtc": {"mass": 0.25},
    "centered_clip": {"radius": 0.5},
}


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def made(**changes: Any) -> Setup:
    return prepare(to_scenario({**SMALL, **changes}), 1)


def seen_by(setup: Setup, rounds: int = 1) -> dict[int, Stack]:
    """What each peer of ``setup`` reads in the last of ``rounds`` rounds, own state first."""
    stacks: dict[bytes, Stack] = {}

    def rule(stack: Stack, weights: Reals) -> Stack:
        for one in stack:
            stacks[one[0].tobytes()] = one
        return stack[:, 0]

    engine = Engine(replace(setup, rule=rule))
    for _ in range(rounds):
        stacks.clear()
        engine.step()
    return {peer: stacks[state.tobytes()] for peer, state in enumerate(engine.params())}


def near(setup: Setup, peer: int) -> list[int]:
    """Neighbors in the order in which the engine reads them: by size of their shares."""
    mixing = setup.topology.at(0)
    found = mixing.indices[mixing.indptr[peer] : mixing.indptr[peer + 1]]
    order = np.argsort(-setup.shares.sizes, kind="stable").tolist()
    return sorted(found.tolist(), key=order.index)


@pytest.mark.parametrize("name", sorted(RULES))
def test_a_rule_of_the_catalogue_is_that_rule_at_every_peer(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gathering, "GATHERED_BYTES", 500)
    setup = made(merge={"rule": name, "options": OPTIONS.get(name, {})}, topology={"kind": "scale-free", "degree": 4})
    alone = seen_by(setup)
    engine = Engine(setup)
    engine.step()
    mixing = setup.topology.at(0)
    order = np.argsort(-setup.shares.sizes, kind="stable")
    for peer, merged in enumerate(engine.params()):
        stack = alone[peer]
        weights = mixing.reordered(order).dense()[order.tolist().index(peer)]
        mine = order.tolist().index(peer)
        given = np.array([weights[mine], *(w for at, w in enumerate(weights) if w > 0 and at != mine)])
        enough = len(stack) >= least_rows(name, OPTIONS.get(name, {}))
        expected = apply(name, stack[None], given[None], OPTIONS.get(name, {}))[0] if enough else stack[0]
        assert np.allclose(merged, expected, atol=2e-6)


@pytest.mark.parametrize("private", [False, True])
@pytest.mark.parametrize("holdout", [0.0, 0.3])
def test_repute_for_all_at_once_is_repute_at_every_peer(holdout: float, private: bool) -> None:
    """Standings, suspicions, weights and results over rounds in which one neighbor flips and one is harmless."""
    others = {"privacy": {"epsilon": 50.0}} if private else {}
    _check_repute(
        made(merge={"rule": "repute", "holdout": holdout}, attack={"name": "sign_flip", "count": 2}, **others)
    )


@pytest.mark.skipif(compiled._insight() is None, reason="numba (extra [fast]) is not installed")
@pytest.mark.parametrize("holdout", [0.0, 0.3])
def test_compiled_repute_is_repute_at_every_peer(holdout: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "LEAST_PRODUCTS", 0)
    setup = made(merge={"rule": "repute", "holdout": holdout}, attack={"name": "sign_flip", "count": 2})
    assert compiled.insight_for(setup) is not None
    _check_repute(setup)


def _check_repute(setup: Setup) -> None:
    engine = Engine(setup)
    merger = engine._merger
    assert isinstance(merger, Repute)
    checked = _Checked(merger, setup)
    engine._merger = checked  # type: ignore[assignment]
    for _ in range(5):
        engine.step()
    assert checked.merges == 5 * setup.topology.peers
    assert checked.suspects > 0


def _many(part: torch.Tensor | None, copies: int) -> Any:
    return None if part is None else part.expand(copies, *part.shape[1:])


class _Checked:
    """Merges by the batched rule and compares with the daemon's at every peer."""

    def __init__(self, merger: Repute, setup: Setup) -> None:
        self._merger = merger
        self._setup = setup
        self.merges = self.suspects = 0

    def merge(self, ring: list[Any], links: Links, now: int, into: int, over: float) -> Reals | None:
        store, mixing = self._merger.standings, links.mixing
        at = store.places(mixing)
        before = [Standing(*each) for each in zip(store.good[at], store.bad[at], store.harm[at], strict=True)]
        found = self._merger.merge(ring, links, now, into, over)
        assert found is not None
        rows = ring[0].shape[1]
        reads = gathering.sources(ring, links, now)
        for peer in range(mixing.peers):
            mine = slice(mixing.indptr[peer], mixing.indptr[peer + 1])
            pivot = gathering.gathered(ring, np.array([now * rows + peer]))[0]
            weights = [int(PPB * w) for w in mixing.weights[mine]]
            given = Inputs(gathering.gathered(ring, reads[mine]), weights, before[mine], [True] * len(weights))
            self._compare(peer, pivot, given, store.good[at[mine]], store.bad[at[mine]], found[mine])
            result = gathering.gathered(ring, np.array([into * rows + peer]))[0]
            assert np.allclose(result, self._expected.result, atol=1e-5)
        return found

    def _compare(self, peer: int, pivot: Any, given: Inputs, good: Reals, bad: Reals, found: Reals) -> None:
        holdout: Holdout | None = self._merger._holdout
        probe = None
        if holdout is not None:

            def probe(stack: Stack) -> Reals:
                assert holdout is not None
                net, batch = self._setup.net, holdout._batch(np.array([peer]))
                params = [torch.from_numpy(stack[:, s.start : s.stop]).view(-1, *s.shape) for s in net.slots]
                return net.loss(params, *(_many(part, len(stack)) for part in batch)).double().numpy()

        options: ReputeOptions = self._merger._options
        untrained = float(self._merger._untrained[peer])
        self._expected = merge_repute(pivot, given, probe, options, untrained)
        rows = self._expected.rows
        assert [row.standing.good for row in rows] == pytest.approx(good.tolist())
        assert [row.standing.bad for row in rows] == pytest.approx(bad.tolist())
        assert [row.effective / PPB for row in rows] == pytest.approx(found.tolist(), abs=1e-5)
        self.merges += 1
        self.suspects += sum(row.doubts > 0 for row in rows)


def test_standings_belong_to_pairs_where_the_graph_changes() -> None:
    setup = made(merge={"rule": "repute"}, topology={"kind": "epidemic", "degree": 3})
    engine = Engine(setup)
    for _ in range(3):
        engine.step()
    store = engine._merger.standings  # type: ignore[attr-defined]
    pairs = sum(len(setup.topology.at(number).indices) for number in range(3))
    assert len(store.good) <= pairs
    assert store.good.max() > 2
    assert store.good.min() >= 0


def test_what_is_not_new_is_judged_once() -> None:
    engine = Engine(made(merge={"rule": "repute"}, conditions={"loss": 0.95}))
    for _ in range(8):
        engine.step()
    assert engine._merger.standings.good.max() < 4  # type: ignore[attr-defined]


def test_attackers_learn_honestly_and_publish_something_else() -> None:
    setup = made(attack={"name": "sign_flip", "count": 2})
    assert setup.attack is not None
    bad = setup.attack.peers
    honest = seen_by(replace(setup, attack=None))
    seen = seen_by(setup)
    for peer, stack in seen.items():
        for at, neighbor in enumerate(near(setup, peer), 1):
            flipped = neighbor in bad and peer not in bad
            expected = -honest[neighbor][0] if flipped else honest[neighbor][0]
            assert np.array_equal(stack[at], expected), (peer, neighbor)


def test_betrayal_begins_when_it_begins() -> None:
    setup = made(attack={"name": "betray", "count": 2})
    assert setup.attack is not None
    for rounds in (BETRAYAL_ROUND, BETRAYAL_ROUND + 1):
        seen, clean = seen_by(setup, rounds), seen_by(replace(setup, attack=None), rounds)
        same = all(np.allclose(seen[peer], clean[peer], atol=1e-5) for peer in seen)
        assert same == (rounds == BETRAYAL_ROUND)
    later = replace(setup.attack, name="zero", begin=1)
    assert all(stack[1:].any() for stack in seen_by(replace(setup, attack=later), 1).values())
    assert not all(stack[1:].any(axis=1).all() for stack in seen_by(replace(setup, attack=later), 2).values())


@pytest.mark.parametrize("name", ["ipm", "alie", "mimic", "dissensus"])
def test_colluders_send_every_victim_a_message_made_of_its_own_neighbors(name: str) -> None:
    setup = made(attack={"name": name, "count": 3, "beyond": True})
    assert setup.attack is not None
    bad = setup.attack.peers
    weights = setup.topology.at(0).dense()
    messages = 0
    for peer, stack in seen_by(setup).items():
        around = near(setup, peer)
        evil = [at for at, other in enumerate(around, 1) if other in bad]
        good = [at for at, other in enumerate(around, 1) if other not in bad]
        if peer in bad or not evil:
            continue
        honest, force = stack[good], STRENGTHS.get(name, 0.0)
        mine = np.array([weights[peer, around[at - 1]] for at in good])
        theirs = sum(weights[peer, around[at - 1]] for at in evil)
        expected = {
            "ipm": lambda honest=honest, force=force: collusion.inner_product(honest, force),
            "alie": lambda honest=honest, force=force: collusion.little_is_enough(honest, force),
            "mimic": lambda honest=honest: collusion.mimic(honest, 0),
            "dissensus": lambda stack=stack, honest=honest, mine=mine, theirs=theirs: collusion.dissensus(
                stack[0], honest, mine, theirs, STRENGTHS["dissensus"]
            ),
        }[name]()
        assert all(np.allclose(stack[at], expected, atol=1e-5) for at in evil)
        messages += len(evil)
    assert messages > 3


@pytest.mark.parametrize("name", known_attacks())
@pytest.mark.parametrize(
    "conditions", [pytest.param({}, marks=pytest.mark.soak), {"loss": 0.3, "leave": 0.2, "slow": 0.3}]
)
def test_every_attack_gives_the_same_bytes_twice(name: str, conditions: dict[str, float], tmp_path: Path) -> None:
    rule = "cs_plus" if conditions else "repute"
    merge = {"rule": rule, "options": OPTIONS.get(rule, {})}
    scenario = {**SMALL, "merge": merge, "conditions": conditions}
    scenario["attack"] = {"name": name, "count": 2, "beyond": True}
    for place in ("a", "b"):
        run(scenario, out=tmp_path / place)
    metrics = [(tmp_path / place / "metrics.jsonl").read_bytes() for place in ("a", "b")]
    assert metrics[0] == metrics[1]
    last = json.loads(metrics[0].splitlines()[-1])
    assert last["attacker_weight"] <= last["attacker_mixing_weight"] + 1e-9
    assert "detection_auroc" in last


@pytest.mark.parametrize("name", ["sign_flip", "replay", "ipm", "sybil", "optimized_alie", "label_flip"])
def test_attacks_go_on_where_the_graph_changes(name: str) -> None:
    topology = {"kind": "epidemic", "degree": 3}
    engine = Engine(made(topology=topology, attack={"name": name, "count": 2, "beyond": True}))
    for _ in range(4):
        engine.step()
    held = engine.evaluate().held
    assert held is not None
    assert 0 < held.weight == pytest.approx(held.given)


def test_an_attack_without_meaning_on_a_graph_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"spectral.* epidemic"):
        Engine(made(topology={"kind": "epidemic"}, attack={"name": "spectral", "count": 2, "beyond": True}))


def test_repute_sees_sign_flippers_and_the_mean_does_not() -> None:
    scenario = {**SMALL, "rounds": 20, "evaluate_every": 20, "attack": {"name": "sign_flip", "count": 2}}
    scenario["data"] = {**SMALL["data"], "alpha": 5.0}
    lost = run({**scenario, "merge": {"rule": "mean"}}).final[0]
    held = run({**scenario, "merge": {"rule": "repute"}}).final[0]
    assert held["detection_auroc"] > 0.95
    assert held["attacker_weight"] < 0.1 * lost["attacker_weight"]
    assert lost["detection_auroc"] == 0.5
    assert held["accuracy_mean"] > lost["accuracy_mean"] + 0.02
    median = run({**scenario, "merge": {"rule": "median"}}).final[0]
    assert median["attacker_weight"] < lost["attacker_weight"]


def test_honest_metrics_leave_attackers_out() -> None:
    found = run({**SMALL, "attack": {"name": "zero", "peers": [0, 3]}})
    last = found.final[0]
    honest = [accuracy for peer, accuracy in enumerate(last["accuracies"]) if peer not in (0, 3)]
    assert last["accuracy_mean"] == pytest.approx(np.mean(honest), abs=1e-4)
    assert last["accuracy_p10"] == pytest.approx(np.quantile(honest, 0.1), abs=1e-4)
    assert (last["accuracy_worst"], last["accuracy_best"]) == pytest.approx((min(honest), max(honest)), abs=1e-4)
    assert (last["peers_present"], last["attackers_present"]) == (10, 2)
    assert found.facts[0]["attackers"] == [0, 3]


def test_a_backdoor_is_measured() -> None:
    scenario = {**SMALL, "rounds": 10, "attack": {"name": "backdoor", "count": 2}}
    planted = run(scenario).final[0]["backdoor_rate"]
    assert planted > run({**scenario, "merge": {"rule": "repute"}}).final[0]["backdoor_rate"]


@pytest.mark.parametrize(
    ("changes", "says", "hint"),
    [
        ({"attack": {"name": "sing_flip", "count": 1}}, "attack.name = 'sing_flip': not known", "sign_flip"),
        ({"attack": {"name": "zero", "count": 9}}, "attack.count: 9 attackers among 10 peers, at most 8", "lower"),
        ({"attack": {"name": "zero", "peers": [10]}}, "must be different numbers from 0 to 9", "from 0"),
        ({"attack": {"name": "zero", "peers": [1, 1]}}, "must be different numbers", "from 0"),
        ({"attack": {"name": "zero", "peers": [1], "count": 2}}, "attack.count = 2 beside 1", "leave count out"),
        ({"attack": {"name": "zero", "count": 1, "strength": 2.0}}, "zero takes none", "leave it out"),
        ({"merge": {"rule": "krum"}}, "needs the option bad", "0 to 1000"),
        ({"merge": {"rule": "mean", "options": {"bad": 1}}}, "has no option bad", "known are nearest"),
        ({"merge": {"rule": "repute", "options": {"radios": 1}}}, "radios is unknown", "radius"),
        ({"merge": {"rule": "balance", "options": {"t": 1}}}, "has no option t", "gate"),
        (
            {"merge": {"rule": "trimmed_mean", "options": {"bad": 3}}, "attack": {"name": "zero", "count": 1}},
            "merge.options.bad = 3: trimmed_mean needs 7 states, peer",
            "raise topology.degree",
        ),
        (
            {"merge": {"rule": "cs_plus", "options": {"bad": 1}}, "attack": {"name": "zero", "count": 6}},
            "attack.count = 6: peer",
            "attack.beyond = true",
        ),
        (
            {"merge": {"rule": "cs_plus", "options": {"bad": 1}}, "attack": {"name": "zero", "count": 6}},
            "attackers beside it, merge.options.bad = 1 bears 1",
            "raise merge.options.bad",
        ),
        (
            {"merge": {"rule": "repute", "options": {"radius": "x"}}},
            "merge.options.radius = 'x': expected float",
            "change",
        ),
        (
            {"merge": {"rule": "repute"}, "attack": {"name": "zero", "peers": [1, 3, 4]}, "topology": {"kind": "ring"}},
            "attack.peers = [1, 3, 4]: 3 attackers cut the honest peers apart",
            "lower attack.count",
        ),
        (
            {"merge": {"rule": "rtc", "options": {"mass": 0.1}}, "attack": {"name": "zero", "count": 3}},
            "merge.options.mass = 0.1 bears that",
            "raise merge.options.mass",
        ),
        (
            {"merge": {"rule": "repute"}, "attack": {"name": "zero", "count": 8}},
            "attackers among 5 states with its own, repute bears 2",
            "lower attack.count",
        ),
    ],
)
def test_more_than_a_rule_bears_is_refused_before_anything_is_written(
    changes: dict[str, Any], says: str, hint: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError) as refused:
        run({**SMALL, **changes}, out=tmp_path / "run")
    assert says in refused.value.message
    assert hint in refused.value.hint
    assert not (tmp_path / "run").exists()


def test_spread_attackers_leave_honest_peers_no_more_than_need_be() -> None:
    def worst(placement: str) -> int:
        setup = made(attack={"name": "zero", "count": 3, "placement": placement, "beyond": True}, peers=16)
        assert setup.attack is not None
        bad = set(setup.attack.peers)
        return max(len(bad & set(near(setup, peer))) for peer in range(16) if peer not in bad)

    assert worst("spread") <= worst("random")
    assert worst("spread") == 1


def test_the_command_takes_attack_and_rule(tmp_path: Path) -> None:
    file = tmp_path / "s.toml"
    file.write_text(
        'name = "hit"\npeers = 10\nrounds = 2\n[data]\nsource = "synthetic"\npool = 400\n[merge]\nrule = "cs_plus"\n'
        'options = { bad = 2 }\n[attack]\nname = "sign_flip"\ncount = 2\n'
    )
    shown = command("sim", "run", file, "--out", tmp_path / "run")
    assert shown.code == 0, shown.err
    assert "sign_flip by 2 peers" in shown.out
    assert "weight of attackers" in shown.out
    refused = command("--json", "sim", "run", file, "--set", "attack.count=9", "--out", tmp_path / "no")
    assert refused.code == 64
    assert not (tmp_path / "no").exists()


def test_areas_under_the_curve_by_hand() -> None:
    def area(high: list[float], low: list[float]) -> float | None:
        return auroc(np.array(high), np.array(low))

    assert area([1, 1], [0, 0]) == 1.0
    assert area([0], [1, 2]) == 0.0
    assert area([1, 1], [1, 1, 1]) == 0.5
    assert area([2, 1], [1, 0]) == 0.875
    assert area([], [1]) is None
    assert Merging().rule == "mean"
