"""Entries about who has seen this log, and about logs that will not show themselves.

Cosignatures lie beside the ledger: an entry for each would be cosigned in turn, without end. One entry sums up many,
and never makes a commit of its own. It holds the signatures themselves, so that whoever has the checkpoints can check
them: the entry cannot be older than they are, and what they cover cannot be younger (crypto/policy.py).

A suspicion is no proof (crypto/suspicion.py) and convicts nobody; it is taken back when the log answers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from quidnunc.crypto.entry import EntryType
from quidnunc.gossip.records import COSIGNATURE, HASH, UINT, WORD, Fields, listing, row

SUMMARY_ROWS_MAX = 512


class CosignatureRow(NamedTuple):
    """One witness by its log id, the own size it cosigned, and the 72 bytes of its ``cosignature/v1``."""

    witness: bytes
    size: int
    signature: bytes

    @property
    def time(self) -> int:
        """When it was made by the witness's clock, in seconds since 1970."""
        return int.from_bytes(self.signature[:8], "big")


@dataclass(frozen=True, slots=True)
class WitnessSummary:
    """0x20: ``count`` cosignatures came in since the last such entry; the newest of each witness, by log id."""

    TYPE: ClassVar[EntryType] = EntryType.WITNESS_SUMMARY
    FIELDS: ClassVar[Fields] = {
        "n": ("count", UINT),
        "cs": ("rows", listing(row(CosignatureRow, HASH, UINT, COSIGNATURE), SUMMARY_ROWS_MAX)),
    }
    count: int
    rows: tuple[CosignatureRow, ...]


@dataclass(frozen=True, slots=True)
class SuspicionRaised:
    """0x22: ``who`` owed an answer to a request by ``deadline_ms``, and has not given it.

    ``kind`` is one of crypto/suspicion.py, ``challenge`` the SHA-256 of the request.
    """

    TYPE: ClassVar[EntryType] = EntryType.SUSPICION
    FIELDS: ClassVar[Fields] = {
        "who": ("who", HASH),
        "kind": ("kind", WORD),
        "ch": ("challenge", HASH),
        "dl": ("deadline_ms", UINT),
    }
    who: bytes
    kind: str
    challenge: bytes
    deadline_ms: int


class Suspected(NamedTuple):
    """What a log is suspected of: the own entry ``seq`` that says so, its kind, and since when an answer is owed."""

    seq: int
    kind: str
    since_ms: int


@dataclass(frozen=True, slots=True)
class SuspicionCleared:
    """0x23: ``who`` has answered; ``raised`` is the own entry that is taken back."""

    TYPE: ClassVar[EntryType] = EntryType.SUSPICION_CLEARED
    FIELDS: ClassVar[Fields] = {"who": ("who", HASH), "se": ("raised", UINT)}
    who: bytes
    raised: int
