"""The own pace: how long turns take, how far apart updates are, and when the next turn is due."""

from __future__ import annotations

from quidnunc.gossip.neighbor import CADENCE_DECAY
from quidnunc.gossip.settings import Settings

HEARTBEAT_GROWTH = 1.2
"""Growth of the pause from one idle heartbeat to the next. A neighbor judges liveness by five times the median of nine
gaps: the next pause is 1.2**5 = 2.5 times that median, which leaves it half of its patience."""


class Pace:
    """Learns from training turns; times are in seconds, ``interval_s`` is the charter's."""

    def __init__(self, interval_s: float, settings: Settings) -> None:
        self._interval_s = interval_s
        self._settings = settings
        self._started_at = 0.0
        self._published_at: float | None = None
        self._turn_s = 0.0
        self._gap_s: float | None = None
        self._stretch = 1.0
        self._awake = True
        self._interrupted = False

    def begin(self, now: float) -> None:
        """A turn starts."""
        self._started_at = now

    def publish(self, now: float, *, trained: bool) -> float:
        """A turn ends with an update; returns the delay until the next turn.

        Without training a turn takes no time; it keeps the pace that training had, or it would fill the ledger. While
        nobody around trains either, each pause is longer than the one before.
        """
        if trained:
            self._learn(now)
        if trained or self._awake:
            self._stretch = 1.0
        elif self._heartbeat_s * self._stretch < self._settings.heartbeat_max_s:
            self._stretch *= HEARTBEAT_GROWTH
        self._awake = trained
        self._published_at = now
        return max(0.0, self._due(trained=trained) - (now - self._started_at))

    def _due(self, *, trained: bool) -> float:
        """Seconds from the start of a turn to the start of the next."""
        if trained:
            return self._interval_s
        longest = max(self._heartbeat_s, self._settings.heartbeat_max_s)
        return min(longest, self._heartbeat_s * self._stretch)

    @property
    def _heartbeat_s(self) -> float:
        """The pause between heartbeats while somebody trains."""
        return max(self.period, self._settings.heartbeat_s)

    def wake(self, now: float) -> float | None:
        """There is somebody to keep up with again: the delay until the next turn, None if that has not changed."""
        self._awake = True
        if self._stretch == 1.0:
            return None
        self._stretch = 1.0
        return max(0.0, self._started_at + self._heartbeat_s - now)

    def interrupt(self) -> None:
        """Something that is no part of the pace (isolation, a pause, a full disk) fell into the gap that runs."""
        self._interrupted = self._gap_s is not None

    def _learn(self, now: float) -> None:
        if self._interrupted:
            self._interrupted = False
            return
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
    def known(self) -> bool:
        """Whether a round of training has shown the pace."""
        return self._gap_s is not None

    @property
    def patience_s(self) -> float:
        """How long a silent neighbor may hold a turn back under a lead bound; own waiting does not stretch it."""
        return max(self._settings.live_floor_s, self._settings.lead_patience * self.turn_s)

    @property
    def silence_s(self) -> float:
        """How long a neighbor of which nothing is heard may hold a turn back; own waiting does not stretch it.

        One that is only slow answers when it is asked where it stands. A link that was cut unnoticed does not, and our
        waiting for it, which makes our own period longer, must not make us wait for it again.
        """
        return max(self._settings.live_floor_s, self._settings.live_intervals * self.turn_s)

    @property
    def turn_s(self) -> float:
        """The own usual time between updates if nothing were waited for."""
        return max(self._interval_s, self._turn_s)
