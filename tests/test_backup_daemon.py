"""Real daemons: a backup is taken while one runs, and a stopped one goes on from its backup on another disk."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import daemons
import pytest
from cli_helpers import quidnunc
from daemons import copied, found, ledger, plan, reaches, records, running

from quidnunc.gossip.provenance import NodeStart, PrivacySpend
from quidnunc.peer.home import Home
from quidnunc.peer.rehearsal import Actor, Rehearsal

pytestmark = [pytest.mark.slow, pytest.mark.faults]


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rehearsal]:
    """Two peers with privacy and rounds enough. Copied, never run."""
    with daemons.importable():
        what = plan(2, 400, interval=0.1)
        yield found(tmp_path_factory.mktemp("founded"), what)


def say(actor: Actor, *words: str | Path) -> dict[str, Any]:
    """What a command about this home found; it ends well."""
    return dict(quidnunc("--home", actor.home.root, "--json", *words).data)


def test_a_peer_goes_on_from_its_backup(original: Rehearsal, tmp_path: Path) -> None:
    federation = copied(original, tmp_path / "f")
    moved = federation.actors[0]
    with running(federation):
        reaches(moved, 3)
        taken = say(moved, "backup", tmp_path / "running.backup")
        assert (taken["entries"] > 3, taken["params_missing"]) == (True, 0)
        moved.signal(signal.SIGTERM)
        assert moved.wait() == 0
        before = ledger(moved)
        assert say(moved, "backup", tmp_path / "stopped.backup")["entries"] == len(before)
        moved.home = Home.at(tmp_path / "other-disk")
        assert say(moved, "restore", tmp_path / "stopped.backup")["entries"] == len(before)
        moved.start()
        reaches(moved, len(records(before, PrivacySpend)) + 2)
    after = ledger(moved)
    assert after[: len(before)] == before
    assert [each.incarnation for each in records(after, NodeStart)] == [1, 2]
    releases = [each.release for each in records(after, PrivacySpend)]
    assert releases == list(range(1, len(releases) + 1))
    assert say(moved, "ledger", "verify")["verified"]
    # The one taken in mid-run is a beginning of the same history.
    moved.home = Home.at(tmp_path / "older")
    assert say(moved, "restore", tmp_path / "running.backup")["root"] == taken["root"]
    older = ledger(moved)
    assert older == before[: taken["entries"]]
