"""A private sum of real daemons: one is killed for good in the middle, another is killed and comes back."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import daemons
import pytest
from daemons import TASK, answers, check_ledger, found, reaches, records, running, until
from test_recompute_tool import TOOL

from quidnunc.gossip.federation.founding import open_charter
from quidnunc.gossip.jobs import Unit
from quidnunc.gossip.provenance import PrivacySpend, UpdatePublished
from quidnunc.peer.rehearsal import Actor, Plan, Rehearsal, command

pytestmark = pytest.mark.slow

ROUNDS = 3000
"""More than there is time for."""

MORE = 12


@pytest.fixture
def federation(tmp_path: Path) -> Iterator[Rehearsal]:
    create = ("--rounds", str(ROUNDS), "--interval", "0.1", "--epsilon", "2", "--lr", "0.5")
    sums = ("--private-sum", "1", "--records", "60", "--rule", "mean")
    with daemons.importable():
        yield found(tmp_path / "f", Plan(4, TASK, 1.0, 0, (*create, *sums), ping_interval_s=0.5))


def test_daemons_of_a_sum_go_on_without_one_that_dies_and_with_one_that_comes_back(federation: Rehearsal) -> None:
    with running(federation) as actors:
        for actor in actors:
            reaches(actor, 6)
        for actor in actors[2:]:
            actor.signal(signal.SIGKILL)
            actor.wait()
        actors[2].start()
        back = answers(actors[2])["trained"]
        until(lambda: trained(actors[2]) >= back + MORE, "the one that came back trains with the others", actors[:3])
        shown = command("budget", "show", home=actors[0].home.root)["data"]["datasets"][0]
        assert (shown["privacy_unit"], shown["colluders"], shown["members"]) == ("sum", 1, 4)
        assert shown["epsilon"] < shown["epsilon_alone"]
    terms = open_charter(federation.charter.read_bytes()).charter
    assert terms.privacy.unit == Unit.SUM
    newest = []
    for actor in actors[:3]:
        entries = check_ledger(actor)
        rounds = [each.round for each in records(entries, UpdatePublished) if each.steps]
        assert rounds == sorted(set(rounds)), "no round twice"
        newest.append(rounds[-1])
        assert {each.unit for each in records(entries, PrivacySpend)} == {Unit.SUM}
    assert newest[2] >= min(newest[:2]) - 2, "in the round of the others, not in that of its own count"
    ledgers = [str(actor.home.ledger) for actor in actors]
    told = subprocess.run([sys.executable, "-I", str(TOOL), *ledgers], capture_output=True, text=True, timeout=120)
    assert told.returncode == 0, told.stdout
    assert told.stdout.count("of private sums against 1 of 4 members") == 4


def trained(actor: Actor) -> int:
    """How many rounds a daemon has trained, as far as it answers."""
    found = actor.status()
    return 0 if found is None else int(found["trained"])
