"""Drills on peers themselves: frozen, slow, killed, starved, with a full disk or a wall clock that jumps."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import daemons
import pytest
from daemons import answers, check_ledger, cli, copied, found, healthy, is_running, plan, reaches, tells, told, until

from quidnunc.crypto.entry import parse_header
from quidnunc.peer.config_text import with_values
from quidnunc.peer.rehearsal import Actor, Rehearsal

RECOVERY_S = 180.0
"""A trainer that failed for a while is tried again after a minute at most, and then has to be started."""

pytestmark = [pytest.mark.faults, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rehearsal]:
    with daemons.importable():
        yield found(tmp_path_factory.mktemp("founded"), plan(3, 100_000))


class Drill:
    """A running federation in which every peer has a directory of switches of its own."""

    def __init__(self, federation: Rehearsal, root: Path) -> None:
        self.federation = federation
        self.actors = federation.actors
        self.root = root

    def start(self, actor: Actor) -> None:
        switches = self.root / actor.name
        switches.mkdir(exist_ok=True)
        os.environ["TINY_TASK"] = str(switches)
        os.environ["JUMPY_CLOCK"] = str(switches / "clock")
        actor.start()

    def switch(self, actor: Actor, name: str, on: bool) -> None:
        path = self.root / actor.name / name
        path.touch() if on else path.unlink()

    def go_on(self, *actors: Actor) -> None:
        """They all publish some more."""
        for actor in actors:
            reaches(actor, answers(actor)["updates_published"] + 3)


def configure(actor: Actor, **changes: object) -> None:
    values = {key.replace("__", "."): value for key, value in changes.items()}
    actor.home.config.write_text(with_values(actor.home.config.read_text(), values))


@pytest.fixture
def drill(original: Rehearsal, tmp_path: Path) -> Iterator[Drill]:
    federation = copied(original, tmp_path / "f")
    made = Drill(federation, tmp_path)
    try:
        yield made
    finally:
        for actor in federation.actors:
            actor.signal(signal.SIGCONT)
        federation.stop()
        os.environ.pop("TINY_TASK", None)
        os.environ.pop("JUMPY_CLOCK", None)
    for actor in federation.actors:
        check_ledger(actor)


def begin(drill: Drill) -> tuple[Actor, Actor, Actor]:
    for actor in drill.actors:
        drill.start(actor)
    for actor in drill.actors:
        reaches(actor, 10)
    healthy(drill.actors)
    first, second, third = drill.actors
    return first, second, third


def test_a_neighbor_that_freezes_crawls_or_dies(drill: Drill) -> None:
    first, second, third = begin(drill)
    drill.switch(second, "slow", True)
    for actor in (first, third):
        tells(actor, ("neighbor-slow", second.name), code=10)
    row = next(each for each in cli(first, "peers")["data"]["peers"] if each["name"] == second.name)
    assert "neighbor-slow" in row["conditions"]
    assert not {each for each in told(second) if each[0] == "neighbor-slow"}, "the slow one does not blame the fast"
    drill.switch(second, "slow", False)
    healthy(drill.actors)
    second.signal(signal.SIGSTOP)
    for actor in (first, third):
        tells(actor, ("neighbor-disconnected", second.name), code=10)
    drill.go_on(first, third)
    second.signal(signal.SIGCONT)
    healthy(drill.actors)
    second.signal(signal.SIGKILL)
    second.wait()
    for actor in (first, third):
        tells(actor, ("neighbor-disconnected", second.name), code=10)
    drill.go_on(first, third)
    drill.start(second)
    reaches(second, second.last_status["updates_published"] + 3)
    healthy(drill.actors)


def test_a_trainer_that_hangs_dies_or_runs_out_of_memory(drill: Drill) -> None:
    first, second, third = drill.actors
    configure(first, training__stall_s=6.0, training__memory_mib=2048)
    begin(drill)
    drill.switch(first, "hang", True)
    tells(first, ("trainer-hung", "trainer"), code=12)
    for actor in (second, third):
        tells(actor, ("neighbor-stalled", first.name), code=10)
    drill.go_on(second, third)
    drill.switch(first, "hang", False)
    healthy(drill.actors, RECOVERY_S)
    drill.switch(first, "hungry", True)
    tells(first, ("trainer-out-of-memory", "trainer"), code=12)
    drill.go_on(second, third)
    drill.switch(first, "hungry", False)
    healthy(drill.actors, RECOVERY_S)
    victim = answers(first)["trainer"]["pid"]
    os.kill(victim, signal.SIGKILL)
    tells(first, ("trainer-died", "trainer"), code=10)
    until(lambda: not is_running(victim), "it is gone")
    drill.go_on(first, second, third)
    healthy(drill.actors)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 24 MiB; skips where mounting is not permitted."""
    where = tmp_path / "f" / "peer-a"
    where.mkdir(parents=True)
    command = ["mount", "-t", "tmpfs", "-o", "size=24m", "none", str(where)]
    if os.geteuid() or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount")
    try:
        yield where
    finally:
        subprocess.run(["umount", "-l", str(where)], check=True)


def test_a_disk_that_fills_up_stops_work_and_nothing_else(small_disk: Path, drill: Drill) -> None:
    first, second, third = drill.actors
    configure(first, limits__disk_free_mib=4)
    begin(drill)
    ballast = small_disk / "ballast"
    room = os.statvfs(small_disk)
    with ballast.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, room.f_bavail * room.f_frsize - 7 * 2**19)
    tells(first, ("disk-full", "disk"), code=12)
    pid, held = answers(first)["pid"], answers(first)["ledger_entries"]
    for actor in (second, third):
        tells(actor, ("neighbor-stalled", first.name), code=10)
    drill.go_on(second, third)
    status = answers(first)
    assert (status["ledger_entries"], status["pid"]) == (held, pid), "nothing was signed, and nothing crashed"
    assert status["neighbors"]["connected"] == 2, "it still answers"
    ballast.unlink()
    healthy(drill.actors)
    drill.go_on(first, second, third)
    # A start on a full disk, this time to the last byte, waits in the same condition.
    first.signal(signal.SIGTERM)
    assert first.wait() == 0
    with ballast.open("wb") as file:
        room = os.statvfs(small_disk)
        os.posix_fallocate(file.fileno(), 0, room.f_bavail * room.f_frsize)
    drill.start(first)
    tells(first, ("disk-full", "disk"), code=12)
    assert cli(first, "peers")["code"] == 0
    ballast.unlink()
    reaches(first, held and 1)
    healthy(drill.actors)


def test_a_wall_clock_that_jumps_is_named_and_moves_nothing(drill: Drill, tmp_path: Path) -> None:
    """The daemon's view of the wall clock is moved at the seam: a sitecustomize module replaces time.time."""
    before = os.environ["PYTHONPATH"]
    os.environ["PYTHONPATH"] = f"{Path(__file__).parent / 'jumpy'}{os.pathsep}{before}"
    try:
        first, second, third = begin(drill)
    finally:
        os.environ["PYTHONPATH"] = before
    clock = tmp_path / first.name / "clock"
    for jump in (-7200.0, 86_400.0):
        clock.write_text(str(jump))
        tells(first, ("clock-jumped", "clock"), code=10)
        assert abs(answers(first)["clock_drift_s"] - jump) < 5
        drill.go_on(first, second, third)
    assert not told(second)
    clock.write_text("0")
    healthy(drill.actors)
    times = [parse_header(entry.header).t_ms for entry in daemons.ledger(first)]
    assert times == sorted(times)
    assert times[-1] - times[0] < 1_000_000, "and no jump is in the ledger"
