"""How records lie in a journal: one behind the other, each sealed with all that came before it.

::

    "quidnunc/v1/journal" 0a
    per record:  size u32be | first 4 bytes of SHA-256(seal before, size) | record | first 8 bytes of its seal
    seal = SHA-256(seal before, size, record); before the first record SHA-256 of the line above

A writer that is killed leaves at most a beginning of one record behind: that is the end of the journal. Whatever else
is not as it was written is damage, a size that was changed included, since it has a check of its own.
"""

from __future__ import annotations

import hashlib
import re
import struct
from collections.abc import Callable, Iterator

from quidnunc.crypto.errors import JournalCorrupt, StoreNewer
from quidnunc.crypto.identity import DOMAIN

VERSION = 1
"""Stands in the first line, in DOMAIN."""
MAGIC = f"{DOMAIN}journal\n".encode()
RECORD_BYTES_MAX = 32 * 1024 * 1024
"""A record that says what a node was built from holds 32 bytes for each entry of its ledger: a million of them."""
OVERHEAD_BYTES = 16
"""What a record takes besides itself."""

FIRST_SEAL = hashlib.sha256(MAGIC).digest()
_SIZE_BYTES, _MARK_BYTES, _SEAL_BYTES = 4, 4, 8
_SERIES = re.compile(rb"quidnunc/v[0-9]{1,9}/journal\n")
_SERIES_BYTES = 40


def seal(before: bytes, record: bytes) -> tuple[bytes, bytes]:
    """A record as it lies in the journal behind one sealed ``before``, and its own seal."""
    size = struct.pack(">I", len(record))
    mark = hashlib.sha256(before + size).digest()[:_MARK_BYTES]
    own = hashlib.sha256(b"".join((before, size, record))).digest()
    return b"".join((size, mark, record, own[:_SEAL_BYTES])), own


class Reader:
    """Reads the records of a journal in order; ``read(n)`` gives its next n bytes, fewer only at its end.

    ``end`` is where the last whole record ends, ``last`` its seal, ``count`` the records so far. ``torn`` says that
    something less than a record follows.
    """

    def __init__(self, read: Callable[[int], bytes]) -> None:
        self._read = read
        self.count = 0
        self.end = 0
        self.last = FIRST_SEAL
        self.torn = False

    def __iter__(self) -> Iterator[bytes]:
        """The records; raises JournalCorrupt where one is damaged, StoreNewer for the journal of a later version."""
        self._begin()
        while not self.torn:
            head = self._read(_SIZE_BYTES + _MARK_BYTES)
            if not head:
                return
            record = self._record(head)
            if record is not None:
                yield record

    def _begin(self) -> None:
        found = self._read(len(MAGIC))
        if found == MAGIC:
            self.end = len(MAGIC)
        elif MAGIC.startswith(found):
            self.torn = True
        elif _SERIES.match(found + self._read(_SERIES_BYTES)):
            raise StoreNewer("the journal is of a later version of its format", hint="replay it with the newer program")
        else:
            raise JournalCorrupt(0, "does not begin as a journal does")

    def _record(self, head: bytes) -> bytes | None:
        if len(head) < _SIZE_BYTES + _MARK_BYTES:
            self.torn = True
            return None
        size = int.from_bytes(head[:_SIZE_BYTES], "big")
        if hashlib.sha256(self.last + head[:_SIZE_BYTES]).digest()[:_MARK_BYTES] != head[_SIZE_BYTES:]:
            raise self._damaged("its size is not the one that was written")
        if size > RECORD_BYTES_MAX:
            raise self._damaged(f"{size} bytes, limit is {RECORD_BYTES_MAX}")
        data = self._read(size + _SEAL_BYTES)
        if len(data) < size + _SEAL_BYTES:
            self.torn = True
            return None
        record = data[:size]
        whole, own = seal(self.last, record)
        if whole[-_SEAL_BYTES:] != data[size:]:
            raise self._damaged("its bytes are not those that were written")
        self.last = own
        self.end += len(whole)
        self.count += 1
        return record

    def _damaged(self, why: str) -> JournalCorrupt:
        return JournalCorrupt(self.count + 1, f"at byte {self.end}: {why}")
