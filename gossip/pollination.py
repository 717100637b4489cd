"""Checkpoints of other logs, handed on: to every neighbor what it has not been told, or not for long."""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum

from quidnunc.gossip.events import Effect, Send
from quidnunc.gossip.hearsay import Head
from quidnunc.gossip.message import HEADS_MAX, Heads
from quidnunc.gossip.message_codec import frame
from quidnunc.gossip.neighbor import Neighbor
from quidnunc.gossip.settings import Settings


class Kind(IntEnum):
    """Which of a log's checkpoints is told to others."""

    SHOWN = 0
    NEWEST = 1
    STRAGGLER = 2


class Pollination:
    """Remembers what each neighbor was told of each log, and when."""

    def __init__(self, federation: bytes, neighbors: dict[bytes, Neighbor], settings: Settings) -> None:
        self._federation = federation
        self._neighbors = neighbors
        self._settings = settings
        self._said: dict[tuple[bytes, bytes, Kind], tuple[int, float]] = {}

    def forget(self, neighbor: bytes) -> None:
        """A neighbor has just come up: it may have forgotten all that it was told."""
        self._said = {key: said for key, said in self._said.items() if key[0] != neighbor}

    def tell(self, known: Iterable[tuple[bytes, Kind, Head]], now: float) -> list[Effect]:
        """Of the (log id, kind, checkpoint) in ``known`` those that are news to each connected neighbor."""
        out: list[Effect] = []
        known = sorted(known)
        for neighbor in self._neighbors.values():
            if not neighbor.connected or neighbor.quarantined:
                continue
            fresh = [
                (key, head)
                for log_id, kind, head in known
                if log_id != neighbor.log_id and not self._told(key := (neighbor.log_id, log_id, kind), head, now)
            ][:HEADS_MAX]
            self._said.update((key, (head.size, now)) for key, head in fresh)
            if fresh:
                notes = tuple(head.note for _, head in fresh)
                out.append(Send(neighbor.member.transport, frame(Heads(self._federation, notes))))
        return out

    def _told(self, key: tuple[bytes, bytes, Kind], head: Head, now: float) -> bool:
        """Whether that was said lately; a word may be lost, and of a log that has ended there is no newer one."""
        size, at = self._said.get(key, (0, now))
        return size == head.size and now < at + self._settings.reminder_s
