"""kill -9 at any moment: nothing that was said is unsaid, no number is used twice, and the peer goes on."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import daemons
import pytest
from daemons import accepted_of, answers, check_ledger, copied, finishes, found, plan, reaches, records, running, until

from quidnunc.crypto.log import Log
from quidnunc.gossip.federation.terms import MICRO
from quidnunc.gossip.provenance import NodeStart, PrivacyExhausted, PrivacySpend, UpdatePublished
from quidnunc.peer.client import ask
from quidnunc.peer.config_text import with_values
from quidnunc.peer.rehearsal import Actor, Rehearsal

pytestmark = pytest.mark.slow

ROUNDS = 60
KILLS = 3
MANY_KILLS = 20
SAMPLED_ROUNDS = 24
CAP = 5
SEED = int(os.environ.get("QUIDNUNC_TEST_SEED", "1"))


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rehearsal]:
    """Three peers and a charter for a run of several seconds. Copied, never run."""
    with daemons.importable():
        yield found(tmp_path_factory.mktemp("founded"), plan(3, ROUNDS, interval=0.1))


@pytest.fixture
def federation(original: Rehearsal, tmp_path: Path) -> Rehearsal:
    return copied(original, tmp_path / "f")


def kill(actor: Actor, others: list[Actor]) -> None:
    """Kill a daemon; compare what it and its neighbors had said before with what is on its disk afterwards."""
    assert actor.process is not None
    said = actor.status()
    trainers = daemons.children(actor.process.pid)
    actor.signal(signal.SIGKILL)
    actor.wait()
    until(lambda: not any(map(daemons.is_running, trainers)), "its compute process died with it")
    entries = check_ledger(actor)
    assert actor.home.locked_by() is None
    published = len(records(entries, UpdatePublished))
    if said is not None:
        log = Log(bytes.fromhex(said["log_id"]))
        for entry in entries[: said["ledger_entries"]]:
            log.replay(entry)
        assert (log.size, log.root.hex()) == (said["ledger_entries"], said["ledger_root"])
        assert published >= said["updates_published"] - 1
        assert len(records(entries, PrivacySpend)) >= said["privacy"]["releases"] - 1
    for other in others:
        for row in ask(other.home.socket(), "/v1/peers")["peers"]:
            if row["name"] == actor.name:
                assert row["number"] <= row["claimed"] <= published
                assert accepted_of(daemons.ledger(other), bytes.fromhex(row["log_id"])) <= published


def kill_many(actors: list[Actor], times: int) -> None:
    """Kill daemons at random moments, some while they start, and start each of them again."""
    chance = random.Random(SEED)
    for turn in range(times):
        victim = chance.choice(actors)
        if chance.random() < 0.5:
            answers(victim)
        time.sleep(chance.uniform(0.0, 2.0))
        kill(victim, [actor for actor in actors if actor is not victim and actor.status() is not None])
        before = len(records(daemons.ledger(victim), UpdatePublished))
        starts = len(records(daemons.ledger(victim), NodeStart))
        victim.start()
        if turn == times - 1:
            reaches(victim, before + 1)
            assert len(records(daemons.ledger(victim), NodeStart)) == starts + 1


def check_all(actors: list[Actor]) -> None:
    for actor in actors:
        entries = check_ledger(actor)
        assert len(records(entries, PrivacySpend)) <= ROUNDS
        trained = [record for record in records(entries, UpdatePublished) if record.steps]
        assert len(trained) <= len(records(entries, PrivacySpend))


def test_killed_three_times_at_random_moments(federation: Rehearsal) -> None:
    with running(federation) as actors:
        for actor in actors:
            reaches(actor, 1)
        kill_many(actors, KILLS)
        finishes(actors)
    check_all(actors)
    assert daemons.alive(federation.root) == []


def test_the_others_finish_without_a_killed_peer_and_it_catches_up(federation: Rehearsal) -> None:
    with running(federation) as actors:
        victim, *others = actors
        reaches(victim, ROUNDS // 3)
        kill(victim, others)
        held = len(records(daemons.ledger(victim), UpdatePublished))
        assert held < ROUNDS
        finishes(others)
        victim.start()
        finishes(actors)
        status = answers(victim)
        rows = ask(victim.home.socket(), "/v1/peers")["peers"]
        assert all(row["connected"] and row["number"] >= ROUNDS for row in rows)
        accuracies = [answers(actor)["accuracy"] for actor in actors]
        assert max(accuracies) - min(accuracies) <= 0.3
        assert status["updates_published"] > held
    check_all(actors)


@pytest.mark.faults
@pytest.mark.timeout(900)
def test_killed_twenty_times_at_random_moments(federation: Rehearsal) -> None:
    with running(federation) as actors:
        kill_many(actors, MANY_KILLS)
        finishes(actors)
    check_all(actors)


@pytest.mark.faults
@pytest.mark.timeout(300)
def test_a_killed_peer_on_samples_keeps_its_account_and_ends_as_a_listener(tmp_path: Path) -> None:
    """A cap of its own, tighter than the charter's, binds one peer in the middle; nothing it spent comes back."""
    sampled = ("--sampling-rate", "0.5", "--local-steps", "2")
    with daemons.importable():
        what = plan(3, SAMPLED_ROUNDS, interval=0.1)
        federation = found(tmp_path / "f", replace(what, create=(*what.create, *sampled)))
        victim, *others = federation.actors
        text = victim.home.config.read_text()
        victim.home.config.write_text(with_values(text, {"privacy.epsilon_cap": CAP}))
        with running(federation) as actors:
            reaches(victim, 3)
            kill(victim, others)
            spent = records(daemons.ledger(victim), PrivacySpend)
            victim.start()
            until(lambda: (victim.status() or {"privacy": {}})["privacy"].get("exhausted"), "exhausted", actors)
            finishes(actors)
            listening = answers(victim)
            until(lambda: answers(victim)["merges"] > listening["merges"] + 1, "it goes on merging", actors)
    entries = check_ledger(victim)
    after = records(entries, PrivacySpend)
    assert after[: len(spent)] == spent
    assert len(spent) < len(after) < SAMPLED_ROUNDS
    assert 0 < after[-1].cumulative_u <= after[-1].cap_u == CAP * MICRO
    assert len(records(entries, PrivacyExhausted)) == 1
    shown = daemons.cli(victim, "budget", "show")
    assert shown["code"] == 0, shown
    (account,) = shown["data"]["datasets"]
    assert account["exhausted"]
    assert account["epsilon_recomputed"] == pytest.approx(account["epsilon"], abs=1e-3)
    assert [len(records(daemons.ledger(other), PrivacySpend)) for other in others] == [SAMPLED_ROUNDS] * 2
