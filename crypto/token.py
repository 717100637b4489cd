"""Provenance tokens: one ledger entry with everything a stranger needs to verify it.

A canonical msgpack array ``["quidnunc/v1/token", header, payload, salt, [hash...], note]``: the entry, the
Merkle path from its header to a root, and the checkpoint note in which the author signed that root. Whoever
knows the author's log id and public key checks all of it offline, with one signature and some twenty hashes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from quidnunc.crypto.checkpoint import open_checkpoint, origin_of
from quidnunc.crypto.encoding import decode, encode
from quidnunc.crypto.entry import Entry, Header, open_entry, parse_header
from quidnunc.crypto.errors import LocalProtocolError, Malformed, Reason, RemoteProtocolError
from quidnunc.crypto.identity import DOMAIN
from quidnunc.crypto.log_keys import Keys, LogKeys
from quidnunc.crypto.merkle import leaf_hash, verify_inclusion

TOKEN_TAG = DOMAIN + "token"
MAX_TOKEN_BYTES = 16_384


class Token(NamedTuple):
    """A verified token: the entry, its leaf hash, and the signed size and root of the tree it stands in."""

    header: Header
    header_bytes: bytes
    payload: bytes
    leaf: bytes
    size: int
    root: bytes
    note: bytes


class TokenParts(NamedTuple):
    """What stands in a token, none of it checked."""

    header: bytes
    payload: bytes
    salt: bytes
    path: tuple[bytes, ...]
    note: bytes


def make_token(entry: Entry, path: Sequence[bytes], note: bytes) -> bytes:
    """The token of ``entry``, whose ``path`` leads to the root in ``note``; the private part stays behind.

    Path and note are not checked here. A token above 16 KiB raises :class:`LocalProtocolError`.
    """
    data = encode([TOKEN_TAG, entry.header, entry.payload, entry.salt, list(path), note])
    if len(data) > MAX_TOKEN_BYTES:
        raise LocalProtocolError(f"a token of {len(data)} bytes, limit is {MAX_TOKEN_BYTES}")
    return data


def open_token(data: bytes, *, log_id: bytes, public: Keys) -> Token:
    """Verify the token of an entry in the log ``log_id``, whose log key, or keys, are ``public``.

    Raises :class:`RemoteProtocolError`, with :attr:`Reason.STRANGER` for another log's and
    :attr:`Reason.BAD_SIGNATURE` for one that ``public`` did not sign; else it is a :class:`Malformed`.
    """
    header_bytes, payload, salt, path, note = parse_token(data)
    claimed = parse_header(header_bytes)
    if claimed.log_id != log_id:
        raise RemoteProtocolError(
            Reason.STRANGER, f"token of log {claimed.log_id.hex()[:16]}, expected {log_id.hex()[:16]}"
        )
    header = open_entry(Entry(header_bytes, payload, salt))
    checkpoint = open_checkpoint(note, origin_of(log_id), public)
    if isinstance(public, LogKeys) and header.key_epoch != public.epoch_at(header.seq + 1):
        raise Malformed(f"entry {header.seq} is of key epoch {header.key_epoch}, another key was valid there")
    leaf = leaf_hash(header_bytes)
    verify_inclusion(leaf, header.seq, checkpoint.size, path, checkpoint.root)
    return Token(header, header_bytes, payload, leaf, checkpoint.size, checkpoint.root, note)


def parse_token(data: bytes) -> TokenParts:
    """The parts of the token with exactly these bytes; anything else raises :class:`Malformed`."""
    match decode(data, max_bytes=MAX_TOKEN_BYTES):
        case [tag, bytes(header), bytes(payload), bytes(salt), list(path), bytes(note)] if tag == TOKEN_TAG:
            hashes = tuple(each for each in path if isinstance(each, bytes))
            if len(hashes) != len(path):
                raise Malformed("the path of a token must hold nothing but hashes")
            return TokenParts(header, payload, salt, hashes, note)
    raise Malformed(f"a token must be an array of {TOKEN_TAG!r}, header, payload, salt, path and note")
