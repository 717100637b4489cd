"""``quidnunc demo``: the main job from one command, and nothing left behind by one that is interrupted."""

from __future__ import annotations

import json
import math
import os
import shlex
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import daemons
import numpy as np
import pytest
from cli_helpers import quidnunc
from daemons import until

from quidnunc.gossip.resume import fold
from quidnunc.peer.client import NotReachable, ask
from quidnunc.peer.commands.demo import _require_hope
from quidnunc.peer.commands.demo_drill import drill_lines, held_by_attackers
from quidnunc.peer.commands.demo_view import next_commands, spread, table, verdict_lines
from quidnunc.peer.home import Home
from quidnunc.peer.ledger.store import Store
from quidnunc.peer.output import Styled
from quidnunc.peer.rehearsal import COMMAND, Actor, RehearsalFailed, command

pytestmark = pytest.mark.slow

TOOL = Path(__file__).resolve().parent.parent / "tools" / "recompute_epsilon.py"
FACTS = {
    *("name", "home", "ended", "accuracy", "alone_accuracy", "updates_sent", "updates_merged", "updates_refused"),
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
        # A shell starts its background jobs with SIGINT ignored, and so these tests may have been started.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def homes_with_socket(root: Path) -> int:
    """How many homes have a control socket, or a link to one where the path is long."""
    return sum(path.name == "control.sock" for path in daemons.sockets(root))


def test_a_whole_demo(tmp_path: Path) -> None:
    """On samples, so that this is also where daemons, accountant, ledger and recomputation meet."""
    sampled = ("--sampling-rate", "0.25", "--local-steps", "2")
    process = demo("--json", "demo", "--peers", "3", "--rounds", "6", *sampled, temporary=tmp_path)
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
        assert each["ended"] is None
        home = Home.at(each["home"])
        verdict = command("ledger", "verify", home=home.root)
        assert verdict["data"]["entries"] == each["ledger_entries"]
        assert home.locked_by() is None
    assert data["mean_accuracy"] == pytest.approx(sum(each["accuracy"] for each in peers) / 3)
    assert data["mean_alone_accuracy"] == pytest.approx(sum(each["alone_accuracy"] for each in peers) / 3)
    assert data["mean_accuracy"] > data["mean_alone_accuracy"]
    assert data["worst_accuracy"] == min(each["accuracy"] for each in peers)
    root = Path(peers[0]["home"]).parent
    assert root.parent == tmp_path
    assert daemons.alive(root) == []
    assert daemons.sockets(root) == []
    _counted_alike(peers[0])


def _counted_alike(peer: dict[str, Any]) -> None:
    """The daemon, ``budget show`` and the script that knows nothing of this program name one epsilon."""
    home = Home.at(peer["home"])
    (account,) = command("budget", "show", home=home.root)["data"]["datasets"]
    assert (account["releases"], account["sampling_rate"], account["steps"]) == (6, 0.25, 2)
    assert account["epsilon"] == peer["epsilon"]
    assert account["epsilon_recomputed"] == pytest.approx(account["epsilon"], abs=1e-3)
    tool = subprocess.run(
        [sys.executable, "-I", str(TOOL), str(home.ledger)], capture_output=True, text=True, timeout=60, check=False
    )
    assert tool.returncode == 0, tool.stderr
    assert f"6 releases, epsilon {peer['epsilon']:.4f} claimed" in tool.stdout


@pytest.mark.parametrize(
    ("phase", "number", "code"),
    [
        ("founding", signal.SIGINT, 130),
        # Regression: what the command that builds the model kept in temporary files was left.
        ("building", signal.SIGINT, 130),
        ("starting", signal.SIGTERM, 143),
        # Regression: a terminal that was closed left the homes behind.
        ("founding", signal.SIGHUP, 143),
        ("running", signal.SIGINT, 130),
    ],
)
def test_an_interrupted_demo_leaves_nothing_behind(
    tmp_path: Path, phase: str, number: signal.Signals, code: int
) -> None:
    process = demo("-v", "demo", "--peers", "2", "--rounds", "1000", temporary=tmp_path)
    try:
        reached = {
            "founding": lambda: list(tmp_path.glob("*/peer-a/card.note")),
            "building": lambda: [path for path in tmp_path.rglob("*") if "quidnunc-" in path.name][1:],
            "starting": lambda: list(tmp_path.glob("*/peer-*/state/lock")),
            "running": lambda: homes_with_socket(tmp_path) == 2,
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


def has_signed(home: Home) -> bool:
    """Whether a ledger has entries: a peer first asks its neighbors, so that its socket is there before them."""
    if not home.socket().exists():
        return False
    with Store.open(home.ledger, readonly=True) as store:
        return store.size > 0


def test_an_interrupted_demo_in_a_named_directory_leaves_homes_that_verify(tmp_path: Path) -> None:
    root = tmp_path / "here"
    process = demo("demo", "--peers", "2", "--rounds", "1000", "--home", str(root), temporary=tmp_path)
    try:
        homes = [Home.at(root / name) for name in ("peer-a", "peer-b")]
        until(lambda: process.poll() is not None or all(map(has_signed, homes)), "both have signed")
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
        until(lambda: process.poll() is not None or homes_with_socket(tmp_path) == 2, "running")
        assert len(daemons.alive(tmp_path)) >= 2
    finally:
        process.kill()
        process.communicate()
    until(lambda: not daemons.alive(tmp_path), "no daemon is left", within=30)


def test_a_demo_goes_on_when_one_daemon_is_killed(tmp_path: Path) -> None:
    root = tmp_path / "here"
    homes = [Home.at(root / f"peer-{letter}") for letter in "abc"]
    small = ("--peers", "3", "--rounds", "40", "--task", daemons.TASK, "--alpha", "100", "--epsilon", "inf")
    with daemons.importable():
        rule = ("--rule", "median", "--personal", "bias")
        process = demo("--json", "demo", *small, *rule, "--home", str(root), temporary=tmp_path)
    try:
        until(lambda: process.poll() is not None or all(trained(home) >= 5 for home in homes), "all have trained")
        pid = homes[1].locked_by()
        assert pid
        os.kill(pid, signal.SIGKILL)
        out, err = process.communicate(timeout=200)
    finally:
        process.kill()
    assert process.returncode == 10, err
    envelope = json.loads(out)
    assert envelope["warnings"] == ["peer-b ended with exit code -9; the others go on"]
    assert envelope["error"]["message"] == "1 of 3 daemons ended before the end: peer-b"
    assert envelope["error"]["hint"] == f"start it again: quidnunc --home {homes[1].root} run"
    peers = envelope["data"]["peers"]
    assert [each["ended"] for each in peers] == [None, -9, None]
    assert all(each["ledger_verified"] for each in peers)
    assert [each["updates_sent"] >= 40 for each in peers] == [True, False, True]
    survivors = [peers[0], peers[2]]
    for key in ("accuracy", "alone_accuracy"):
        assert envelope["data"][f"mean_{key}"] == pytest.approx(sum(each[key] for each in survivors) / 2)
    assert daemons.alive(root) == []
    _kept_to_themselves(homes)
    # Under a rule without weights the ledger says what part each row had.
    told = command("ledger", "why", "4", home=homes[0].root)["data"]["merges"][0]
    assert (told["rule"], told["approximate"], told["step"]) == ("median", True, "full step")
    assert told["own"] + sum(each["effective"] for each in told["inputs"]) == pytest.approx(1)
    for each in told["inputs"]:
        assert each["reasons"] == [
            f"median treats every coordinate by itself: it decided {each['effective']:.1%} of them"
        ]


def _kept_to_themselves(homes: list[Home]) -> None:
    """The charter has the bias stay with every peer: all kept one, and nobody has another's."""
    kept = []
    for home in homes:
        with Store.open(home.ledger, readonly=True) as store:
            kept.append(fold(store.entries()).personal.hex())
    for home, personal in zip(homes, kept, strict=True):
        held = {path.name for path in home.blobs.rglob("*")}
        assert [name in held for name in (each[2:] for each in kept)] == [each == personal for each in kept]


def trained(home: Home) -> int:
    """How many rounds a daemon has trained; 0 while it does not answer."""
    try:
        return int(ask(home.socket(), "/v1/status")["trained"])
    except NotReachable:
        return 0


def test_a_demo_ends_when_only_one_daemon_is_left(tmp_path: Path) -> None:
    root = tmp_path / "here"
    small = ("--peers", "2", "--rounds", "1000", "--task", daemons.TASK, "--epsilon", "inf")
    with daemons.importable():
        process = demo("--json", "demo", *small, "--home", str(root), temporary=tmp_path)
    victim = Home.at(root / "peer-a")
    try:
        until(lambda: process.poll() is not None or trained(victim), "it has trained")
        pid = victim.locked_by()
        assert pid
        os.kill(pid, signal.SIGKILL)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 1, err
    assert json.loads(out)["error"]["message"].startswith("peer-a ended with exit code -9")
    until(lambda: not daemons.alive(root), "no process is left", within=30)


def test_the_verdict_names_the_worst_off_and_who_gains_least() -> None:
    """Of honest peers that ran to the end; the 10th percentile is numpy's."""
    named = [
        ("a", 0.9, 0.5),
        ("b", 0.95, 0.97),
        ("c", 0.8, 0.4),
        ("d", 0.99, 0.2),
        ("evil", 0.1, 0.9),
        ("gone", 0.2, 0.9),
    ]
    rows: list[dict[str, Any]] = [
        {
            "name": name,
            "accuracy": accuracy,
            "alone_accuracy": alone,
            "attacker": name == "evil",
            "ended": -9 if name == "gone" else None,
            "ledger_verified": True,
            "home": f"/h/{name}",
        }
        for name, accuracy, alone in named
    ]
    found = spread(rows)
    assert found is not None
    assert found["worst_accuracy"] == 0.8
    assert found["p10_accuracy"] == pytest.approx(np.quantile([0.9, 0.95, 0.8, 0.99], 0.1))
    assert (found["least_gainer"], found["least_gain"]) == ("b", pytest.approx(-0.02))
    told = Styled("worst peer 0.800, 10th percentile 0.830; b gains least by joining: -2.0 points", "warn")
    assert told in verdict_lines(rows, 0.91, 0.52, math.inf, "example")
    assert spread(rows[4:]) is None


def test_the_verdict_names_who_ended_and_how_to_start_it_again() -> None:
    row = {"name": "peer-a", "home": "/h/peer-a", "attacker": False, "ended": None, "ledger_verified": True}
    shown = {"accuracy": 0.9, "alone_accuracy": 0.8, "updates_sent": 3, "updates_merged": 3, "updates_refused": 0}
    rest = {"bytes_sent": 9, "epsilon": None, "ledger_entries": 5}
    dead = {"name": "peer-b", "home": "/h/peer-b", "ended": -9, "accuracy": None}
    rows: list[dict[str, Any]] = [{**row, **shown, **rest}, {**row, **shown, **rest, **dead}]
    text = [line if isinstance(line, str) else line.text for line in verdict_lines(rows, 0.9, 0.8, math.inf, "example")]
    assert text[-2:] == [
        "peer-b ended with exit code -9 before the end; start it again:",
        "  quidnunc --home /h/peer-b run",
    ]
    rows[1]["home"] = "/two words/it's"
    quoted = [str(line) for line in (*verdict_lines(rows, 0.9, 0.8, 8.0, "example")[-1:], *next_commands("/a b")[2:])]
    words = [shlex.split(line.partition("   (")[0])[:3] for line in quoted]
    assert words == [["quidnunc", "--home", "/two words/it's"], *[["quidnunc", "--home", "/a b"]] * 5]
    assert verdict_lines(rows, None, None, 8.0, "example")[0] == ("no honest peer ran to the end", "bad")
    drawn = [line if isinstance(line, str) else line.text for line in table(rows)]
    assert drawn[3].startswith("peer-b!")
    assert drawn[4].startswith("! ended before the end")


def test_a_demo_in_which_no_peer_gets_on_ends_with_the_reason() -> None:
    """Found by hand: a task that raised in training stood at `rounds 0/3` until a limit of minutes."""

    def peer(name: str, failures: int, *, finished: bool = False) -> dict[str, Any]:
        return {"name": name, "failures": failures, "finished": finished, "last_failure": "TrainJob: no such sensor"}

    with pytest.raises(RehearsalFailed, match="peer-b failed 3 times in a row: TrainJob: no such sensor"):
        _require_hope([peer("peer-a", 0, finished=True), peer("peer-b", 3), peer("peer-c", 4)])
    _require_hope([peer("peer-b", 3), peer("peer-c", 2)])
    _require_hope([peer("peer-a", 9, finished=True)])
    _require_hope([])


def test_a_demo_refuses_what_it_cannot_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    empty = tmp_path / "tmp"
    empty.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(empty))
    monkeypatch.setattr(signal, "signal", lambda number, handler: None)
    for arguments in (
        ["--peers", "1"],
        ["--peers", "17"],
        ["--attackers", "4"],
        *(["--rounds", each] for each in ("0", "1000001", "x")),
        *(["--attack", each] for each in ("no_such", "", "sign_flip")),
        *(["--epsilon", each] for each in ("none", "nan", "-1", "0", "-inf", "1e-9", "1000.5", "1e400")),
        *(["--alpha", each] for each in ("nan", "inf", "-1", "0", "0.001", "1001")),
        *(["--seed", each] for each in ("-1", str(2**32))),
        *(["--rule", each] for each in ("no_such", "krum")),
        *(["--rule-option", each] for each in ("radius", "radius=x", "radios=1", "radius=-1")),
        *(["--sampling-rate", each] for each in ("0", "1", "nan", "-1", "1e-7")),
        ["--local-steps", "2"],
        *(["--task", each] for each in ("no-such", "", "a b:c", "x:", ":y", "../x:y", "é:f", "a" * 129 + ":f")),
        ["--home", str(tmp_path / "full")],
        ["--home", str(tmp_path / "full" / "file")],
    ):
        # As --flag=value: argparse takes a lone -1 or -inf for a flag.
        result = quidnunc("--json", "demo", f"{arguments[0]}={arguments[1]}")
        assert (result.code, bool(result.envelope["error"]["message"])) == (2, True), arguments
        assert "\n" not in result.envelope["error"]["message"]
    assert list(empty.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "message", "hint"),
    [
        # Regression: nobody attacked, and nothing said so.
        (["--attack=boost"], "--attack boost and no --attackers: nobody would attack", "add --attackers 1"),
        (["--attackers=0", "--attack=boost"], "nobody would attack", "add --attackers 1"),
        (["--attackers=1", "--attack=sing_flip"], "attack sing_flip is unknown", "did you mean sign_flip?"),
        (["--attackers=1", "--attack=spectral"], "attack spectral is not for a daemon", "quidnunc sim run"),
        (["--attackers=4"], "must be 0 to 3: somebody must be honest", "raise --peers"),
    ],
)
def test_attackers_that_cannot_be_are_refused_with_a_remedy(words: list[str], message: str, hint: str) -> None:
    error = quidnunc("--json", "demo", *words).envelope["error"]
    assert message in error["message"]
    assert hint in error["hint"]


def test_the_demo_tells_what_attackers_still_count_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = {"name": "c", "weight": 0.25, "last_weight": 0.0, "standing": "excluded", "refused": 2}
    answers = {
        "a": [{**seen}, {**seen, "name": "b", "standing": "normal"}],
        "b": [{**seen, "last_weight": 0.125, "standing": "reduced"}],
    }
    actors = [Actor(at, name, Home.at(tmp_path / name), name in "cd") for at, name in enumerate("abcd")]
    by_socket = {str(actor.home.socket()): answers.get(actor.name) for actor in actors}

    def asked(socket: Path, path: str) -> dict[str, Any]:
        assert path == "/v1/peers"
        return {"peers": by_socket[str(socket)]}

    monkeypatch.setattr("quidnunc.peer.commands.demo_drill.ask", asked)
    isolated, unheard = held_by_attackers(actors)
    assert isolated == {"name": "c", "neighbors": 2, "excluded_by": 1, "refused": 4, "kept": 0.25}
    assert unheard["kept"] is None
    first, second = (each.text for each in drill_lines([isolated, unheard], "zero") if isinstance(each, Styled))
    assert first == (
        "c (zero) keeps 25.0% of its weight; excluded by 1 of 2 honest neighbors, 4 of its messages refused"
    )
    assert second == "d (zero): no honest neighbor has heard of it"
    assert held_by_attackers(actors[:2]) == []
