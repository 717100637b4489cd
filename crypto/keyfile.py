"""Key files: one secret, what it is for, and a check that it is whole; plain, or locked with a passphrase.

A canonical msgpack map. Of every file: ``v`` = 1, ``kind``, ``kdf`` and ``pub`` (the Ed25519 public key of the
secret taken as a seed, 32 bytes), so that what a file holds is known without its passphrase. ``kdf`` says how
the secret is locked:

* ``none``: ``secret`` (32 bytes) lies open, and the file system's permissions are all that guards it;
* ``argon2id13``: ``box`` is the secret under XChaCha20-Poly1305 (draft-irtf-cfrg-xchacha-03) with the random
  ``nonce`` (24 bytes) and the key ``Argon2id(passphrase, salt, ops, mem)`` (RFC 9106, version 0x13, one lane,
  32 bytes); ``salt`` is 16 bytes, ``ops`` the passes, ``mem`` the memory in KiB. Everything else in the map is
  the associated data: a box opens only as the kind and key it was made for, at the cost it was made with.
  ``check`` is a hash of the rest, which anybody can compute: damage is found before any work and is not
  mistaken for a wrong passphrase.

The cost in a file is believed only between the named limits: a doctored file is neither a memory bomb nor an
invitation to guess. A file with a flipped bit is refused: it must not become another identity.
"""

from __future__ import annotations

from typing import NamedTuple

from nacl.bindings import (
    crypto_aead_xchacha20poly1305_ietf_ABYTES,
    crypto_aead_xchacha20poly1305_ietf_decrypt,
    crypto_aead_xchacha20poly1305_ietf_encrypt,
    crypto_pwhash_alg,
    crypto_pwhash_ALG_ARGON2ID13,
)
from nacl.exceptions import CryptoError
from nacl.exceptions import RuntimeError as SodiumRefused

from quidnunc.crypto.encoding import Value, decode, encode
from quidnunc.crypto.errors import KeyFileError, LocalProtocolError, Malformed
from quidnunc.crypto.identity import SEED_BYTES, SecretKey, tagged, tagged_hash

KEY_FILE_VERSION = 1
KINDS = ("root", "operational")
MAX_KEY_FILE_BYTES = 4096
SALT_BYTES = 16
NONCE_BYTES = 24
MIN_OPS = 2
MAX_OPS = 16
MIN_MEM_KIB = 19 * 1024
"""With two passes the least that OWASP's password storage cheat sheet allows Argon2id."""
MAX_MEM_KIB = 1024 * 1024

_NONE = "none"
_ARGON2ID = "argon2id13"
_OPEN_KEYS = {"v", "kind", "kdf", "pub", "secret"}
_LOCKED_KEYS = {"v", "kind", "kdf", "pub", "ops", "mem", "salt", "nonce", "box", "check"}
_BOX_BYTES = SEED_BYTES + crypto_aead_xchacha20poly1305_ietf_ABYTES
_RESTORE = "restore the file from a backup"
_UPGRADE = "use the version of the program that wrote it"


class Cost(NamedTuple):
    """What one guess at a passphrase costs: ``ops`` passes over ``mem_kib`` KiB of memory."""

    ops: int = 3
    mem_kib: int = 256 * 1024


class KeyFile(NamedTuple):
    """What a key file holds: ``kind`` (``root`` or ``operational``) and ``secret``, 32 bytes, never shown."""

    kind: str
    secret: bytes

    @property
    def public(self) -> bytes:
        """The Ed25519 public key of the secret taken as a seed: 32 bytes."""
        return SecretKey(self.secret).public

    def __repr__(self) -> str:
        return f"KeyFile(kind={self.kind!r}, public={self.public.hex()})"


class LockedKeyFile(NamedTuple):
    """A key file that needs a passphrase. Nothing in it is secret, nothing in it is believed before it opens."""

    kind: str
    public: bytes
    cost: Cost
    salt: bytes
    nonce: bytes
    box: bytes

    def unlock(self, passphrase: bytes) -> KeyFile:
        """The key behind ``passphrase``, at the cost of one guess (0.1 to some 10 seconds, ``cost.mem_kib``).

        Raises KeyFileError when it is another passphrase. A box or header that somebody changed on purpose,
        with a new ``check``, ends the same way: the format cannot tell the two apart.
        """
        key = _derive(passphrase, self.salt, self.cost)
        bound = _bound(self.kind, self.public, self.cost, self.salt, self.nonce)
        try:
            secret = crypto_aead_xchacha20poly1305_ietf_decrypt(
                self.box, tagged("key-file", encode(bound)), self.nonce, key
            )
        except CryptoError:
            raise KeyFileError(
                "the passphrase does not open the key file",
                hint="is it the passphrase of this key? without it a locked key is lost; use a backup",
            ) from None
        if SecretKey(secret).public != self.public:
            raise KeyFileError("the public key in the key file is not that of its secret", hint=_RESTORE)
        return KeyFile(self.kind, secret)


def encode_key_file(kind: str, secret: bytes) -> bytes:
    """The file that keeps ``secret`` (32 bytes) as a key of ``kind``, not locked."""
    public = _checked(kind, secret)
    return encode({"v": KEY_FILE_VERSION, "kind": kind, "kdf": _NONE, "pub": public, "secret": secret})


def lock_key_file(kind: str, secret: bytes, passphrase: bytes, *, salt: bytes, nonce: bytes, cost: Cost) -> bytes:
    """The file that keeps ``secret`` (32 bytes) as a key of ``kind``, locked with ``passphrase``.

    ``salt`` (16 bytes) and ``nonce`` (24 bytes) are random and used once. Costs one guess. Raises KeyFileError
    when ``cost`` is outside the limits or the memory for it cannot be had.
    """
    public = _checked(kind, secret)
    if len(salt) != SALT_BYTES or len(nonce) != NONCE_BYTES:
        raise LocalProtocolError(f"salt of {len(salt)} and nonce of {len(nonce)} bytes, must be 16 and 24")
    _check_cost(cost)
    bound = _bound(kind, public, cost, salt, nonce)
    key = _derive(passphrase, salt, cost)
    box = crypto_aead_xchacha20poly1305_ietf_encrypt(secret, tagged("key-file", encode(bound)), nonce, key)
    return encode({**bound, "box": box, "check": _check({**bound, "box": box})})


def decode_key_file(data: bytes) -> KeyFile | LockedKeyFile:
    """The key in a file's bytes, or what is locked in it; nothing is derived yet.

    Anything that is not exactly a key file raises :class:`KeyFileError`.
    """
    fields = _fields(data)
    kind = fields["kind"]
    if not isinstance(kind, str) or kind not in KINDS:
        raise KeyFileError(f"the key file holds a key of kind {kind!r}, known are {', '.join(KINDS)}", hint=_UPGRADE)
    if fields["kdf"] == _ARGON2ID:
        return _locked(kind, fields)
    secret = _bytes(fields, "secret", SEED_BYTES)
    if fields["pub"] != SecretKey(secret).public:
        raise KeyFileError("the public key in the key file is not that of its secret", hint=_RESTORE)
    return KeyFile(kind, secret)


def _locked(kind: str, fields: dict[str, Value]) -> LockedKeyFile:
    ops, mem = fields["ops"], fields["mem"]
    if type(ops) is not int or type(mem) is not int:
        raise KeyFileError("the cost in the key file is not two integers", hint=_RESTORE)
    cost = Cost(ops, mem)
    _check_cost(cost)
    found = LockedKeyFile(
        kind,
        _bytes(fields, "pub", SEED_BYTES),
        cost,
        _bytes(fields, "salt", SALT_BYTES),
        _bytes(fields, "nonce", NONCE_BYTES),
        _bytes(fields, "box", _BOX_BYTES),
    )
    if fields["check"] != _check({key: value for key, value in fields.items() if key != "check"}):
        raise KeyFileError("the key file is damaged: its check does not fit the rest", hint=_RESTORE)
    return found


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
    if kdf not in (_NONE, _ARGON2ID):
        raise KeyFileError(
            f"the key file is locked with {_shown(kdf)}, this program reads {_ARGON2ID!r} and {_NONE!r} (not locked)",
            hint=_UPGRADE,
        )
    keys = _LOCKED_KEYS if kdf == _ARGON2ID else _OPEN_KEYS
    if fields.keys() != keys:
        raise KeyFileError(f"the key file must hold exactly {', '.join(sorted(keys))}", hint=_RESTORE)
    return fields


def _checked(kind: str, secret: bytes) -> bytes:
    """The public key of a secret that may be written as a key of ``kind``."""
    if kind not in KINDS:
        raise LocalProtocolError(f"key kind {kind!r}, must be one of {', '.join(KINDS)}")
    return SecretKey(secret).public


def _check_cost(cost: Cost) -> None:
    for what, value, least, most in (
        ("passes", cost.ops, MIN_OPS, MAX_OPS),
        ("KiB of memory", cost.mem_kib, MIN_MEM_KIB, MAX_MEM_KIB),
    ):
        if not least <= value <= most:
            raise KeyFileError(
                f"unlocking takes {value} {what}, must be {least} to {most}",
                hint="a file that asks for less or more was not written by this program; restore it from a backup",
            )


def _bound(kind: str, public: bytes, cost: Cost, salt: bytes, nonce: bytes) -> dict[str, Value]:
    """What a locked file says in the open: the associated data of its box."""
    return {
        "v": KEY_FILE_VERSION,
        "kind": kind,
        "kdf": _ARGON2ID,
        "pub": public,
        "ops": cost.ops,
        "mem": cost.mem_kib,
        "salt": salt,
        "nonce": nonce,
    }


def _check(fields: dict[str, Value]) -> bytes:
    return tagged_hash("key-check", encode(fields))


def _derive(passphrase: bytes, salt: bytes, cost: Cost) -> bytes:
    if not passphrase:
        raise LocalProtocolError("an empty passphrase locks nothing")
    try:
        return crypto_pwhash_alg(
            SEED_BYTES, passphrase, salt, cost.ops, cost.mem_kib * 1024, crypto_pwhash_ALG_ARGON2ID13
        )
    except SodiumRefused:
        raise KeyFileError(
            f"{cost.mem_kib} KiB of memory for the passphrase cannot be had",
            hint="free some memory, or raise this process's limit",
        ) from None


def _bytes(fields: dict[str, Value], key: str, size: int) -> bytes:
    value = fields[key]
    if not isinstance(value, bytes) or len(value) != size:
        name = "secret" if key == "secret" else f"field {key}"
        raise KeyFileError(f"the {name} in the key file is not {size} bytes", hint=_RESTORE)
    return value


def _shown(value: Value) -> str:
    """A scalar of the file for a message: short, and never bytes, which may be secret."""
    return repr(value)[:40] if isinstance(value, int | str) else "an unknown kind"
