"""Sweeps over a grid, resumed by content; runs compared."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest
from cli_helpers import quidnunc as command

from quidnunc.crypto.errors import ConfigError, StoreLocked
from quidnunc.sim.scenarios import pool
from quidnunc.sim.scenarios import sweep as sweeping
from quidnunc.sim.scenarios.compare import compared, read_runs, table
from quidnunc.sim.scenarios.lock import locked
from quidnunc.sim.scenarios.pool import Job, run_all
from quidnunc.sim.scenarios.run import run
from quidnunc.sim.scenarios.sweep import Point, read_sweep, sweep
from quidnunc.sim.worker import REFUSED

TOML = """
name = "grid"
peers = 6
rounds = 2
seeds = [0, 1]
[data]
source = "synthetic"
pool = 120
[topology]
kind = "complete"
[merge]
holdout = 0.2
[attack]
name = "zero"
[sweep]
"merge" = [{ rule = "mean" }, { rule = "cs_plus", options = { bad = 1 } }]
attack.count = [0, 1]
"""


def written(folder: Path, text: str = TOML) -> Path:
    file = folder / "s.toml"
    file.write_text(text)
    return file


def test_a_grid_is_every_combination_named_by_what_it_computes(tmp_path: Path) -> None:
    points = read_sweep(written(tmp_path), ["rounds=3"])
    found = [(p.scenario.merge.rule, p.scenario.attack.count if p.scenario.attack else None) for p in points]
    assert found == [("mean", 0), ("mean", 1), ("cs_plus", 0), ("cs_plus", 1)]
    assert {p.scenario.rounds for p in points} == {3}
    assert len({p.name for p in points}) == 4
    again = read_sweep(written(tmp_path, TOML.replace('"grid"', '"other"')), ["rounds=3"])
    assert [p.name for p in again] == [p.name for p in points]
    drawn = [read_sweep(written(tmp_path), ["rounds=3"], 2, seed) for seed in range(8)]
    assert all(len(each) == 2 and {p.name for p in each} <= {p.name for p in points} for each in drawn)
    assert len({tuple(p.name for p in each) for each in drawn}) > 2


def swept(monkeypatch: pytest.MonkeyPatch, points: list[Point], out: Path) -> list[str]:
    """Which scenarios a sweep really ran."""
    ran: list[str] = []

    def counting(scenario: Any, **others: Any) -> Any:
        ran.append(Path(others["out"]).name)
        return run(scenario, **others)

    with monkeypatch.context() as patch:
        patch.setattr(sweeping, "run", counting)
        sweep(points, out.parent, out)
    return ran


def test_what_is_finished_is_not_run_again_and_what_is_not_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    points = read_sweep(written(tmp_path), [])
    out = tmp_path / "out"
    names = [point.name for point in points]
    assert swept(monkeypatch, points, out) == names
    before = {name: (out / name / "metrics.jsonl").read_bytes() for name in names}
    assert swept(monkeypatch, points, out) == []
    # Killed in the middle, cut short, written by another version, changed by hand.
    edits = [("status", "running"), ("versions", {"torch": "0"})]
    for name, (key, value) in zip(names, edits, strict=False):
        manifest = json.loads((out / name / "manifest.json").read_text())
        (out / name / "manifest.json").write_text(json.dumps(manifest | {key: value}))
    (out / names[2] / "metrics.jsonl").write_bytes(before[names[2]][:-30])
    (out / names[3] / "manifest.json").unlink()
    for each in (out / names[3]).iterdir():
        each.unlink()
    assert swept(monkeypatch, points, out) == names
    assert {name: (out / name / "metrics.jsonl").read_bytes() for name in names} == before


def test_a_crash_in_the_middle_is_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    points = read_sweep(written(tmp_path), [])
    out = tmp_path / "out"

    def failing(scenario: Any, **others: Any) -> Any:
        if Path(others["out"]).name == points[2].name:
            raise KeyboardInterrupt
        return run(scenario, **others)

    with monkeypatch.context() as patch:
        patch.setattr(sweeping, "run", failing)
        with pytest.raises(KeyboardInterrupt):
            sweep(points, tmp_path, out)
    assert swept(monkeypatch, points, out) == [points[2].name, points[3].name]


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("attack.count = [0, 1]", "attack.count = 3", "sweep.attack.count = 3: must be a list"),
        ("attack.count = [0, 1]", "attack.count = []", "must be a list"),
        ("attack.count = [0, 1]", "attack.coutn = [0]", "attack.coutn: no such key"),
        ("attack.count = [0, 1]", "attack.count = [0, 5]", "attack.count: 5 attackers among 6"),
        ("attack.count = [0, 1]", "peers.x = [1]", "sweep.peers.x: peers is no table"),
        ("attack.count = [0, 1]", "seeds = [[0], [1, 1]]", "stands twice"),
        ("[sweep]", "[sweeps]", "no table"),
    ],
)
def test_what_cannot_be_swept_is_refused_before_anything_runs(old: str, new: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=says) as refused:
        sweep(read_sweep(written(tmp_path, TOML.replace(old, new)), []), tmp_path, tmp_path / "out")
    assert refused.value.hint
    assert not (tmp_path / "out").exists()


def test_a_directory_that_is_no_run_is_never_removed(tmp_path: Path) -> None:
    points = read_sweep(written(tmp_path), [])
    kept = tmp_path / "out" / points[0].name / "thesis.txt"
    kept.parent.mkdir(parents=True)
    kept.write_text("mine")
    with pytest.raises(ConfigError, match="is no run directory"):
        sweep(points, tmp_path, tmp_path / "out")
    assert kept.read_text() == "mine"


def test_several_processes_write_what_one_does(tmp_path: Path) -> None:
    (point,) = read_sweep(written(tmp_path), [], 1)
    alone, apart = tmp_path / "alone", tmp_path / "apart"
    sweep([point], tmp_path, alone)
    told: list[int] = []
    sweep([point], tmp_path, apart, lambda number, point: told.append(number), 2)
    assert told == [0]
    assert (alone / point.name / "metrics.jsonl").read_bytes() == (apart / point.name / "metrics.jsonl").read_bytes()
    assert sweep([point], tmp_path, apart)[0].resumed


WORKER = """
import json, os, pathlib, signal, sys
order = json.load(sys.stdin)
out = pathlib.Path(order["out"])
tries = out.with_suffix(".tries")
count = len(tries.read_text()) if tries.exists() else 0
tries.write_text("x" * (count + 1))
if count < int(sys.argv[1]):
    out.mkdir(parents=True)
    os.kill(os.getpid(), signal.SIGKILL)
out.mkdir(parents=True)
"""


@pytest.mark.parametrize(("kills", "fails"), [(2, False), (3, True)])
def test_a_killed_worker_is_replaced_twice(
    kills: int, fails: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "COMMAND", (sys.executable, "-c", WORKER, str(kills)))
    scenario = read_sweep(written(tmp_path), [])[0].scenario
    jobs = [Job(scenario, tmp_path / name) for name in ("a", "b")]
    cleared = []

    def clear(path: Path) -> None:
        cleared.append(path)
        if path.exists():
            path.rmdir()

    assert list(run_all(jobs, tmp_path, 2, clear)) == ["the worker failed: ended by signal 9" if fails else ""] * 2
    assert sorted(cleared) == [tmp_path / "a"] * 3 + [tmp_path / "b"] * 3


LONG = """
import json, pathlib, sys, time
out = pathlib.Path(json.load(sys.stdin)["out"])
if out.name != "quick":
    out.with_suffix(".begun").touch()
    time.sleep(600)
"""


def test_leaving_a_sweep_ends_its_workers_and_begins_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Found by hand: after Ctrl-C a sweep of several processes began its workers again, and waited for them."""
    monkeypatch.setattr(pool, "COMMAND", (sys.executable, "-c", LONG))
    scenario = read_sweep(written(tmp_path), [])[0].scenario
    jobs = [Job(scenario, tmp_path / name) for name in ("quick", "long", "longer", "never")]
    cleared: list[str] = []
    answers = run_all(jobs, tmp_path, 2, lambda path: cleared.append(path.name))
    assert next(answers) == ""
    while not all((tmp_path / f"{name}.begun").exists() for name in ("long", "longer")):
        time.sleep(0.02)
    cast("Generator[str]", answers).close()
    assert cleared == ["quick", "long", "longer"]


@pytest.mark.parametrize("command", ["run", "sweep"])
def test_a_batch_systems_signal_leaves_runs_that_say_that_they_failed(command: str, tmp_path: Path) -> None:
    """Found by hand: their manifests said for ever that they were running."""
    path = written(tmp_path)
    if command == "run":
        path.write_text(path.read_text().partition("[sweep]")[0])
    words = ["sim", command, str(path), "--set", "rounds=1000000", "--out", str(tmp_path / "out")]
    main = "import sys; from quidnunc.peer.cli import main; sys.exit(main(sys.argv[1:]))"
    with subprocess.Popen([sys.executable, "-c", main, *words], stderr=subprocess.PIPE) as process:
        while not (found := [each for each in (tmp_path / "out").rglob("metrics.jsonl") if each.stat().st_size]):
            assert process.poll() is None
            time.sleep(0.05)
        process.terminate()
        process.communicate()
    assert process.returncode == 143
    assert json.loads(found[0].with_name("manifest.json").read_text())["status"] == "failed"


def test_two_sweeps_into_one_directory_do_not_remove_each_others_runs(tmp_path: Path) -> None:
    """Found by hand: the second removed what the first was writing, which then could not write its own directory."""
    points = read_sweep(written(tmp_path), [])
    with locked(tmp_path / "out"), pytest.raises(StoreLocked, match="another sweep is writing here") as refused:
        sweep(points, tmp_path, tmp_path / "out")
    assert refused.value.hint
    assert list((tmp_path / "out").iterdir()) == []
    assert len(sweep(points[:1], tmp_path, tmp_path / "out")) == 1


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such signal")
def test_a_sweep_that_is_killed_takes_its_workers_with_it(tmp_path: Path) -> None:
    """Found by hand: what was left of it went on writing into directories that the next sweep began anew."""
    scenario = msgspec.json.decode(msgspec.json.encode(read_sweep(written(tmp_path), ["rounds=1000000"])[0].scenario))
    order = {"scenario": scenario, "base": str(tmp_path), "out": str(tmp_path / "run")}
    (tmp_path / "order").write_text(json.dumps(order))
    begun = f"""
import subprocess, sys, time
with open({str(tmp_path / "order")!r}, "rb") as order:
    worker = subprocess.Popen([sys.executable, "-m", "quidnunc.sim.worker"], stdin=order)
print(worker.pid, flush=True)
time.sleep(600)
"""
    with subprocess.Popen([sys.executable, "-c", begun], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        worker = int(parent.stdout.readline())
        while not (tmp_path / "run" / "manifest.json").exists():
            assert parent.poll() is None
            time.sleep(0.05)
        parent.kill()
    # A parent of its own would have to be waited for; this one is init's, or a zombie that nobody waits for.
    status = Path(f"/proc/{worker}/stat")
    while status.exists() and status.read_text().rsplit(")", 1)[1].split()[0] != "Z":
        time.sleep(0.05)


def test_what_only_the_protocol_engine_refuses_is_refused_before_the_first_run(tmp_path: Path) -> None:
    """Found by reading: it was only told when its turn came."""
    points = read_sweep(written(tmp_path), ["engine.kind=protocol", "conditions.window=3", "merge.rule=mean"])
    with pytest.raises(ConfigError, match="a node has a window of its own"):
        sweep(points, tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_worker_that_refuses_or_breaks_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = [Job(read_sweep(written(tmp_path), [])[0].scenario, tmp_path / "a")]
    refuse = f'print(\'{{"message": "diverged"}}\'); exit({REFUSED})'
    for code, says in ((refuse, "diverged"), ("boom", "NameError")):
        monkeypatch.setattr(pool, "COMMAND", (sys.executable, "-c", code))
        assert says in next(run_all(jobs, tmp_path, 1, lambda path: None))


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_scenario_that_diverges_does_not_keep_the_others(tmp_path: Path) -> None:
    file = written(tmp_path, TOML.replace("attack.count = [0, 1]", "training.learning_rate = [1e6, 0.1]"))
    words = ("--set", "model.kind=mlp", "--set", "model.hidden=[8, 8, 8]", "--set", "rounds=20")
    found = command("--json", "sim", "sweep", file, "--out", tmp_path / "out", *words)
    assert found.code == 20
    assert all("not finite" in why for why in found.envelope["data"]["failed"].values())
    assert {row["status"] for row in found.envelope["data"]["runs"]} == {"complete", "failed"}
    shown = command("sim", "compare", tmp_path / "out")
    assert "(failed)" in shown.out


def test_compared_runs_differ_in_what_differs(tmp_path: Path) -> None:
    points = read_sweep(written(tmp_path), [])
    done = sweep(points, tmp_path, tmp_path / "out")
    rows = compared(read_runs([tmp_path / "out"]))
    by_name = {Path(row["directory"]).name: row for row in rows}
    for each in done:
        row = by_name[each.directory.name]
        assert row["merge.rule"] == each.point.scenario.merge.rule
        assert row["attack.count"] == each.point.values["attack.count"]
        assert "peers" not in row
        records = [json.loads(line) for line in (each.directory / "metrics.jsonl").read_text().splitlines()]
        last = [record["accuracy_mean"] for record in records if record["round"] == 2]
        assert row["accuracy_mean"] == pytest.approx(sum(last) / 2)
        assert row["accuracy_mean_sd"] == pytest.approx(abs(last[0] - last[1]) / 2**0.5)
    lines = table(rows)
    assert lines[0].split()[:4] == ["run", "merge.rule", "attack.count", "merge.options.bad"]
    assert len({len(line) for line in lines}) <= 3
    with pytest.raises(ConfigError, match="no run directory"):
        read_runs([tmp_path / "nothing"])


def test_the_commands_sweep_resume_and_compare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    file = written(tmp_path)
    first = command("sim", "sweep", file, "--set", "seeds=[4]")
    assert first.code == 0, first.err
    assert "4 scenarios in runs/grid-sweep" in first.out
    assert "2 of 4: merge = {'rule': 'mean'}, attack.count = 1" in first.err
    again = command("--json", "sim", "sweep", file, "--set", "seeds=[4]")
    assert again.data["resumed"] == 4
    shown = command("sim", "compare", "runs/grid-sweep")
    assert shown.out.splitlines()[0] == first.out.splitlines()[0]
    data = command("--json", "sim", "compare", *(each["directory"] for each in again.data["runs"][:2])).data
    assert [row["attack.count"] for row in data["runs"]] == [0, 1]
    assert command("sim", "run", file).code == 64
    assert command("sim", "compare", tmp_path / "none").code == 64
    assert command("sim", "sweep", file, "--sample", "-1").code == 64
    assert command("sim", "sweep", file, "--jobs", "0").code == 64
