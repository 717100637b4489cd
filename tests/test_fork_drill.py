"""Real daemons: a home that is copied and runs twice is frozen by everybody, and a stranger can check why.

One that starts asks its neighbors first, and one that hears of another history stops, so that a copy by itself forks
nothing. It takes a machine that was suspended, a copy of it that ran meanwhile, and neighbors that see one each.
"""

from __future__ import annotations

import re
import shutil
import signal
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import daemons
import pytest
from daemons import check_ledger, cli, copied, found, plan, reaches, records, running, until

from quidnunc.gossip.provenance import EquivocationProof
from quidnunc.peer.client import ask
from quidnunc.peer.home import Home
from quidnunc.peer.rehearsal import Actor, Rehearsal, command

pytestmark = [pytest.mark.slow, pytest.mark.faults]


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rehearsal]:
    """Four peers and a charter without a last round in sight. Copied, never run."""
    with daemons.importable():
        what = plan(4, 400, interval=0.2, epsilon="inf")
        what = replace(what, create=(*what.create, "--start", "majority"))
        yield found(tmp_path_factory.mktemp("founded"), what)


def second_home(actor: Actor, root: Path) -> Actor:
    """A copy of a frozen daemon's home, as a snapshot of its machine is, that listens on a port of its own."""
    shutil.copytree(actor.home.root, root, ignore=shutil.ignore_patterns("control.sock"))
    home = Home.at(root)
    text = home.config.read_text()
    home.config.write_text(re.sub(r"/ip4/127\.0\.0\.1/tcp/\d+", "/ip4/127.0.0.1/tcp/0", text, count=1))
    return Actor(actor.index, actor.name, home, actor.attacker)


def heard_from(culprit: Actor, actors: Sequence[Actor]) -> None:
    """Wait until each of ``actors`` has accepted two more updates under the culprit's key."""

    def number(actor: Actor) -> int:
        rows = ask(actor.home.socket(), "/v1/peers")["peers"]
        return next(int(row["number"]) for row in rows if row["name"] == culprit.name)

    for actor in actors:
        before = number(actor)
        until(lambda a=actor, n=before: number(a) >= n + 2, f"{actor.name} hears one story", [*actors])


def _is_told(instance: Actor) -> None:
    """It learns that its log is frozen, or first that it went on elsewhere; says so, and goes on answering."""

    def told() -> bool:
        found = (instance.status() or {"conditions": []})["conditions"]
        return any(each["id"] in ("log-exposed", "log-behind") for each in found)

    until(told, "the original knows that it is one of two", [instance])
    envelope = cli(instance, "status")
    assert envelope["code"] == 12
    assert envelope["data"]["state"] in ("exposed", "behind")


def test_a_copied_home_that_runs_twice_is_frozen_by_all_and_the_proof_convinces_a_stranger(
    original: Rehearsal, tmp_path: Path
) -> None:
    federation = copied(original, tmp_path / "f")
    culprit, *honest = federation.actors
    first, second, third = honest
    with running(federation):
        reaches(culprit, 4)
        for actor in (culprit, third):
            actor.signal(signal.SIGSTOP)
        copied_at = len(daemons.ledger(culprit))
        twin = second_home(culprit, tmp_path / "twin")
        federation.actors.append(twin)
        twin.start()
        until(lambda: len(daemons.ledger(twin)) > copied_at + 1, "the twin signs on", [twin])
        heard_from(culprit, (first, second))
        twin.signal(signal.SIGTERM)
        assert twin.wait() == 0
        for actor in (first, second):
            actor.signal(signal.SIGSTOP)
        for actor in (culprit, third):
            actor.signal(signal.SIGCONT)
        heard_from(culprit, (third,))
        for actor in (first, second):
            actor.signal(signal.SIGCONT)

        def frozen() -> bool:
            states = [actor.status() for actor in honest]
            return all(state is not None and state["frozen"] == [culprit.name] for state in states)

        until(frozen, "every honest peer has frozen the log", federation.actors)
        before = [(actor.status() or {"merges": 0})["merges"] for actor in honest]
        for actor, merges in zip(honest, before, strict=True):
            until(lambda a=actor, m=merges: (a.status() or {"merges": 0})["merges"] > m + 2, "the others go on", honest)
        _is_told(culprit)
    for actor in honest:
        named = records(check_ledger(actor), EquivocationProof)
        assert len(named) == 1
        out = tmp_path / f"{actor.name}.proof"
        assert cli(actor, "ledger", "evidence", "export", named[0].proof.hex(), "--out", str(out))["code"] == 0
        verdict = command("ledger", "evidence", "verify", str(out), home=actor.home.root, check=False)
        assert verdict["code"] == 31
        assert verdict["data"]["name"] == culprit.name
