"""The end of a log: its organization says so with the root key, and may name the log that goes on.

A member's log key stands in its genesis and in the charter, and every token and checkpoint is checked against that one
key. So a key cannot change beneath a charter: whoever needs another one ends this log, begins a new one under the same
root key, and is taken into a new charter. The root key signs, because the log key may be what was stolen: a thief can
sign entries until the log is frozen, but cannot end it or name an heir.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Any, ClassVar

from quidnunc.crypto.encoding import encode
from quidnunc.crypto.entry import EntryType
from quidnunc.crypto.errors import LocalProtocolError, Malformed
from quidnunc.crypto.identity import PUBLIC_BYTES, SecretKey, tagged, verify
from quidnunc.gossip.records import HASH, SIGNATURE, UINT, Fields, optional


class RetireReason(IntEnum):
    """Why a log ends; codes of ``log.retire`` ``why``."""

    ENDED = 1
    MOVED = 2
    KEY_STOLEN = 3
    FORKED = 4

    @property
    def label(self) -> str:
        """The word on the command line and in JSON, for example ``key-stolen``."""
        return self.name.lower().replace("_", "-")


@dataclass(frozen=True, slots=True)
class LogRetire:
    """0x05: nothing follows. ``last`` entries came before; ``successor`` is the log that goes on, if there is one.

    ``root_signature`` is by the organization's root key over :func:`retirement_message`.
    """

    TYPE: ClassVar[EntryType] = EntryType.LOG_RETIRE
    FIELDS: ClassVar[Fields] = {
        "succ": ("successor", optional(HASH)),
        "why": ("why", UINT),
        "last": ("last", UINT),
        "rs": ("root_signature", SIGNATURE),
    }
    successor: bytes | None
    why: int
    last: int
    root_signature: bytes


def retirement_message(log_id: bytes, last: int, why: int, successor: bytes | None) -> bytes:
    """What the root key signs: which log ends after how many entries, why, and which one goes on."""
    return tagged("log-retire", encode([log_id, last, why, successor]))


def retire(root: SecretKey, log_id: bytes, last: int, why: RetireReason, successor: bytes | None) -> LogRetire:
    """The record that ends the log ``log_id`` after ``last`` entries; raises LocalProtocolError if it names itself."""
    if successor == log_id:
        raise LocalProtocolError("a log cannot be its own successor")
    signature = root.sign(retirement_message(log_id, last, int(why), successor))
    return LogRetire(successor, int(why), last, signature)


def check_retirement(record: LogRetire, log_id: bytes, seq: int, root: bytes) -> None:
    """Verify that the organization with public key ``root`` ends ``log_id`` with this record as entry ``seq``.

    Raises Malformed for another place, another reason or a log that succeeds itself, RemoteProtocolError with
    BAD_SIGNATURE where the root key did not sign.
    """
    if len(root) != PUBLIC_BYTES:
        raise LocalProtocolError(f"a root key of {len(root)} bytes, must be {PUBLIC_BYTES}")
    if record.last != seq:
        raise Malformed(f"retires a log of {record.last} entries, and stands behind {seq}")
    if record.why not in set(RetireReason):
        raise Malformed(f"no reason to retire has code {record.why}")
    if record.successor == log_id:
        raise Malformed("names the log itself as its successor")
    verify(root, retirement_message(log_id, record.last, record.why, record.successor), record.root_signature)


def retired_data(record: LogRetire) -> dict[str, Any]:
    """A retirement, JSON-ready."""
    known = {int(reason): reason.label for reason in RetireReason}
    heir = None if record.successor is None else record.successor.hex()
    return {"entry": record.last, "reason": known.get(record.why, f"code {record.why}"), "successor": heir}
