"""How late the daemon's event loop is: the first thing to look at when a peer answers slowly."""

from __future__ import annotations

import math
from collections import deque
from typing import Any

import trio

INTERVAL_S = 0.02
WINDOW_S = 20.0


class LoopLag:
    """Notes by how much a timer fires late, every INTERVAL_S, and keeps the last WINDOW_S of it."""

    def __init__(self) -> None:
        self._late_s: deque[float] = deque(maxlen=round(WINDOW_S / INTERVAL_S))

    async def run(self) -> None:
        """Take samples until cancelled."""
        while True:
            due = trio.current_time() + INTERVAL_S
            await trio.sleep_until(due)
            self.note(trio.current_time() - due)

    def note(self, late_s: float) -> None:
        """Add one sample, in seconds."""
        self._late_s.append(late_s)

    def summary(self) -> dict[str, Any]:
        """Median, 99th percentile and maximum of the window in ms, JSON-ready; None before the first sample."""
        ordered = sorted(self._late_s)

        def at(share: float) -> float | None:
            return round(1000 * ordered[max(0, math.ceil(share * len(ordered)) - 1)], 3) if ordered else None

        return {"p50_ms": at(0.5), "p99_ms": at(0.99), "max_ms": at(1.0), "window_s": WINDOW_S}
