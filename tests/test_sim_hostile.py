"""What a new user of the simulator may name by mistake: pipes, files of theirs, something that is no scenario."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from cli_helpers import quidnunc as command

from quidnunc.crypto.errors import ConfigError
from quidnunc.sim.data.images import read_images
from quidnunc.sim.scenarios.run import run
from quidnunc.sim.scenarios.stored import read_run
from quidnunc.sim.scenarios.sweep import read_sweep, sweep
from quidnunc.sim.scenarios.text import read_scenario
from quidnunc.sim.topology.read import read_graph

SMALL = {"peers": 4, "rounds": 1, "data": {"examples": 8}, "topology": {"degree": 2}, "alone": False}


@pytest.mark.parametrize("read", [read_scenario, read_graph, read_images])
def test_a_pipe_is_refused_and_not_waited_for(read: Any, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ConfigError, match="not a regular file"):
        read(tmp_path / "pipe")


def test_a_pipe_in_a_run_directory_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "manifest.json")
    with pytest.raises(ConfigError, match="not a regular file"):
        read_run(tmp_path)


def test_a_report_replaces_no_other_file(tmp_path: Path) -> None:
    run(SMALL, out=tmp_path / "run")
    (tmp_path / "mine").write_text("mine")
    found = command("sim", "report", str(tmp_path / "run"), "--out", str(tmp_path / "mine"))
    assert (found.code, (tmp_path / "mine").read_text()) == (64, "mine")


def test_a_sweep_goes_on_where_a_full_disk_left_half_a_manifest(tmp_path: Path) -> None:
    (tmp_path / "grid.toml").write_text(
        "peers = 4\nrounds = 1\nalone = false\n[data]\nexamples = 8\n[topology]\ndegree = 2\n[sweep]\nseeds = [[0]]\n"
    )
    points = read_sweep(tmp_path / "grid.toml", [])
    left = tmp_path / "out" / points[0].name
    left.mkdir(parents=True)
    (left / "manifest.json.new").touch()
    (done,) = sweep(points, tmp_path, tmp_path / "out")
    assert done.problem == ""
    assert (left / "report.html").exists()


@pytest.mark.parametrize("given", [None, 3, [], b"ward.toml", {1: 2}])
def test_what_is_no_scenario_is_told_so(given: Any) -> None:
    with pytest.raises(ConfigError, match="must be a path, tables with text keys"):
        run(given)


def test_one_change_may_be_one_text() -> None:
    assert run(SMALL, changes="rounds=2").scenario.rounds == 2


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ({"data": {"labels": "y"}}, "data.labels = 'y' with source 'digits'"),
        ({"data": {"schema": "s.toml"}}, "data.schema = 's.toml' with source 'digits'"),
        ({"data": {"target": "num"}}, "data.target = 'num' with source 'digits'"),
        ({"topology": {"file": "ward.graphml"}}, "topology.file = 'ward.graphml' with kind 'random-regular'"),
    ],
)
def test_a_file_that_would_not_be_read_is_refused(table: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        run(SMALL | table)


def test_natural_shares_say_on_what_everybody_is_tested(tmp_path: Path) -> None:
    for site in ("north", "south"):
        rows = "".join(f"{at},{at % 2}\n" for at in range(60))
        (tmp_path / f"{site}.csv").write_text("value,ill\n" + rows)
    data = {"source": "csv", "path": str(tmp_path), "target": "ill", "partition": "natural"}
    found = run({"peers": 2, "rounds": 1, "data": data, "topology": {"kind": "complete"}, "alone": False})
    assert "tested on the test rows of all sites" in found.facts[0]["shares"]
