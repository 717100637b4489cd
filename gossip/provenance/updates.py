"""Updates: published, received, and messages that were refused."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import ClassVar, NamedTuple

from quidnunc.crypto.entry import EntryType
from quidnunc.crypto.errors import Reason
from quidnunc.gossip.provenance.privacy import PrivacyClaim
from quidnunc.gossip.records import (
    BOOL,
    HASH,
    UINT,
    Fields,
    listing,
    optional,
    record,
    row,
    usually,
)


class Decision(IntEnum):
    """What became of a received update; codes of ``update.received`` ``dc``."""

    ACCEPT = 0
    REJECT = 1


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


def reason_labels(codes: tuple[int, ...]) -> list[str]:
    """Names of reason codes; codes of a later version keep their number."""
    known = {reason.value: reason.label for reason in Reason}
    return [known.get(code, f"reason-{code}") for code in codes]
