"""What is said of the event loop's lag."""

from __future__ import annotations

import time

import pytest
import trio

from quidnunc.peer.loop_lag import INTERVAL_S, WINDOW_S, LoopLag


def test_nothing_is_said_before_the_first_sample() -> None:
    assert LoopLag().summary() == {"p50_ms": None, "p99_ms": None, "max_ms": None, "window_s": WINDOW_S}


def test_percentiles_are_of_the_window_and_of_nothing_older() -> None:
    lag = LoopLag()
    size = round(WINDOW_S / INTERVAL_S)
    lag.note(9.0)
    for number in range(size):
        lag.note(number / 1000)
    assert lag.summary() == {
        "p50_ms": size / 2 - 1,
        "p99_ms": size * 0.99 - 1,
        "max_ms": size - 1,
        "window_s": WINDOW_S,
    }


@pytest.mark.trio
async def test_a_loop_that_is_held_up_is_seen() -> None:
    lag = LoopLag()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lag.run)
        with trio.fail_after(30):
            while lag.summary()["max_ms"] is None:
                await trio.sleep(INTERVAL_S)
            time.sleep(0.3)
            while (lag.summary()["max_ms"] or 0) < 300 - 1000 * INTERVAL_S:
                await trio.sleep(INTERVAL_S)
        nursery.cancel_scope.cancel()
