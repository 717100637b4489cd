"""What a log says about itself: its charter, each start, what it took back, who left, what was erased."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import ClassVar, NamedTuple

from quidnunc.crypto.entry import EntryType
from quidnunc.gossip.records import (
    HASH,
    UINT,
    WORD,
    Fields,
    listing,
    row,
)


class Recovery(IntEnum):
    """Why a ledger was brought up to date; codes of ``log.recover`` ``why``."""

    OLDER_COPY = 1
    LOST = 2


@dataclass(frozen=True, slots=True)
class CharterAdopt:
    """0x02: this log acts under charter ``charter`` from here on."""

    TYPE: ClassVar[EntryType] = EntryType.CHARTER_ADOPT
    FIELDS: ClassVar[Fields] = {
        "charter": ("charter", HASH),
        "ver": ("epoch", UINT),
        "witset": ("witnesses", listing(HASH, 512)),
        "quorum": ("quorum", UINT),
        "sigs": ("signatures", HASH),
    }
    charter: bytes
    epoch: int
    witnesses: tuple[bytes, ...]
    quorum: int
    signatures: bytes


class RecoveredFrom(NamedTuple):
    """One row of ``src``: who had seen the checkpoint, and the SHA-256 of its note."""

    log_id: bytes
    note: bytes


@dataclass(frozen=True, slots=True)
class LogRecover:
    """0x06: this ledger held ``had`` entries, neighbors knew more of it, and it was brought up to ``to`` from them.

    The entries from ``had`` up to ``to`` came back without their private parts, which nobody else has.
    """

    TYPE: ClassVar[EntryType] = EntryType.LOG_RECOVER
    FIELDS: ClassVar[Fields] = {
        "had": ("had", UINT),
        "to": ("to", UINT),
        "src": ("sources", listing(row(RecoveredFrom, HASH, HASH), 512)),
        "why": ("why", UINT),
    }
    had: int
    to: int
    sources: tuple[RecoveredFrom, ...]
    why: int


@dataclass(frozen=True, slots=True)
class NodeStart:
    """0x07: the daemon started for the ``incarnation``-th time, with these versions."""

    TYPE: ClassVar[EntryType] = EntryType.NODE_START
    FIELDS: ClassVar[Fields] = {
        "inc": ("incarnation", UINT),
        "sw": ("software", WORD),
        "py": ("python", WORD),
        "pt": ("torch", WORD),
        "dev": ("device", WORD),
    }
    incarnation: int
    software: str
    python: str
    torch: str
    device: str


@dataclass(frozen=True, slots=True)
class MemberNotice:
    """0x0c: a member's root key has signed entry ``seq``, of type ``kind``, of its log ``who`` (gossip/notices.py).

    ``token`` is the SHA-256 of that entry's token, which is kept beside the ledger.
    """

    TYPE: ClassVar[EntryType] = EntryType.MEMBER_NOTICE
    FIELDS: ClassVar[Fields] = {
        "who": ("who", HASH),
        "ty": ("kind", UINT),
        "i": ("seq", UINT),
        "bl": ("token", HASH),
    }
    who: bytes
    kind: int
    seq: int
    token: bytes


@dataclass(frozen=True, slots=True)
class PayloadErased:
    """0x28: the payloads and salts of earlier entries of this log were erased; ``why`` is an ``EraseReason``."""

    TYPE: ClassVar[EntryType] = EntryType.PAYLOAD_ERASED
    FIELDS: ClassVar[Fields] = {
        "seq": ("seqs", listing(UINT, 4096)),
        "why": ("why", UINT),
    }
    seqs: tuple[int, ...]
    why: int
