"""Key files on disk: only their owner may read them, and they are never replaced by accident.

The rules are ssh's: a key that others can read is not used until that is mended, because nobody would notice.
"""

from __future__ import annotations

import errno
import os
import secrets
import shlex
import stat
from pathlib import Path

from quidnunc.crypto.errors import KeyFileError
from quidnunc.crypto.keyfile import MAX_KEY_FILE_BYTES, decode_key_file, encode_key_file
from quidnunc.peer.home import PRIVATE_FILE, atomic_write

SECRET_BYTES = 32


def encode(kind: str, secret: bytes) -> bytes:
    """The bytes of a key file, for a caller that writes several files at once with ``atomic_write``."""
    return encode_key_file(kind, secret)


def create(path: Path, kind: str) -> bytes:
    """Make a key of ``kind`` (``root`` or ``operational``) from the system's randomness; its 32 secret bytes.

    Raises KeyFileError when there is a file already, StoreUnwritable when the disk fails.
    """
    secret = secrets.token_bytes(SECRET_BYTES)
    write(path, kind, secret)
    return secret


def write(path: Path, kind: str, secret: bytes) -> None:
    """Write a new key file, 0600. Raises KeyFileError when there is one already, StoreUnwritable."""
    try:
        atomic_write(path, encode_key_file(kind, secret), PRIVATE_FILE, replace=False)
    except FileExistsError:
        raise KeyFileError(
            f"{path}: there is a key already",
            hint="move it away first: what only this key can sign is lost with it",
        ) from None


def load(path: Path, kind: str) -> bytes:
    """The 32 secret bytes of the key of ``kind`` at ``path``.

    Raises KeyFileError, with the command that mends it as the hint, when the file is missing, damaged, of
    another kind, a symbolic link, owned by somebody else, or readable by anybody else.
    """
    _check_directory(path.parent)
    data = _read(path)
    try:
        key = decode_key_file(data)
    except KeyFileError as error:
        raise KeyFileError(f"{path}: {error.message}", hint=error.hint) from None
    if key.kind != kind:
        raise KeyFileError(f"{path}: a key of kind {key.kind!r}, {kind!r} is needed", hint="were two files swapped?")
    return key.secret


def _read(path: Path) -> bytes:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise _unreadable(path, error) from None
    try:
        _check(path, os.fstat(descriptor), allowed=0o600)
        data = b""
        while chunk := os.read(descriptor, MAX_KEY_FILE_BYTES + 1 - len(data)):
            data += chunk
    except OSError as error:
        raise _unreadable(path, error) from None
    finally:
        os.close(descriptor)
    return data


def _check_directory(path: Path) -> None:
    """Whoever may write to the directory may exchange the key."""
    try:
        found = os.stat(path)
    except OSError as error:
        raise _unreadable(path, error) from None
    if found.st_mode & 0o022 and not found.st_mode & stat.S_ISVTX:
        raise KeyFileError(f"{path}: others may write to it (mode {_mode(found)})", hint=f"chmod 700 {_quoted(path)}")


def _check(path: Path, found: os.stat_result, allowed: int) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise KeyFileError(f"{path}: not a regular file", hint="put the key file itself there")
    if found.st_uid != os.geteuid():
        raise KeyFileError(
            f"{path}: owned by user {found.st_uid}, this process runs as {os.geteuid()}",
            hint=f"chown {os.geteuid()} {_quoted(path)}",
        )
    if stat.S_IMODE(found.st_mode) & ~allowed:
        raise KeyFileError(f"{path}: others may read it (mode {_mode(found)})", hint=f"chmod 600 {_quoted(path)}")


def _unreadable(path: Path, error: OSError) -> KeyFileError:
    match error.errno:
        case errno.ENOENT:
            return KeyFileError(f"{path}: no such key file", hint="make one with: quidnunc init")
        case errno.ELOOP:
            return KeyFileError(f"{path}: a symbolic link", hint="put the key file itself there")
    return KeyFileError(f"{path}: cannot be read: {(error.strerror or '').lower()}")


def _mode(found: os.stat_result) -> str:
    return f"{stat.S_IMODE(found.st_mode):04o}"


def _quoted(path: Path) -> str:
    return shlex.quote(str(path))
