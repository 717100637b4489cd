"""How a daemon is asked to stop, in order, and how long that may take."""

from __future__ import annotations

import logging
import os
import signal
from typing import TYPE_CHECKING

import trio

from quidnunc.peer.stop_signals import stop_signals

if TYPE_CHECKING:
    from trio_typing import TaskStatus

log = logging.getLogger("quidnunc.peer")

STOP_GRACE_S = 25.0
"""How long an orderly stop may take before everything is cancelled."""


async def watch_signals(stop: trio.Event, *, task_status: TaskStatus[None]) -> None:
    """The first stop signal asks for an orderly stop; a second one ends the process at once, unless it is SIGHUP."""
    with trio.open_signal_receiver(*stop_signals()) as signals:
        task_status.started()
        async for number in signals:
            if stop.is_set():
                if number == signal.SIGHUP:
                    continue
                os._exit(128 + number)
            log.info("signal=%s stopping", signal.Signals(number).name)
            stop.set()


async def watch_stdin(stop: trio.Event) -> None:
    """Ask for an orderly stop when standard input ends: whoever held its other end is gone."""
    async with trio.lowlevel.FdStream(os.dup(0)) as stream:
        async for _ in stream:
            pass
    log.info("standard input ended: stopping")
    stop.set()


async def end_when(stop: trio.Event, serving: trio.Event, scope: trio.CancelScope) -> None:
    """Bound an orderly stop, and end a start that was not finished."""
    await stop.wait()
    if serving.is_set():
        await trio.sleep(STOP_GRACE_S)
    scope.cancel()
