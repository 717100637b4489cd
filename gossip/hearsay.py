"""Checkpoints of a log that others have seen, and that the log itself has not shown to fit what it showed here.

A log that is asked how it grew places them: they are its past, its future, or a fork. One that keeps silent, because it
is gone or has been told that it is one of two, places nothing. Then the entries that are kept of it must do: whoever
keeps one history of a log proves a fork as soon as a checkpoint of the other reaches it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

from quidnunc.gossip.events import Compare

SEEN_MAX = 64
"""Checkpoints of one log that are remembered to be compared with others."""


class Head(NamedTuple):
    """A checkpoint of another log, and the note that its key signed."""

    size: int
    root: bytes
    note: bytes


class Hearsay:
    """What was heard of each log and is not placed yet.

    ``kept`` says which entries of a log are kept: from the first number up to the one before the second.
    """

    def __init__(self, kept: Callable[[bytes], tuple[int, int]]) -> None:
        self._kept = kept
        self._heads: dict[bytes, dict[int, Head]] = {}
        self._newest: dict[bytes, dict[bytes, Head]] = {}
        self._behind: dict[bytes, Head] = {}
        self._due: dict[bytes, float] = {}

    def hear(self, log_id: bytes, head: Head, source: bytes) -> None:
        """The neighbor ``source`` has seen ``head`` of that log; it is the first to say so."""
        heads = self._heads.setdefault(log_id, {})
        heads[head.size] = head
        if len(heads) > SEEN_MAX:
            del heads[next(iter(heads))]
        self._newest.setdefault(log_id, {})[source] = head

    def place(self, log_id: bytes, *sizes: int) -> None:
        """The log has shown how its checkpoints of these sizes follow each other."""
        for size in sizes:
            self._heads.get(log_id, {}).pop(size, None)

    def compare(self, log_id: bytes, seen: Iterable[Head], now: float, pause: float) -> list[Compare]:
        """Hold all that was ``seen`` against what is kept, if anything was heard that this could place.

        At most once in ``pause`` seconds: what is kept is read from its beginning.
        """
        first, last = self._kept(log_id)
        heard = [head for head in self._heads.get(log_id, {}).values() if head.size <= last]
        if first or not heard or now < self._due.get(log_id, now):
            return []
        self._due[log_id] = now + pause
        self.place(log_id, *(head.size for head in heard))
        notes = dict.fromkeys(head.note for head in (*heard, *seen) if head.size <= last)
        return [Compare(log_id, tuple(notes))]

    def stragglers(self, newest: dict[bytes, Head]) -> list[tuple[bytes, Head]]:
        """Of each log the oldest of what neighbors last told before anybody else, older than the ``newest`` known here.

        Only what was so at the last call too. What a neighbor repeats after others does not count: it may have it from
        here, and have seen another history itself, which whoever keeps the first must hear of.
        """
        found = []
        for log_id, told in self._newest.items():
            oldest = min(told.values())
            if oldest.size < newest[log_id].size:
                if self._behind.get(log_id) == oldest:
                    found.append((log_id, oldest))
                self._behind[log_id] = oldest
        return found
