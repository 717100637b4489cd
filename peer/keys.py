"""Key files on disk: only their owner may read them, a passphrase may lock them, and none is replaced by accident."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Callable
from pathlib import Path

from quidnunc.crypto.errors import KeyFileError, LocalProtocolError
from quidnunc.crypto.keyfile import (
    MAX_KEY_FILE_BYTES,
    NONCE_BYTES,
    SALT_BYTES,
    Cost,
    KeyFile,
    LockedKeyFile,
    decode_key_file,
    encode_key_file,
    lock_key_file,
)
from quidnunc.peer.files import PRIVATE_FILE, atomic_write
from quidnunc.peer.private_file import check_directory, read_private

SECRET_BYTES = 32

_MISSING = {
    "root": "if it is kept elsewhere, name it with --key FILE; or take it out of a backup (tar xf FILE keys/root.key)",
    "operational": "take it out of a backup of this home (tar xf FILE keys/operational.key); nothing else brings it "
    "back, and without it this log cannot go on: a new home goes on with init --root-key FILE",
}
"""What helps when a key file is gone: ``init`` makes no second one in a home, and ``key rotate`` needs the first."""

Passphrase = Callable[[], bytes]
"""Where a passphrase comes from when a key turns out to be locked."""


def no_passphrase() -> bytes:
    """A source that has none: raises KeyFileError."""
    raise KeyFileError(
        "the key file is locked, and no passphrase was given", hint="unlock it with: quidnunc key unlock"
    )


def encode(kind: str, secret: bytes, passphrase: bytes | None = None, cost: Cost | None = None) -> bytes:
    """The bytes of a key file, locked if there is a ``passphrase``, with a fresh salt and nonce."""
    if passphrase is None:
        return encode_key_file(kind, secret)
    salt, nonce = secrets.token_bytes(SALT_BYTES), secrets.token_bytes(NONCE_BYTES)
    return lock_key_file(kind, secret, passphrase, salt=salt, nonce=nonce, cost=cost or Cost())


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


def replace(path: Path, data: bytes) -> None:
    """Put another form of the same key at ``path``; raises StoreUnwritable.

    Whenever this is cut short, the old or the new file is there, whole; what an earlier cut left beside it is
    removed.
    """
    atomic_write(path, data, PRIVATE_FILE)
    for leftover in path.parent.glob(f".{path.name}.*.tmp"):
        with contextlib.suppress(OSError):
            leftover.unlink()


def read(path: Path, kind: str | None = None) -> KeyFile | LockedKeyFile:
    """The key file at ``path``, of ``kind`` if one is named; a locked one stays locked.

    Raises KeyFileError, with the command that mends it as the hint, when the file is missing, damaged, of
    another kind, a symbolic link, owned by somebody else, or readable by anybody else.
    """
    missing = _MISSING.get(kind or "", "check the path")
    check_directory(path.parent, "key file", missing=missing)
    data = read_private(path, MAX_KEY_FILE_BYTES, "key file", missing=missing)
    try:
        key = decode_key_file(data)
    except KeyFileError as error:
        raise _named(path, error) from None
    if kind not in (None, key.kind):
        raise KeyFileError(
            f"{path}: the file holds the {key.kind} key, must hold the {kind} key",
            hint="were two files swapped? put the right one there, or restore it from a backup",
        )
    return key


class Opener:
    """A key file that was read, with the passphrase if it is locked. Called once: the secret, after the work.

    It keeps neither the passphrase nor the secret beyond that call. (Python cannot wipe memory: copies may stay
    in it until it is used again.)
    """

    __slots__ = ("_found", "_passphrase", "_path")

    def __init__(self, path: Path, found: KeyFile | LockedKeyFile, passphrase: bytes | None = None) -> None:
        self._path = path
        self._found: KeyFile | LockedKeyFile | None = found
        self._passphrase = passphrase

    @classmethod
    def of(cls, path: Path, kind: str, passphrase: Passphrase = no_passphrase) -> Opener:
        """Read the key of ``kind`` at ``path``; ``passphrase`` is asked only if it is locked."""
        found = read(path, kind)
        if isinstance(found, KeyFile):
            return cls(path, found)
        try:
            return cls(path, found, passphrase())
        except KeyFileError as error:
            raise _named(path, error) from None

    def __call__(self) -> bytes:
        """The 32 secret bytes; takes a second or so for a locked key. Raises KeyFileError for a wrong passphrase."""
        found, passphrase = self._found, self._passphrase
        self._found = self._passphrase = None
        if found is None:
            raise LocalProtocolError("this key was opened before")
        if isinstance(found, KeyFile):
            return found.secret
        assert passphrase is not None
        try:
            return found.unlock(passphrase).secret
        except KeyFileError as error:
            raise _named(self._path, error) from None


def load(path: Path, kind: str, passphrase: Passphrase = no_passphrase) -> bytes:
    """The 32 secret bytes of the key of ``kind`` at ``path``; ``passphrase`` is asked only if it is locked.

    Raises KeyFileError as :func:`read` does, and for a wrong passphrase.
    """
    return Opener.of(path, kind, passphrase)()


def _named(path: Path, error: KeyFileError) -> KeyFileError:
    return KeyFileError(f"{path}: {error.message}", hint=error.hint)
