"""A terminal that goes stops a program in order, unless it was started to outlive it."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest
import trio
import trio.testing

from quidnunc.peer.commands.run import early_signals
from quidnunc.peer.stop_signals import stop_signals
from quidnunc.peer.stopping import watch_signals


@pytest.fixture(autouse=True)
def _handler() -> Iterator[None]:
    before = signal.getsignal(signal.SIGHUP)
    yield
    signal.signal(signal.SIGHUP, before)


def test_a_hangup_stops_a_daemon_in_order_however_often_it_comes() -> None:
    """Regression: it died of it and left its socket. A shell and the kernel may both send it: no second one kills."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

    async def run() -> None:
        stop = trio.Event()
        async with trio.open_nursery() as nursery:
            await nursery.start(watch_signals, stop)
            os.kill(os.getpid(), signal.SIGHUP)
            await stop.wait()
            os.kill(os.getpid(), signal.SIGHUP)
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()

    trio.run(run)


def test_a_hangup_during_the_start_is_not_lost() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    with early_signals() as early:
        os.kill(os.getpid(), signal.SIGHUP)
    assert early == [signal.SIGHUP]
    assert signal.getsignal(signal.SIGHUP) == signal.SIG_DFL


def test_under_nohup_a_hangup_stays_ignored() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    assert signal.SIGHUP not in stop_signals()
    with early_signals() as early:
        os.kill(os.getpid(), signal.SIGHUP)
    assert early == []
