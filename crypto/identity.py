"""Ed25519 keys, keys for roles derived from one secret, and domain tags.

An organization guards one operational secret. A key per *role* and *epoch* is derived from it, so that
rotating one role's key leaves the others alone, and no key ever signs for two purposes::

    seed = HKDF-SHA256(secret, salt = none, info = "quidnunc/v1/role-key" 00 role 00 epoch:u32be, 32 bytes)

Whatever is hashed or signed outside of a signed note starts with a tag, ``"quidnunc/v1/" name 00``: no
message of one kind can pass for a message of another.
"""

from __future__ import annotations

import hashlib
import hmac
from enum import StrEnum
from typing import NoReturn

from nacl.bindings import crypto_sign, crypto_sign_open, crypto_sign_seed_keypair
from nacl.exceptions import BadSignatureError

from quidnunc.crypto.errors import LocalProtocolError, Reason, RemoteProtocolError

DOMAIN = "quidnunc/v1/"
SEED_BYTES = 32
PUBLIC_BYTES = 32
SIGNATURE_BYTES = 64
MAX_EPOCH = 2**32 - 1

_HASH_BYTES = 32


class Role(StrEnum):
    """What a derived key is for; each role has an epoch of its own."""

    LOG = "log"
    WITNESS = "witness"
    TRANSPORT = "transport"


class SecretKey:
    """An Ed25519 key pair (RFC 8032) that never shows its secret by accident.

    It can be neither printed nor pickled nor copied; :attr:`seed` is the one deliberate way out.
    """

    __slots__ = ("_expanded", "_public")

    def __init__(self, seed: bytes) -> None:
        if len(seed) != SEED_BYTES:
            raise LocalProtocolError(f"a key seed is {len(seed)} bytes, must be {SEED_BYTES}")
        self._public, self._expanded = crypto_sign_seed_keypair(bytes(seed))

    @classmethod
    def from_seed(cls, seed: bytes) -> SecretKey:
        """The key pair of a 32-byte ``seed``."""
        return cls(seed)

    @property
    def public(self) -> bytes:
        """The 32-byte public key."""
        return self._public

    @property
    def seed(self) -> bytes:
        """The 32-byte secret this key was made from."""
        return self._expanded[:SEED_BYTES]

    def sign(self, message: bytes) -> bytes:
        """The 64-byte signature of ``message``; the same message always has the same signature."""
        return crypto_sign(bytes(message), self._expanded)[:SIGNATURE_BYTES]

    def __repr__(self) -> str:
        return f"SecretKey(public={self._public.hex()})"

    def __reduce__(self) -> NoReturn:
        raise LocalProtocolError("a secret key cannot be copied or pickled", hint="hand over its seed")


def verify(public: bytes, message: bytes, signature: bytes) -> None:
    """Return if ``signature`` is ``public``'s on ``message``; else raise with :attr:`Reason.BAD_SIGNATURE`.

    libsodium refuses non-canonical signatures and public keys of small order, so one signed message has no
    second valid signature made by somebody else.
    """
    if len(public) != PUBLIC_BYTES or len(signature) != SIGNATURE_BYTES:
        raise RemoteProtocolError(
            Reason.BAD_SIGNATURE,
            f"a key of {len(public)} and a signature of {len(signature)} bytes, "
            f"must be {PUBLIC_BYTES} and {SIGNATURE_BYTES}",
        )
    try:
        crypto_sign_open(bytes(signature) + message, bytes(public))
    except BadSignatureError:
        raise RemoteProtocolError(Reason.BAD_SIGNATURE, f"not signed by key {public.hex()[:16]}") from None


def derive_seed(secret: bytes, role: Role, epoch: int) -> bytes:
    """The 32-byte key seed of ``role`` in ``epoch`` (0 to 2**32-1); the secret is 32 bytes or more."""
    if len(secret) < SEED_BYTES:
        raise LocalProtocolError(f"a secret of {len(secret)} bytes, must be {SEED_BYTES} or more")
    if not 0 <= epoch <= MAX_EPOCH:
        raise LocalProtocolError(f"key epoch {epoch} is outside 0 to {MAX_EPOCH}")
    info = tagged("role-key", Role(role).encode("ascii"), b"\x00", epoch.to_bytes(4, "big"))
    return hkdf_sha256(secret, salt=b"", info=info, size=SEED_BYTES)


def hkdf_sha256(secret: bytes, *, salt: bytes, info: bytes, size: int) -> bytes:
    """HKDF with SHA-256 (RFC 5869): ``size`` bytes, at most 8160, for the purpose ``info``."""
    if not 0 < size <= 255 * _HASH_BYTES:
        raise LocalProtocolError(f"{size} bytes from HKDF, limit is {255 * _HASH_BYTES}")
    pseudorandom = hmac.digest(salt or bytes(_HASH_BYTES), secret, "sha256")
    output, block = b"", b""
    for counter in range(1, -(-size // _HASH_BYTES) + 1):
        block = hmac.digest(pseudorandom, block + info + bytes([counter]), "sha256")
        output += block
    return output[:size]


def tagged(name: str, *parts: bytes) -> bytes:
    """``parts`` behind the tag of ``name``; the caller sees to it that they can be split in one way only."""
    if not name or not name.isascii() or not name.isprintable():
        raise LocalProtocolError(f"domain tag {name!r} must be printable ASCII")
    return b"".join((DOMAIN.encode("ascii"), name.encode("ascii"), b"\x00", *parts))


def tagged_hash(name: str, *parts: bytes) -> bytes:
    """SHA-256 of :func:`tagged`: 32 bytes."""
    return hashlib.sha256(tagged(name, *parts)).digest()
