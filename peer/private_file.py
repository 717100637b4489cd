"""Files that only their owner may read: keys and passphrases.

The rules are ssh's: a secret that others can read is not used until that is mended, because nobody would notice.
"""

from __future__ import annotations

import errno
import os
import shlex
import stat
from pathlib import Path

from quidnunc.crypto.errors import KeyFileError

OWNER_ONLY = 0o600


def read_private(path: Path, max_bytes: int, what: str, *, missing: str) -> bytes:
    """Up to ``max_bytes`` + 1 bytes of the file at ``path``, in one piece.

    Raises KeyFileError, with the command that mends it as the hint, when the file is missing (the hint is then
    ``missing``), a symbolic link, owned by somebody else, or readable by anybody else; ``what`` names it, for
    example ``key file``.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise unreadable(path, error, what, missing) from None
    try:
        _check(path, os.fstat(descriptor), what)
        return read_up_to(descriptor, max_bytes + 1)
    except OSError as error:
        raise unreadable(path, error, what, missing) from None
    finally:
        os.close(descriptor)


def read_up_to(descriptor: int, size: int) -> bytes:
    """What can be read until the end or ``size`` bytes, however small the pieces it comes in."""
    data = b""
    while chunk := os.read(descriptor, size - len(data)):
        data += chunk
    return data


def check_directory(path: Path, what: str, *, missing: str) -> None:
    """Refuse a directory in which somebody else could exchange the file."""
    try:
        found = os.stat(path)
    except OSError as error:
        raise unreadable(path, error, what, missing) from None
    if found.st_mode & 0o022 and not found.st_mode & stat.S_ISVTX:
        raise KeyFileError(f"{path}: others may write to it (mode {_mode(found)})", hint=f"chmod 700 {_quoted(path)}")


def unreadable(path: Path, error: OSError, what: str, missing: str) -> KeyFileError:
    """What a failed attempt to read a secret at ``path`` means to an operator."""
    match error.errno:
        case errno.ENOENT:
            return KeyFileError(f"{path}: no such {what}", hint=missing)
        case errno.ELOOP:
            return KeyFileError(f"{path}: a symbolic link", hint=f"put the {what} itself there")
    return KeyFileError(f"{path}: cannot be read: {(error.strerror or '').lower()}")


def _check(path: Path, found: os.stat_result, what: str) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise KeyFileError(f"{path}: not a regular file", hint=f"put the {what} itself there")
    if found.st_uid != os.geteuid():
        raise KeyFileError(
            f"{path}: owned by user {found.st_uid}, this process runs as {os.geteuid()}",
            hint=f"chown {os.geteuid()} {_quoted(path)}",
        )
    if stat.S_IMODE(found.st_mode) & ~OWNER_ONLY:
        raise KeyFileError(f"{path}: others may read it (mode {_mode(found)})", hint=f"chmod 600 {_quoted(path)}")


def _mode(found: os.stat_result) -> str:
    return f"{stat.S_IMODE(found.st_mode):04o}"


def _quoted(path: Path) -> str:
    return shlex.quote(str(path))
