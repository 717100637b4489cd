"""``quidnunc demo``: the main job from one command, and nothing left behind by one that is interrupted."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import daemons
import pytest
from daemons import until

from quidnunc.peer.home import Home
from quidnunc.peer.rehearsal import COMMAND, command

pytestmark = pytest.mark.slow

FACTS = {
    *("name", "home", "accuracy", "alone_accuracy", "updates_sent", "updates_merged", "updates_refused"),
    *("bytes_sent", "epsilon", "ledger_entries", "ledger_verified"),
}


def demo(*arguments: str, temporary: Path) -> subprocess.Popen[str]:
    """A demo of a few rounds, with talk on stderr; its temporary directory lies under ``temporary``."""
    return subprocess.Popen(
        [*COMMAND, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "TMPDIR": str(temporary)},
    )


def test_a_whole_demo(tmp_path: Path) -> None:
    process = demo("--json", "demo", "--peers", "3", "--rounds", "6", temporary=tmp_path)
    out, err = process.communicate(timeout=200)
    assert process.returncode == 0, err
    envelope: dict[str, Any] = json.loads(out)
    assert envelope["ok"]
    data = envelope["data"]
    assert data["seconds"] > 0
    peers = data["peers"]
    assert [each["name"] for each in peers] == ["peer-a", "peer-b", "peer-c"]
    for each in peers:
        assert each.keys() >= FACTS
        assert 0 <= each["accuracy"] <= 1
        assert 0 <= each["alone_accuracy"] <= 1
        assert each["updates_sent"] >= 6
        assert each["updates_merged"] >= 6
        assert each["updates_refused"] == 0
        assert each["bytes_sent"] > 6 * 2 * 650
        assert 0 < each["epsilon"] <= 8
        assert each["ledger_verified"] is True
        home = Home.at(each["home"])
        verdict = command("ledger", "verify", home=home.root)
        assert verdict["data"]["entries"] == each["ledger_entries"]
        assert home.locked_by() is None
    assert data["mean_accuracy"] == pytest.approx(sum(each["accuracy"] for each in peers) / 3)
    assert data["mean_alone_accuracy"] == pytest.approx(sum(each["alone_accuracy"] for each in peers) / 3)
    assert data["mean_accuracy"] > data["mean_alone_accuracy"]
    root = Path(peers[0]["home"]).parent
    assert root.parent == tmp_path
    assert daemons.alive(root) == []
    assert daemons.sockets(root) == []
    budget = command("budget", "show", home=Path(peers[0]["home"]))
    assert budget["ok"]


@pytest.mark.parametrize(
    ("phase", "number", "code"),
    [("founding", signal.SIGINT, 130), ("starting", signal.SIGTERM, 143), ("running", signal.SIGINT, 130)],
)
def test_an_interrupted_demo_leaves_nothing_behind(
    tmp_path: Path, phase: str, number: signal.Signals, code: int
) -> None:
    process = demo("-v", "demo", "--peers", "2", "--rounds", "1000", temporary=tmp_path)
    try:
        reached = {
            "founding": lambda: list(tmp_path.glob("*/peer-a/card.note")),
            "starting": lambda: list(tmp_path.glob("*/peer-*/state/lock")),
            "running": lambda: len(daemons.sockets(tmp_path)) == 2,
        }[phase]
        until(lambda: process.poll() is not None or reached(), phase)
        assert process.poll() is None
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
        assert process.returncode == code, err
        assert "Traceback" not in err
    finally:
        process.kill()
    until(lambda: not daemons.alive(tmp_path), "no process is left", within=10)
    # Sockets of homes with long paths lie in one directory per user, which stays.
    assert [path for path in tmp_path.rglob("*") if path.name != f"quidnunc-{os.geteuid()}"] == []


def test_an_interrupted_demo_in_a_named_directory_leaves_homes_that_verify(tmp_path: Path) -> None:
    root = tmp_path / "here"
    process = demo("demo", "--peers", "2", "--rounds", "1000", "--home", str(root), temporary=tmp_path)
    try:
        homes = [Home.at(root / name) for name in ("peer-a", "peer-b")]
        until(lambda: process.poll() is not None or all(home.socket().exists() for home in homes), "running")
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to everybody in the foreground
        _, err = process.communicate(timeout=60)
        assert process.returncode == 130, err
    finally:
        process.kill()
    until(lambda: not daemons.alive(root), "no process is left", within=10)
    for home in homes:
        assert home.locked_by() is None
        assert daemons.sockets(home.root) == []
        assert command("ledger", "verify", home=home.root, check=False)["code"] == 0


def test_a_demo_that_is_killed_takes_its_daemons_with_it(tmp_path: Path) -> None:
    process = demo("demo", "--peers", "2", "--rounds", "1000", temporary=tmp_path)
    try:
        until(lambda: process.poll() is not None or len(daemons.sockets(tmp_path)) == 2, "running")
        assert len(daemons.alive(tmp_path)) >= 2
    finally:
        process.kill()
        process.communicate()
    until(lambda: not daemons.alive(tmp_path), "no daemon is left", within=30)


def test_a_demo_refuses_what_it_cannot_do(tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    for arguments, code in (
        (["--peers", "1"], 2),
        (["--peers", "4", "--attackers", "4"], 2),
        (["--rounds", "0"], 2),
        (["--attackers", "1", "--attack", "no_such"], 64),
        (["--epsilon", "none"], 2),
        (["--epsilon", "-1"], 2),
        (["--home", str(tmp_path / "full")], 2),
    ):
        envelope = command("demo", *arguments, check=False)
        assert (envelope["code"], bool(envelope["error"]["message"])) == (code, True), arguments
