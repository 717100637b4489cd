"""What the daemon sees of its disk, clock, compute process and links: each at its limit and one past it."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from quidnunc.crypto.errors import StoreUnwritable
from quidnunc.gossip.conditions import Condition, Severity
from quidnunc.peer import health
from quidnunc.peer.child import Death
from quidnunc.peer.compute import Trouble
from quidnunc.peer.health import (
    CLOCK_JUMP_S,
    INODES_MIN,
    SEND_SLOW_S,
    SHOWN_S,
    Backlog,
    Room,
    address_conditions,
    clock_conditions,
    data_conditions,
    door_conditions,
    free_bytes,
    link_conditions,
    trainer_conditions,
    with_link_reasons,
)
from quidnunc.peer.network.overlay_api import DoorStats
from quidnunc.peer.oom import oom_kills

MIB = 2**20
FAILING = Condition("trainer-failing", Severity.STALLED, "trainer", "3 failed in a row: why")


def ids(found: list[Condition]) -> list[tuple[str, str]]:
    return [(each.id, str(each.severity)) for each in found]


def test_room_is_lost_below_the_reserve_and_back_a_quarter_above_it(monkeypatch: pytest.MonkeyPatch) -> None:
    room = Room((Path("/"),), 64 * MIB)

    def measured(free: float) -> tuple[bool, list[tuple[str, str]]]:
        monkeypatch.setattr(health, "free_bytes", lambda paths: int(free))
        return room.measure(), ids(room.conditions())

    assert measured(128 * MIB) == (True, [])
    assert measured(128 * MIB - 1) == (True, [("disk-low", "degraded")])
    assert measured(64 * MIB) == (True, [("disk-low", "degraded")])
    assert measured(64 * MIB - 1) == (False, [("disk-full", "stalled")])
    assert measured(80 * MIB - 1) == (False, [("disk-full", "stalled")])
    assert measured(80 * MIB) == (True, [("disk-low", "degraded")])
    assert measured(1000 * MIB) == (True, [])


def test_without_a_reserve_nobody_asks_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "free_bytes", lambda paths: pytest.fail("asked"))
    room = Room((Path("/"),), 0)
    assert room.measure()
    assert room.conditions() == []


def test_the_least_of_several_file_systems_counts_and_one_without_inodes_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stats(blocks: int, files: int, favail: int) -> SimpleNamespace:
        return SimpleNamespace(f_bavail=blocks, f_frsize=4096, f_files=files, f_favail=favail)

    disks = {"a": stats(100, 1000, INODES_MIN), "b": stats(50, 0, 0), "c": stats(100, 1000, INODES_MIN - 1)}
    monkeypatch.setattr(os, "statvfs", lambda path: disks[str(path)])
    assert free_bytes([Path("a")]) == 100 * 4096
    assert free_bytes([Path("a"), Path("b")]) == 50 * 4096, "a file system that does not count inodes has enough"
    assert free_bytes([Path("a"), Path("c")]) == 0
    monkeypatch.undo()
    assert free_bytes([tmp_path]) > 0
    with pytest.raises(StoreUnwritable, match="gone"):
        free_bytes([tmp_path / "gone"])


def test_a_clock_that_jumped_is_told_with_the_amount() -> None:
    assert clock_conditions(0.0) == clock_conditions(CLOCK_JUMP_S - 0.1) == clock_conditions(0.1 - CLOCK_JUMP_S) == []
    (ahead,) = clock_conditions(3600.0)
    (behind,) = clock_conditions(-3600.0)
    assert ids([ahead, behind]) == [("clock-jumped", "degraded")] * 2
    assert "3600 s ahead of" in ahead.text
    assert "3600 s behind" in behind.text


@pytest.mark.parametrize(
    ("death", "name"),
    [
        (Death.HUNG, "trainer-hung"),
        (Death.KILLED, "trainer-died"),
        (Death.ENDED, "trainer-died"),
        (Death.MEMORY, "trainer-out-of-memory"),
        (Death.RAISED, "trainer-failing"),
    ],
)
def test_a_failing_trainer_is_named_for_its_cause_and_shown_for_a_while(death: Death, name: str) -> None:
    trouble = Trouble(death, "what it said", 2, 100.0)
    assert ids(trainer_conditions([FAILING], trouble, 1000.0)) == [(name, "stalled")]
    assert ids(trainer_conditions([], trouble, 100.0 + SHOWN_S)) == [(name, "degraded")]
    assert trainer_conditions([], trouble, 100.1 + SHOWN_S) == []
    assert trainer_conditions([], None, 0.0) == []
    (shown,) = trainer_conditions([], trouble, 101.0)
    assert "what it said" in shown.text
    assert "2 so far" in shown.text


def test_remarks_on_the_data_are_one_note_that_points_to_the_check() -> None:
    assert data_conditions((), "csv") == []
    (one,) = data_conditions(("column age: all values are 50",), "csv")
    assert ids([one]) == [("data-remarks", "note")]
    assert (one.subject, one.text) == ("data", "column age: all values are 50; see: quidnunc data check")
    (three,) = data_conditions(("a", "b", "c"), "ward:build")
    assert three.text == "3 remarks, the first: a; see: the task function"


def test_links_that_do_not_keep_up_are_named() -> None:
    calm = Backlog(3, SEND_SLOW_S, 7, 100.0)
    assert link_conditions({"b": calm}, 100.1 + SHOWN_S) == []
    slow = Backlog(3, SEND_SLOW_S + 0.1, 7, 100.0)
    found = link_conditions({"b": slow}, 100.0 + SHOWN_S)
    assert ids(found) == [("link-slow", "degraded"), ("sends-dropped", "degraded")]
    assert {each.subject for each in found} == {"b"}
    assert "7 frames" in found[1].text


def test_a_lost_connection_is_told_with_the_transports_last_words() -> None:
    gone = Condition("neighbor-disconnected", Severity.DEGRADED, "b", "gone")
    other = Condition("neighbor-slow", Severity.DEGRADED, "b", "slow")
    found = with_link_reasons([gone, other], {"b": "connection refused"})
    assert [each.text for each in found] == ["gone (last: connection refused)", "slow"]
    assert with_link_reasons([gone], {"b": ""}) == [gone]
    assert with_link_reasons([gone], {}) == [gone]


def test_a_neighbor_without_an_address_is_told_and_is_a_loss_only_if_neither_can_dial() -> None:
    """Regression: two homes without addresses ran side by side for ever, and status had no word for it."""
    gone = Condition("neighbor-disconnected", Severity.DEGRADED, "b", "gone")
    (waits,) = address_conditions([gone], ["b"], dialable=True)
    assert ids([waits]) == [("neighbor-no-address", "note")]
    assert "[network.peers]" in waits.text
    assert "it has to dial" in waits.text
    assert ids(address_conditions([], ["b"], dialable=False)) == [("neighbor-no-address", "note")]
    (never,) = address_conditions([gone], ["b"], dialable=False)
    assert ids([never]) == [("neighbor-no-address", "degraded")]
    assert "neither can dial the other" in never.text
    assert address_conditions([gone], [], dialable=False) == []


def test_a_full_door_is_a_note_for_a_while_and_names_the_source() -> None:
    """Regression: no counter and no condition said that strangers flooded the port."""
    door = DoorStats(limit=64, waiting=64, refused=900, displaced=812, last_source="203.0.113.7")
    assert door_conditions(door, None, 1000.0) == []
    (note,) = door_conditions(door, 980.0, 980.0 + SHOWN_S)
    assert ids([note]) == [("door-full", "note")]
    assert "812 connections" in note.text
    assert "203.0.113.7" in note.text
    assert door_conditions(door, 980.0, 980.1 + SHOWN_S) == []


def test_kills_for_want_of_memory_are_read_from_the_own_control_group(tmp_path: Path) -> None:
    own = tmp_path / "cgroup"
    (tmp_path / "system.slice").mkdir()
    own.write_text("0::/system.slice\n")
    events = tmp_path / "system.slice" / "memory.events"
    assert oom_kills(own, tmp_path) == 0
    events.write_text("low 0\nhigh 0\nmax 3\noom 1\noom_kill 2\n")
    assert oom_kills(own, tmp_path) == 2
    events.write_text("garbage\n")
    assert oom_kills(own, tmp_path) == 0
    own.write_text("12:memory:/old\n")
    assert oom_kills(own, tmp_path) == 0
