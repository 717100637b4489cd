"""The example task works, by itself and in a federation, and its README's commands are real."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

from quidnunc.crypto.noise import NoiseStream
from quidnunc.gossip.blobs import MemoryBlobs
from quidnunc.gossip.jobs import (
    Described,
    DescribeJob,
    Evaluated,
    EvaluateJob,
    JobFailed,
    PrivacyStep,
    Trained,
    TrainJob,
)
from quidnunc.gossip.learning.accountant import noise_for
from quidnunc.gossip.learning.compute import Compute
from quidnunc.gossip.task import Plan, Site, Training
from quidnunc.peer.rehearsal import Plan as Rehearsed
from quidnunc.peer.rehearsal import Rehearsal
from quidnunc.peer.task_loader import load_task

if TYPE_CHECKING:
    from collections.abc import Callable

    from quidnunc.gossip.task import Task

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = ROOT / "examples"
REFERENCE = "ward:make"
ROUNDS = 30


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch) -> Callable[[Site], Task]:
    """The example's task function, found as a daemon finds it."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    return load_task(REFERENCE)


@pytest.fixture
def wards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Three hospitals' files."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    from ward_data import write

    paths = [tmp_path / f"ward-{seed}.csv" for seed in range(3)]
    for seed, path in enumerate(paths):
        with path.open("w", newline="") as file:
            write(file, seed, 400)
    return [str(path) for path in paths]


def compute(make: Callable[[Site], Task], path: str, learning_rate: float) -> Compute:
    plan = Plan(0, 1, Training(learning_rate, 0.0, 4, 32))
    return Compute(make, Site(path=path), plan, MemoryBlobs(), NoiseStream(bytes(32), b"compute"))


def described(computer: Compute) -> Described:
    found = computer.handle(DescribeJob())
    assert isinstance(found, Described), found
    return found


def learned(computer: Compute, privacy: PrivacyStep | None) -> Evaluated:
    state = described(computer).genesis
    for number in range(1, ROUNDS + 1):
        trained = computer.handle(TrainJob(number, number, state, state, True, 1.0, privacy))
        assert isinstance(trained, Trained), trained
        state = trained.result
    found = computer.handle(EvaluateJob(ROUNDS, state))
    assert isinstance(found, Evaluated), found
    return found


def test_every_ward_has_the_same_model_and_its_own_data(make: Callable[[Site], Task], wards: list[str]) -> None:
    found = [described(compute(make, path, 0.5)) for path in wards]
    assert {each.dim for each in found} == {5 * 8 + 8 + 8 * 2 + 2}
    assert len({(each.schema, each.genesis) for each in found}) == 1
    assert len({each.data_root for each in found}) == 3
    assert {(each.examples, each.holdout) for each in found} == {(240, 80)}


def test_the_splits_share_no_patient_and_are_scaled(make: Callable[[Site], Task], wards: list[str]) -> None:
    task = make(Site(path=wards[0]))
    splits = [inputs for inputs, _ in (task.train, task.holdout, task.test)]
    rows = [{tuple(row) for row in inputs.tolist()} for inputs in splits]
    assert not rows[0] & rows[1]
    assert not rows[0] & rows[2]
    assert not rows[1] & rows[2]
    together = torch.cat(splits)
    assert len(together) == 400
    assert float(together.min()) >= 0.0
    assert float(together.max()) <= 1.0


@pytest.mark.parametrize(("learning_rate", "private"), [(0.5, False), (2.0, True)])
def test_it_learns(make: Callable[[Site], Task], wards: list[str], learning_rate: float, private: bool) -> None:
    computer = compute(make, wards[0], learning_rate)
    start = computer.handle(EvaluateJob(0, described(computer).genesis))
    assert isinstance(start, Evaluated)
    privacy = PrivacyStep(1.0, noise_for(8.0, ROUNDS, 1e-5)) if private else None
    after = learned(computer, privacy)
    returned = make(Site(path=wards[0])).test[1].double().mean().item()
    assert after.loss < 0.9 * start.loss
    assert after.accuracy > max(returned, 1 - returned) + 0.05


def test_a_missing_file_is_named(make: Callable[[Site], Task], tmp_path: Path) -> None:
    failed = compute(make, str(tmp_path / "none.csv"), 0.5).handle(DescribeJob())
    assert isinstance(failed, JobFailed)
    assert "none.csv" in failed.why


def test_invented_patients_depend_on_the_seed_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    from ward_data import COLUMNS, write

    texts = []
    for seed in (1, 1, 2):
        file = io.StringIO()
        write(file, seed, 50)
        texts.append(file.getvalue())
    assert texts[0] == texts[1] != texts[2]
    assert texts[0].splitlines()[0] == ",".join(COLUMNS)
    assert len(texts[0].splitlines()) == 51


def python_path(first: str) -> str:
    """``first`` before where this process was told to look; a process started elsewhere must find the same."""
    given = [each for each in os.environ.get("PYTHONPATH", "").split(os.pathsep) if each]
    return os.pathsep.join([first, *(str(Path(each).absolute()) for each in given)])


def readme_commands() -> str:
    """The first block of commands of the README."""
    return (EXAMPLES / "README.md").read_text("utf-8").split("```sh\n")[1].split("```")[0]


@pytest.mark.slow
def test_the_commands_of_the_readme_found_a_federation(tmp_path: Path) -> None:
    (tmp_path / "examples").symlink_to(EXAMPLES)
    tools = tmp_path / "bin"
    tools.mkdir()
    for name, words in (("python", ""), ("quidnunc", " -m quidnunc.peer")):
        (tools / name).write_text(f'#!/bin/sh\nexec "{sys.executable}"{words} "$@"\n')
        (tools / name).chmod(0o755)
    script = readme_commands().replace("PYTHONPATH=$PWD/examples", f"PYTHONPATH={python_path('$PWD/examples')}")
    done = subprocess.run(
        ["sh", "-eu", "-c", script],
        cwd=tmp_path,
        env={**os.environ, "PATH": f"{tools}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Hospital B is ready to run" in done.stdout


@pytest.mark.slow
def test_two_wards_learn_together(tmp_path: Path, wards: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", python_path(str(EXAMPLES)))
    rounds = 10
    create = ("--rounds", str(rounds), "--interval", "0.05", "--epsilon", "inf", "--lr", "0.5", "--rule", "mean")
    plan = Rehearsed(2, REFERENCE, create=create, paths=tuple(wards[:2]))
    rehearsal = Rehearsal(plan, tmp_path / "homes")
    rehearsal.root.mkdir()
    rehearsal.found()
    with rehearsal.running():
        final = rehearsal.until(lambda found: all(each["finished"] for each in found), 120, "finished")
        assert {each["trained"] for each in final} == {rounds}
    verdicts = rehearsal.verdicts()
    assert [verdict["code"] for verdict in verdicts] == [0, 0]
