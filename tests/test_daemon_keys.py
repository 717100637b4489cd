"""Real daemons: one changes its log key, and later ends its log; the other goes on, and every ledger verifies."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import daemons
import pytest
from daemons import answers, check_ledger, cli, found, plan, reaches, records, running, told, until

from quidnunc.crypto.entry import EntryType, parse_header
from quidnunc.gossip.provenance import MemberNotice, UpdateReceived
from quidnunc.peer.rehearsal import Actor, Rehearsal

pytestmark = [pytest.mark.slow, pytest.mark.faults]


def stop(actor: Actor) -> None:
    actor.signal(signal.SIGTERM)
    assert actor.wait() == 0


@pytest.fixture
def federation(tmp_path: Path) -> Iterator[Rehearsal]:
    """Two peers and a charter without a last round in sight."""
    with daemons.importable():
        yield found(tmp_path / "f", plan(2, 400, interval=0.1, epsilon="inf"))


def test_a_daemon_rotates_its_key_and_retires_and_its_neighbor_learns_of_both(federation: Rehearsal) -> None:
    one, other = federation.actors
    with running(federation):
        reaches(one, 3)
        stop(one)
        assert cli(one, "--yes", "key", "rotate")["code"] == 0
        assert cli(one, "--yes", "key", "revoke", "--epoch", "0", "--since", "2")["code"] == 0
        rotated = len(daemons.ledger(one)) - 2
        one.start()
        answers(one)
        newest = (one.status() or {})["updates_published"]
        reaches(one, newest + 3)
        reaches(other, (other.status() or {})["updates_published"] + 3)

        def taken() -> bool:
            accepted = [r for r in records(daemons.ledger(other), UpdateReceived) if not r.decision]
            return any(each.seq > rotated for each in accepted)

        until(taken, "an update by the new key is taken", [one, other])
        stop(other)
        other.start()
        answers(other)
        until(lambda: cli(other, "status")["code"] == 0, "it comes up from a ledger with two keys of another", [other])
        stop(one)
        assert cli(one, "--yes", "ledger", "retire", "--reason", "moved")["code"] == 0
        farewell = cli(one, "ledger", "farewell")
        assert farewell["data"]["neighbors"] == [{"name": other.name, "told": True, "cosigned": True}], farewell
        until(lambda: told(other) == {("neighbor-retired", one.name)}, "a note, and no alarm", [other])
        assert cli(other, "status")["code"] == 0
        (row,) = cli(other, "peers")["data"]["peers"]
        assert row["retired"] == {"entry": len(daemons.ledger(one)) - 1, "reason": "moved", "successor": None}
        reaches(other, (other.status() or {})["updates_published"] + 2)
        missed = cli(one, "--timeout", "0.1", "ledger", "farewell")
        assert missed["code"] in (0, 10)
        stop(other)
    epochs = [parse_header(entry.header).key_epoch for entry in check_ledger(one)]
    assert epochs == [0] * (rotated + 1) + [1] * (len(epochs) - rotated - 1)
    notices = records(check_ledger(other), MemberNotice)
    assert [each.kind for each in notices] == [EntryType.KEY_ROTATE, EntryType.KEY_REVOKE, EntryType.LOG_RETIRE]
    assert cli(one, "run")["code"] == 40
