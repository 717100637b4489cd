"""Key files: one secret, what it is for, and a check that it is whole.

A canonical msgpack map: ``v`` = 1, ``kind``, ``kdf``, ``pub`` (the Ed25519 public key of the secret taken as
a seed, 32 bytes) and ``secret`` (32 bytes). ``kdf`` says how the secret is locked: ``none`` in this version,
so that the file system's permissions are all that guards it; a later version's is refused here by name. A
file with a flipped bit is refused: it must not become another identity.
"""

from __future__ import annotations

from typing import NamedTuple

from quidnunc.crypto.encoding import Value, decode, encode
from quidnunc.crypto.errors import KeyFileError, LocalProtocolError, Malformed
from quidnunc.crypto.identity import SEED_BYTES, SecretKey

KEY_FILE_VERSION = 1
KINDS = ("root", "operational")
MAX_KEY_FILE_BYTES = 4096

_KDF = "none"
_KEYS = {"v", "kind", "kdf", "pub", "secret"}
_RESTORE = "restore the file from a backup"
_UPGRADE = "use the version of the program that wrote it"


class KeyFile(NamedTuple):
    """What a key file holds: ``kind`` (``root`` or ``operational``) and ``secret``, 32 bytes, never shown."""

    kind: str
    secret: bytes

    def __repr__(self) -> str:
        return f"KeyFile(kind={self.kind!r}, public={SecretKey(self.secret).public.hex()})"


def encode_key_file(kind: str, secret: bytes) -> bytes:
    """The file that keeps ``secret`` (32 bytes) as a key of ``kind``."""
    if kind not in KINDS:
        raise LocalProtocolError(f"key kind {kind!r}, must be one of {', '.join(KINDS)}")
    public = SecretKey(secret).public
    return encode({"v": KEY_FILE_VERSION, "kind": kind, "kdf": _KDF, "pub": public, "secret": secret})


def decode_key_file(data: bytes) -> KeyFile:
    """The key in a file's bytes; anything that is not exactly one raises :class:`KeyFileError`."""
    fields = _fields(data)
    kind, public, secret = fields["kind"], fields["pub"], fields["secret"]
    if not isinstance(kind, str) or kind not in KINDS:
        raise KeyFileError(f"the key file holds a key of kind {kind!r}, known are {', '.join(KINDS)}", hint=_UPGRADE)
    if not isinstance(secret, bytes) or len(secret) != SEED_BYTES:
        raise KeyFileError(f"the secret in the key file is not {SEED_BYTES} bytes", hint=_RESTORE)
    if public != SecretKey(secret).public:
        raise KeyFileError("the public key in the key file is not that of its secret", hint=_RESTORE)
    return KeyFile(kind, secret)


def _fields(data: bytes) -> dict[str, Value]:
    """The map in the file, with exactly the keys of this version."""
    try:
        fields = decode(data, max_bytes=MAX_KEY_FILE_BYTES)
    except Malformed as error:
        raise KeyFileError(f"the key file does not parse: {error.message}", hint=_RESTORE) from None
    if not isinstance(fields, dict):
        raise KeyFileError("the key file does not hold a map", hint=_RESTORE)
    # Version and locking first: they decide what else a file may hold.
    version, kdf = fields.get("v"), fields.get("kdf")
    if type(version) is not int or version != KEY_FILE_VERSION:
        raise KeyFileError(
            f"the key file is of version {_shown(version)}, this program reads {KEY_FILE_VERSION}",
            hint=_UPGRADE,
        )
    if kdf != _KDF:
        raise KeyFileError(
            f"the key file is locked with {_shown(kdf)}, this program reads {_KDF!r} (not locked)",
            hint=_UPGRADE,
        )
    if fields.keys() != _KEYS:
        raise KeyFileError(f"the key file must hold exactly {', '.join(sorted(_KEYS))}", hint=_RESTORE)
    return fields


def _shown(value: Value) -> str:
    """A scalar of the file for a message: short, and never bytes, which may be secret."""
    return repr(value)[:40] if isinstance(value, int | str) else "an unknown kind"
