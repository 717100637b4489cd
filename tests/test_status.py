"""What an operator is told of a running node, and what never leaves it."""

from __future__ import annotations

import json

import pytest
from founders import private
from node_helpers import Bench, header_of

from quidnunc.gossip.events import Frame, Paused
from quidnunc.gossip.federation.charter import RoundSpec
from quidnunc.gossip.health import conditions
from quidnunc.gossip.message import Hello
from quidnunc.gossip.neighbor import CONVICTED
from quidnunc.gossip.status import peers, state_of, status


def hello(bench: Bench) -> Frame:
    return header_of(Hello(bench.charter.federation_id, b"", False))


def test_the_states_of_a_peer() -> None:
    bench = Bench(privacy=private(rounds=2), rounds=RoundSpec(2, 0, 0, "all"))
    assert state_of(bench.node, bench.now)[0] == "starting"
    bench.connect()
    bench.tick()
    word, sentence = state_of(bench.node, bench.now)
    assert word == "waiting"
    assert sentence.startswith("heard 0 of 3 neighbors needed to start; silent: Hospital")
    for author in bench.authors:
        bench.receive(author, hello(bench))
    bench.turn()
    assert state_of(bench.node, bench.now) == ("training", "round 2 of 2; 3 of 3 neighbors live")
    bench.turn(1000.0)
    assert state_of(bench.node, bench.now)[0] == "isolated"
    bench.feed(Paused(True))
    assert state_of(bench.node, bench.now)[0] == "paused"
    bench.feed(Paused(False))
    bench.receive(bench.authors[0], bench.authors[0].update().frame)
    bench.settle()
    bench.turn()
    assert state_of(bench.node, bench.now) == ("finished", "all 2 rounds done; merging and publishing go on")


def test_a_neighbor_that_is_not_connected_is_not_called_silent() -> None:
    bench = Bench()
    bench.tick()
    _, _, apart = state_of(bench.node, bench.now)[1].partition("; ")
    assert apart.startswith("not connected: Hospital")
    assert "silent" not in apart
    bench.connect(bench.authors[0])
    bench.tick()
    _, _, apart = state_of(bench.node, bench.now)[1].partition("; ")
    away, _, asked = apart.partition("; ")
    assert away.count("Hospital") == 2
    assert asked == f"silent: {bench.authors[0].member.name}"


def test_a_spent_budget_is_said() -> None:
    bench = Bench(privacy=private(rounds=6), rounds=RoundSpec(6, 0, 0, "majority"), own={"epsilon_cap_u": 1})
    bench.greet()
    bench.turn()
    word, sentence = state_of(bench.node, bench.now)
    assert (word, sentence) == ("finished", "privacy budget spent after 0 of 6 rounds; merging goes on")
    assert status(bench.node, bench.now)["privacy"]["exhausted"]


def test_counts_are_those_of_the_ledger() -> None:
    bench = Bench()
    bench.greet()
    author = bench.authors[0]
    bench.receive(author, author.update().frame)
    bench.receive(author, Frame(b"garbage"))
    bench.receive(bench.authors[1], bench.authors[1].update(schema=b"x" * 32).frame)
    bench.settle()
    bench.turn()
    bench.turn()
    data = status(bench.node, bench.now)
    assert (data["updates_published"], data["updates_accepted"]) == (2, 1)
    assert (data["refused_total"], data["updates_refused"]) == (2, 2)
    assert data["ledger_entries"] == len(bench.disk.entries)
    assert data["merges"] == 1
    assert data["accuracy"] == 0.5
    assert data["neighbors"] == {"total": 3, "connected": 3, "live": 3}
    assert data["privacy"]["epsilon"] is None
    rows = {row["name"]: row for row in peers(bench.node, bench.now)}
    assert (rows[author.member.name]["number"], rows[author.member.name]["accepted"]) == (1, 1)
    assert rows[author.member.name]["last_reason"] == "malformed"
    assert rows[bench.authors[1].member.name]["last_reason"] == "wrong_schema"


def test_only_who_signed_two_histories_is_called_quarantined() -> None:
    """Regression: the same word stood for a low standing, which is no proof and may be regained."""
    bench = Bench()
    low, forked = (bench.neighbor(author) for author in bench.authors[:2])
    low.standing = CONVICTED
    forked.freeze()
    standings = {row["name"]: row["standing"] for row in peers(bench.node, bench.now)}
    assert (standings[low.member.name], standings[forked.member.name]) == ("excluded", "quarantined")
    assert ("neighbor-quarantined", forked.member.name) in {
        (c.id, c.subject) for c in conditions(bench.node, bench.now)
    }
    assert low.member.name not in {c.subject for c in conditions(bench.node, bench.now)}


@pytest.mark.parametrize("turns", [0, 1, 3])
def test_it_is_plain_data_without_standings_or_losses(turns: int) -> None:
    bench = Bench(privacy=private(rounds=6), rounds=RoundSpec(6, 0, 0, "majority"))
    bench.greet()
    for _ in range(turns):
        for author in bench.authors:
            bench.receive(author, author.update().frame)
        bench.settle()
        bench.turn()
    data = {"status": status(bench.node, bench.now), "peers": peers(bench.node, bench.now)}
    text = json.dumps(data, allow_nan=False)
    for word in ("loss", "harm", "good", "bad", "secret"):
        assert word not in text
