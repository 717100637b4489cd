"""Sweeps on a Ray cluster of two nodes, where Ray is installed; without it, one error that says so."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cli_helpers import quidnunc as command

from quidnunc.crypto.errors import ConfigError
from quidnunc.sim.scenarios import on_ray as rays
from quidnunc.sim.scenarios.on_ray import on_ray
from quidnunc.sim.scenarios.pool import Job
from quidnunc.sim.scenarios.sweep import Point, read_sweep, sweep
from quidnunc.sim.scenarios.versions import versions
from quidnunc.sim.worker import Order, Ran, ran

TOML = """
peers = 6
rounds = 2
data.source = "synthetic"
data.pool = 120
topology.kind = "complete"
[sweep]
data.alpha = [0.5, 5.0]
"""


def points_of(folder: Path) -> list[Point]:
    file = folder / "s.toml"
    file.write_text(TOML)
    return read_sweep(file, [])


def test_without_ray_there_is_one_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match="Ray is not installed") as refused:
        sweep(points_of(tmp_path), tmp_path, tmp_path / "out", ray="local")
    assert "quidnunc[ray]" in refused.value.hint
    found = command("sim", "sweep", tmp_path / "s.toml", "--ray", "auto", "--jobs", "2")
    assert found.code == 64
    assert "the cluster decides" in found.err


def test_what_a_node_runs_is_what_runs_here(tmp_path: Path) -> None:
    (point, _) = points_of(tmp_path)
    body = msgspec.json.encode(Order(point.scenario, str(tmp_path), ""))
    found = msgspec.msgpack.decode(ran(body), type=Ran)
    sweep([point], tmp_path, tmp_path / "alone")
    assert found.problem == ""
    assert found.files.keys() == rays.FILES
    assert found.files["metrics.jsonl"] == (tmp_path / "alone" / point.name / "metrics.jsonl").read_bytes()


@pytest.mark.parametrize(
    ("found", "says"),
    [
        (Ran({"../x": b""}, "", versions()), "not the files of a run"),
        (Ran({}, "", {"torch": "0"}), "results would differ"),
    ],
)
def test_what_a_node_sends_is_looked_at(found: Ran, says: str, tmp_path: Path) -> None:
    job = Job(points_of(tmp_path)[0].scenario, tmp_path / "out")
    assert says in rays._kept(job, found, lambda path: None)
    assert not (tmp_path / "out").exists()


def test_a_cluster_writes_what_one_process_does(ray_cluster: Any, tmp_path: Path) -> None:
    points = points_of(tmp_path)
    sweep(points, tmp_path, tmp_path / "alone")
    told: list[int] = []
    done = sweep(points, tmp_path, tmp_path / "far", lambda number, point: told.append(number), ray=ray_cluster.address)
    assert told == [0, 1]
    for each in done:
        alone = tmp_path / "alone" / each.point.name / "metrics.jsonl"
        assert alone.read_bytes() == (each.directory / "metrics.jsonl").read_bytes()
        assert each.problem == ""
    assert all(each.resumed for each in sweep(points, tmp_path, tmp_path / "far", ray=ray_cluster.address))


@pytest.mark.parametrize(("kills", "fails"), [(2, False), (3, True)])
def test_a_killed_worker_is_begun_again_twice(kills: int, fails: bool, ray_cluster: Any, tmp_path: Path) -> None:
    tries = tmp_path / "tries"

    # Within the test, so that it travels by value: nodes do not know this file.
    def dying(body: bytes) -> bytes:
        from quidnunc.sim.worker import ran

        count = len(tries.read_text()) if tries.exists() else 0
        tries.write_text("x" * (count + 1))
        if count < kills:
            os.kill(os.getpid(), signal.SIGKILL)
        return ran(body)

    job = Job(points_of(tmp_path)[0].scenario, tmp_path / "out")
    (problem,) = on_ray([job], tmp_path, lambda path: None, ray_cluster.address, dying)
    assert len(tries.read_text()) == 3
    assert problem.startswith("the worker failed: ") == fails
    assert (tmp_path / "out").exists() != fails


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_what_diverges_far_away_is_told_here(ray_cluster: Any, tmp_path: Path) -> None:
    file = tmp_path / "s.toml"
    file.write_text(TOML.replace("data.alpha = [0.5, 5.0]", "training.learning_rate = [1e6]"))
    words = ["model.kind=mlp", "model.hidden=[8, 8, 8]", "rounds=20"]
    (found,) = sweep(read_sweep(file, words), tmp_path, tmp_path / "out", ray=ray_cluster.address)
    assert "not finite" in found.problem


def test_an_address_where_nobody_is_gives_one_error(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="the extra [ray] is not installed")
    for address, says in (("127.0.0.1:1", "refused"), ("ray://127.0.0.1:1", "refused"), ("nonsense", "nonsense")):
        with pytest.raises(ConfigError, match=f"--ray {address}: .*{says}") as refused:
            sweep(points_of(tmp_path), tmp_path, tmp_path / "out", ray=address)
        assert "ray start --head" in refused.value.hint
