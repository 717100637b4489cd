"""What survives a crash of a simulated peer, and where its node goes on from there."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

from quidnunc.crypto.entry import Entry, EntryType, parse_header
from quidnunc.crypto.errors import LocalProtocolError
from quidnunc.crypto.log import Log
from quidnunc.crypto.token import parse_token
from quidnunc.gossip.blobs import MemoryBlobs
from quidnunc.gossip.events import Commit, Mirror, Supply, Witness
from quidnunc.gossip.provenance import UpdatePublished, parse_record
from quidnunc.gossip.resume import Resume, fold


@dataclass(slots=True)
class Disk:
    """What survives a crash of a simulated peer: its entries, what is kept beside them, and blobs.

    ``tokens`` are the own ones by number, ``received`` those of others by (author, number), ``proofs`` by their hash,
    ``heads`` are (size, root, note) of other logs, ``cosigned`` (size, note) of witnesses, ``mirrors`` are (first seq,
    entries) kept of other logs. ``copied`` and ``lost`` are those of :class:`Resume`.
    """

    entries: list[Entry] = field(default_factory=list)
    tokens: dict[int, bytes] = field(default_factory=dict)
    received: dict[tuple[bytes, int], bytes] = field(default_factory=dict)
    proofs: dict[bytes, bytes] = field(default_factory=dict)
    heads: dict[bytes, tuple[int, bytes, bytes]] = field(default_factory=dict)
    cosigned: dict[bytes, tuple[int, bytes]] = field(default_factory=dict)
    mirrors: dict[bytes, tuple[int, list[Entry]]] = field(default_factory=dict)
    blobs: MemoryBlobs = field(default_factory=MemoryBlobs)
    copied: bool = False
    lost: bool = False

    def commit(self, me: bytes, commit: Commit, keep: int) -> None:
        """What a store does with a commit; ``keep`` bounds the own tokens."""
        self.entries.extend(commit.entries)
        for _, author, number, token in commit.tokens:
            if author == me:
                self.tokens[number] = token
                self.tokens.pop(number - keep, None)
            else:
                self.received.setdefault((author, number), token)
        self.proofs.update((hashlib.sha256(proof).digest(), proof) for proof in commit.proofs)
        self.cosigned.update((witness, (size, note)) for witness, size, note in commit.cosigned)

    def witness(self, seen: Witness) -> None:
        """What a store does with a head: never two roots at one size, never a smaller one."""
        size, root, _ = self.heads.get(seen.log_id, (0, seen.root, b""))
        if size > seen.size or (size == seen.size and root != seen.root):
            raise LocalProtocolError(f"log {seen.log_id.hex()[:16]}: {size} entries were seen, now {seen.size}")
        self.heads[seen.log_id] = (seen.size, seen.root, seen.note)

    def mirror(self, kept: Mirror) -> None:
        """What a store does with the entries of another log."""
        first, entries = self.mirrors.setdefault(kept.log_id, (kept.first, []))
        if first + len(entries) != kept.first:
            raise LocalProtocolError(f"log {kept.log_id.hex()[:16]}: entry {kept.first} does not follow")
        entries.extend(kept.entries)

    def supply(self, me: bytes, wanted: Supply) -> list[Entry]:
        """The entries to be sent."""
        first, entries = (0, self.entries) if wanted.log_id == me else self.mirrors[wanted.log_id]
        return entries[wanted.first - first : wanted.last - first]

    def headers(self, log_id: bytes) -> list[bytes]:
        """The headers kept of another log, from its first entry on."""
        _, entries = self.mirrors[log_id]
        return [entry.header for entry in entries]

    def log(self, log_id: bytes) -> Log:
        """The own log as it stands here."""
        log = Log(log_id)
        for entry in self.entries:
            log.replay(entry)
        return log

    def fold(self, keep: int) -> Resume:
        """Where the peer stands."""
        resume = fold(self.entries)
        resume.copied, resume.lost = self.copied, self.lost
        resume.tokens = sorted(self.tokens.items())[-keep:]
        resume.heads, resume.cosigned = dict(self.heads), dict(self.cosigned)
        resume.proofs = {who: self.proofs[name] for who, name in resume.frozen.items() if name in self.proofs}
        resume.notices = [self.proofs[name] for name in resume.noticed.values() if name in self.proofs]
        for log_id, (first, entries) in self.mirrors.items():
            resume.mirrors[log_id] = (first, first + len(entries), entries[-1].leaf)
        if resume.replica is not None and resume.replica not in self.blobs.data:
            resume.recall = (self._newest_update(),)
        if resume.base is not None and not resume.unmerged and resume.base not in self.blobs.data:
            resume.base, resume.unmerged = resume.replica, True
        if resume.personal not in self.blobs.data:
            resume.personal = b""
        states = {tracked.state for tracked in resume.tracked.values()}
        resume.missing = {state for state in states if state not in self.blobs.data}
        for author, tracked in resume.tracked.items():
            held = ((number, self.received.get((author, number))) for number in tracked.leaves)
            tracked.tokens = {number: token for number, token in held if token is not None}
        wanted = {(row.log_id, row.seq) for row in resume.inputs}
        for (author, _), token in self.received.items() if wanted else ():
            seq = parse_header(parse_token(token).header).seq
            if (author, seq) in wanted:
                resume.input_tokens[author, seq] = token
        return resume

    def _newest_update(self) -> UpdatePublished:
        headers = ((parse_header(entry.header).type, entry) for entry in reversed(self.entries))
        payload = next(entry.payload for kind, entry in headers if kind == EntryType.UPDATE_PUBLISHED)
        update = parse_record(EntryType.UPDATE_PUBLISHED, payload)
        assert isinstance(update, UpdatePublished)
        return update
