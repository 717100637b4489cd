"""Conditions over time, and each condition of the node at its limit and one past it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from founders import private
from hypothesis import given
from hypothesis import strategies as st
from node_helpers import Bench

from quidnunc.crypto.errors import Reason
from quidnunc.gossip import conditions as conditions_module
from quidnunc.gossip import health as node_health
from quidnunc.gossip.conditions import RECENT_KEPT, Condition, Conditions, Severity
from quidnunc.gossip.events import Finished, Frame, Paused
from quidnunc.gossip.federation.charter import RoundSpec
from quidnunc.gossip.health import conditions
from quidnunc.gossip.jobs import EvaluateJob, JobFailed
from quidnunc.gossip.neighbor import HARMLESS
from quidnunc.gossip.settings import Settings
from quidnunc.gossip.waits import Waits
from quidnunc.peer import health as daemon_health

OPERATIONS = Path(__file__).parent.parent / "docs" / "operations.md"
SETTINGS = Settings()
LEAD = 2


# -- over time --------------------------------------------------------------------------------------------------


def condition(name: str, severity: Severity = Severity.NOTE) -> Condition:
    return Condition(name, severity, "disk", f"text of {name}")


def test_a_condition_keeps_its_beginning_and_leaves_a_trace_with_its_worst() -> None:
    kept = Conditions()
    kept.observe([condition("a")], 10.0)
    kept.observe([condition("a", Severity.STALLED), condition("b", Severity.DEGRADED)], 11.0)
    assert [(each["id"], each["since"]) for each in kept.current()] == [("a", 10.0), ("b", 11.0)]
    kept.observe([condition("a"), condition("b", Severity.DEGRADED)], 12.0)
    assert [each["id"] for each in kept.current()] == ["b", "a"], "the worst first"
    kept.observe([], 15.0)
    assert kept.current() == []
    found = {each["id"]: each for each in kept.recent()}
    assert (found["a"]["since"], found["a"]["until"], found["a"]["severity"]) == (10.0, 15.0, "stalled")
    kept.observe([condition("a")], 20.0)
    assert kept.current()[0]["since"] == 20.0, "a new spell"


@given(st.lists(st.sets(st.sampled_from("abcde")), max_size=120))
def test_it_holds_what_it_was_told_last_and_a_bounded_past(looks: list[set[str]]) -> None:
    kept = Conditions()
    ended = 0
    before: set[str] = set()
    for now, look in enumerate(looks):
        kept.observe([condition(name) for name in look], float(now))
        ended += len(before - look)
        before = look
        assert {each["id"] for each in kept.current()} == look
        assert len(kept.recent()) == min(ended, RECENT_KEPT)
        assert all(each["since"] <= each["until"] <= now for each in kept.recent())
    json.dumps([kept.current(), kept.recent()], allow_nan=False)


def test_every_condition_is_documented_and_none_that_is_not_there() -> None:
    text = OPERATIONS.read_text()
    documented = set(re.findall(r"^### `([a-z-]+)`", text, re.MULTILINE))
    made = set()
    for module in (node_health, daemon_health):
        source = Path(str(module.__file__)).read_text()
        made |= set(re.findall(r'Condition\(\s*"([a-z-]+)"', source))
    made |= set(daemon_health._DEATHS.values())
    assert documented == made
    assert {str(each) for each in Severity} <= set(re.findall(r"[a-z]+", text))
    assert conditions_module.RECENT_KEPT == 50
    assert "last 50" in text


# -- neighbors --------------------------------------------------------------------------------------------------


def ready(**changes: object) -> Bench:
    """A node that has trained a few rounds of a second each, beside neighbors that keep pace."""
    rounds = RoundSpec(1000, 1000, LEAD, "majority")
    bench = Bench(4, rounds=rounds, **changes)  # type: ignore[arg-type]
    bench.greet()
    for _ in range(6):
        together(bench)
    assert seen(bench) == {}
    return bench


def together(bench: Bench, *, without: int | None = None) -> None:
    """A second passes; everybody publishes, one author perhaps not."""
    bench.tick(1.0)
    bench.settle()
    for author in bench.authors:
        if without is None or author is not bench.authors[without]:
            bench.receive(author, author.update().frame)
    bench.settle()


def seen(bench: Bench) -> dict[tuple[str, str], Severity]:
    return {(each.id, each.subject): each.severity for each in conditions(bench.node, bench.now)}


def name(bench: Bench, index: int = 0) -> str:
    return bench.authors[index].member.name


def test_a_connection_that_is_gone_is_a_note_at_first() -> None:
    bench = ready()
    key = ("neighbor-disconnected", name(bench))
    bench.disconnect(bench.authors[0])
    assert seen(bench) == {key: Severity.NOTE}
    bench.now += SETTINGS.live_intervals - 0.5
    assert seen(bench)[key] == Severity.NOTE, "it may be back within its usual intervals"
    bench.now += 1.0
    assert seen(bench)[key] == Severity.DEGRADED
    bench.connect(bench.authors[0])
    assert key not in seen(bench)


def test_a_slow_pace_does_not_make_a_lost_connection_a_note_for_long() -> None:
    bench = Bench(4, rounds=RoundSpec(1000, 100_000, LEAD, "majority"))
    bench.greet()
    for author in bench.authors:
        bench.receive(author, author.update().frame)
    bench.disconnect(bench.authors[0])
    bench.now += SETTINGS.reconnect_s - 0.1
    assert set(seen(bench).values()) == {Severity.NOTE}
    bench.now += 0.2
    assert seen(bench) == {("neighbor-disconnected", name(bench)): Severity.DEGRADED}


def test_who_has_never_come_is_named_only_after_a_while() -> None:
    bench = Bench(4)
    bench.now += SETTINGS.reconnect_s - 0.1
    assert seen(bench) == {}
    bench.now += 0.2
    assert {key[0] for key in seen(bench)} == {"neighbor-disconnected"}
    assert len(seen(bench)) == 3


def test_a_connected_neighbor_that_publishes_nothing_is_stalled_in_its_own_intervals() -> None:
    bench = ready()
    key = ("neighbor-stalled", name(bench))
    silent = 0
    while key not in seen(bench):
        together(bench, without=0)
        silent += 1
        assert {subject for _, subject in seen(bench)} <= {name(bench)}, "nobody else is blamed"
    # Our own interval grows while it is waited for, and its window with that; patience is what bounds both.
    assert SETTINGS.silent_intervals < silent <= 2 * SETTINGS.silent_intervals + 3
    assert seen(bench)[key] == Severity.DEGRADED
    author = bench.authors[0]
    bench.receive(author, author.update().frame)
    bench.settle()
    assert key not in seen(bench)


def test_a_neighbor_of_unknown_pace_gets_longer_and_none_is_judged_before_our_own_pace_is_known() -> None:
    bench = Bench(4, rounds=RoundSpec(1000, 1000, 0, "majority"))
    bench.greet()
    bench.tick(1000.0)
    bench.now += 1000.0
    assert seen(bench) == {}, "our own first round takes that long"
    bench = Bench(4, rounds=RoundSpec(1000, 1000, 0, "majority"))
    bench.greet()
    for second in range(1, 25):
        together(bench, without=0)
        known = ("neighbor-stalled", name(bench)) in seen(bench)
        assert known == (second > SETTINGS.strange_intervals), f"at {second} s"


@pytest.mark.parametrize("reason", [Reason.BAD_BASE, Reason.MALFORMED, Reason.DUPLICATE, Reason.STALE])
def test_refusals_are_shown_for_a_while_unless_they_are_harmless(reason: Reason) -> None:
    bench = ready()
    neighbor = bench.neighbor(bench.authors[0])
    neighbor.refuse(reason, bench.now)
    key = ("neighbor-refused", name(bench))
    assert (key in seen(bench)) == (reason not in HARMLESS)
    neighbor.last_advance = bench.now = bench.now + SETTINGS.offence_s + 0.1
    assert key not in seen(bench)


def test_garbage_and_two_histories_are_held_against_their_sender() -> None:
    bench = ready()
    bench.receive(bench.authors[0], Frame(b"garbage"))
    assert seen(bench) == {("neighbor-refused", name(bench)): Severity.DEGRADED}
    liar = bench.authors[1]
    twin = liar.twin()
    bench.receive(liar, liar.update().frame)
    bench.settle()
    bench.receive(liar, twin.update(steps=7).frame)
    bench.settle()
    assert seen(bench)["neighbor-quarantined", name(bench, 1)] == Severity.DEGRADED


# -- the own rounds ---------------------------------------------------------------------------------------------


def test_the_share_of_time_held_back_is_learned_from_turn_to_turn() -> None:
    waits = Waits()
    slow, usual = b"s" * 32, b"u" * 32
    now = 0.0
    for _ in range(12):
        waits.begin(now)
        waits.hold([slow], now + 1.0)
        waits.hold([slow, usual], now + 8.0)
        waits.hold([], now + 9.0)
        now += 10.0
    waits.begin(now)
    assert waits.share(slow) == pytest.approx(0.8, abs=0.02)
    assert waits.share(usual) == pytest.approx(0.1, abs=0.01)
    assert waits.share(b"x" * 32) == 0.0
    for _ in range(12):
        waits.begin(now := now + 1.0)
    assert waits.share(slow) < 0.02


def held(share: float, *who: int) -> dict[tuple[str, str], Severity]:
    bench = ready()
    for index in who:
        bench.node.rounds.waits._share[bench.authors[index].member.log_id] = share
    return seen(bench)


def test_one_that_holds_us_back_is_slow_and_most_of_them_mean_that_we_are_fast() -> None:
    bench = ready()
    key = ("neighbor-slow", name(bench))
    assert held(SETTINGS.held_share - 0.01, 0) == {}
    assert held(SETTINGS.held_share, 0) == {key: Severity.NOTE}
    assert held(SETTINGS.slow_share, 0) == {key: Severity.DEGRADED}
    assert held(0.9, 0, 1, 2) == {("held-back", "rounds"): Severity.NOTE}


def test_one_that_trains_too_slowly_to_be_waited_for_is_slow_unless_it_rests() -> None:
    bench = ready()
    neighbor = bench.neighbor(bench.authors[0])
    key = ("neighbor-slow", name(bench))
    patience = bench.node.rounds.patience_s
    neighbor.gaps.extend([patience] * 9)
    assert key not in seen(bench)
    neighbor.gaps.extend([patience + 0.1] * 9)
    assert seen(bench)[key] == Severity.DEGRADED
    neighbor.resting = True
    assert key not in seen(bench)


def fail(bench: Bench, why: str = "no luck") -> None:
    bench.tick(1000.0)
    job = bench.jobs.pop(0)
    bench.feed(Finished(JobFailed(type(job).__name__, why)))


def test_failures_in_a_row_degrade_and_then_stall_and_clear_with_a_success() -> None:
    bench = ready()
    for count in range(1, 5):
        fail(bench)
        severity = seen(bench)["trainer-failing", "trainer"]
        assert severity == (Severity.STALLED if count >= SETTINGS.failures_stalled else Severity.DEGRADED)
    texts = [each.text for each in conditions(bench.node, bench.now) if each.id == "trainer-failing"]
    assert texts[0].startswith("4 failed in a row, next attempt in 4 s: MergeJob: no luck")
    bench.tick(4.0)
    bench.settle()
    assert ("trainer-failing", "trainer") not in seen(bench)


def test_an_evaluation_that_fails_is_a_note() -> None:
    bench = ready()
    bench.feed(Finished(JobFailed("EvaluateJob", "no test split")))
    assert seen(bench) == {("evaluation-failing", "trainer"): Severity.NOTE}
    bench.feed(Finished(bench.worker(EvaluateJob(1, bench.node.rounds.base))))
    assert seen(bench) == {}


def test_no_round_for_far_longer_than_usual_is_a_stall_but_a_pause_is_none() -> None:
    bench = ready()
    key = ("rounds-stalled", "rounds")
    limit = max(SETTINGS.stalled_floor_s, SETTINGS.stalled_intervals * bench.node.rounds.period)
    bench.now += limit
    assert key not in seen(bench)
    bench.now += 0.1
    assert seen(bench)[key] == Severity.STALLED
    bench.feed(Paused(True))
    assert key not in seen(bench)
    bench.feed(Paused(False))
    assert key not in seen(bench), "it has only just gone on"


def test_an_isolated_peer_says_so_and_neither_finished_nor_paused_peers_do() -> None:
    bench = Bench(4, privacy=private(rounds=50), rounds=RoundSpec(50, 1000, LEAD, "majority"))
    bench.greet()
    for _ in range(4):
        together(bench)
    for author in bench.authors:
        bench.disconnect(author)
    assert seen(bench)["isolated", "rounds"] == Severity.DEGRADED
    bench.feed(Paused(True))
    assert ("isolated", "rounds") not in seen(bench)


def test_a_finished_peer_takes_the_end_of_finished_neighbors_for_a_note() -> None:
    bench = Bench(4, rounds=RoundSpec(2, 1000, 0, "majority"))
    bench.greet()
    for _ in range(3):
        together(bench)
    resting, training = bench.authors[:2]
    bench.receive(resting, resting.update(steps=0).frame)
    bench.settle()
    bench.neighbor(training).number = 1
    for author in (resting, training):
        bench.disconnect(author)
    bench.now += 100.0
    found = seen(bench)
    assert found["neighbor-disconnected", resting.member.name] == Severity.NOTE
    assert found["neighbor-disconnected", training.member.name] == Severity.DEGRADED
