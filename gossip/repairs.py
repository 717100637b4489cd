"""Repairs: what is missing of a neighbor's replica is asked for again, one request at a time, as links can bear it."""

from __future__ import annotations

from quidnunc.gossip.events import Effect, Send, SetTimer
from quidnunc.gossip.federation.charter import Charter
from quidnunc.gossip.message import Want
from quidnunc.gossip.message_codec import frame
from quidnunc.gossip.neighbor import Neighbor
from quidnunc.gossip.settings import Settings

REPAIR_TIMER = "repair"
SNAPSHOTS_DUE_MAX = 8
BACKOFF_DOUBLINGS = 6
TIMER_SLACK_S = 0.001
"""A timer may fire this much early by its clock's rounding."""


class Repairs:
    """Asks neighbors for updates that did not come; ``asked`` counts the requests."""

    def __init__(self, charter: Charter, neighbors: dict[bytes, Neighbor], settings: Settings) -> None:
        self._charter = charter
        self._neighbors = neighbors
        self._settings = settings
        self._fires_at: float | None = None
        self.asked = 0

    def tick(self, now: float) -> list[Effect]:
        """The repair timer fired: ask again for what is still missing."""
        self._fires_at = None
        lacking = [n for n in self._neighbors.values() if self.lacks(n)]
        out = [effect for neighbor in lacking for effect in self.fetch(neighbor, now)]
        due = min((n.fetch_until for n in lacking if n.fetch_until is not None), default=None)
        return out if due is None else [*out, *self._arm(due, now)]

    def lacks(self, neighbor: Neighbor) -> bool:
        """Whether there is something to ask a neighbor for, and anybody to ask."""
        expected = neighbor.connected and not neighbor.quarantined and neighbor.retired is None
        return expected and (neighbor.behind or neighbor.missing)

    def _arm(self, due: float, now: float) -> list[Effect]:
        """One repair timer for all neighbors; a neighbor can bring it forward and not put it off."""
        if self._fires_at is not None and self._fires_at <= due:
            return []
        self._fires_at = due
        return [SetTimer(REPAIR_TIMER, max(TIMER_SLACK_S, due - now))]

    def fetch(self, neighbor: Neighbor, now: float) -> list[Effect]:
        """Ask for what is missing, one request at a time and neighbor."""
        if not self.lacks(neighbor) or (neighbor.missing and neighbor.in_flight is not None):
            return []
        if neighbor.fetch_until is not None and now + TIMER_SLACK_S < neighbor.fetch_until:
            return []
        first = neighbor.applying + 1
        early = [n for n in neighbor.waiting if n >= first]
        last = min(early) - 1 if early else neighbor.claimed
        if neighbor.missing:
            first, last = max(1, neighbor.number), max(1, neighbor.claimed)
        if last < first:
            return []
        return self._want(neighbor, first, last, now)

    def _want(self, neighbor: Neighbor, first: int, last: int, now: float) -> list[Effect]:
        settings = self._settings
        unanswered = neighbor.fetch_attempts >= settings.snapshot_attempts
        lost = neighbor.missing or first <= neighbor.rejected
        span = last - first + 1
        snapshot = lost or unanswered or span > settings.fetch_deltas
        if not snapshot:
            neighbor.asked.update(range(first, last + 1))
        # Whoever has no deltas left answers with a snapshot in any case.
        neighbor.snapshots_due = min(neighbor.snapshots_due + 1, SNAPSHOTS_DUE_MAX)
        pause = self._pause(neighbor, self._charter.state_bytes if snapshot else span * self._charter.delta_bytes)
        neighbor.fetch_until = now + pause
        neighbor.fetch_attempts += 1
        neighbor.unheard += 1
        neighbor.requests += 1
        self.asked += 1
        want = frame(Want(self._charter.federation_id, first, last, snapshot))
        return [Send(neighbor.member.transport, want), *self._arm(now + pause, now)]

    def _pause(self, neighbor: Neighbor, size: int) -> float:
        """Seconds until an unanswered request for ``size`` bytes is repeated.

        A large answer may well be on its way: repeating its request would send it twice. So it is left the time that
        it would take over the slowest link reckoned with, and twice that each time: however slow the link is, no more
        than a few copies are ever sent.
        """
        settings, attempts = self._settings, neighbor.fetch_attempts
        silent = max(0, neighbor.unheard - settings.silent_requests)
        silence = settings.repair_retry_s * 2.0 ** min(silent, BACKOFF_DOUBLINGS)
        return silence + size / settings.repair_bytes_per_s * 2.0 ** min(attempts, BACKOFF_DOUBLINGS)
