"""The pace rules of a round without a barrier: liveness window, lead bound, drag compensation."""

from __future__ import annotations

import pytest
from founders import founders
from hypothesis import given, settings
from hypothesis import strategies as st

from quidnunc.gossip.jobs import PPB
from quidnunc.gossip.neighbor import GAPS_KEPT, LEAVES_KEPT, Neighbor, drag_factor, is_live, laggards, usable
from quidnunc.gossip.settings import Settings

SETTINGS = Settings(live_intervals=5.0, live_floor_s=3.0)
MEMBER = founders(2)[0].member
BOUNDED = settings(deadline=None, max_examples=100)


def neighbor(*times: float, weight: int = PPB // 4, number: int = 0, **fields: object) -> Neighbor:
    """A neighbor whose updates came at ``times``."""
    made = Neighbor(MEMBER, weight, bytes(32))
    for n, when in enumerate(times, 1):
        made.advanced(n, bytes([n]) * 32, n, when)
    if number:
        made.number = number
    for name, value in fields.items():
        setattr(made, name, value)
    return made


# Liveness.


def test_nobody_is_live_before_the_first_update() -> None:
    assert not is_live(neighbor(), 0.0, 1.0, SETTINGS)


@pytest.mark.parametrize(
    ("times", "period", "limit"),
    [
        ((0.0, 2.0, 4.0, 6.0), 1.0, 6.0 + 5 * 2.0),  # its own usual gap
        ((0.0, 2.0, 4.0, 6.0), 4.0, 6.0 + 5 * 4.0),  # ours, where that is longer
        ((0.0, 2.0, 102.0, 104.0), 1.0, 104.0 + 5 * 2.0),  # one long absence changes no median
        ((0.0, 0.1, 0.2, 0.3), 0.1, 0.3 + 3.0),  # the floor
    ],
)
def test_the_window_is_five_usual_intervals_and_no_more(times: tuple[float, ...], period: float, limit: float) -> None:
    made = neighbor(*times)
    assert is_live(made, limit - 1e-6, period, SETTINGS)
    assert not is_live(made, limit + 1e-6, period, SETTINGS)


def test_quarantine_and_a_lost_copy_take_a_neighbor_out_of_merges() -> None:
    assert usable(neighbor(0.0, 1.0), 1.0, 1.0, SETTINGS)
    assert not usable(neighbor(0.0, 1.0, missing=True), 1.0, 1.0, SETTINGS)
    assert is_live(neighbor(0.0, 1.0, missing=True), 1.0, 1.0, SETTINGS)
    assert not is_live(neighbor(0.0, 1.0, quarantined=True), 1.0, 1.0, SETTINGS)
    silent = neighbor()
    silent.reset_pace(0.0)
    assert not usable(silent, 0.0, 1.0, SETTINGS), "heard of, but its replica is still the genesis"


def test_the_cadence_is_time_per_update_smoothed() -> None:
    made = neighbor(0.0, 2.0)
    assert made.cadence == 2.0
    made.advanced(4, bytes(32), 4, 8.0)  # six seconds, two updates
    assert made.cadence == pytest.approx(0.7 * 2.0 + 0.3 * 3.0)
    made.reset_pace(9.0)
    assert (made.cadence, list(made.gaps), made.last_advance) == (None, [], 9.0)


def test_updates_that_were_lost_and_come_in_one_go_do_not_make_a_neighbor_look_fast() -> None:
    """The moments between them were its usual interval: its window closed before its next update was due."""
    made = neighbor(0.0, 5.0, 10.0)
    for at in (25.0, 40.0, 55.0):
        made.has_published(made.number + 3, at)
        for number in range(made.number + 1, made.number + 4):
            made.advanced(number, bytes(32), number, at)
    assert list(made.gaps) == [5.0] * 5
    behind = neighbor(0.0, 1.0)
    behind.has_published(4, 9.0)
    behind.has_published(5, 10.0)
    assert (behind.claimed, behind.behind_since) == (5, 9.0)
    behind.advanced(3, bytes(32), 3, 11.0)
    assert list(behind.gaps) == [1.0], "what is still missing may be on its way: nothing is known of its pace"
    behind.advanced(5, bytes(32), 5, 13.0)
    assert list(behind.gaps) == [1.0, 4.0]


# Lead.


def lagging(number: int, lead: int, *numbers: int, silent: float = 0.0) -> list[int]:
    live = [neighbor(100.0, number=n) for n in numbers]
    return [n.number for n in laggards(number, lead, live, 100.0 + silent, 10.0)]


def test_a_neighbor_holds_back_at_the_bound_and_not_before() -> None:
    assert lagging(5, 2, 4, 5) == []
    assert lagging(5, 2, 3, 5) == [3]
    assert lagging(5, 0, 1, 1) == [], "no bound"
    assert lagging(5, 2) == [], "nobody live"


def test_a_silent_neighbor_holds_back_until_patience_ends() -> None:
    assert lagging(5, 2, 1, silent=10.0) == [1]
    assert lagging(5, 2, 1, silent=10.001) == []


def test_a_neighbor_that_is_slow_answers_and_one_behind_a_cut_link_does_not() -> None:
    made = neighbor(0.0)
    assert made.answers(5.0, 5.0)
    assert not made.answers(5.001, 5.0)
    made.count_message(20.0, SETTINGS)
    assert made.answers(25.0, 5.0)
    assert not made.answers(25.001, 5.0)
    assert not neighbor().answers(0.0, 5.0), "nothing was ever heard of it"


def test_a_neighbor_back_from_an_absence_is_measured_from_its_return() -> None:
    made = neighbor(0.0, number=3)
    made.lead_offset = 7
    assert laggards(11, 2, [made], 0.0, 10.0) == []
    assert laggards(12, 2, [made], 0.0, 10.0) == [made]


# Drag.


def test_drag_follows_the_formula() -> None:
    a, b = neighbor(0.0, 2.0, weight=PPB // 4), neighbor(0.0, 4.0, weight=PPB // 2)
    age = (1.0 / 2 + (6.0 - 2.0) + (6.0 - 4.0)) / 3
    pace = (1.0 + 2.0 + 4.0) / 3
    assert drag_factor(1.5, 3.0, [a, b], 6.0, 1.0) == pytest.approx(0.8 * 1.5 + 0.2 * (1 + 0.75 * age / pace))
    assert drag_factor(1.5, 1.2, [a, b], 6.0, 1.0) == pytest.approx(0.8 * 1.5 + 0.2 * 1.2), "capped"


def test_drag_is_off_where_the_cap_is_one_or_nobody_is_live() -> None:
    assert drag_factor(2.0, 1.0, [neighbor(0.0, 2.0)], 9.0, 1.0) == 1.0
    assert drag_factor(2.0, 3.0, [], 9.0, 1.0) == 1.0
    assert drag_factor(2.0, 3.0, [neighbor(0.0)], 9.0, 0.0) == 2.0, "no pace is known yet"


@BOUNDED
@given(
    cap=st.floats(1.0, 10.0),
    period=st.floats(0.0, 100.0),
    times=st.lists(st.floats(0.0, 1e3), min_size=1, max_size=5),
    steps=st.integers(1, 30),
)
def test_drag_stays_between_one_and_its_cap(cap: float, period: float, times: list[float], steps: int) -> None:
    live = [neighbor(*sorted(times)), neighbor(*sorted(times))]
    drag = 1.0
    for step in range(steps):
        drag = drag_factor(drag, cap, live, 1e3 + step, period)
        assert 1.0 - 1e-9 <= drag <= cap + 1e-9


# Bounds.


def test_what_is_remembered_is_bounded() -> None:
    made = neighbor()
    for n in range(1, 500):
        made.asked.update((n, n + 1))
        made.remember(n, bytes(32), b"")
        made.advanced(n, bytes(32), n, float(n))
    assert len(made.gaps) == GAPS_KEPT
    assert sorted(made.leaves) == list(range(500 - LEAVES_KEPT, 500))
    assert len(made.asked) <= LEAVES_KEPT + 1


def test_messages_are_counted_per_window() -> None:
    limits = Settings(messages_per_window=3, window_s=10.0)
    made = neighbor()
    assert [made.count_message(100.0, limits) for _ in range(4)] == [True, True, True, False]
    assert not made.count_message(109.9, limits)
    assert made.count_message(110.0, limits)
