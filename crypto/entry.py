"""One ledger entry: a header in the tree, and a payload behind a salted commitment.

The header is a canonical msgpack array of exactly nine fields, 109 to 132 bytes::

    [0] v = 1   [1] log_id   [2] seq   [3] prev   [4] t_ms   [5] type   [6] key_epoch   [7] payload_len
    [8] payload_cmt = SHA-256("quidnunc/v1/payload" 00 salt payload)

``prev`` is 32 zero bytes in the first header, then the Merkle leaf hash of the header before: the hash chain
and the tree are made of the same hashes and cannot disagree. The leaf hash of the header is the entry's name.

Payload and salt are not in the tree. Deleting both erases the content and breaks no proof; the salt (16 fresh
random bytes) keeps a short payload from being guessed from its commitment. A payload that has a private part
names ``pv`` = SHA-256("quidnunc/v1/private" 00 private_salt private) and can be shown without it.
"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

from quidnunc.crypto import merkle
from quidnunc.crypto.encoding import decode, encode
from quidnunc.crypto.errors import LocalProtocolError, Malformed
from quidnunc.crypto.identity import tagged_hash

HEADER_VERSION = 1
MAX_HEADER_BYTES = 256
MAX_PAYLOAD_BYTES = 65_535
MAX_PRIVATE_BYTES = 65_535
SALT_BYTES = 16
ZERO_HASH = bytes(32)
"""What the first header of a log names as the one before."""

_MAX_U64 = 2**64 - 1
_MAX_U32 = 2**32 - 1


class EntryType(IntEnum):
    """What an entry is about. The numbers stand in signed ledgers and never change.

    128 to 255 are free for applications; an unknown type is kept and verified like any other.
    """

    GENESIS = 0x01
    CHARTER_ADOPT = 0x02
    KEY_ROTATE = 0x03
    KEY_REVOKE = 0x04
    LOG_RETIRE = 0x05
    LOG_RECOVER = 0x06
    NODE_START = 0x07
    MEMBER_JOIN = 0x08
    MEMBER_LEAVE = 0x09
    MEMBER_EVICT = 0x0A
    REPUTATION_CHANGE = 0x0B
    MEMBER_NOTICE = 0x0C
    UPDATE_PUBLISHED = 0x10
    UPDATE_RECEIVED = 0x11
    MERGE = 0x12
    ROLLBACK = 0x13
    EVAL = 0x14
    MESSAGE_REFUSED = 0x15
    DP_SPEND = 0x18
    DP_EXHAUSTED = 0x19
    WITNESS_SUMMARY = 0x20
    EQUIVOCATION_PROOF = 0x21
    SUSPICION = 0x22
    SUSPICION_CLEARED = 0x23
    PAYLOAD_ERASED = 0x28
    BLOB_PRUNED = 0x29
    CONFIG_CHANGE = 0x2A

    @property
    def label(self) -> str:
        """The name as it stands in JSON and on the terminal, for example ``update.published``."""
        return self.name.lower().replace("_", ".", 1)


class Header(NamedTuple):
    """The nine fields but the version. ``t_ms`` is the author's claim, in milliseconds since 1970."""

    log_id: bytes
    seq: int
    prev: bytes
    t_ms: int
    type: int
    key_epoch: int
    payload_len: int
    payload_cmt: bytes


class Entry(NamedTuple):
    """An entry as it is stored: encoded header, payload and salt, and the private part if there is one."""

    header: bytes
    payload: bytes
    salt: bytes
    private: bytes = b""
    private_salt: bytes = b""

    @property
    def leaf(self) -> bytes:
        """The entry's name: its leaf hash, which the next header calls ``prev``."""
        return merkle.leaf_hash(self.header)

    @property
    def erased(self) -> bool:
        """Whether payload and salt are gone; no entry is made without a salt."""
        return not (self.payload or self.salt or self.private or self.private_salt)


def encode_header(header: Header) -> bytes:
    """The canonical bytes of ``header``; a field out of range raises :class:`LocalProtocolError`."""
    wrong = _wrong_field(header)
    if wrong:
        raise LocalProtocolError(wrong)
    return encode([HEADER_VERSION, *header])


def parse_header(data: bytes) -> Header:
    """The header with exactly these canonical bytes; anything else raises :class:`Malformed`."""
    fields = decode(data, max_bytes=MAX_HEADER_BYTES)
    if not isinstance(fields, list) or len(fields) != 9:
        raise Malformed("an entry header must be an array of 9")
    version = fields[0]
    if type(version) is not int or version != HEADER_VERSION:
        raise Malformed(f"an entry header must be of version {HEADER_VERSION}")
    # _wrong_field() checks the types.
    header = Header._make(fields[1:])
    wrong = _wrong_field(header)
    if wrong:
        raise Malformed(wrong)
    return header


def _wrong_field(header: Header) -> str:
    """What is wrong with the types or ranges of ``header``, "" if nothing is."""
    for name in ("log_id", "prev", "payload_cmt"):
        value = getattr(header, name)
        if type(value) is not bytes or len(value) != merkle.HASH_BYTES:
            return f"header field {name} must be {merkle.HASH_BYTES} bytes"
    for name, limit in _INTEGERS:
        value = getattr(header, name)
        # bool is an int to isinstance(), an IntEnum is not one to type().
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= limit:
            return f"header field {name} must be an integer from 0 to {limit}"
    if (header.seq == 0) != (header.prev == ZERO_HASH):
        return f"header {header.seq} names {header.prev.hex()[:16]} as the one before"
    return ""


_INTEGERS = (
    ("seq", merkle.MAX_SIZE - 1),
    ("t_ms", _MAX_U64),
    ("type", 0xFF),
    ("key_epoch", _MAX_U32),
    ("payload_len", MAX_PAYLOAD_BYTES),
)


def commit_payload(salt: bytes, payload: bytes) -> bytes:
    """The commitment to ``payload`` under a 16-byte ``salt``: 32 bytes."""
    return _commit("payload", salt, payload)


def commit_private(salt: bytes, private: bytes) -> bytes:
    """The commitment ``pv`` to a private part under a 16-byte ``salt`` of its own: 32 bytes."""
    return _commit("private", salt, private)


def _commit(tag: str, salt: bytes, content: bytes) -> bytes:
    if len(salt) != SALT_BYTES:
        raise LocalProtocolError(f"a {tag} salt is {len(salt)} bytes, must be {SALT_BYTES}")
    return tagged_hash(tag, salt, content)


def log_id_of(genesis_payload: bytes) -> bytes:
    """The name of the log whose genesis entry has this payload: 32 bytes, the same for every later key."""
    return tagged_hash("log-id", genesis_payload)


def open_entry(entry: Entry) -> Header:
    """The header of ``entry``, after checking that payload, salt and private part are the committed ones.

    Anything else raises :class:`Malformed`.
    """
    header = parse_header(entry.header)
    if len(entry.payload) != header.payload_len:
        size = len(entry.payload)
        raise Malformed(f"entry {header.seq}: payload of {size} bytes, the header says {header.payload_len}")
    if len(entry.salt) != SALT_BYTES:
        raise Malformed(f"entry {header.seq}: salt of {len(entry.salt)} bytes, must be {SALT_BYTES}")
    if commit_payload(entry.salt, entry.payload) != header.payload_cmt:
        raise Malformed(f"entry {header.seq}: payload is not the one the header commits to")
    if entry.private or entry.private_salt:
        _check_private(entry, header.seq)
    return header


def _check_private(entry: Entry, seq: int) -> None:
    if len(entry.private) > MAX_PRIVATE_BYTES or len(entry.private_salt) != SALT_BYTES:
        raise Malformed(
            f"entry {seq}: private part of {len(entry.private)} bytes with a salt of "
            f"{len(entry.private_salt)}, must be at most {MAX_PRIVATE_BYTES} and {SALT_BYTES}"
        )
    payload = decode(entry.payload, max_bytes=MAX_PAYLOAD_BYTES)
    if not isinstance(payload, dict) or "pv" not in payload:
        raise Malformed(f"entry {seq}: private part, but the payload names none (pv)")
    if payload["pv"] != commit_private(entry.private_salt, entry.private):
        raise Malformed(f"entry {seq}: private part is not the one the payload commits to (pv)")
