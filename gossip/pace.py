"""The own pace: how long turns take, how far apart updates are, and when the next turn is due."""

from __future__ import annotations

from quidnunc.gossip.neighbor import CADENCE_DECAY
from quidnunc.gossip.settings import Settings


class Pace:
    """Learns from training turns; times are in seconds, ``interval_s`` is the charter's."""

    def __init__(self, interval_s: float, settings: Settings) -> None:
        self._interval_s = interval_s
        self._settings = settings
        self._started_at = 0.0
        self._published_at: float | None = None
        self._turn_s = 0.0
        self._gap_s: float | None = None

    def begin(self, now: float) -> None:
        """A turn starts."""
        self._started_at = now

    def publish(self, now: float, *, trained: bool) -> float:
        """A turn ends with an update; returns the delay until the next turn.

        Without training a turn takes no time; it keeps the pace that training had, or it would fill the ledger.
        """
        if trained:
            self._learn(now)
        self._published_at = now
        due = self._interval_s if trained else max(self.period, self._settings.heartbeat_s)
        return max(0.0, due - (now - self._started_at))

    def _learn(self, now: float) -> None:
        turn = now - self._started_at
        gap = turn if self._published_at is None else now - self._published_at
        if self._gap_s is None:
            self._turn_s, self._gap_s = turn, gap
        else:
            self._turn_s += (1 - CADENCE_DECAY) * (turn - self._turn_s)
            self._gap_s += (1 - CADENCE_DECAY) * (gap - self._gap_s)

    @property
    def period(self) -> float:
        """The own usual time between updates, waiting included; the charter's interval until it is known."""
        return max(self._interval_s, self._gap_s or 0.0)

    @property
    def patience_s(self) -> float:
        """How long a silent neighbor may hold a turn back under a lead bound; own waiting does not stretch it."""
        own = max(self._interval_s, self._turn_s)
        return max(self._settings.live_floor_s, self._settings.lead_patience * own)
