"""The append-only log of one author, in memory: what the next header must say, and what the tree proves.

A :class:`Log` holds hashes only, 64 bytes per entry. It is filled by :meth:`~Log.append` with what happens,
or by :meth:`~Log.replay` with what was stored; both lead to the same tree.
"""

from __future__ import annotations

from collections.abc import Iterable

from quidnunc.crypto.checkpoint import Checkpoint, origin_of, sign_checkpoint
from quidnunc.crypto.entry import (
    MAX_PAYLOAD_BYTES,
    ZERO_HASH,
    Entry,
    Header,
    commit_payload,
    encode_header,
    open_entry,
    parse_header,
)
from quidnunc.crypto.errors import LedgerCorrupt, LocalProtocolError, Malformed
from quidnunc.crypto.identity import SecretKey
from quidnunc.crypto.merkle import HASH_BYTES, Tree, leaf_hash
from quidnunc.crypto.tiled import Frontier


class Log:
    """The log named ``log_id`` (32 bytes), empty at first."""

    __slots__ = ("_last_t_ms", "_log_id", "_tree")

    def __init__(self, log_id: bytes) -> None:
        if len(log_id) != HASH_BYTES:
            raise LocalProtocolError(f"a log id is {len(log_id)} bytes, must be {HASH_BYTES}")
        self._log_id = log_id
        self._tree = Tree()
        self._last_t_ms = 0

    @classmethod
    def of_leaves(cls, log_id: bytes, leaves: Iterable[bytes], last_t_ms: int) -> Log:
        """The log with these leaf hashes, believed as they are, whose last entry claims the time ``last_t_ms``."""
        log = cls(log_id)
        for leaf in leaves:
            log._add_leaf(leaf, last_t_ms)
        return log

    @property
    def log_id(self) -> bytes:
        """The name of the log: 32 bytes."""
        return self._log_id

    @property
    def origin(self) -> str:
        """The name of the log in its checkpoints."""
        return origin_of(self._log_id)

    @property
    def size(self) -> int:
        """The number of entries; the next one's ``seq``."""
        return self._tree.size

    @property
    def head(self) -> bytes:
        """The leaf hash of the last entry, 32 zero bytes if there is none; the next one's ``prev``."""
        return self._tree.leaf(self.size - 1) if self.size else ZERO_HASH

    @property
    def last_t_ms(self) -> int:
        """The time the last entry claims, 0 if there is none."""
        return self._last_t_ms

    @property
    def root(self) -> bytes:
        """The Merkle root over all entries."""
        return self._tree.root()

    def root_at(self, size: int) -> bytes:
        """The Merkle root over the first ``size`` entries."""
        return self._tree.root(size)

    def root_with(self, leaves: Iterable[bytes]) -> bytes:
        """The Merkle root this log would have with further entries of these leaf hashes; none is added."""
        edge = Frontier.of(self._tree)
        for leaf in leaves:
            edge.append(leaf)
        return edge.root()

    def leaf(self, seq: int) -> bytes:
        """The leaf hash of entry ``seq``."""
        return self._tree.leaf(seq)

    def append(
        self,
        type: int,
        payload: bytes,
        *,
        salt: bytes,
        t_ms: int,
        key_epoch: int = 0,
        private: bytes = b"",
        private_salt: bytes = b"",
    ) -> Entry:
        """Make the next entry and add it.

        ``salt`` and ``private_salt`` are 16 fresh random bytes each. Time never runs back: an entry claims
        the later of ``t_ms`` and its predecessor's time. A payload with a private part names it (``pv``).
        When something is wrong nothing is added and :class:`LocalProtocolError` is raised.
        """
        if len(payload) > MAX_PAYLOAD_BYTES:
            raise LocalProtocolError(f"a payload of {len(payload)} bytes, limit is {MAX_PAYLOAD_BYTES}")
        header = Header(
            log_id=self._log_id,
            seq=self.size,
            prev=self.head,
            t_ms=max(t_ms, self._last_t_ms),
            type=int(type),
            key_epoch=key_epoch,
            payload_len=len(payload),
            payload_cmt=commit_payload(salt, payload),
        )
        entry = Entry(encode_header(header), payload, salt, private, private_salt)
        if private or private_salt:
            try:
                open_entry(entry)
            except Malformed as error:
                raise LocalProtocolError(error.message) from None
        self._add(entry.header, header.t_ms)
        return entry

    def replay(self, entry: Entry) -> Header:
        """Add a stored entry after checking it against its place; else raise :class:`LedgerCorrupt`.

        Of an erased entry only the header is left to be checked: whether it may lack its payload is for the caller.
        """
        if entry.erased:
            return self.replay_header(entry.header)
        try:
            header = open_entry(entry)
        except Malformed as error:
            raise LedgerCorrupt(self.size, error.message) from None
        return self._follow(entry.header, header)

    def replay_header(self, data: bytes) -> Header:
        """Add an entry of which only the header is held, as :meth:`replay` does.

        So it is with an erased payload, or in a mirror of another log.
        """
        try:
            header = parse_header(data)
        except Malformed as error:
            raise LedgerCorrupt(self.size, error.message) from None
        return self._follow(data, header)

    def subtree(self, level: int, position: int) -> bytes:
        """The hash of the complete subtree number ``position`` of 2**level entries."""
        return self._tree.subtree(level, position)

    def checkpoint(self, key: SecretKey) -> bytes:
        """The signed note over the current size and root."""
        return sign_checkpoint(Checkpoint(self.origin, self.size, self.root), key)

    def inclusion(self, seq: int, size: int | None = None) -> list[bytes]:
        """The path that shows entry ``seq`` in the first ``size`` entries, in all of them by default."""
        return self._tree.inclusion(seq, size)

    def consistency(self, old: int, new: int | None = None) -> list[bytes]:
        """The proof that the first ``old`` entries are a prefix of the first ``new``, of all by default."""
        return self._tree.consistency(old, new)

    def _follow(self, data: bytes, header: Header) -> Header:
        seq = self.size
        if header.log_id != self._log_id:
            raise LedgerCorrupt(seq, f"belongs to log {header.log_id.hex()[:16]}")
        if header.seq != seq:
            raise LedgerCorrupt(seq, f"calls itself entry {header.seq}")
        if header.prev != self.head:
            raise LedgerCorrupt(seq, f"follows {header.prev.hex()[:16]}, the last entry is {self.head.hex()[:16]}")
        if header.t_ms < self._last_t_ms:
            raise LedgerCorrupt(seq, f"is of {header.t_ms} ms, the last entry of {self._last_t_ms} ms")
        self._add(data, header.t_ms)
        return header

    def _add(self, data: bytes, t_ms: int) -> None:
        self._add_leaf(leaf_hash(data), t_ms)

    def _add_leaf(self, leaf: bytes, t_ms: int) -> None:
        self._tree.append(leaf)
        self._last_t_ms = t_ms
