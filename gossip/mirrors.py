"""Neighbors keep each other's entries, so that a peer whose disk has lost some can have them back.

A peer sends its new entries to every connected neighbor right behind each update, and as soon as it has spent privacy.
They come behind and not before: a log that is ahead of the replica that anybody has could be recovered, but not gone on
with. What was lost on the way is asked for.
A neighbor believes a log about that log only, and keeps what it is told; the owner, when it asks, checks all of it
against what its own key signed.
"""

from __future__ import annotations

from collections.abc import Iterable

from quidnunc.crypto.checkpoint import open_checkpoint, origin_of
from quidnunc.crypto.entry import Entry, EntryType, open_entry, parse_header
from quidnunc.crypto.errors import Malformed
from quidnunc.crypto.log_keys import LogKeys
from quidnunc.gossip.erasure import ERASABLE
from quidnunc.gossip.events import Commit, Effect, Mirror, Send, Supply
from quidnunc.gossip.federation.charter import Charter
from quidnunc.gossip.hearsay import Head
from quidnunc.gossip.message import ENTRIES_BYTES, ENTRIES_MAX, Entries, Fetch
from quidnunc.gossip.message_codec import entries_frame, frame
from quidnunc.gossip.neighbor import Neighbor
from quidnunc.gossip.settings import Settings


class Mirrors:
    """What is kept of the logs of neighbors, and who is told of the own one.

    ``held`` says of each log which entries are kept: from the first up to the one before the second number, and the
    leaf hash of the last.
    """

    def __init__(
        self,
        charter: Charter,
        me: bytes,
        neighbors: dict[bytes, Neighbor],
        settings: Settings,
        held: dict[bytes, tuple[int, int, bytes]],
    ) -> None:
        self._federation = charter.federation_id
        self._me = me
        self._neighbors = neighbors
        self._settings = settings
        self.held = dict(held)
        self._sizes: dict[bytes, int] = {}
        self._due: dict[bytes, float] = {}
        self._vain: dict[bytes, tuple[int, Fetch]] = {}
        self._fresh: list[Entry] = []

    # -- the own log --------------------------------------------------------------------------------------------

    def spread(self, effects: list[Effect], *, all_of_it: bool = False) -> list[Effect]:
        """``effects``, and then the new own entries for all neighbors, once others can see them or privacy is spent.

        With ``all_of_it``, at the end of a run, in any case.
        """
        told: list[Effect] = []
        for effect in effects:
            if isinstance(effect, Commit):
                self._fresh += effect.entries
                if all_of_it or any(_is_told(entry) for entry in effect.entries):
                    told += self._tell(effect.note)
                elif len(self._fresh) > ENTRIES_MAX:
                    self._fresh.clear()  # whoever lacks them will ask
        return [*effects, *told]

    def _tell(self, note: bytes) -> list[Effect]:
        fresh, self._fresh = self._fresh, []
        told, count = entries_frame(self._federation, self._me, parse_header(fresh[0].header).seq, fresh, note)
        if not count:
            return []
        there = [n for n in self._neighbors.values() if n.connected and not n.quarantined]
        return [Send(n.member.transport, told) for n in there]

    # -- the logs of neighbors ----------------------------------------------------------------------------------

    def span(self, log_id: bytes) -> tuple[int, int]:
        """Which entries of a log are kept: from the first up to the one before the second number."""
        first, last, _ = self.held.get(log_id, (0, 0, b""))
        return first, last

    def on_entries(self, neighbor: Neighbor, message: Entries, now: float) -> list[Effect]:
        """Entries of a neighbor's own log, from itself; raises RemoteProtocolError for what cannot be of that log."""
        first, held, leaf = self._place(neighbor.log_id, message.first + len(message.entries))
        end = message.first + len(message.entries)
        self._sizes[neighbor.log_id] = max(end, self._sizes.get(neighbor.log_id, 0))
        if message.first > held:
            return self._ask(neighbor, now)
        fresh = message.entries[held - message.first :]
        if message.entries:
            self._vain.pop(neighbor.log_id, None)
        if not fresh:
            return []
        if leaf and parse_header(fresh[0].header).prev != leaf:
            return []  # another history: its checkpoints will prove it
        leaf = check_chain(neighbor.log_id, held, leaf, fresh)
        self.held[neighbor.log_id] = (first, held + len(fresh), leaf)
        self._due.pop(neighbor.log_id, None)
        return [Mirror(neighbor.log_id, held, fresh), *self._ask(neighbor, now)]

    def on_size(self, neighbor: Neighbor, size: int, now: float) -> list[Effect]:
        """A neighbor's log has ``size`` entries: those under way come by themselves, older ones are asked for."""
        before = self._sizes.get(neighbor.log_id, 0)
        late = self._ask(neighbor, now)
        self._sizes[neighbor.log_id] = max(size, before)
        return late

    def owed(self, log_id: bytes) -> Fetch | None:
        """The newest request for entries of a log that was in vain, once so many before it were as is too often."""
        times, asked = self._vain.get(log_id, (0, None))
        return asked if times >= self._settings.suspect_omissions else None

    def _place(self, log_id: bytes, size: int) -> tuple[int, int, bytes]:
        start = max(0, size - self._settings.mirror_entries)
        return self.held.get(log_id, (start, start, b""))

    def _ask(self, neighbor: Neighbor, now: float) -> list[Effect]:
        """Ask for what is lacking, unless an answer may still come."""
        size = self._sizes.get(neighbor.log_id, 0)
        _, held, _ = self._place(neighbor.log_id, size)
        if held >= size or not neighbor.connected or neighbor.quarantined or now < self._due.get(neighbor.log_id, 0.0):
            return []
        self._due[neighbor.log_id] = now + self._settings.repair_retry_s
        asked = Fetch(self._federation, neighbor.log_id, held, size)
        self._vain[neighbor.log_id] = (self._vain.get(neighbor.log_id, (0, asked))[0] + 1, asked)
        return [Send(neighbor.member.transport, frame(asked))]

    # -- giving -------------------------------------------------------------------------------------------------

    def serve(self, neighbor: Neighbor, fetch: Fetch, signed: int, now: float) -> list[Effect]:
        """Entries of the own log, of which ``signed`` are durable, or of the neighbor's as they are kept here.

        A neighbor gets no more of them than the slowest link reckoned with would carry; who asks for more, or for
        another's log, is told that there are none.
        """
        first, last = (0, signed) if fetch.log_id == self._me else self.span(fetch.log_id)
        ours = fetch.log_id in (self._me, neighbor.log_id) and first <= fetch.first < min(last, fetch.last)
        if not ours or not neighbor.take_supply(ENTRIES_BYTES, now, self._settings):
            none, _ = entries_frame(self._federation, fetch.log_id, fetch.first, ())
            return [Send(neighbor.member.transport, none)]
        return [Supply(neighbor.member.transport, fetch.log_id, fetch.first, min(last, fetch.last))]


def check_note(neighbor: Neighbor, keys: LogKeys, message: Entries) -> Head | None:
    """The checkpoint by one of ``keys`` that comes with new entries, None without one; raises RemoteProtocolError."""
    if not message.note:
        return None
    found = open_checkpoint(message.note, origin_of(neighbor.log_id), keys)
    if found.size != message.first + len(message.entries):
        raise Malformed(f"entries up to {message.first + len(message.entries)} under a checkpoint of {found.size}")
    return Head(found.size, found.root, message.note)


def check_chain(log_id: bytes, seq: int, leaf: bytes, entries: Iterable[Entry]) -> bytes:
    """The leaf hash of the last of ``entries``, which begin at ``seq`` and follow the entry ``leaf`` ("" if unknown).

    Raises Malformed when one is of another log, out of its place, or not whole: a payload may only lack where it may be
    erased. Whether it was, a later entry must say; that is for who gets it back.
    """
    for place, entry in enumerate(entries, seq):
        gone = entry.erased and parse_header(entry.header).type in ERASABLE
        header = parse_header(entry.header) if gone else open_entry(entry)
        if header.log_id != log_id or header.seq != place:
            raise Malformed(f"entry {header.seq} of log {header.log_id.hex()[:16]}, expected {place}")
        if leaf and header.prev != leaf:
            raise Malformed(f"entry {place} follows {header.prev.hex()[:16]}, the one before is {leaf.hex()[:16]}")
        leaf = entry.leaf
    return leaf


def _is_told(entry: Entry) -> bool:
    return parse_header(entry.header).type in (EntryType.UPDATE_PUBLISHED, EntryType.DP_SPEND)
