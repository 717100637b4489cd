"""Scenarios: strict texts, run directories, the Python interface and the commands."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

import msgspec
import numpy as np
import pytest
import torch
from cli_helpers import quidnunc as command
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import quidnunc.sim
from quidnunc.crypto.errors import ConfigError
from quidnunc.gossip.learning.accountant import epsilon_of, noise_for
from quidnunc.gossip.rules.median import coordinate_median
from quidnunc.sim.scenarios.prepare import Custom, prepare
from quidnunc.sim.scenarios.run import run
from quidnunc.sim.scenarios.spec import AttackSpec, PrivacySpec, SimScenario
from quidnunc.sim.scenarios.text import DEPTH_MAX, parse_scenario, to_scenario
from quidnunc.sim.topology.spec import Kind

SMALL: dict[str, Any] = {
    "peers": 8,
    "rounds": 6,
    "evaluate_every": 2,
    "data": {"source": "synthetic", "pool": 400, "features": 5, "classes": 3},
}
TOML = """
name = "small"
peers = 8
rounds = 6
evaluate_every = 4
seeds = [3, 1]

[data]
source = "synthetic"
pool = 400
features = 5

[conditions]
loss = 0.2
leave = 0.05
"""


@pytest.mark.parametrize(
    ("text", "says", "hint"),
    [
        ("rounds = 1", "peers is missing", "add peers"),
        ("peers = 1\nrounds = 1", "peers = 1: expected int >= 2", "change peers"),
        ("peers = 4\nrounds = 0", "rounds = 0: expected int >= 1", "change rounds"),
        ("peers = 1000001\nrounds = 1", "peers = 1000001: expected int <= 1000000", "change peers"),
        ("peers = 4\nrounds = 1\nroudns = 2", "roudns: no such key", "did you mean rounds?"),
        ("peers = 4\nrounds = 1\n[data]\nalhpa = 1", "data.alhpa: no such key", "did you mean alpha?"),
        ("peers = 4\nrounds = 1\n[privacy]\nprivate_sum = 1", "scenarios do not know private sums", "quidnunc demo"),
        ("peers = 4\nrounds = 1\n[privacy]\nunit = 'site'", "privacy of single records only", "quidnunc demo"),
        ("peers = 4\nrounds = 1\n[privacy]\nsampling_rate = 0.1", "one step on all records", "--sampling-rate"),
        ("peers = 4\nrounds = 1\n[wat]", "wat: no such key", "known here: peers"),
        ("peers = 4\nrounds = 1\n[data]\nalpha = nan", "data.alpha = nan: must be a finite number", "give a number"),
        ("peers = 4\nrounds = 1\n[data]\nalpha = inf", "data.alpha = inf: must be a finite number", "give a number"),
        ("peers = 4\nrounds = 1\n[topology]\nkind = 'cube'", "topology.kind = 'cube': not known", "one of: ring"),
        ("peers = 4\nrounds = 1\n[topology]\nof = ['cube']", "not known", "one of: ring"),
        ("peers = 4\nrounds = 1\n[privacy]\nclip = 1.0", "privacy.epsilon is missing", "add epsilon"),
        (
            "peers = 4\nrounds = 1\n[privacy]\nepsilon = 0",
            "privacy.epsilon = 0: expected float > 0.0",
            "change privacy",
        ),
        ("peers = 4\nrounds = 1\n[training]\nprox = -1", "training.prox = -1: expected float >= 0.0", "leave it out"),
        ("peers = 4\nrounds = 1\n[training]\npersonal = ['b']", "scenarios share all params", "--personal"),
        (
            "peers = 4\nrounds = 1\n[training]\nmomentum = 1.0",
            "training.momentum = 1.0: expected float < 1.0",
            "change",
        ),
        ("peers = 4\nrounds = 1\n[conditions]\nloss = 1.5", "conditions.loss = 1.5: expected float <= 1.0", "change"),
        ("peers = 4\nrounds = 1\nseeds = []", "seeds = []", "change seeds"),
        ("peers = 4\nrounds = 1\nseeds = [1, -1]", "seeds.1 = -1: expected int >= 0", "change seeds"),
        ("peers = 4\nrounds = 1\n[model]\nhidden = [0]", "expected int >= 1", "change model.hidden"),
        ("peers = 'many'\nrounds = 1", "peers = 'many': expected int, got str", "change peers"),
        ("peers = 4\nrounds = 1\nname = '../x'", "name = '../x'", "change name"),
        ("peers = 4 rounds", "not TOML", "docs/simulator.md"),
    ],
)
def test_what_is_wrong_is_named_once_with_path_value_bound_and_remedy(text: str, says: str, hint: str) -> None:
    with pytest.raises(ConfigError) as refused:
        parse_scenario(text, "s.toml")
    assert refused.value.message.startswith("s.toml: ")
    assert says in refused.value.message
    assert hint in refused.value.hint


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"topology": {"degree": 8}}, "topology.degree = 8 with 8 peers"),
        ({"topology": {"kind": "torus"}, "peers": 13}, "torus on 13"),
        ({"topology": {"kind": "file", "file": "missing.graphml"}}, "cannot be read"),
        ({"merge": {"rule": "meen"}}, "merge.rule = 'meen'"),
        ({"data": {"source": "images", "path": "missing.npz"}}, "cannot be read"),
        ({"data": {"source": "synthetic", "pool": 20}}, "fewer than 4 each"),
        ({"engine": {"memory_gib": 1e-9}}, "engine.memory_gib"),
        ({"seeds": [1, 1]}, "stands twice"),
        (
            {"merge": {"rule": "trimmed_mean", "options": {"bad": 9}}},
            "bad = 9: trimmed_mean needs 19 states, peers have at most 5 with their own",
        ),
        ({"conditions": {"split": 9}}, "conditions.split = 9 with 8 peers"),
        ({"conditions": {"split": 2, "split_at": 6}}, "conditions.split_at = 6 with 6 rounds"),
        ({"conditions": {"die": 0.5, "die_at": 6}}, "conditions.die_at = 6 with 6 rounds"),
        ({"conditions": {"die": 0.95}}, "conditions.die = 0.95: all 8 peers"),
        ({"attack": {"name": "sign_flip", "count": 1, "begin": 6}}, "attack.begin = 6 with 6 rounds"),
        ({"training": {"quasi_global": True}}, "training.momentum = 0"),
        ({"training": {"quasi_global": True, "momentum": 0.9}, "conditions": {"loss": 0.1}}, "states are old"),
        ({"training": {"quasi_global": True, "momentum": 0.9}, "privacy": {"epsilon": 8.0}}, "without momentum"),
    ],
)
def test_what_does_not_fit_together_is_refused_before_anything_is_written(
    changes: dict[str, Any], says: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=says) as refused:
        run({**SMALL, **changes}, out=tmp_path / "run")
    assert refused.value.hint
    assert not (tmp_path / "run").exists()


def test_who_must_name_a_key_is_not_told_to_leave_it_out() -> None:
    with pytest.raises(ConfigError) as refused:
        parse_scenario("peers = 4\nrounds = 1\n[privacy]\nepsilon = 0")
    assert refused.value.hint == "change privacy.epsilon"


def test_what_is_just_in_bounds_runs() -> None:
    conditions = {"split": 8, "split_at": 5, "die": 0.875, "die_at": 5}
    merge = {"rule": "trimmed_mean", "options": {"bad": 2}}
    attack = {"name": "sign_flip", "count": 1, "begin": 5}
    done = run({**SMALL, "conditions": conditions, "merge": merge, "attack": attack})
    assert done.final[0]["round"] == 6


def test_quasi_global_momentum_helps_where_data_are_skewed() -> None:
    scenario = {"peers": 16, "rounds": 60, "evaluate_every": 60, "data": {"alpha": 0.1}, "topology": {"kind": "ring"}}
    scenario["training"] = {"learning_rate": 0.2, "momentum": 0.9}
    plain = run(scenario).final[0]["accuracy_mean"]
    assert run(scenario, changes=["training.quasi_global=true"]).final[0]["accuracy_mean"] > plain + 0.02


def test_changes_are_toml_values_or_bare_words() -> None:
    changes = ["peers=9", "topology.kind=ring", "seeds=[4, 5]", "data.alpha = 0.1", "privacy.epsilon=8", 'name="a"']
    scenario = parse_scenario(TOML, changes=changes)
    assert (scenario.peers, scenario.topology.kind, scenario.seeds, scenario.data.alpha) == (9, "ring", (4, 5), 0.1)
    assert scenario.privacy is not None
    for change, says in (("peers", "key=value"), ("a b=1", "key=value"), ("peers.x=1", "peers is no table")):
        with pytest.raises(ConfigError, match=says):
            parse_scenario(TOML, changes=[change])


def test_nesting_is_capped() -> None:
    text = ".".join(["a"] * (DEPTH_MAX + 2)) + " = 1"
    with pytest.raises(ConfigError, match="nested deeper"):
        parse_scenario(text)


@given(
    st.dictionaries(
        st.sampled_from(["peers", "rounds", "data", "topology", "seeds", "x"]),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
            lambda inner: (
                st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["kind", "alpha", "of", "y"]), inner)
            ),
            max_leaves=6,
        ),
    )
)
def test_arbitrary_tables_are_a_scenario_or_a_config_error(table: dict[str, Any]) -> None:
    try:
        found = to_scenario(table)
    except ConfigError:
        return
    assert isinstance(found, SimScenario)


def test_a_run_is_written_and_the_same_run_gives_the_same_bytes(tmp_path: Path) -> None:
    file = tmp_path / "s.toml"
    file.write_text(TOML)
    one, two = (quidnunc.sim.run(file, out=tmp_path / name) for name in ("one", "two"))
    metrics = (tmp_path / "one" / "metrics.jsonl").read_bytes()
    assert metrics == (tmp_path / "two" / "metrics.jsonl").read_bytes()
    assert [json.loads(line) for line in metrics.splitlines()] == one.records
    assert [(record["seed"], record["round"]) for record in one.records] == [(3, 4), (3, 6), (1, 4), (1, 6)]
    assert [record["seed"] for record in one.final] == [3, 1]
    assert one.models[3].shape == (8, one.facts[0]["params"])
    assert np.array_equal(one.models[1], two.models[1])
    assert not np.array_equal(one.models[1], one.models[3])
    manifest = json.loads((tmp_path / "one" / "manifest.json").read_text())
    assert (manifest["format"], manifest["v"], manifest["status"]) == ("quidnunc-run", 1, "complete")
    assert to_scenario(manifest["scenario"]) == one.scenario
    assert manifest["seeds"][0]["topology"]["kind"] == "random-regular"
    assert 0 < one.final[0]["messages_lost"] < one.final[0]["messages"]
    with pytest.raises(ConfigError, match="is not empty"):
        run(file, out=tmp_path / "one")


def test_a_run_that_fails_leaves_a_manifest_that_says_so(tmp_path: Path) -> None:
    def explode(stack: np.ndarray, weights: np.ndarray) -> np.ndarray:
        return stack[:, 0] * np.float32(np.nan)

    with pytest.raises(ConfigError, match="not finite"):
        run(SMALL, out=tmp_path / "run", custom=Custom(rule=explode))
    assert json.loads((tmp_path / "run" / "manifest.json").read_text())["status"] == "failed"


def test_torch_has_its_threads_back_after_a_run() -> None:
    before = torch.get_num_threads()
    run(SMALL)
    assert torch.get_num_threads() == before


def test_epsilon_is_spent_over_the_rounds() -> None:
    found = run({**SMALL, "privacy": {"epsilon": 4.0}})
    noise = noise_for(4.0, 6, 1e-5)
    assert [record["epsilon"] for record in found.records] == [epsilon_of(noise, done, 1e-5) for done in (2, 4, 6)]
    assert found.final[0]["epsilon"] <= 4.0


def test_a_model_a_loss_and_a_rule_of_ones_own() -> None:
    custom = Custom(
        model=lambda pool: nn.Sequential(nn.Linear(pool.features, 7), nn.GELU(), nn.Linear(7, pool.classes)),
        loss=lambda outputs, targets: nn.functional.cross_entropy(outputs, targets, reduction="none"),
        rule=lambda stack, weights: coordinate_median(stack),
    )
    found = run(SMALL, custom=custom)
    assert found.facts[0]["net"] == "ModuleNet"
    named = run({**SMALL, "merge": {"rule": "median"}, "model": {"kind": "mlp"}})
    assert named.facts[0]["net"] == "StackNet"
    assert found.final[0]["accuracy_mean"] > 0.3


def test_genesis_follows_the_seed_and_leaves_torch_alone() -> None:
    scenario = to_scenario(SMALL)
    state = torch.get_rng_state()
    one, same, other = (prepare(scenario, seed).genesis for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(map(torch.equal, one, same))
    assert not torch.equal(one[1], other[1])


def test_progress_is_told_every_round() -> None:
    seen: list[tuple[int, int, bool]] = []
    run(SMALL, progress=lambda seed, done, record: seen.append((seed, done, record is not None)))
    assert seen == [(0, number, number % 2 == 0) for number in range(1, 7)]


def test_the_command_runs_a_scenario_and_shows_its_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("s.toml").write_text(TOML)
    shown = command("sim", "run", "s.toml", "--set", "data.examples=100")
    assert shown.code == 0, shown.err
    assert "small: 8 peers, 6 rounds, 2 seeds" in shown.out
    assert "mean accuracy" in shown.out
    assert "written to runs/small-1" in shown.out
    assert "WITH REPLACEMENT" in shown.out
    assert "WITH REPLACEMENT" in shown.err
    again = command("--json", "sim", "run", "s.toml")
    assert again.data["directory"] == "runs/small-2"
    assert [record["seed"] for record in again.data["final"]] == [3, 1]
    assert (tmp_path / "runs" / "small-2" / "metrics.jsonl").exists()


def test_the_command_refuses_a_bad_scenario_with_code_64(tmp_path: Path) -> None:
    file = tmp_path / "s.toml"
    file.write_text(TOML)
    refused = command("--json", "sim", "run", file, "--set", "data.alhpa=1", "--out", tmp_path / "out")
    assert refused.code == 64
    assert refused.envelope["error"]["hint"] == "did you mean alpha?"
    assert not (tmp_path / "out").exists()
    assert command("sim", "run", tmp_path / "none.toml").code == 64
    assert command("sim", "run", file, "--out", file / "x").code == 73


def test_topologies_are_measured_drawn_and_left_out_with_a_reason(tmp_path: Path) -> None:
    shown = command("sim", "topologies", "-n", "13", "--preview", "--svg", tmp_path / "all.svg")
    assert shown.code == 0, shown.err
    assert "left out: topology torus on 13 peers" in shown.err
    assert "random-regular" in shown.out
    assert any(0x2800 < ord(char) < 0x2900 for char in shown.out)
    assert (tmp_path / "all.svg").read_text().startswith("<svg")
    (tmp_path / "g.txt").write_text("a b\nb c\n")
    data = command("--json", "sim", "topologies", "ring", "--file", tmp_path / "g.txt", "-n", "5").data
    assert [(each["kind"], each["peers"]) for each in data["topologies"]] == [("ring", 5), ("file", 3)]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["cube"], "topology 'cube' is unknown"),
        (["torus", "-n", "13"], "torus on 13"),
        (["-n", "1"], "1 peers, must be 2"),
        (["--degree", "0"], "--degree 0"),
        (["--probability", "nan"], "--probability nan"),
        (["--seed", "-1"], "--seed -1"),
        (["ring", "--file", "missing"], "cannot be read"),
        (["ring", "--scenario", "missing"], "cannot be read"),
    ],
)
def test_topologies_that_cannot_be_are_refused(words: list[str], says: str) -> None:
    refused = command("sim", "topologies", *words)
    assert refused.code == 64
    assert says in refused.err
    assert "hint:" in refused.err


def test_every_key_stands_in_the_documentation_with_its_default() -> None:
    text = (Path(__file__).parent.parent / "docs" / "simulator.md").read_text()
    for item in msgspec.structs.fields(SimScenario):
        kind = {"privacy": PrivacySpec, "attack": AttackSpec}.get(item.name, item.type)
        if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
            for inner in msgspec.structs.fields(kind):
                assert f"`{item.name}.{inner.name}`" in text, f"{item.name}.{inner.name}"
        else:
            assert f"`{item.name}`" in text, item.name
    for kind in get_args(Kind):
        assert f"`{kind}`" in text


def test_the_scenario_in_the_documentation_is_one() -> None:
    text = (Path(__file__).parent.parent / "docs" / "simulator.md").read_text()
    scenario = parse_scenario(text.partition("```toml\n")[2].partition("```")[0])
    assert (scenario.peers, scenario.model.kind, scenario.conditions.loss) == (64, "mlp", 0.1)


def test_the_graph_of_a_scenario_is_measured_beside_others(tmp_path: Path) -> None:
    """Kinds that no argument names, a sequence of a ring and a complete graph here, can be looked at before a run."""
    file = tmp_path / "s.toml"
    file.write_text('peers = 8\nrounds = 3\nseeds = [5]\n[topology]\nkind = "sequence"\nof = ["ring", "complete"]\n')
    rows = command("--json", "sim", "topologies", "ring", "--scenario", file).data["topologies"]
    assert [(row["kind"], row["peers"]) for row in rows] == [("sequence", 8), ("ring", 8)]
    assert rows[0]["gap"] > rows[1]["gap"]
