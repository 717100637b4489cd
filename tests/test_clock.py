"""The daemon's clock: what an operator or a time server does to the wall clock moves nothing."""

from __future__ import annotations

import time

import pytest

from quidnunc.peer.clock import Clock

YEAR_S = 365 * 86_400.0


class Times:
    """The two clocks of an operating system, set by hand."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.wall, self.monotonic = 1_800_000_000.0, 5.0
        monkeypatch.setattr(time, "time", lambda: self.wall)
        monkeypatch.setattr(time, "monotonic", lambda: self.monotonic)

    def pass_by(self, seconds: float) -> None:
        self.wall += seconds
        self.monotonic += seconds


@pytest.fixture
def times(monkeypatch: pytest.MonkeyPatch) -> Times:
    return Times(monkeypatch)


@pytest.mark.parametrize("jump", [3600.0, -3600.0, 10 * YEAR_S, -10 * YEAR_S])
def test_a_wall_clock_that_jumps_is_noticed_and_changes_no_interval(times: Times, jump: float) -> None:
    clock = Clock()
    start = clock.now()
    times.pass_by(10.0)
    times.wall += jump
    times.pass_by(10.0)
    assert clock.now() - start == pytest.approx(20.0)
    assert clock.drift() == pytest.approx(jump)


def test_it_begins_with_the_wall_clock_but_not_before_what_the_ledger_holds(times: Times) -> None:
    assert Clock().now() == times.wall
    assert Clock(floor=times.wall - 1).now() == times.wall
    late = Clock(floor=times.wall + YEAR_S)
    assert late.now() == pytest.approx(times.wall + YEAR_S)
    assert late.drift() == pytest.approx(-YEAR_S)
