"""Real daemons: a home restored from an older copy rejoins, signs nothing twice, and gets no budget back."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Sequence
from pathlib import Path

import daemons
import pytest
from daemons import check_ledger, cli, found, ledger, plan, reaches, records, running, until

from quidnunc.crypto.entry import Entry
from quidnunc.gossip.provenance import LogRecover, PrivacySpend, Recovery, UpdatePublished
from quidnunc.peer.rehearsal import Actor

pytestmark = [pytest.mark.slow, pytest.mark.faults]

ROUNDS = 200


def goes_on(actor: Actor, lost: list[Entry]) -> None:
    """Wait until ``actor`` has taken its entries back and publishes past the updates of ``lost``."""
    until(lambda: records(ledger(actor), LogRecover), "it takes its entries back", [actor])
    reaches(actor, len(records(lost, UpdatePublished)) + 1)


def kept(actor: Actor, lost: list[Entry]) -> list[Entry]:
    """The ledger of ``actor``, which begins with exactly the entries of ``lost``."""
    entries = check_ledger(actor)
    assert [each.header for each in entries[: len(lost)]] == [each.header for each in lost]
    return entries


def verify(actors: Sequence[Actor]) -> None:
    """Every ledger is sound, by its entries and by the command."""
    for each in actors:
        check_ledger(each)
        verdict = cli(each, "ledger", "verify")
        assert verdict["code"] == 0, verdict


def rotate(actor: Actor) -> None:
    """Change the log key of a peer that is down, and let it sign with the new one before it is stopped again."""
    assert cli(actor, "--yes", "key", "rotate")["code"] == 0
    actor.start()
    reaches(actor, len(records(ledger(actor), UpdatePublished)) + 3)
    actor.signal(signal.SIGTERM)
    assert actor.wait() == 0


@pytest.mark.parametrize("rotated", [False, True])
def test_a_home_restored_from_an_older_copy_rejoins_without_a_second_entry_anywhere(
    rotated: bool, tmp_path: Path
) -> None:
    """Stop, copy the home, run on, stop, put the copy back, start; with a change of its log key in between or not."""
    copy = tmp_path / "copy"
    with daemons.importable():
        federation = found(tmp_path / "f", plan(3, ROUNDS, interval=0.05))
    actor, *others = federation.actors
    with daemons.importable(), running(federation):
        reaches(actor, 2)
        actor.signal(signal.SIGTERM)
        assert actor.wait() == 0
        shutil.copytree(actor.home.root, copy)
        actor.start()
        reaches(actor, 6)
        actor.signal(signal.SIGTERM)
        assert actor.wait() == 0
        if rotated:
            rotate(actor)
        lost = ledger(actor)
        shutil.rmtree(actor.home.root)
        shutil.copytree(copy, actor.home.root)
        had = len(ledger(actor))
        actor.start()
        goes_on(actor, lost)
        assert [(each.status() or {})["frozen"] for each in federation.actors] == [[], [], []]
    entries = kept(actor, lost)
    (record,) = records(entries, LogRecover)
    assert (record.had, record.to) == (had, len(lost))
    assert len(records(entries, PrivacySpend)) > len(records(lost, PrivacySpend))
    verify(others)


@pytest.mark.parametrize("rotated", [False, True])
def test_a_home_whose_ledger_is_lost_gets_it_back_and_no_budget_with_it(rotated: bool, tmp_path: Path) -> None:
    """Stop, lose ledger.db, ``ledger recover``, start; also when its entries are of two key epochs."""
    with daemons.importable():
        federation = found(tmp_path / "f", plan(3, ROUNDS, interval=0.05))
    actor, *others = federation.actors
    with daemons.importable(), running(federation):
        reaches(actor, 6)
        actor.signal(signal.SIGTERM)
        assert actor.wait() == 0
        if rotated:
            rotate(actor)
        lost = ledger(actor)
        actor.home.ledger.unlink()
        assert cli(actor, "ledger", "status")["code"] == 32
        assert cli(actor, "ledger", "recover", "--yes")["code"] == 0
        actor.start()
        goes_on(actor, lost)
        assert [(each.status() or {})["frozen"] for each in federation.actors] == [[], [], []]
    entries = kept(actor, lost)
    (record,) = records(entries, LogRecover)
    assert (record.had, record.to, record.why) == (0, len(lost), Recovery.LOST)
    spent = [records(some, PrivacySpend)[-1].release for some in (lost, entries)]
    assert spent[1] > spent[0]
    verify([actor, *others])
