"""The tree that a ledger's entries give, held against the subtrees and the signed checkpoints that are stored."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from quidnunc.crypto.checkpoint import open_checkpoint, origin_of
from quidnunc.crypto.errors import Reason, RemoteProtocolError
from quidnunc.crypto.tiled import Frontier
from quidnunc.peer.ledger.findings import Layer
from quidnunc.peer.ledger.key_track import KeyTrack


class TreeCheck:
    """Grows with the entries, and checks every checkpoint as its size is reached: the tree itself is never held."""

    def __init__(self, log_id: bytes, keys: KeyTrack, merkle: Layer, signatures: Layer) -> None:
        self._log_id = log_id
        self._keys = keys
        self._merkle = merkle
        self._signatures = signatures
        self._tree = Frontier()
        self._signed = 0
        self._nodes = 0
        self._checkpoints: Iterator[tuple[Any, ...]] = iter(())
        self._next: tuple[Any, ...] | None = None

    @property
    def size(self) -> int:
        """Entries so far."""
        return self._tree.size

    @property
    def root(self) -> bytes:
        """Their Merkle root."""
        return self._tree.root()

    def begin(self, checkpoints: Iterator[tuple[Any, ...]]) -> None:
        """Check against these rows of (size, note), the smallest first."""
        self._checkpoints = checkpoints
        self._next = next(self._checkpoints, None)
        self._signed_up_to(0)

    def append(self, leaf: bytes, stored: Callable[[int, int], bytes | None]) -> None:
        """One more entry; ``stored`` gives the subtree that is kept at a level and position."""
        for level, node in self._tree.append(leaf):
            self._node(level, (self._tree.size >> level) - 1, node, stored)
        self._signed_up_to(self._tree.size)

    def rest(self) -> None:
        """Checkpoints beyond the last entry."""
        while self._next is not None:
            self._checkpoint(*self._next)
            self._next = next(self._checkpoints, None)

    def end(self, count_stored: Callable[[], int]) -> None:
        """Entries under no checkpoint, and stored subtrees of no entries."""
        if self._signed < self._tree.size:
            last = self._tree.size - 1
            self._merkle.report("I8", last, f"entries {self._signed} to {last} are under no checkpoint")
        stored = count_stored()
        if stored > self._nodes:
            self._merkle.report("I6", -1, f"{stored} subtrees are stored, the entries make {self._nodes}")

    def _node(self, level: int, position: int, node: bytes, stored: Callable[[int, int], bytes | None]) -> None:
        """A stored subtree is what the entries give; it is derived, so that this names no entry as damaged."""
        self._merkle.checked += 1
        found = stored(level, position)
        if found != node:
            last = ((position + 1) << level) - 1
            what = "missing" if found is None else "not what the entries give"
            self._merkle.report("I6", last, f"stored subtree {position} of level {level}: {what}")
        self._nodes += 1

    def _signed_up_to(self, size: int) -> None:
        """Check every checkpoint of a size that the entries read so far have reached."""
        while self._next is not None and self._next[0] <= size:
            self._checkpoint(*self._next)
            self._next = next(self._checkpoints, None)

    def _checkpoint(self, size: int, note: bytes) -> None:
        self._signed = max(self._signed, size)
        signatures, merkle = self._signatures, self._merkle
        signatures.checked += 1
        try:
            checkpoint = open_checkpoint(note, origin_of(self._log_id), self._keys.keys)
        except RemoteProtocolError as error:
            what = "signature" if error.reason is Reason.BAD_SIGNATURE else "note"
            signatures.report("I7", size, f"checkpoint {what}: {error.message}")
            return
        merkle.checked += 1
        if checkpoint.size != size:
            merkle.report("I7", size, f"checkpoint size: the row says {size}, the note {checkpoint.size}")
        elif size > self._tree.size:
            merkle.report("I7", size, f"checkpoint: signed over {size} entries, there are {self._tree.size}")
        elif checkpoint.root != self._tree.root():
            root = self._tree.root().hex()[:16]
            merkle.report("I7", size, f"checkpoint: root {checkpoint.root.hex()[:16]}, the entries give {root}")
