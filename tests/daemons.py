"""Real federations of real processes for tests: founded once per session, copied for every test."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from quidnunc.crypto.entry import Entry, EntryType, parse_header
from quidnunc.gossip.provenance import PrivacySpend, UpdatePublished, UpdateReceived, parse_record
from quidnunc.peer.ledger.store import Store
from quidnunc.peer.rehearsal import Actor, Plan, Rehearsal, command

PATIENCE_S = 90.0
POLL_S = 0.1
TASK = "tiny_task:task"
HERE = str(Path(__file__).parent)


def plan(
    peers: int, rounds: int, *, interval: float = 0.05, epsilon: str = "8", task: str = TASK, ping_s: float = 0.5
) -> Plan:
    """A small federation on the tiny task."""
    create = ("--rounds", str(rounds), "--interval", str(interval), "--epsilon", epsilon, "--lr", "0.5")
    return Plan(peers, task, 1.0, 0, create, ping_interval_s=ping_s)


@contextlib.contextmanager
def importable() -> Iterator[None]:
    """The tests' own task can be imported by processes started inside the block."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = HERE if not before else f"{HERE}{os.pathsep}{before}"
    try:
        yield
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before


def found(root: Path, what: Plan) -> Rehearsal:
    """Found a federation under ``root``."""
    root.mkdir(parents=True, exist_ok=True)
    made = Rehearsal(what, root)
    made.found()
    return made


def copied(original: Rehearsal, root: Path) -> Rehearsal:
    """The same federation, with state of its own."""
    shutil.copytree(original.root, root, dirs_exist_ok=True)
    return Rehearsal(original.plan, root)


@contextlib.contextmanager
def running(rehearsal: Rehearsal) -> Iterator[list[Actor]]:
    """All its daemons run and answer; whatever happens, none is left afterwards."""
    try:
        for actor in rehearsal.actors:
            actor.start()
        for actor in rehearsal.actors:
            answers(actor)
        yield rehearsal.actors
    finally:
        for actor in rehearsal.actors:
            actor.signal(signal.SIGCONT)
        rehearsal.stop()


def until(
    condition: Callable[[], Any], what: str, actors: list[Actor] | None = None, within: float = PATIENCE_S
) -> Any:
    """Poll for a state and return what was found; fails the test, with the daemons' last words, when it never comes."""
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(POLL_S)
    words = "\n".join(f"{actor.name}: {actor.last_status.get('sentence')}\n{actor.tail()}" for actor in actors or [])
    raise AssertionError(f"never: {what}\n{words}")


def answers(actor: Actor) -> dict[str, Any]:
    """The status of a daemon that is starting, once it answers; fails the test if it ends instead."""

    def ask() -> dict[str, Any] | None:
        actor.check()
        return actor.status()

    found: dict[str, Any] = until(ask, f"{actor.name} answers", [actor])
    return found


def reaches(actor: Actor, number: int) -> dict[str, Any]:
    """The status of a daemon once it has published update ``number``."""

    def ask() -> dict[str, Any] | None:
        status = actor.status()
        return status if status is not None and status["updates_published"] >= number else None

    found: dict[str, Any] = until(ask, f"{actor.name} publishes update {number}", [actor])
    return found


def finishes(actors: list[Actor]) -> None:
    """Wait until every one of them has trained all its rounds."""

    def done() -> bool:
        found = [actor.status() for actor in actors]
        return all(each is not None and each["finished"] for each in found)

    until(done, "all finished", actors)


def told(actor: Actor, *, past: bool = False) -> set[tuple[str, str]]:
    """(id, subject) of the conditions a daemon tells of now, with ``past`` those that have passed as well."""
    status = actor.status() or {"conditions": [], "recent_conditions": []}
    found = [*status["conditions"], *(status["recent_conditions"] if past else [])]
    return {(each["id"], each["subject"]) for each in found}


def tells(actor: Actor, *wanted: tuple[str, str], code: int | None = None, within: float = PATIENCE_S) -> None:
    """Wait until a daemon tells of one of these conditions, and ``quidnunc status`` ends with ``code``."""
    until(lambda: told(actor) & set(wanted), f"{actor.name} tells of {wanted}", [actor], within)
    if code is not None:
        until(lambda: cli(actor, "status")["code"] == code, f"status of {actor.name} ends with {code}", [actor], within)


def healthy(actors: list[Actor], within: float = PATIENCE_S) -> None:
    """Wait until nobody tells of any condition."""

    def quiet() -> bool:
        return all(actor.status() is not None and not told(actor) for actor in actors)

    until(quiet, f"all healthy: {[told(actor) for actor in actors]}", actors, within)


def cli(actor: Actor, *arguments: str) -> dict[str, Any]:
    """The envelope of a command about this home, however it ends."""
    return command(*arguments, home=actor.home.root, check=False)


def ledger(actor: Actor) -> list[Entry]:
    """All entries on disk, read beside whoever writes."""
    with Store.open(actor.home.ledger, readonly=True) as store:
        return list(store.entries())


def records(entries: list[Entry], kind: type[Any]) -> list[Any]:
    """The records of one type in a ledger, in order."""
    found = []
    for entry in entries:
        header = parse_header(entry.header)
        if header.type != EntryType.GENESIS:
            record = parse_record(header.type, entry.payload)
            if isinstance(record, kind):
                found.append(record)
    return found


def check_ledger(actor: Actor) -> list[Entry]:
    """The ledger verifies, uses no update number or release twice, leaves none out, and refunds no privacy."""
    verdict = cli(actor, "ledger", "verify")
    assert verdict["code"] == 0, verdict
    entries = ledger(actor)
    numbers = [record.number for record in records(entries, UpdatePublished)]
    assert numbers == list(range(1, len(numbers) + 1))
    releases = [record.release for record in records(entries, PrivacySpend)]
    assert releases == list(range(1, len(releases) + 1))
    spent = [record.cumulative_u for record in records(entries, PrivacySpend)]
    assert spent == sorted(spent)
    return entries


def accepted_of(entries: list[Entry], log_id: bytes) -> int:
    """The newest update of ``log_id`` that a ledger says was accepted; 0 if none."""
    return max((r.number for r in records(entries, UpdateReceived) if r.sender == log_id and not r.reasons), default=0)


def alive(root: Path) -> list[int]:
    """Processes whose command line names something under ``root``."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):
                if os.fsencode(root) in (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
    return found


def children(pid: int) -> list[int]:
    """Living children of a process."""
    with contextlib.suppress(OSError):
        return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def sockets(root: Path) -> list[Path]:
    """Sockets and links to sockets under ``root``."""
    # Unlike rglob, walk does not mind a directory that goes away meanwhile.
    found = [Path(where) / name for where, _, names in os.walk(root) for name in names if name.endswith(".sock")]
    return [path for path in found if path.is_socket() or path.is_symlink()]


def maps(pid: int) -> str:
    """The files a process has mapped."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/maps").read_text()
    return ""


def is_running(pid: int) -> bool:
    """Whether a process exists and is not a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1][0] != "Z"
    except OSError:
        return False
