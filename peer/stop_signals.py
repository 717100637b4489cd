"""The signals that ask a program in the foreground to stop in order."""

from __future__ import annotations

import signal


def stop_signals() -> tuple[signal.Signals, ...]:
    """SIGTERM, SIGINT and, unless it was ignored from the start as under ``nohup``, SIGHUP: the terminal is gone.

    A terminal that goes may say so more than once (its kernel and its shell both do).
    """
    heard = (signal.SIGTERM, signal.SIGINT)
    return heard if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN else (*heard, signal.SIGHUP)
