"""Files on this disk: read with a cap, replaced whole or not at all, and what it means when that fails."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path

from quidnunc.crypto.errors import ConfigError, StoreUnwritable

PRIVATE_DIR = 0o700
PRIVATE_FILE = 0o600


def atomic_write(path: Path, data: bytes, mode: int = PRIVATE_FILE, *, replace: bool = True) -> None:
    """Put ``data`` at ``path`` so that, after a crash or power loss, either the old or the new file is there,
    whole.

    With ``replace`` false an existing file is kept and FileExistsError raised. Raises StoreUnwritable.
    """
    temporary = path.parent / f".{path.name}.{secrets.token_hex(8)}.tmp"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with writing(path):
        try:
            descriptor = os.open(temporary, flags, mode)
            try:
                os.fchmod(descriptor, mode)
                write_all(descriptor, data)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            if replace:
                os.rename(temporary, path)
            else:
                os.link(temporary, path, follow_symlinks=False)
            fsync_dir(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


def expanded(path: Path) -> Path:
    """``path`` with ``~`` or ``~name`` in front replaced; raises ConfigError for a user that is not here."""
    try:
        return path.expanduser()
    except RuntimeError:
        raise ConfigError(f"{path}: no user {path.parts[0]} on this machine", hint="write the path out") from None


def read_capped(path: Path, max_bytes: int) -> bytes:
    """The bytes of a regular file. Raises OSError, or ConfigError when it has more than ``max_bytes``."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            hint = "name a file in it" if stat.S_ISDIR(found.st_mode) else "write what it gives to a file first"
            raise ConfigError(f"{path}: not a regular file, but a {_kind(found.st_mode)}", hint=hint)
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            data = file.read(max_bytes + 1)
    finally:
        os.close(descriptor)
    if len(data) > max_bytes:
        raise ConfigError(f"{path}: {found.st_size} bytes, limit is {max_bytes}")
    return data


def _kind(mode: int) -> str:
    kinds = ((stat.S_ISDIR, "directory"), (stat.S_ISFIFO, "pipe"), (stat.S_ISSOCK, "socket"))
    return next((name for test, name in kinds if test(mode)), "device")


def write_all(descriptor: int, data: bytes) -> None:
    """Write every byte; a disk that fills up may take only a part of one write."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def fsync_dir(path: Path) -> None:
    """Make the names in a directory survive a power loss."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def unwritable(path: Path, error: OSError) -> StoreUnwritable:
    """What a failed write to ``path`` means to an operator."""
    hints = {
        errno.ENOSPC: "free some space on this file system; nothing was lost",
        errno.EDQUOT: "raise the disk quota; nothing was lost",
        errno.EROFS: "mount the file system for writing",
        errno.EIO: "check the disk: the operating system reports read or write errors",
        errno.EACCES: "give the user that runs quidnunc this directory (chown)",
        errno.EPERM: "give the user that runs quidnunc this directory (chown)",
    }
    reason = (error.strerror or type(error).__name__).lower()
    return StoreUnwritable(f"{path}: cannot be written: {reason}", hint=hints.get(error.errno or 0, ""))


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Raise StoreUnwritable for a block that cannot write to ``path``; FileExistsError passes."""
    try:
        yield
    except FileExistsError:
        raise
    except OSError as error:
        raise unwritable(path, error) from error
