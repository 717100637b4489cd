"""Who holds us back: the share of our own time that passes waiting for each neighbor under the lead bound."""

from __future__ import annotations

from collections.abc import Iterable

SHARE_DECAY = 0.7


class Waits:
    """Learns from turn to turn: share = EWMA_.7 of (seconds held back by a neighbor) / (seconds of the turn).

    A turn lasts from its start to the start of the next; several neighbors may hold back the same second.
    """

    def __init__(self) -> None:
        self._turn_at: float | None = None
        self._held_at = 0.0
        self._holding: frozenset[bytes] = frozenset()
        self._held_s: dict[bytes, float] = {}
        self._share: dict[bytes, float] = {}

    def hold(self, holding: Iterable[bytes], now: float) -> None:
        """From now on the next turn is held back by these log ids."""
        for log_id in self._holding:
            self._held_s[log_id] = self._held_s.get(log_id, 0.0) + now - self._held_at
        self._held_at, self._holding = now, frozenset(holding)

    def begin(self, now: float) -> None:
        """A turn begins."""
        self.hold((), now)
        turn = 0.0 if self._turn_at is None else now - self._turn_at
        if turn > 0:
            for log_id in self._share.keys() | self._held_s.keys():
                held = self._held_s.get(log_id, 0.0) / turn
                self._share[log_id] = SHARE_DECAY * self._share.get(log_id, 0.0) + (1 - SHARE_DECAY) * held
        self._turn_at = now
        self._held_s.clear()

    def share(self, log_id: bytes) -> float:
        """The share of our time, 0 to 1, that a neighbor has held us back of late."""
        return self._share.get(log_id, 0.0)
