"""Own entries that neighbors give back: asked for one stretch at a time, and believed only for what they hash to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from quidnunc.crypto.entry import Entry
from quidnunc.crypto.errors import LedgerBehind, Malformed, Reason, RemoteProtocolError
from quidnunc.gossip.erasure import unexplained
from quidnunc.gossip.events import Effect, Send
from quidnunc.gossip.hearsay import Head
from quidnunc.gossip.message import Entries, Fetch
from quidnunc.gossip.message_codec import frame
from quidnunc.gossip.mirrors import check_chain
from quidnunc.gossip.neighbor import Neighbor
from quidnunc.gossip.recorder import Recorder
from quidnunc.gossip.settings import Settings


class Kept(NamedTuple):
    """Which entries of the own log a neighbor keeps: from ``first`` up to, but not including, ``last``."""

    first: int
    last: int


class Gathering:
    """What has come back so far: ``entries`` follow what this ledger holds; ``due`` is when to ask again."""

    def __init__(self, federation: bytes, me: bytes, recorder: Recorder, settings: Settings) -> None:
        self._federation = federation
        self._me = me
        self._recorder = recorder
        self._settings = settings
        self._bytes = 0
        self._from: set[bytes] = set()
        self._bad: set[bytes] = set()
        self._tries: dict[bytes, int] = {}
        self._source: bytes | None = None
        self.entries: list[Entry] = []
        self.due = 0.0

    @property
    def need(self) -> int:
        """The first entry that is missing."""
        return self._recorder.size + len(self.entries)

    def candidates(self, neighbors: Iterable[Neighbor], kept: Mapping[bytes, Kept]) -> list[Neighbor]:
        """Connected neighbors that keep the next missing entry, the most promising first."""
        able = [
            n
            for n in neighbors
            if n.connected
            and n.log_id not in self._bad
            and n.log_id in kept
            and kept[n.log_id].first <= self.need < kept[n.log_id].last
        ]
        return sorted(able, key=lambda n: (self._tries.get(n.log_id, 0), -kept[n.log_id].last))

    def ask(self, neighbor: Neighbor, size: int, now: float) -> list[Effect]:
        """Ask a neighbor for the next entries of the ``size`` that the own log has."""
        self._source = neighbor.log_id
        self._tries[neighbor.log_id] = self._tries.get(neighbor.log_id, 0) + 1
        self.due = now + self._settings.repair_retry_s
        want = Fetch(self._federation, self._me, self.need, size)
        return [Send(neighbor.member.transport, frame(want))]

    def expects(self, neighbor: Neighbor, message: Entries) -> bool:
        """Whether these are the entries that were asked for last, and not late or a second time."""
        return (neighbor.log_id, message.first) == (self._source, self.need)

    def take(self, neighbor: Neighbor, entries: tuple[Entry, ...], size: int) -> None:
        """Take entries up to ``size``; raises Malformed for what they cannot be, LedgerBehind for too many bytes."""
        entries = entries[: size - self.need]
        last = self.entries[-1].leaf if self.entries else self._recorder.log.head
        try:
            check_chain(self._me, self.need, last, entries)
        except Malformed:
            self._give_up_on({neighbor.log_id})
            raise
        self.entries += entries
        self._bytes += sum(len(e.header) + len(e.payload) + len(e.salt) for e in entries)
        self._from.add(neighbor.log_id)
        self._tries[neighbor.log_id] = 0
        self.due = 0.0
        if self._bytes > self._settings.recover_bytes:
            raise LedgerBehind(self._recorder.size, size, self.need)

    def check(self, target: Head) -> None:
        """Raise RemoteProtocolError, and begin again, unless these are all the entries that the own key signed."""
        if self._recorder.log.root_with(entry.leaf for entry in self.entries) != target.root:
            self._give_up_on(self._from)
            raise RemoteProtocolError(Reason.HASH_MISMATCH, f"{target.size} own entries are not what was signed")
        stripped = unexplained(self.entries, self._recorder.size)
        if stripped:
            self._give_up_on(self._from)
            raise Malformed(f"own entry {min(stripped)} without its payload, and no later entry says it was erased")

    def _give_up_on(self, liars: set[bytes]) -> None:
        self._bad |= liars
        self.entries.clear()
        self._from = set()
        self._bytes, self.due = 0, 0.0
