"""Real daemons, in processes of their own: what they refuse, what they say, how they end."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import daemons
import pytest
from daemons import answers, check_ledger, children, cli, copied, found, is_running, plan, reaches, running, until

from quidnunc.gossip.federation.founding import open_charter, require_signed
from quidnunc.gossip.provenance import PrivacySpend, UpdatePublished
from quidnunc.peer.client import ask
from quidnunc.peer.rehearsal import COMMAND, Actor, Rehearsal, command

pytestmark = pytest.mark.slow

HEAVY = ("torch", "libp2p", "trio", "numpy", "sklearn", "h11", "hypercorn", "starlette", "multiaddr")


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rehearsal]:
    """Three peers and a charter for more rounds than any test waits for. Copied, never run."""
    with daemons.importable():
        yield found(tmp_path_factory.mktemp("founded"), plan(3, 100_000, interval=0.15))


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Rehearsal]:
    """Two peers, for what a third one adds nothing to."""
    with daemons.importable():
        yield found(tmp_path / "pair", plan(2, 100_000, interval=0.15))


@pytest.fixture
def federation(original: Rehearsal, tmp_path: Path) -> Rehearsal:
    return copied(original, tmp_path / "f")


def refused(actor: Actor, code: int, *, timeout_s: float = 60.0, **environment: str) -> dict[str, Any]:
    """``run`` ends by itself with this exit code; the error it gave."""
    done = subprocess.run(
        [*COMMAND, "--home", str(actor.home.root), "--json", "run"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=timeout_s,
        check=False,
        env={**os.environ, **environment},
    )
    assert done.returncode == code, done.stderr.decode()
    assert b"Traceback" not in done.stderr
    error: dict[str, Any] = json.loads(done.stdout)["error"]
    assert error["message"]
    assert actor.home.locked_by() is None
    assert not daemons.sockets(actor.home.root)
    return error


# What it refuses to run


def test_without_a_charter_it_names_the_way_to_one(federation: Rehearsal) -> None:
    actor = federation.actors[0]
    actor.home.charter.unlink()
    error = refused(actor, 64)
    assert str(actor.home.charter) in error["message"]
    assert "federation" in error["hint"]


def test_a_charter_that_is_not_fully_signed_is_refused_and_who_is_missing_is_named(federation: Rehearsal) -> None:
    actor = federation.actors[0]
    draft = federation.root / "draft.note"
    cards = [str(each.home.card) for each in federation.actors]
    command("federation", "create", *cards, "--task", daemons.TASK, "--out", str(draft))
    command("federation", "sign", "--yes", str(draft), home=actor.home.root)
    assert cli(actor, "federation", "install", str(draft))["code"] == 41
    actor.home.charter.write_bytes(draft.read_bytes())
    error = refused(actor, 41)
    assert "peer-b" in error["message"]
    assert "peer-c" in error["message"]
    assert "peer-a" not in error["message"]


def test_a_charter_of_others_is_refused(federation: Rehearsal, tmp_path: Path) -> None:
    stranger = Actor(9, "stranger", type(federation.actors[0].home).at(tmp_path / "stranger"), False)
    command("init", "--name", "stranger", home=stranger.home.root)
    stranger.home.charter.write_bytes(federation.actors[0].home.charter.read_bytes())
    assert "does not list" in refused(stranger, 64)["message"]


def test_a_key_that_others_can_read_is_refused_with_the_command_that_mends_it(federation: Rehearsal) -> None:
    actor = federation.actors[0]
    actor.home.operational_key.chmod(0o640)
    error = refused(actor, 77)
    assert str(actor.home.operational_key) in error["message"]
    assert error["hint"].startswith("chmod 600")


def test_a_wrong_configuration_is_refused_with_its_line(federation: Rehearsal) -> None:
    actor = federation.actors[0]
    text = actor.home.config.read_text().replace("ping_interval_s = ", "ping_intervall_s = ")
    actor.home.config.write_text(text)
    error = refused(actor, 64)
    line = next(i for i, each in enumerate(text.splitlines(), 1) if "ping_intervall_s" in each)
    assert f"config.toml:{line}: network.ping_intervall_s" in error["message"]
    assert "ping_interval_s" in error["hint"]


def test_records_shared_with_a_home_that_runs_are_not_trained_on(federation: Rehearsal) -> None:
    actor, other = federation.actors[:2]
    for each, names in ((actor, other), (other, actor)):
        text = each.home.config.read_text()
        each.home.config.write_text(text.replace("shared_homes = []", f'shared_homes = ["{names.home.root}"]'))
    with other.home.lock():
        error = refused(actor, 64)
    assert f"runs {other.home.root} on the same records" in error["message"]
    assert "one at a time" in error["hint"]


def test_a_ledger_that_is_missing_damaged_or_newer_is_not_touched(federation: Rehearsal) -> None:
    for actor, code in zip(federation.actors, (65, 65, 78), strict=True):
        ledger = actor.home.ledger
        if actor.index == 0:
            ledger.unlink()
        elif actor.index == 1:
            ledger.write_bytes(b"not a database" * 1000)
        else:
            with sqlite3.connect(ledger) as connection:
                connection.execute("PRAGMA user_version = 99")
            connection.close()
        before = ledger.read_bytes() if ledger.exists() else None
        refused(actor, code)
        assert (ledger.read_bytes() if ledger.exists() else None) == before


def test_a_taken_port_is_named(federation: Rehearsal) -> None:
    actor = federation.actors[0]
    listen = tomlish(actor, "listen")
    port = int(listen.split("/tcp/")[1].split('"')[0])
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(("127.0.0.1", port))
        taken.listen()
        error = refused(actor, 64)
    assert f"/ip4/127.0.0.1/tcp/{port}" in error["message"]
    assert "port" in error["hint"]


def is_trainer(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return b"quidnunc.peer.trainer" in Path(f"/proc/{pid}/cmdline").read_bytes()
    return False


def tomlish(actor: Actor, key: str) -> str:
    return next(line for line in actor.home.config.read_text().splitlines() if line.startswith(f"{key} ="))


def test_another_model_than_the_charters_is_refused(federation: Rehearsal) -> None:
    error = refused(federation.actors[0], 51, TINY_WIDTH="7")
    assert "24 parameters" in error["message"]
    assert "21" in error["message"]
    assert daemons.ledger(federation.actors[0]) == []


def test_a_task_that_cannot_be_built_is_refused_with_its_own_words(federation: Rehearsal, tmp_path: Path) -> None:
    error = refused(federation.actors[0], 64, TINY_WIDTH="six")
    assert "invalid literal for int" in error["message"]
    (tmp_path / "tiny_task.py").write_text("import this_is_not_installed")
    error = refused(federation.actors[0], 64, PYTHONPATH=f"{tmp_path}{os.pathsep}{os.environ['PYTHONPATH']}")
    assert "this_is_not_installed" in error["message"]


def test_check_starts_nothing(federation: Rehearsal) -> None:
    actor = federation.actors[0]
    assert cli(actor, "run", "--check")["data"]["name"] == "peer-a"
    assert daemons.ledger(actor) == []


# What it says while it runs


def test_a_running_federation(federation: Rehearsal) -> None:
    """One start, many looks: starting three real peers is what costs."""
    with running(federation) as actors:
        first, second, third = actors
        for actor in actors:
            reaches(actor, 3)
        _status_and_peers(first)
        _only_one_daemon_per_home(first)
        _what_is_imported(first)
        _paused_and_resumed(first)
        _trainer_killed(first)
        _stopped_and_continued(second, [first, third])
        _one_is_gone(first, third)
        _disk_full(first)
    for actor in actors:
        check_ledger(actor)
        assert actor.home.locked_by() is None
        assert not daemons.sockets(actor.home.root)
    assert daemons.alive(federation.root) == []
    _other_records(second)


def _other_records(actor: Actor) -> None:
    """Regression: a peer went on with other records, on what was left of the budget, and nothing said so."""
    unchanged = cli(actor, "run", "--check")
    assert (unchanged["code"], unchanged["data"]["data_changed"]) == (0, False)
    line = tomlish(actor, "index")
    actor.home.config.write_text(actor.home.config.read_text().replace(line, "index = 7"))
    said = cli(actor, "run", "--check")
    (told,) = [each for each in said["warnings"] if "the training records, or their order, changed" in each]
    assert (said["code"], said["data"]["data_changed"]) == (0, True)
    spent = daemons.records(daemons.ledger(actor), PrivacySpend)[-1]
    assert f"changed since release {spent.release} (data set {spent.dataset.hex()[:16]} then" in told
    assert f"epsilon {spent.cumulative_u / 1e6:.4f} of 8 stays spent and counts for the new records too" in told
    assert "put the earlier data back" in told
    try:
        actor.start()
        answers(actor)
    finally:
        actor.signal(signal.SIGTERM)
        actor.wait()
    assert told in actor.log.read_text()


def _status_and_peers(actor: Actor) -> None:
    envelope = cli(actor, "status")
    assert envelope["code"] == 0
    data = envelope["data"]
    assert data["name"] == "peer-a"
    assert data["neighbors"] == {"total": 2, "connected": 2, "live": 2}
    assert 0 < data["privacy"]["epsilon"] < data["privacy"]["epsilon_cap"] == 8.0
    rows = cli(actor, "peers")["data"]["peers"]
    assert [row["name"] for row in rows if row["connected"] and row["live"]] == ["peer-b", "peer-c"] or len(rows) == 2
    assert all(row["number"] >= 1 and row["accepted"] >= 1 and row["bytes_sent"] > 0 for row in rows)
    assert actor.home.socket().stat().st_mode & 0o777 == 0o600
    text = subprocess.run(
        [*COMMAND, "--home", str(actor.home.root), "status"], capture_output=True, text=True, check=True
    ).stdout
    assert "peer-a" in text
    assert "2 of 2 connected" in text


def _only_one_daemon_per_home(actor: Actor) -> None:
    assert actor.process is not None
    envelope = cli(actor, "run")
    assert envelope["code"] == 4
    assert str(actor.process.pid) in envelope["error"]["message"]
    assert actor.status() is not None


def _what_is_imported(actor: Actor) -> None:
    """``status`` and ``peers`` load nothing heavy, and the daemon itself never loads torch."""
    for verb in ("status", "peers"):
        code = (
            "import sys\nfrom quidnunc.peer.cli import main\n"
            f"code = main(['--home', {str(actor.home.root)!r}, '--json', '{verb}'])\n"
            "print(' '.join(sorted(m for m in sys.modules if '.' not in m)), file=sys.stderr)\nsys.exit(code)"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        loaded = done.stderr.split()
        assert "json" in loaded
        assert not set(HEAVY) & set(loaded)
    assert actor.process is not None
    (trainer,) = [pid for pid in children(actor.process.pid) if "libtorch" in daemons.maps(pid)]
    assert actor.last_status["trainer"]["pid"] == trainer
    # It has trained and merged by now: what it did not import at the start it did not import since.
    for library in ("libtorch", "numpy", "openblas", "coincurve", "Crypto"):
        assert library not in daemons.maps(actor.process.pid)


def _paused_and_resumed(actor: Actor) -> None:
    assert cli(actor, "pause")["data"] == {"paused": True}
    envelope = cli(actor, "status")
    assert (envelope["code"], envelope["data"]["state"]) == (11, "paused")
    trained = envelope["data"]["trained"]
    published = envelope["data"]["updates_published"]
    # A turn that was under way may still count; after it there are heartbeats only.
    after = reaches(actor, published + 4)
    assert after["trained"] <= trained + 1
    assert cli(actor, "resume")["data"] == {"paused": False}
    until(lambda: (actor.status() or {}).get("trained", 0) > trained + 2, "trains again", [actor])


def _trainer_killed(actor: Actor) -> None:
    status = actor.status()
    assert status is not None
    victim, published = status["trainer"]["pid"], status["updates_published"]
    os.kill(victim, signal.SIGKILL)
    after = reaches(actor, published + 3)
    assert after["trainer"]["restarts"] == 1
    assert after["trainer"]["pid"] != victim
    # Killed in a job or between two: either way status names it.
    assert "SIGKILL" in after["trainer"]["last_exit"]
    told = [*after["conditions"], *after["recent_conditions"]]
    assert any(each["id"] == "trainer-died" and "SIGKILL" in each["text"] for each in told)


def _stopped_and_continued(stopped: Actor, others: list[Actor]) -> None:
    """A peer that freezes is left out after a while and welcomed back."""
    assert stopped.process is not None
    stopped.signal(signal.SIGSTOP)
    before = {actor.name: reaches(actor, 1)["updates_published"] for actor in others}
    until(
        lambda: all(
            not row["connected"]
            for actor in others
            for row in ask(actor.home.socket(), "/v1/peers")["peers"]
            if row["name"] == stopped.name
        ),
        f"{stopped.name} is dropped",
        others,
    )
    hung = cli(stopped, "status", "--timeout", "0.5")
    assert (hung["code"], hung["error"]["hint"]) == (3, f"let it go on: kill -CONT {stopped.process.pid}")
    for actor in others:
        reaches(actor, before[actor.name] + 5)
    frozen = daemons.accepted_of(daemons.ledger(others[0]), bytes.fromhex(stopped.last_status["log_id"]))
    stopped.signal(signal.SIGCONT)
    until(
        lambda: any(
            row["number"] >= frozen + 5 and row["connected"]
            for row in ask(others[0].home.socket(), "/v1/peers")["peers"]
            if row["name"] == stopped.name
        ),
        f"{stopped.name} is back",
        [stopped, *others],
    )


def _one_is_gone(actor: Actor, leaver: Actor) -> None:
    """A neighbor that has gone is named, in both commands; nobody answers for it: exit code 3."""
    leaver.signal(signal.SIGTERM)
    assert leaver.wait() == 0
    assert cli(leaver, "status")["code"] == 3
    assert cli(leaver, "peers")["code"] == 3
    until(lambda: (actor.status() or {"neighbors": {}})["neighbors"].get("connected") == 1, "one left", [actor])
    until(lambda: cli(actor, "status")["code"] == 10, "degraded", [actor])
    named = {(each["id"], each["subject"]) for each in cli(actor, "status")["data"]["conditions"]}
    assert ("neighbor-disconnected", leaver.name) in named
    row = next(each for each in cli(actor, "peers")["data"]["peers"] if each["name"] == leaver.name)
    assert not row["connected"]
    assert "neighbor-disconnected" in row["conditions"]


def _disk_full(actor: Actor) -> None:
    """A ledger that cannot be written ends the peer with its own exit code; what it holds stays valid."""
    assert actor.process is not None
    resource.prlimit(actor.process.pid, resource.RLIMIT_FSIZE, (1, 1))
    assert actor.process.wait(60) == 73
    assert actor.home.locked_by() is None
    assert not daemons.sockets(actor.home.root)


def test_a_task_that_fails_stalls_the_peer_and_it_recovers(federation: Rehearsal, tmp_path: Path) -> None:
    """With a failing task it is stalled and says what the task said; without its neighbors it is degraded."""
    actor = federation.actors[0]
    assert not (tmp_path / "fail").exists()
    os.environ["TINY_TASK"] = str(tmp_path)
    try:
        for each in federation.actors:
            each.start()
        reaches(actor, 2)
        until(lambda: cli(actor, "status")["code"] == 0, "all is well", [actor])
        (tmp_path / "fail").touch()
        until(lambda: (actor.status() or {}).get("failures", 0) >= 3, "three failures", [actor])
        envelope = cli(actor, "status")
        assert envelope["code"] == 12
        assert "ward 7 is on fire" in envelope["data"]["last_failure"]
        (found,) = [each for each in envelope["data"]["conditions"] if each["severity"] == "stalled"]
        assert (found["id"], found["subject"]) == ("trainer-failing", "trainer")
        assert "ward 7 is on fire" in found["text"]
        (tmp_path / "fail").unlink()
        until(lambda: (actor.status() or {}).get("failures") == 0, "recovered", [actor])
        _second_signal(actor, tmp_path)
        other, leaver = federation.actors[1:]
        leaver.signal(signal.SIGKILL)
        leaver.wait()
        until(lambda: cli(other, "status")["code"] == 10, "degraded", [other])
    finally:
        del os.environ["TINY_TASK"]
        federation.stop()
    check_ledger(actor)


def _second_signal(actor: Actor, switches: Path) -> None:
    """The first signal would wait for the training that hangs; the second does not."""
    assert actor.process is not None
    (switches / "hang").touch()
    until(lambda: (actor.status() or {}).get("phase") in ("training", "merging"), "a job hangs", [actor])
    actor.signal(signal.SIGTERM)
    until(lambda: "stopping" in actor.tail(), "heard the first", [actor])
    assert actor.process.poll() is None
    began = time.monotonic()
    actor.signal(signal.SIGTERM)
    assert actor.wait() == 128 + signal.SIGTERM
    assert time.monotonic() - began < 5
    (switches / "hang").unlink()
    until(lambda: not daemons.alive(actor.home.root), "nothing is left")
    assert actor.home.locked_by() is None


# What its disk lost


def newest(actor: Actor) -> UpdatePublished:
    update: UpdatePublished = daemons.records(daemons.ledger(actor), UpdatePublished)[-1]
    return update


def flip(actor: Actor, name: bytes) -> Path:
    """Flip a bit of a blob."""
    path = actor.home.blobs / name.hex()[:2] / name.hex()[2:]
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    return path


def test_a_damaged_replica_is_rebuilt_at_the_start(pair: Rehearsal) -> None:
    """Regression: the peer came up, and tried the same turn again for ever."""
    actor = pair.actors[0]
    with running(pair) as actors:
        for each in actors:
            reaches(each, 3)
    lost = newest(actor)
    flip(actor, lost.replica_after)
    with running(pair):
        reaches(actor, lost.number + 1)
    assert f"blob {lost.replica_after.hex()}, the own replica, was missing or damaged" in actor.log.read_text()
    check_ledger(actor)


def test_a_start_whose_compute_process_cannot_write_blames_the_disk(federation: Rehearsal) -> None:
    """Regression: it ended with 64, and blamed the data."""
    actor = federation.actors[0]
    genesis = require_signed(open_charter(actor.home.charter.read_bytes())).task.genesis.hex()
    (actor.home.blobs / genesis[:2]).touch()
    error = refused(actor, 73)
    assert f"state/blobs/{genesis[:2]}/{genesis[2:]}: cannot be written" in error["message"]
    assert "disk" in error["hint"]


# How it ends


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_in_any_phase_of_the_start_ends_it_well(federation: Rehearsal, number: signal.Signals) -> None:
    """The phases: imports, the compute process being started, the task being built, waiting for neighbors before the
    first signature, and after it."""
    phases = {
        "locked": lambda actor: actor.home.locked_by() is not None,
        "computing": lambda actor: any(map(is_trainer, children(actor.process.pid))),
        "torch": lambda actor: any("libtorch" in daemons.maps(pid) for pid in children(actor.process.pid)),
        "waiting": lambda actor: actor.status() is not None,
        "signed": lambda actor: actor.home.ledger.exists() and len(daemons.ledger(actor)) > 0,
    }
    actor = federation.actors[0]
    for phase, reached in phases.items():
        actor.start()
        assert actor.process is not None
        until(lambda reached=reached: reached(actor), phase, [actor])
        trainers = children(actor.process.pid)
        actor.signal(number)
        assert actor.wait() == 0, f"{phase}: {actor.tail()}"
        assert actor.home.locked_by() is None
        assert not daemons.sockets(actor.home.root)
        until(lambda trainers=trainers: not any(map(is_running, trainers)), f"{phase}: no compute process is left")
    assert cli(actor, "ledger", "verify")["code"] == 0


def test_started_paused_it_trains_nothing(pair: Rehearsal) -> None:
    actor, other = pair.actors
    try:
        actor.start("--paused")
        other.start()
        status = reaches(actor, 3)
        assert (status["state"], status["trained"], status["privacy"]["releases"]) == ("paused", 0, 0)
        assert reaches(other, 3)["trained"] >= 1
        assert cli(actor, "status")["code"] == 11
    finally:
        pair.stop()
    for each in pair.actors:
        check_ledger(each)


def test_peers_on_two_charters_do_not_talk(federation: Rehearsal) -> None:
    """Same members, same keys, same addresses, another agreement: connected, but nothing is taken from the other."""
    actors = federation.actors[:2]
    charter = federation.root / "other.note"
    cards = [str(each.home.card) for each in federation.actors]
    command("federation", "create", *cards, "--task", daemons.TASK, "--purpose", "another", "--out", str(charter))
    for actor in federation.actors:
        command("federation", "sign", "--yes", str(charter), home=actor.home.root)
    # The second home is moved to the other charter before its first start.
    actors[1].home.charter.write_bytes(charter.read_bytes())
    try:
        for actor in actors:
            actor.start()
        for actor in actors:
            answers(actor)
        until(
            lambda: any(
                "wrong_federation" in line or "WRONG_FEDERATION" in line
                for actor in actors
                for line in actor.log.read_text().splitlines()
            ),
            "the other federation is refused",
            actors,
        )
        for actor in actors:
            status = answers(actor)
            assert status["updates_accepted"] == 0
            assert status["neighbors"]["live"] == 0
            rows = ask(actor.home.socket(), "/v1/peers")["peers"]
            assert [row["number"] for row in rows] == [0, 0]
            assert cli(actor, "status")["code"] == 11
    finally:
        federation.stop()
