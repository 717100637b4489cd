"""Secrets that two members share without ever having spoken: the seeds of noise that cancels between them.

Each end agrees by X25519 (RFC 7748) with the other's key, derived from the Ed25519 transport key in the charter by the
birational map between the two curves (libsodium's ``crypto_sign_ed25519_*_to_curve25519``). One key pair may serve both
algorithms (Thormarker 2021); the transport key is taken because it has no epochs, so that the seeds of a federation
never change. Then

    key = HKDF-SHA256(X25519 secret, salt = federation id, info = "quidnunc/v1/pair" 00 lower log id, higher log id)

with the log ids in ascending order: both ends derive the same 32 bytes, another federation other ones.
"""

from __future__ import annotations

from typing import NamedTuple

from nacl.bindings import (
    crypto_scalarmult,
    crypto_sign_ed25519_pk_to_curve25519,
    crypto_sign_ed25519_sk_to_curve25519,
)
from nacl.exceptions import RuntimeError as SodiumError

from quidnunc.crypto.errors import LocalProtocolError, Malformed
from quidnunc.crypto.identity import PUBLIC_BYTES, SecretKey, hkdf_sha256, tagged

KEY_BYTES = 32


class PairKey(NamedTuple):
    """What one end holds of a pair: the common ``key``, 32 bytes, and the ``sign`` of its noise, 1 or -1."""

    key: bytes
    sign: int


def x25519(secret: bytes, public: bytes) -> bytes:
    """The 32-byte shared secret of RFC 7748; raises Malformed for a public key of small order."""
    if len(secret) != PUBLIC_BYTES or len(public) != PUBLIC_BYTES:
        raise LocalProtocolError(f"X25519 keys of {len(secret)} and {len(public)} bytes, must be {PUBLIC_BYTES}")
    try:
        return crypto_scalarmult(bytes(secret), bytes(public))
    except SodiumError:
        raise Malformed(f"X25519 key {public.hex()[:16]} is of small order: it shares no secret") from None


def check_transport(public: bytes) -> None:
    """Raise Malformed unless secrets can be shared with the owner of the transport key ``public``."""
    _curve_point(public)


def _curve_point(public: bytes) -> bytes:
    try:
        return crypto_sign_ed25519_pk_to_curve25519(bytes(public))
    except SodiumError:
        raise Malformed(f"transport key {public.hex()[:16]} is no key of Ed25519") from None


def pair_key(own: SecretKey, own_log: bytes, other: bytes, other_log: bytes, federation: bytes) -> PairKey:
    """The pair of ``own`` transport key, of the log ``own_log``, with the member of log ``other_log``.

    ``other`` is that member's public transport key. The end with the lower log id adds the noise, the other one
    subtracts it. Raises Malformed for a key that is no point of the curve or of small order.
    """
    if own_log == other_log:
        raise LocalProtocolError("a member shares no secret with itself")
    public = _curve_point(other)
    secret = crypto_sign_ed25519_sk_to_curve25519(own.seed + own.public)
    low, high = sorted((own_log, other_log))
    shared = x25519(secret, public)
    key = hkdf_sha256(shared, salt=federation, info=tagged("pair", low, high), size=KEY_BYTES)
    return PairKey(key, 1 if own_log == low else -1)
