"""Real daemons that come back to, or come late into, a federation that went on without them."""

from __future__ import annotations

import hashlib
import shutil
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import daemons
import pytest
from daemons import answers, check_ledger, copied, finishes, found, plan, reaches, records, running, until

from quidnunc.gossip.provenance import Merge, PrivacySpend, UpdatePublished, UpdateReceived
from quidnunc.peer.client import ask
from quidnunc.peer.rehearsal import Actor, Rehearsal

pytestmark = [pytest.mark.slow, pytest.mark.faults]

ROUNDS = 20
STEP_ADOPTED = 3


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rehearsal]:
    """Four peers and a charter. Copied, never run."""
    with daemons.importable():
        what = plan(4, ROUNDS, interval=0.1)
        what = replace(what, create=(*what.create, "--start", "majority"))
        yield found(tmp_path_factory.mktemp("founded"), what)


@pytest.fixture
def federation(original: Rehearsal, tmp_path: Path) -> Rehearsal:
    return copied(original, tmp_path / "f")


def own_updates(actor: Actor) -> list[UpdatePublished]:
    return records(daemons.ledger(actor), UpdatePublished)


def row_of(observer: Actor, who: Actor) -> dict[str, Any]:
    rows = ask(observer.home.socket(), "/v1/peers")["peers"]
    (row,) = [row for row in rows if row["name"] == who.name]
    return row


def test_a_peer_that_lost_all_its_params_gets_them_back_from_its_neighbors(federation: Rehearsal) -> None:
    """Its blobs are gone entirely; its sequence goes on without a fork, and no budget is spent twice."""
    actor, *others = federation.actors
    with running(federation):
        reaches(actor, 5)
        actor.signal(signal.SIGTERM)
        assert actor.wait() == 0
        before = own_updates(actor)
        spent = len(records(daemons.ledger(actor), PrivacySpend))
        shutil.rmtree(actor.home.blobs)
        actor.start()
        reaches(actor, len(before) + 2)
        assert "came back from" in actor.log.read_text()
        finishes(federation.actors)
        newest = len(own_updates(actor))
        until(lambda: all(row_of(each, actor)["number"] >= newest for each in others), "the others follow", others)
    entries = check_ledger(actor)
    after = records(entries, UpdatePublished)
    assert after[: len(before)] == before
    assert after[len(before)].replica_before == before[-1].replica_after
    assert len(records(entries, PrivacySpend)) <= ROUNDS + 1
    assert len(records(entries, PrivacySpend)) >= spent
    for each in others:
        check_ledger(each)
        rejected = [record for record in records(daemons.ledger(each), UpdateReceived) if record.decision]
        assert not rejected, "nothing it signed contradicts what it had signed before"


def test_a_peer_that_lost_its_params_and_hears_nobody_waits_and_says_so(federation: Rehearsal) -> None:
    actor, *others = federation.actors
    with running(federation):
        reaches(actor, 3)
    shutil.rmtree(actor.home.blobs)
    published = len(own_updates(actor))
    try:
        actor.start()
        status = until(
            lambda: (found := answers(actor)) and found["state"] == "recovering" and found, "it says so", [actor]
        )
        assert "asking neighbors whether this ledger is all that it has signed" in status["sentence"]
        assert "the own replica, was missing or damaged; neighbors are asked for it" in actor.log.read_text()
        assert daemons.cli(actor, "status")["code"] == 11
        assert len(own_updates(actor)) == published
        for each in others:
            each.start()
        reaches(actor, published + 1)
    finally:
        federation.stop()
    check_ledger(actor)


def test_a_new_federation_goes_on_from_the_model_of_an_earlier_one(federation: Rehearsal, tmp_path: Path) -> None:
    with running(federation) as actors:
        finishes(actors)
        there = [answers(actor)["accuracy"] for actor in actors]
    what = replace(
        federation.plan, create=(*federation.plan.create, "--from-model", str(federation.actors[0].home.root))
    )
    with daemons.importable():
        again = found(tmp_path / "again", what)
        model = again.charter.with_suffix(".params").read_bytes()
        with running(again) as actors:
            for actor in actors:
                reaches(actor, 2)
            early = [answers(actor)["accuracy"] for actor in actors]
    for actor in again.actors:
        first = own_updates(actor)[0]
        assert first.replica_before == first.base == hashlib.sha256(model).digest()
        check_ledger(actor)
    assert min(early) >= min(there) - 0.2
    again.actors[0].home.model.unlink()
    again.actors[0].home.blobs.joinpath(first.base.hex()[:2], first.base.hex()[2:]).unlink(missing_ok=True)
    again.actors[0].start()
    assert again.actors[0].wait(60) == 51
    assert "federation install --model" in again.actors[0].log.read_text()


def test_a_member_that_starts_when_all_others_have_finished_joins_at_their_level(federation: Rehearsal) -> None:
    """It adopts the median of what they publish, trains its own rounds, and they merge it."""
    *others, joiner = federation.actors
    try:
        for actor in others:
            actor.start()
        for actor in others:
            answers(actor)
        finishes(others)
        there = [answers(actor)["accuracy"] for actor in others]
        joiner.start()
        adopted = until(lambda: records(daemons.ledger(joiner), Merge), "its first merge", [joiner])[0]
        assert adopted.step == STEP_ADOPTED
        assert len(adopted.rows) == len(others)
        finishes([joiner])
        assert answers(joiner)["accuracy"] >= min(there) - 0.1
        number = answers(joiner)["updates_published"]
        until(lambda: all(row_of(each, joiner)["last_weight"] > 0 for each in others), "they merge it", others)
        until(lambda: all(row_of(each, joiner)["number"] >= number for each in others), "they follow", others)
    finally:
        federation.stop()
    entries = check_ledger(joiner)
    assert len([update for update in records(entries, UpdatePublished) if update.steps]) == ROUNDS
    assert len(records(entries, PrivacySpend)) == ROUNDS
    for each in others:
        check_ledger(each)
