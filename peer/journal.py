"""The journal on disk: ``state/journal``, bounded, for its owner only, gone on with at every start.

It never stands in the way of the peer: what cannot be written is not, the journal ends there, and the log says so. A
record reaches the operating system before what it tells of is done, so that a killed daemon loses nothing of it; it is
not synced, so that a power loss may.
"""

from __future__ import annotations

import errno
import logging
import os
import stat
from collections import deque
from pathlib import Path

from quidnunc.crypto.errors import JournalCorrupt, LocalProtocolError, Malformed, StoreNewer
from quidnunc.gossip.journal.frames import FIRST_SEAL, MAGIC, OVERHEAD_BYTES, RECORD_BYTES_MAX, Reader, seal
from quidnunc.gossip.journal.records import End, Entered, read_record, write_record
from quidnunc.peer.files import PRIVATE_FILE, write_all

log = logging.getLogger("quidnunc.peer")

FULL = "full"
STOPPED = "stopped"
_END_BYTES = 64
"""Kept free for the record that says that the journal ends."""


class JournalFile:
    """A journal open for writing, unless it has ended; :meth:`write` never raises."""

    def __init__(self, path: Path, max_bytes: int, descriptor: int = -1, size: int = 0, last: bytes = b"") -> None:
        self.path = path
        self._descriptor = descriptor
        self._size = size
        self._last = last
        self._max_bytes = max_bytes

    @property
    def open(self) -> bool:
        """Whether it still takes records."""
        return self._descriptor >= 0

    @classmethod
    def at(cls, path: Path, max_bytes: int) -> JournalFile:
        """Go on with the journal at ``path``, or begin one, of so many bytes; 0: none, and the file is left alone.

        One that has ended or is damaged makes way, as ``journal.old``. Where none can be kept the log says so.
        """
        try:
            return cls._open_at(path, max_bytes) if max_bytes else cls(path, 0)
        except OSError as error:
            log.warning("journal: %s cannot be written (%s); none is kept", path, (error.strerror or "").lower())
            return cls(path, 0)

    @classmethod
    def _open_at(cls, path: Path, max_bytes: int) -> JournalFile:
        descriptor = _opened(path)
        try:
            found = _end_of(descriptor)
        except BaseException:
            os.close(descriptor)
            raise
        if found is None:
            os.close(descriptor)
            old = path.with_name(f"{path.name}.old")
            os.replace(path, old)
            log.warning("journal: the one before has ended or is damaged; it is %s now", old)
            descriptor, found = _opened(path, os.O_EXCL), (0, FIRST_SEAL)
        size, last = found
        try:
            os.ftruncate(descriptor, size)
            os.lseek(descriptor, size, os.SEEK_SET)
            if not size:
                write_all(descriptor, MAGIC)
        except BaseException:
            os.close(descriptor)
            raise
        log.info("journal: kept at %s, up to %d bytes", path, max_bytes)
        return cls(path, max_bytes, descriptor, size or len(MAGIC), last)

    def write(self, record: Entered) -> None:
        """Write a record behind the others; the journal ends where there is no room for it or it cannot be."""
        if not self.open:
            return
        try:
            data = write_record(record)
        except LocalProtocolError as error:
            self._end(STOPPED, f"a record cannot be encoded: {error.message}")
            return
        if len(data) > RECORD_BYTES_MAX or self._size + len(data) + OVERHEAD_BYTES + _END_BYTES > self._max_bytes:
            self._end(FULL, f"{self._size} bytes, limit is {self._max_bytes} (debug.journal_mib)")
            return
        self._append(data)

    def _append(self, data: bytes) -> None:
        whole, last = seal(self._last, data)
        try:
            write_all(self._descriptor, whole)
        except OSError as error:
            self.close()
            log.warning("journal: %s cannot be written any more (%s)", self.path, (error.strerror or "").lower())
            return
        self._size, self._last = self._size + len(whole), last

    def _end(self, why: str, said: str) -> None:
        self._append(write_record(End(why)))
        self.close()
        log.warning("journal: it ends here (%s): %s", why, said)

    def close(self) -> None:
        """Take no more records."""
        if self.open:
            os.close(self._descriptor)
            self._descriptor = -1


def _opened(path: Path, more: int = 0) -> int:
    """A descriptor of the file, for its owner only; raises OSError for what is no regular file."""
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK | more
    descriptor = os.open(path, flags, PRIVATE_FILE)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "not a regular file")
        os.fchmod(descriptor, PRIVATE_FILE)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _end_of(descriptor: int) -> tuple[int, bytes] | None:
    """Where the journal goes on, and the last seal; None where nothing may follow."""
    with os.fdopen(os.dup(descriptor), "rb") as file:
        reader = Reader(file.read)
        try:
            newest = deque(reader, maxlen=1)
            ended = bool(newest) and isinstance(read_record(newest[0]), End)
        except (JournalCorrupt, StoreNewer, Malformed):
            return None
    return None if ended else (reader.end, reader.last)
