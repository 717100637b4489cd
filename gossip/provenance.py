"""Ledger entries with meaning: the typed payload of every entry type this version writes.

``docs/wire.md`` lists the keys. Reals are scaled integers: ``_u`` is 1e-6, weights are parts per billion (ppb).
Public keys of a payload are readable by every member; what would teach an attacker (standings, distances, losses)
goes into the private part of an entry, behind the salted commitment ``pv``.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Any, ClassVar, NamedTuple

from quidnunc.crypto.encoding import Encodable, Value, decode, encode
from quidnunc.crypto.entry import EntryType
from quidnunc.crypto.errors import Malformed, Reason
from quidnunc.gossip.attestation import SuspicionCleared, SuspicionRaised, WitnessSummary
from quidnunc.gossip.jobs import PPM, Release, Standing, Unit
from quidnunc.gossip.key_change import KeyRevoke, KeyRotate
from quidnunc.gossip.records import (
    BOOL,
    HASH,
    PAYLOAD_BYTES_MAX,
    UINT,
    WORD,
    Fields,
    listing,
    optional,
    parse_payload,
    record,
    row,
    usually,
    write_payload,
)
from quidnunc.gossip.reputation import StandingClass
from quidnunc.gossip.retirement import LogRetire


class Mechanism(IntEnum):
    """Privacy mechanisms; codes of ``dp.m``."""

    DP_SGD_FULL_BATCH = 1
    DP_SGD_POISSON = 2
    GAUSSIAN_DELTA = 3
    PRIVATE_SUM = 4


class NoiseSource(IntEnum):
    """Where DP noise came from; codes of ``dp.ns``. A test seed voids epsilon."""

    CHACHA20_OS_KEY = 1
    TEST_SEED = 2


class Recovery(IntEnum):
    """Why a ledger was brought up to date; codes of ``log.recover`` ``why``."""

    OLDER_COPY = 1
    LOST = 2


class Decision(IntEnum):
    """What became of a received update; codes of ``update.received`` ``dc``."""

    ACCEPT = 0
    REJECT = 1


_STANDING_CODES = (StandingClass.NORMAL, StandingClass.REDUCED, StandingClass.EXCLUDED)

STANDING_LABELS = tuple(map(str, _STANDING_CODES))
"""What the classes are called, by their numbers. Quarantine is a fact of its own: two histories, proven, and final."""


def standing_code(standing: StandingClass) -> int:
    """The number of a public standing class in signed entries: 0 normal, 1 reduced, 2 excluded."""
    return _STANDING_CODES.index(standing)


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
class PrivacyClaim:
    """The ``dp`` map of an update: mechanism, parameters, cumulative epsilon (``_u``) at delta 10^-k, spend seq,
    and whether it is about the whole site."""

    FIELDS: ClassVar[Fields] = {
        "m": ("mechanism", UINT),
        "ns": ("noise_source", UINT),
        "q_ppm": ("sample_rate_ppm", UINT),
        "sg_u": ("noise_u", UINT),
        "c_u": ("clip_u", UINT),
        "st": ("steps", UINT),
        "de": ("delta_exp", UINT),
        "e1_u": ("epsilon_u", UINT),
        "ec_u": ("cumulative_u", UINT),
        "ac": ("accountant", WORD),
        "sp": ("spend_seq", UINT),
        "si": ("site", usually(BOOL, False)),
        "pa_u": ("pair_u", usually(UINT, 0)),
        "pm": ("members", usually(UINT, 0)),
        "pq": ("colluders", usually(UINT, 0)),
    }
    mechanism: int
    noise_source: int
    sample_rate_ppm: int
    noise_u: int
    clip_u: int
    steps: int
    delta_exp: int
    epsilon_u: int
    cumulative_u: int
    accountant: str
    spend_seq: int
    site: bool = False
    pair_u: int = 0
    members: int = 0
    colluders: int = 0

    @property
    def unit(self) -> Unit:
        """Whose presence its epsilon is about."""
        return _unit(self.site, self.members > 0)


def _unit(site: bool, sum_: bool) -> Unit:
    if site:
        return Unit.SITE
    return Unit.SUM if sum_ else Unit.EXAMPLE


CLAIM_ROWS_MAX = 64
"""Rows of one contribution claim (``lc``)."""


class ContributionClaim(NamedTuple):
    """One row of ``lc``: the mass of one organization's training in the replica after, in ppb (gossip/claims.py)."""

    log_id: bytes
    ppb: int


class MetricRow(NamedTuple):
    """One row of ``mt``: metric code, value (``_u``), and whether it went through the privacy accountant."""

    metric: int
    value_u: int
    accounted: bool


@dataclass(frozen=True, slots=True)
class UpdatePublished:
    """0x10: the update header. The checkpoint signature over the tree that contains it signs the delta.

    ``number`` counts this peer's published updates from 1; a heartbeat has ``steps`` 0. ``base`` (mb) is the state
    trained from, ``replica_before``/``replica_after`` (pb, pr) the published replica, ``delta`` (md) the blob hash.
    ``private`` commits to what ``gossip/personal.py`` says of personal tensors, empty where there are none.
    """

    TYPE: ClassVar[EntryType] = EntryType.UPDATE_PUBLISHED
    FIELDS: ClassVar[Fields] = {
        "fe": ("federation", HASH),
        "sc": ("schema", HASH),
        "r": ("round", UINT),
        "un": ("number", UINT),
        "mb": ("base", HASH),
        "pb": ("replica_before", HASH),
        "pr": ("replica_after", HASH),
        "md": ("delta", HASH),
        "sz": ("size", UINT),
        "cx": ("codec", UINT),
        "st": ("steps", UINT),
        "ds": ("dataset", HASH),
        "nb": ("size_bucket", UINT),
        "dp": ("privacy", optional(record(PrivacyClaim, PrivacyClaim.FIELDS))),
        "mt": ("metrics", listing(row(MetricRow, UINT, UINT, BOOL), 64)),
        "lc": ("claims", listing(row(ContributionClaim, HASH, UINT), CLAIM_ROWS_MAX)),
        "pv": ("private", usually(HASH, b"")),
    }
    federation: bytes
    schema: bytes
    round: int
    number: int
    base: bytes
    replica_before: bytes
    replica_after: bytes
    delta: bytes
    size: int
    codec: int
    steps: int
    dataset: bytes
    size_bucket: int
    privacy: PrivacyClaim | None
    metrics: tuple[MetricRow, ...] = ()
    claims: tuple[ContributionClaim, ...] = ()
    private: bytes = b""


@dataclass(frozen=True, slots=True)
class UpdateReceived:
    """0x11: a signed update of ``sender`` was accepted or refused. ``token`` is the hash of the token blob."""

    TYPE: ClassVar[EntryType] = EntryType.UPDATE_RECEIVED
    FIELDS: ClassVar[Fields] = {
        "so": ("sender", HASH),
        "ss": ("seq", UINT),
        "sh": ("leaf", HASH),
        "sn": ("size", UINT),
        "sr": ("root", HASH),
        "tk": ("token", HASH),
        "un": ("number", UINT),
        "md": ("delta", HASH),
        "pr": ("replica", HASH),
        "sp": ("snapshot", BOOL),
        "dc": ("decision", UINT),
        "rc": ("reasons", listing(UINT, 16)),
    }
    sender: bytes
    seq: int
    leaf: bytes
    size: int
    root: bytes
    token: bytes
    number: int
    delta: bytes
    replica: bytes
    snapshot: bool
    decision: int
    reasons: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class MessageRefused:
    """0x15: ``count`` messages were refused for ``reason`` before anything in them could be attributed.

    ``sender`` is the member whose connection brought them (blame of the transport, not of an author), or nil for a
    stranger. ``first`` is the digest of the first such message. At most one entry per (sender, reason) and round.
    """

    TYPE: ClassVar[EntryType] = EntryType.MESSAGE_REFUSED
    FIELDS: ClassVar[Fields] = {
        "so": ("sender", optional(HASH)),
        "rc": ("reason", UINT),
        "n": ("count", UINT),
        "sz": ("size", UINT),
        "hs": ("first", HASH),
    }
    sender: bytes | None
    reason: int
    count: int
    size: int
    first: bytes


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
class PrivacySpend:
    """0x18: one release of dataset ``dataset`` is about to happen. Committed before training, never refunded.

    Epsilon is about one record or, with ``site``, about the whole data set; with ``members``, of a private sum, it is
    about one record against ``colluders`` of them. The three are separate accounts.
    """

    TYPE: ClassVar[EntryType] = EntryType.DP_SPEND
    FIELDS: ClassVar[Fields] = {
        "r": ("round", UINT),
        "n": ("release", UINT),
        "e1_u": ("epsilon_u", UINT),
        "ec_u": ("cumulative_u", UINT),
        "cap_u": ("cap_u", UINT),
        "de": ("delta_exp", UINT),
        "sg_u": ("noise_u", UINT),
        "c_u": ("clip_u", UINT),
        "ns": ("noise_source", UINT),
        "ds": ("dataset", HASH),
        "q_ppm": ("rate_ppm", usually(UINT, PPM)),
        "st": ("steps", usually(UINT, 1)),
        "si": ("site", usually(BOOL, False)),
        "pa_u": ("pair_u", usually(UINT, 0)),
        "pm": ("members", usually(UINT, 0)),
        "pq": ("colluders", usually(UINT, 0)),
    }
    round: int
    release: int
    epsilon_u: int
    cumulative_u: int
    cap_u: int
    delta_exp: int
    noise_u: int
    clip_u: int
    noise_source: int
    dataset: bytes
    rate_ppm: int = PPM
    steps: int = 1
    site: bool = False
    pair_u: int = 0
    members: int = 0
    colluders: int = 0

    @property
    def kind(self) -> Release:
        """What its cost depends on."""
        pairs = self.pair_u, self.members, self.colluders
        return Release(self.noise_u, self.rate_ppm, self.steps, self.unit, *pairs)

    @property
    def unit(self) -> Unit:
        """Whose presence its epsilon is about."""
        return _unit(self.site, self.members > 0)


@dataclass(frozen=True, slots=True)
class PrivacyExhausted:
    """0x19: the next release would exceed the cap: this peer publishes no more training until the charter changes."""

    TYPE: ClassVar[EntryType] = EntryType.DP_EXHAUSTED
    FIELDS: ClassVar[Fields] = {
        "r": ("round", UINT),
        "ec_u": ("cumulative_u", UINT),
        "cap_u": ("cap_u", UINT),
        "de": ("delta_exp", UINT),
        "ds": ("dataset", HASH),
        "si": ("site", usually(BOOL, False)),
        "su": ("sum", usually(BOOL, False)),
    }
    round: int
    cumulative_u: int
    cap_u: int
    delta_exp: int
    dataset: bytes
    site: bool = False
    sum: bool = False

    @property
    def unit(self) -> Unit:
        """Which account has ended."""
        return _unit(self.site, self.sum)


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


Record = (
    CharterAdopt
    | KeyRotate
    | KeyRevoke
    | LogRecover
    | LogRetire
    | NodeStart
    | UpdatePublished
    | UpdateReceived
    | MessageRefused
    | Merge
    | ReputationChange
    | PrivacySpend
    | PrivacyExhausted
    | EquivocationProof
    | MemberNotice
    | PayloadErased
    | WitnessSummary
    | SuspicionRaised
    | SuspicionCleared
)
RECORDS: dict[int, type[Any]] = {
    kind.TYPE: kind
    for kind in (
        CharterAdopt,
        KeyRotate,
        KeyRevoke,
        LogRecover,
        LogRetire,
        NodeStart,
        UpdatePublished,
        UpdateReceived,
        MessageRefused,
        Merge,
        ReputationChange,
        PrivacySpend,
        PrivacyExhausted,
        EquivocationProof,
        MemberNotice,
        PayloadErased,
        WitnessSummary,
        SuspicionRaised,
        SuspicionCleared,
    )
}


def payload_of(entry: Record) -> bytes:
    """Canonical payload bytes of a record."""
    return write_payload(entry.FIELDS, entry)


def parse_record(kind: int, payload: bytes) -> Record:
    """The record in a payload of entry type ``kind``; raises Malformed for unknown types and wrong payloads."""
    make = RECORDS.get(kind)
    if make is None:
        raise Malformed(f"entry type {kind:#04x} has no payload format in this version")
    parsed: Record = parse_payload(make, make.FIELDS, payload)
    return parsed


def reason_labels(codes: tuple[int, ...]) -> list[str]:
    """Names of reason codes; codes of a later version keep their number."""
    known = {reason.value: reason.label for reason in Reason}
    return [known.get(code, f"reason-{code}") for code in codes]


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
