"""The daemon's one clock: wall time at the start, monotonic from there, so that a clock that jumps moves nothing."""

from __future__ import annotations

import time


class Clock:
    """Seconds since the Unix epoch that never run backwards within one process."""

    def __init__(self, floor: float = 0.0) -> None:
        """``floor`` is the newest time already in the ledger: time does not restart before it."""
        self._offset = max(time.time(), floor) - time.monotonic()

    def now(self) -> float:
        """Seconds; differences are exact even when the wall clock is set."""
        return time.monotonic() + self._offset

    def drift(self) -> float:
        """By how many seconds the wall clock has moved away from this one since the start."""
        return time.time() - self.now()
