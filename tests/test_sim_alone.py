"""What joining gains: everybody trained by itself beside the federation, in both engines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quidnunc.crypto.errors import ConfigError
from quidnunc.sim.batched.alone import Alone
from quidnunc.sim.scenarios.columns import spread
from quidnunc.sim.scenarios.prepare import prepare
from quidnunc.sim.scenarios.run import run
from quidnunc.sim.scenarios.text import to_scenario

SMALL: dict[str, Any] = {
    "peers": 8,
    "rounds": 6,
    "evaluate_every": 3,
    "data": {"source": "synthetic", "pool": 400, "features": 5, "classes": 3, "partition": "by-quantity"},
}


@pytest.mark.parametrize(
    "others",
    [
        {"training": {"momentum": 0.5, "prox": 0.5, "local_steps": 3}},
        {"privacy": {"epsilon": 8.0}},
        {"merge": {"rule": "repute"}},
        {"model": {"kind": "mlp", "hidden": [4]}, "codec": {"kind": "float32"}},
    ],
)
def test_a_federation_that_hears_nothing_is_everybody_alone(others: dict[str, Any]) -> None:
    """The same training by two ways: with every message lost, merging keeps everybody's own state."""
    done = run({**SMALL, **others, "conditions": {"loss": 1.0}})
    for record in done.records:
        assert record["alone"] == record["accuracies"]
        assert (record["gain_mean"], record["gain_worst"]) == (0.0, 0.0)
        assert record["alone_mean"] == record["accuracy_mean"]


def test_gains_are_those_of_honest_peers_that_are_there() -> None:
    attack = {"name": "sign_flip", "peers": [1, 4]}
    done = run({**SMALL, "attack": attack, "conditions": {"die": 0.25}, "merge": {"rule": "median"}})
    record = done.final[0]
    judged = [peer for peer in range(8) if record["present"][peer] and peer not in (1, 4)]
    assert 3 < len(judged) < 7
    gain = np.array([record["accuracies"][peer] - record["alone"][peer] for peer in judged])
    assert record["gain_mean"] == pytest.approx(gain.mean(), abs=1e-5)
    assert record["gain_worst"] == pytest.approx(gain.min(), abs=1e-5)
    assert record["alone_mean"] == pytest.approx(np.mean([record["alone"][peer] for peer in judged]), abs=1e-5)


def test_both_engines_have_the_same_baseline() -> None:
    scenario = {**SMALL, "peers": 5, "rounds": 3}
    one, other = run(scenario), run(scenario, changes=["engine.kind=protocol"])
    assert one.final[0]["alone"] == other.final[0]["alone"]
    for done in (one, other):
        assert done.final[0]["gain_mean"] == pytest.approx(done.final[0]["accuracy_mean"] - done.final[0]["alone_mean"])


def test_without_it_nothing_else_changes() -> None:
    given, bare = run(SMALL), run(SMALL, changes=["alone=false"])
    extra = {"alone", "alone_mean", "gain_mean", "gain_worst"}
    assert [{key: value for key, value in record.items() if key not in extra} for record in given.records] == (
        bare.records
    )


def test_diverging_alone_is_told() -> None:
    """Merging may hold together what a peer by itself does not; the baseline is no number then."""
    wild = {"model": {"kind": "mlp", "hidden": [8, 8]}, "training": {"learning_rate": 1e6, "momentum": 0.9}}
    alone = Alone(prepare(to_scenario({**SMALL, **wild}), 0))
    for _ in range(20):
        alone.step()
    with pytest.raises(ConfigError, match="by themselves are not finite after round 20") as refused:
        alone.accuracies()
    assert "training.learning_rate" in refused.value.hint


def test_a_report_shows_peers_beside_themselves_alone(tmp_path: Path) -> None:
    run(SMALL, out=tmp_path / "run")
    told = (tmp_path / "run/report.html").read_text()
    assert "gain over alone, least" in told
    assert "Dashed: the same peer by itself." in told
    run(SMALL, changes=["alone=false"], out=tmp_path / "bare")
    assert "alone, mean" not in (tmp_path / "bare/report.html").read_text()


def test_deviations_have_no_sign() -> None:
    assert spread("{:+.4f}", 0.25) == "0.2500"
    assert spread("{:,.1f}", 1234.5) == "1,234.5"
