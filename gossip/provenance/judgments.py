"""What a merge made of neighbors, and what became of their standing; what speaks against a log for good."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from quidnunc.crypto.encoding import Encodable, Value, decode, encode
from quidnunc.crypto.entry import EntryType
from quidnunc.crypto.errors import Malformed
from quidnunc.gossip.jobs import Standing
from quidnunc.gossip.records import (
    BOOL,
    HASH,
    PAYLOAD_BYTES_MAX,
    UINT,
    WORD,
    Fields,
    listing,
    optional,
    row,
)
from quidnunc.gossip.reputation import StandingClass

_STANDING_CODES = (StandingClass.NORMAL, StandingClass.REDUCED, StandingClass.EXCLUDED)


STANDING_LABELS = tuple(map(str, _STANDING_CODES))
"""What the classes are called, by their numbers. Quarantine is a fact of its own: two histories, proven, and final."""


def standing_code(standing: StandingClass) -> int:
    """The number of a public standing class in signed entries: 0 normal, 1 reduced, 2 excluded."""
    return _STANDING_CODES.index(standing)


class MergeRow(NamedTuple):
    """One input of a merge: its state, the log and seq it was published at (nil for states with no entry yet: the
    genesis params), its weight before and after reputation and clipping, and the clip factor, all in ppb."""

    state: bytes
    log_id: bytes | None
    seq: int | None
    weight: int
    effective: int
    clip: int


@dataclass(frozen=True, slots=True)
class Merge:
    """0x12: ``result = pivot + sum(effective/1e9 * (state - pivot))``; the first row is the pivot.

    Effective weights sum to exactly 1e9. ``step`` is 0 full, 1 quarter, 2 none (the pivot was kept), 3 adoption of
    the coordinate median after an absence; only that last one is approximate.
    """

    TYPE: ClassVar[EntryType] = EntryType.MERGE
    FIELDS: ClassVar[Fields] = {
        "r": ("round", UINT),
        "mo": ("result", HASH),
        "ag": ("rule", HASH),
        "in": ("rows", listing(row(MergeRow, HASH, optional(HASH), optional(UINT), UINT, UINT, UINT), 513)),
        "ap": ("approximate", BOOL),
        "sb": ("step", UINT),
        "el": ("received", listing(UINT, 4096)),
        "pv": ("private", optional(HASH)),
    }
    round: int
    result: bytes
    rule: bytes
    rows: tuple[MergeRow, ...]
    approximate: bool
    step: int
    received: tuple[int, ...]
    private: bytes | None


@dataclass(frozen=True, slots=True)
class ReputationChange:
    """0x0b: the class of ``who`` changed; the numbers behind it are private. ``evidence`` lists entry seqs."""

    TYPE: ClassVar[EntryType] = EntryType.REPUTATION_CHANGE
    FIELDS: ClassVar[Fields] = {
        "who": ("who", HASH),
        "oc": ("old", UINT),
        "nc": ("new", UINT),
        "ev": ("evidence", listing(UINT, 64)),
    }
    who: bytes
    old: int
    new: int
    evidence: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class EquivocationProof:
    """0x21: a proof that a key of ``who`` signed two histories; that log is frozen from here on.

    ``proof`` is the SHA-256 of the proof's bytes, which are kept beside the ledger, ``seq`` an entry at which the
    histories differ, where the proof shows one.
    """

    TYPE: ClassVar[EntryType] = EntryType.EQUIVOCATION_PROOF
    FIELDS: ClassVar[Fields] = {
        "who": ("who", HASH),
        "kind": ("kind", WORD),
        "bl": ("proof", HASH),
        "i": ("seq", optional(UINT)),
    }
    who: bytes
    kind: str
    proof: bytes
    seq: int | None


def write_standings(standings: dict[bytes, Standing]) -> bytes:
    """Private part of a merge entry: [[log id, good_u, bad_u, harm_u]...], sorted."""
    rows: list[Encodable] = [
        [who, round(s.good * 1e6), round(s.bad * 1e6), round(s.harm * 1e6)] for who, s in sorted(standings.items())
    ]
    return encode(rows)


def parse_standings(data: bytes) -> dict[bytes, Standing]:
    """Inverse of :func:`write_standings`; raises Malformed."""
    value = decode(data, max_bytes=PAYLOAD_BYTES_MAX)
    if not isinstance(value, list):
        raise Malformed("private standings: expected a list")
    return dict(_parse_standing(item) for item in value)


def _parse_standing(item: Value) -> tuple[bytes, Standing]:
    match item:
        case [bytes(who), *values] if len(who) == 32 and [type(value) for value in values] == [int, int, int]:
            good, bad, harm = (int(value) / 1e6 for value in values if isinstance(value, int))
            return who, Standing(good, bad, harm)
    raise Malformed("private standings: expected rows of a log id and three integers")
