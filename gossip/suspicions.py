"""Suspicions: a log that does not show how it grew, or not its entries, is not merged until it does.

Silence proves nothing, and so it is taken back as soon as it ends; both are entries of the own log.
"""

from __future__ import annotations

import hashlib
from typing import NamedTuple

from quidnunc.crypto.suspicion import SuspicionKind
from quidnunc.gossip.attestation import Suspected, SuspicionCleared, SuspicionRaised
from quidnunc.gossip.events import Effect, Report
from quidnunc.gossip.hearsay import Head
from quidnunc.gossip.message import Fetch, Message, Prove
from quidnunc.gossip.message_codec import frame
from quidnunc.gossip.neighbor import Neighbor
from quidnunc.gossip.recorder import Recorder
from quidnunc.gossip.settings import Settings


class Question(NamedTuple):
    """A question how ``newer`` continues ``older``; ``kind`` is what its log is suspected of if it never answers."""

    older: Head
    newer: Head
    due: float
    kind: SuspicionKind = SuspicionKind.NO_CONSISTENCY


_OWED = {
    SuspicionKind.NO_CONSISTENCY: "does not show how its log grew from {} entries to {}",
    SuspicionKind.NO_ANSWER: "shows nothing new, and does not answer how its log grew from {} entries to {}",
    SuspicionKind.STALE_HEAD: "shows an older log than it showed others, and not how it grew from {} entries to {}",
}


class Suspicions:
    """Counts questions without an answer, and raises and clears what follows from them."""

    def __init__(self, federation: bytes, recorder: Recorder, settings: Settings) -> None:
        self._federation = federation
        self._recorder = recorder
        self._settings = settings
        self._asked: dict[bytes, int] = {}

    def asked(self, log_id: bytes) -> None:
        """A log was asked how it grew."""
        self._asked[log_id] = self._asked.get(log_id, 0) + 1

    def unanswered(self, neighbor: Neighbor, question: Question, now: float) -> list[Effect]:
        """Take note of a log that will not show how it grew, if it was asked often enough."""
        enough = self._asked.get(neighbor.log_id, 0) >= self._settings.suspect_unanswered
        if neighbor.suspected is not None or not enough:
            return []
        older, newer, due, kind = question
        self._raise(neighbor, kind, Prove(self._federation, older.size, newer.size), due, now)
        owed = _OWED[kind].format(older.size, newer.size)
        return [Report("suspicion", f"{neighbor.member.name} {owed}; it is not merged")]

    def answered(self, neighbor: Neighbor, now: float) -> list[Effect]:
        """The log has answered: whatever was suspected for want of that is taken back."""
        self._asked.pop(neighbor.log_id, None)
        if neighbor.suspected is None or neighbor.suspected.kind == SuspicionKind.OMISSION:
            return []
        return self._take_back(neighbor, neighbor.suspected, "has shown how its log grew", now)

    def omits(self, neighbor: Neighbor, asked: Fetch | None, now: float) -> list[Effect]:
        """Take note of a log that signs checkpoints and does not show the entries that were ``asked`` for, if any were.

        Whoever keeps no entry of it could neither prove its fork nor give it back.
        """
        if asked is None or neighbor.suspected is not None:
            return []
        self._raise(neighbor, SuspicionKind.OMISSION, asked, now + self._settings.repair_retry_s, now)
        owed = f"does not show its entries from {asked.first} on, of {asked.last}"
        return [Report("suspicion", f"{neighbor.member.name} {owed}; it is not merged")]

    def shows(self, neighbor: Neighbor, now: float) -> list[Effect]:
        """The log has shown entries that were asked for."""
        if neighbor.suspected is None or neighbor.suspected.kind != SuspicionKind.OMISSION:
            return []
        return self._take_back(neighbor, neighbor.suspected, "has shown its entries", now)

    def _raise(self, neighbor: Neighbor, kind: SuspicionKind, question: Message, due_s: float, now: float) -> None:
        """Record that a question was due at ``due_s`` and is not answered."""
        due = int(due_s * 1000)
        record = SuspicionRaised(neighbor.log_id, kind.value, hashlib.sha256(frame(question).header).digest(), due)
        neighbor.suspected = Suspected(self._recorder.append(record, now), kind.value, due)

    def _take_back(self, neighbor: Neighbor, suspected: Suspected, why: str, now: float) -> list[Effect]:
        self._recorder.append(SuspicionCleared(neighbor.log_id, suspected.seq), now)
        neighbor.suspected = None
        return [Report("suspicion", f"{neighbor.member.name} {why}: no longer suspected")]
