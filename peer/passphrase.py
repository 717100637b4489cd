"""Where a passphrase may come from without a person: a systemd credential, a private file, a file descriptor.

Never a flag's value and never an environment variable: other processes can read both. (``$CREDENTIALS_DIRECTORY``
names a directory that systemd makes for one service; the passphrase is in a file there.)
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from quidnunc.crypto.errors import KeyFileError
from quidnunc.crypto.passphrase import MAX_PASSPHRASE_BYTES, passphrase_bytes
from quidnunc.peer.private_file import read_private, unreadable

CREDENTIAL = "quidnunc-passphrase"
_LINE_END = 2
_FIRST_FREE_DESCRIPTOR = 3


def from_credential() -> bytes | None:
    """The passphrase in the systemd credential ``quidnunc-passphrase``, or None if there is no such credential."""
    directory = os.environ.get("CREDENTIALS_DIRECTORY")
    if not directory:
        return None
    path = Path(directory) / CREDENTIAL
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise unreadable(path, error, "credential", "") from None
    try:
        found = os.fstat(descriptor)
        # systemd may leave it to root and let the service's user read it by an access list, whose mask shows as
        # the group's bits.
        if not stat.S_ISREG(found.st_mode) or found.st_uid not in (0, os.geteuid()) or found.st_mode & 0o037:
            raise KeyFileError(
                f"{path}: not a file that only this service may read (owner {found.st_uid}, "
                f"mode {stat.S_IMODE(found.st_mode):04o})",
                hint=f"let systemd make it: LoadCredential={CREDENTIAL}:FILE",
            )
        return _named(path, _read_line(descriptor))
    finally:
        os.close(descriptor)


def from_file(path: Path) -> bytes:
    """The passphrase in a file that only we may read (0600); raises KeyFileError."""
    data = read_private(
        path, MAX_PASSPHRASE_BYTES + _LINE_END, "passphrase file", missing="check the path of --passphrase-file"
    )
    return _named(path, data)


def from_descriptor(number: int) -> bytes:
    """The passphrase that comes through an open descriptor: one line, or all until its end. Closes it.

    Raises KeyFileError when it is not open for reading, or a terminal, which would show what is typed.
    """
    where = f"file descriptor {number}"
    if 0 < number < _FIRST_FREE_DESCRIPTOR:
        raise KeyFileError(f"{where}: is for output", hint="use 3 or above, for example: --passphrase-fd 3 3<FILE")
    try:
        if os.isatty(number):
            raise KeyFileError(f"{where}: a terminal, which shows what is typed", hint="leave the flag out to be asked")
        data = _read_line(number)
        os.close(number)
    except OSError as error:
        why = (error.strerror or type(error).__name__).lower()
        raise KeyFileError(f"{where}: cannot be read: {why}", hint="for example: --passphrase-fd 3 3<FILE") from None
    return _named(where, data)


def _read_line(descriptor: int) -> bytes:
    """Up to the end, the first line end, or more than a passphrase may have."""
    data, size = b"", MAX_PASSPHRASE_BYTES + _LINE_END + 1
    while b"\n" not in data and (chunk := os.read(descriptor, size - len(data))):
        data += chunk
    return data


def _named(where: Path | str, data: bytes) -> bytes:
    try:
        return passphrase_bytes(data)
    except KeyFileError as error:
        raise KeyFileError(f"{where}: {error.message}", hint=error.hint) from None
