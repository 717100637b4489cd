"""Blobs as content-addressed files, shared by the daemon and its compute process.

A blob lies under ``<root>/ab/cdef...`` (its SHA-256 in hex, split after the first byte), which no process
ever writes in place: bytes go to ``<root>/tmp/`` and are renamed, so that a reader sees a whole blob or none.
Every read compares the hash. A damaged file is moved aside to ``*.bad`` and counts as absent; the protocol
fetches it again.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from quidnunc.crypto.errors import ConfigError, LocalProtocolError
from quidnunc.peer.files import PRIVATE_DIR, PRIVATE_FILE, fsync_dir, read_capped, unwritable, write_all

BLOB_BYTES_MAX = 256 * 1024 * 1024
"""Default cap on one blob: 64 million float32 params."""

_WRITE_ATTEMPTS = 3


def blob_path(root: Path, name: bytes) -> Path:
    """Where under ``root`` the blob called ``name`` (32 bytes) lies, whether or not it is there."""
    if len(name) != 32:
        raise LocalProtocolError(f"a blob's name is a SHA-256 of 32 bytes, not {len(name)}")
    digits = name.hex()
    return root / digits[:2] / digits[2:]


def read_blob(root: Path, name: bytes, max_bytes: int = BLOB_BYTES_MAX) -> bytes | None:
    """The blob called ``name`` under ``root``, or None when it is absent, over the cap or damaged; changes nothing."""
    try:
        data = read_capped(blob_path(root, name), max_bytes)
    except (OSError, ConfigError):
        return None
    return data if hashlib.sha256(data).digest() == name else None


def blob_names(root: Path) -> Iterator[bytes]:
    """The names of all blobs under ``root``, in no order, whether or not they are whole."""
    for directory in root.iterdir():
        if len(directory.name) != 2:
            continue
        for file in directory.iterdir():
            with contextlib.suppress(ValueError):
                name = bytes.fromhex(directory.name + file.name)
                if len(name) == 32:
                    yield name


def open_blob(root: Path, name: bytes) -> BinaryIO | None:
    """The blob called ``name`` under ``root``, open at its beginning, or None when it is absent or damaged.

    What is open can be read to its end, whoever discards the blob meanwhile.
    """
    try:
        file = os.fdopen(os.open(blob_path(root, name), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb")
    except OSError:
        return None
    try:
        if stat.S_ISREG(os.fstat(file.fileno()).st_mode) and hashlib.file_digest(file, "sha256").digest() == name:
            file.seek(0)
            return file
    except OSError:
        pass
    file.close()
    return None


class FileBlobs:
    """:class:`quidnunc.gossip.blobs.Blobs` in a directory. Safe for several processes and threads at once.

    Raises StoreUnwritable from the constructor, ``put`` and ``get`` when the disk fails.
    """

    def __init__(self, root: Path, *, max_bytes: int = BLOB_BYTES_MAX) -> None:
        self.root = root
        self.max_bytes = max_bytes
        self._temporary = root / "tmp"
        try:
            self._temporary.mkdir(mode=PRIVATE_DIR, parents=True, exist_ok=True)
            self._sweep()
        except OSError as error:
            raise unwritable(root, error) from error

    def path(self, name: bytes) -> Path:
        """Where the blob called ``name`` (32 bytes) lies, whether or not it is there."""
        return blob_path(self.root, name)

    def get(self, name: bytes) -> bytes | None:
        """The blob called ``name``, or None when it is absent, damaged (then quarantined) or over the cap."""
        path = self.path(name)
        data = self._read(path)
        if data is None or len(data) > self.max_bytes:
            return None
        if hashlib.sha256(data).digest() == name:
            return data
        return self._quarantine(path, name)

    def put(self, data: bytes, *, durable: bool = False) -> bytes:
        """Keep ``data`` and return its SHA-256; with ``durable``, once it survives a power loss."""
        if len(data) > self.max_bytes:
            raise LocalProtocolError(f"blob of {len(data)} bytes, limit is {self.max_bytes} (limits.blob_bytes_max)")
        name = hashlib.sha256(data).digest()
        path = self.path(name)
        try:
            # Another process may discard the blob between these steps; then it is written anew.
            if self.get(name) is None or (durable and not self._sync(path)):
                self._write(path, data, durable=durable)
        except OSError as error:
            raise unwritable(path, error) from error
        return name

    def discard(self, name: bytes) -> None:
        """Forget a blob; absent ones are ignored."""
        path = self.path(name)
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise unwritable(path, error) from error

    def names(self) -> Iterator[bytes]:
        """The names of all blobs held, in no order; quarantined and half-written files are not among them."""
        return blob_names(self.root)

    def _read(self, path: Path) -> bytes | None:
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
        except FileNotFoundError:
            return None
        except OSError as error:
            if error.errno == errno.ELOOP:
                return b""
            raise unwritable(path, error) from error
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                return b""
            with os.fdopen(descriptor, "rb", closefd=False) as file:
                return file.read(self.max_bytes + 1)
        except OSError as error:
            raise unwritable(path, error) from error
        finally:
            os.close(descriptor)

    def _quarantine(self, path: Path, name: bytes) -> bytes | None:
        aside = path.with_name(path.name + ".bad")
        with contextlib.suppress(FileNotFoundError):
            path.rename(aside)
            # Another process may have put a good copy there between our read and our rename.
            data = self._read(aside)
            if data is not None and hashlib.sha256(data).digest() == name:
                aside.rename(path)
                return data
        return None

    def _write(self, path: Path, data: bytes, *, durable: bool) -> None:
        for attempt in range(_WRITE_ATTEMPTS):
            temporary = self._temporary / secrets.token_hex(16)
            descriptor = os.open(
                temporary,
                os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC,
                PRIVATE_FILE,
            )
            try:
                # The lock tells a process that sweeps that this file has a living writer.
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                write_all(descriptor, data)
                if durable:
                    os.fsync(descriptor)
                path.parent.mkdir(mode=PRIVATE_DIR, exist_ok=True)
                os.rename(temporary, path)
            except FileNotFoundError:
                # Swept between creation and lock: nobody could tell that it was alive yet.
                if attempt + 1 == _WRITE_ATTEMPTS:
                    raise
                continue
            except OSError:
                temporary.unlink(missing_ok=True)
                raise
            finally:
                os.close(descriptor)
            if durable:
                fsync_dir(path.parent)
                fsync_dir(self.root)
            return

    def _sync(self, path: Path) -> bool:
        """Make a blob durable that another writer may have put there without. False when it is gone."""
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        fsync_dir(path.parent)
        fsync_dir(self.root)
        return True

    def _sweep(self) -> None:
        """Remove what writers left behind that died; a living writer holds a lock on its file."""
        for file in self._temporary.iterdir():
            try:
                descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
            except OSError:
                continue
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                file.unlink(missing_ok=True)
            except BlockingIOError:
                continue
            finally:
                os.close(descriptor)
