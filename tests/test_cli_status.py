"""``quidnunc status`` from outside: how it ends for every state, and what it says of a daemon that does not answer."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cli_helpers import make_home, quidnunc

from quidnunc.peer.client import NotReachable
from quidnunc.peer.commands import status as command
from quidnunc.peer.home import Home
from quidnunc.peer.output import ExitCode


def told(state: str, *severities: str, published: int = 9, phase: str = "training") -> dict[str, Any]:
    conditions = [{"severity": each} for each in severities]
    return {"state": state, "conditions": conditions, "updates_published": published, "phase": phase}


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (told("training"), ExitCode.OK),
        (told("training", "note"), ExitCode.OK),
        (told("finished"), ExitCode.OK),
        (told("training", "degraded"), ExitCode.DEGRADED),
        (told("isolated", "degraded"), ExitCode.DEGRADED),
        (told("paused"), ExitCode.PENDING),
        (told("paused", "degraded"), ExitCode.PENDING),
        (told("recovering"), ExitCode.PENDING),
        (told("starting"), ExitCode.PENDING),
        # It waits at its start: for its neighbors, or for anything else before its first update.
        (told("waiting", published=0, phase="starting"), ExitCode.PENDING),
        (told("waiting", published=0, phase="training"), ExitCode.PENDING),
        (told("waiting", published=9, phase="starting"), ExitCode.PENDING),
        (told("waiting", "degraded", published=0, phase="starting"), ExitCode.PENDING),
        # Later it waits for its neighbors as a matter of course.
        (told("waiting", published=1), ExitCode.OK),
        (told("waiting", "degraded", published=1), ExitCode.DEGRADED),
        (told("waiting", "stalled", published=0, phase="starting"), ExitCode.STALLED),
        (told("exposed", "stalled"), ExitCode.STALLED),
        (told("behind", "stalled", "degraded"), ExitCode.STALLED),
        (told("paused", "stalled"), ExitCode.STALLED),
    ],
)
def test_the_exit_code_says_how_a_peer_is(data: dict[str, Any], code: ExitCode) -> None:
    assert command.health(data) == code


def test_one_that_waits_for_room_before_its_start_has_no_phase() -> None:
    data = told("waiting", published=0)
    del data["phase"]
    assert command.health(data) == ExitCode.PENDING


def test_a_daemon_that_holds_the_lock_and_says_nothing_is_not_to_be_started(tmp_path: Path) -> None:
    make_home(tmp_path, "A")
    home = Home.at(tmp_path)
    with home.lock(), socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(home.prepare_socket()))
        silent.listen()
        for verb in ("status", "peers", "pause", "resume"):
            result = quidnunc("--home", tmp_path, "--timeout", "0.1", "--json", verb)
            error = result.envelope["error"]
            assert (result.code, error["id"]) == (3, "not_reachable")
            assert f"process {os.getpid()} holds {home.root} and does not answer: timed out" in error["message"]
            assert f"kill {os.getpid()}" in error["hint"]
            assert "run" not in error["hint"].split()


def test_a_suspended_daemon_is_told_from_one_that_hangs() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        assert not command._stopped(child.pid)
        child.send_signal(signal.SIGSTOP)
        os.waitpid(child.pid, os.WUNTRACED)
        assert command._stopped(child.pid)
        cause = NotReachable("no daemon answers")
        cause.__cause__ = TimeoutError("timed out")
        found = command._hanging(child.pid, Path("/home/a"), cause)
        assert found.message.endswith("it is stopped (suspended)")
        assert found.hint == f"let it go on: kill -CONT {child.pid}"
        assert found.exit_code == ExitCode.NOT_REACHABLE
    finally:
        child.kill()
        child.communicate()
    assert not command._stopped(child.pid)


def test_one_whose_pid_is_not_known_is_told_as_well() -> None:
    cause = NotReachable("no daemon answers")
    found = command._hanging(0, Path("/home/a"), cause)
    assert "process unknown holds /home/a and does not answer: nothing came" in found.message
    assert "kill" not in found.hint
