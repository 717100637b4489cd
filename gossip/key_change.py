"""Another log key beneath the same charter: the organization's root key, which the charter names, brings it in.

``key.rotate`` names the next key; from the entry behind it on, that key signs, and the old one no more. ``key.revoke``
says that a key of an earlier epoch was not its owner's alone: what it signed beyond a size counts no more, neither as
the log nor as evidence against it. A thief of a log key has no root key, and can do neither.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from quidnunc.crypto.encoding import encode
from quidnunc.crypto.entry import EntryType
from quidnunc.crypto.errors import Malformed
from quidnunc.crypto.identity import SecretKey, tagged, verify
from quidnunc.crypto.log_keys import LogKeys
from quidnunc.gossip.records import HASH, SIGNATURE, UINT, Fields

KEY_CHANGES_MAX = 128
"""Changes of keys of one log that others take in: they keep every one of them, and tell whoever connects."""


@dataclass(frozen=True, slots=True)
class KeyRotate:
    """0x03: ``public``, of epoch ``epoch``, is the log key behind this entry.

    ``possession`` is its own signature and ``root_signature`` the root key's, both over :func:`rotation_message`.
    """

    TYPE: ClassVar[EntryType] = EntryType.KEY_ROTATE
    FIELDS: ClassVar[Fields] = {
        "key": ("public", HASH),
        "ep": ("epoch", UINT),
        "pop": ("possession", SIGNATURE),
        "rs": ("root_signature", SIGNATURE),
    }
    public: bytes
    epoch: int
    possession: bytes
    root_signature: bytes


@dataclass(frozen=True, slots=True)
class KeyRevoke:
    """0x04: of the log key of ``epoch``, an earlier one, nothing counts beyond checkpoints of ``since`` entries."""

    TYPE: ClassVar[EntryType] = EntryType.KEY_REVOKE
    FIELDS: ClassVar[Fields] = {
        "ep": ("epoch", UINT),
        "since": ("since", UINT),
        "rs": ("root_signature", SIGNATURE),
    }
    epoch: int
    since: int
    root_signature: bytes


def rotation_message(log_id: bytes, seq: int, epoch: int, public: bytes) -> bytes:
    """What root key and new key sign: which log has which key behind which entry."""
    return tagged("key-rotate", encode([log_id, seq, epoch, public]))


def revocation_message(log_id: bytes, seq: int, epoch: int, since: int) -> bytes:
    """What the root key signs: which key of which log counts up to which size, said by which entry."""
    return tagged("key-revoke", encode([log_id, seq, epoch, since]))


def rotate(root: SecretKey, log_id: bytes, seq: int, epoch: int, key: SecretKey) -> KeyRotate:
    """The record that makes ``key`` the log key behind entry ``seq``, as that of ``epoch``."""
    message = rotation_message(log_id, seq, epoch, key.public)
    return KeyRotate(key.public, epoch, key.sign(message), root.sign(message))


def revoke(root: SecretKey, log_id: bytes, seq: int, epoch: int, since: int) -> KeyRevoke:
    """The record, entry ``seq``, that revokes the key of ``epoch`` from ``since`` entries on."""
    return KeyRevoke(epoch, since, root.sign(revocation_message(log_id, seq, epoch, since)))


def follow(keys: LogKeys, record: KeyRotate | KeyRevoke, log_id: bytes, seq: int, root: bytes) -> LogKeys:
    """The keys of ``log_id`` behind ``record``, its entry ``seq``; ``root`` is its organization's public root key.

    Raises Malformed for an epoch out of turn or a size that the key never had, RemoteProtocolError with BAD_SIGNATURE
    where the root key, or the new key, did not sign.
    """
    if isinstance(record, KeyRevoke):
        return _without(keys, record, log_id, seq, root)
    if record.epoch != keys.epoch + 1:
        raise Malformed(f"log key of epoch {record.epoch} behind one of epoch {keys.epoch}")
    if record.public in {root, *(span.public for span in keys.spans)}:
        raise Malformed(f"log key {record.public.hex()[:16]} is not a new one")
    if seq + 1 < keys.spans[-1].first:
        raise Malformed(f"log key of epoch {record.epoch} at entry {seq}, before the key of epoch {keys.epoch} signed")
    message = rotation_message(log_id, seq, record.epoch, record.public)
    verify(record.public, message, record.possession)
    verify(root, message, record.root_signature)
    return keys.rotated(seq, record.public)


def _without(keys: LogKeys, record: KeyRevoke, log_id: bytes, seq: int, root: bytes) -> LogKeys:
    if record.epoch >= keys.epoch:
        raise Malformed(f"revokes the log key of epoch {record.epoch}, the newest is {keys.epoch}: rotate first")
    span = keys.spans[record.epoch]
    if not max(1, span.first) - 1 <= record.since <= span.last:
        raise Malformed(
            f"revokes the log key of epoch {record.epoch} from {record.since} entries on, it signed {span.first} to "
            f"{span.last}"
        )
    if record.since >= dict(keys.revoked).get(record.epoch, span.last + 1):
        raise Malformed(f"revokes the log key of epoch {record.epoch}, which counts no further than that already")
    verify(root, revocation_message(log_id, seq, record.epoch, record.since), record.root_signature)
    return keys.without(record.epoch, record.since)
