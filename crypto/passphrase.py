"""Passphrases: the bytes that a person's words stand for, the same on every keyboard and system."""

from __future__ import annotations

import unicodedata

from quidnunc.crypto.errors import KeyFileError

MAX_PASSPHRASE_BYTES = 1024


def passphrase_bytes(given: bytes) -> bytes:
    """The UTF-8 of ``given`` in Unicode normal form C, which is what a key is derived from.

    ``given`` is UTF-8 on one line; one line end at its end does not count. Raises KeyFileError, which never
    shows it, when it is empty, longer than MAX_PASSPHRASE_BYTES (as given or normalized), not UTF-8, more than
    one line, or begins with a byte order mark: what could not be typed at a prompt was not meant.
    """
    line = given.removesuffix(b"\n").removesuffix(b"\r") if given.endswith(b"\n") else given
    if len(line) > MAX_PASSPHRASE_BYTES:
        raise KeyFileError(f"the passphrase is longer than {MAX_PASSPHRASE_BYTES} bytes", hint="use a shorter one")
    try:
        text = unicodedata.normalize("NFC", line.decode("utf-8"))
    except UnicodeDecodeError:
        raise KeyFileError("the passphrase is not UTF-8", hint="save the file as UTF-8 text") from None
    if not text:
        raise KeyFileError("the passphrase is empty", hint="give one; new keys without a passphrase stay unlocked")
    if text.startswith("\ufeff"):
        raise KeyFileError("the passphrase begins with a byte order mark", hint="save the file as UTF-8 without one")
    if any(char in text for char in "\r\n\0"):
        raise KeyFileError("the passphrase is more than one line, or holds a zero byte", hint="put it on one line")
    normalized = text.encode("utf-8")
    if len(normalized) > MAX_PASSPHRASE_BYTES:
        raise KeyFileError(
            f"the passphrase is {len(normalized)} bytes in Unicode normal form C, limit is {MAX_PASSPHRASE_BYTES}",
            hint="use a shorter one",
        )
    return normalized
