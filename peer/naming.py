"""Names that people read out or paste: libp2p PeerIDs and key fingerprints, without importing libp2p."""

from __future__ import annotations

_ALPHABET = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"

# An identity multihash of 36 bytes, holding the protobuf {1: Ed25519 = 1, 2: 32 bytes}.
_PEER_ID_PREFIX = bytes.fromhex("002408011220")

_FINGERPRINT_BYTES = 16


def base58(data: bytes) -> str:
    """``data`` in base58 with the Bitcoin alphabet; every leading zero byte is one ``1``."""
    zeros = len(data) - len(data.lstrip(b"\x00"))
    number = int.from_bytes(data, "big")
    digits = ""
    while number:
        number, remainder = divmod(number, 58)
        digits = _ALPHABET[remainder] + digits
    return "1" * zeros + digits


def peer_id(transport: bytes) -> str:
    """The libp2p PeerID (``12D3KooW...``) of a 32-byte Ed25519 transport key."""
    return base58(_PEER_ID_PREFIX + transport)


def fingerprint(log_id: bytes) -> str:
    """The first 128 bits of a log id in groups, to be compared by telephone.

    A log id is a hash over the root key and the log key, so nobody can make a second one with this beginning.
    """
    digits = log_id[:_FINGERPRINT_BYTES].hex()
    return " ".join(digits[i : i + 4] for i in range(0, len(digits), 4))
