"""Messages between peers: nineteen kinds of small canonical headers, some with a body, and the bounds of each.

Every header is a canonical array ``[tag, federation id, ...]``; ``docs/wire.md`` is normative, and
``message_codec.py`` writes and reads it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from quidnunc.crypto.entry import Entry

HEADER_BYTES_MAX = 65_536
HEADS_MAX = 16
"""Checkpoints of other logs in one message."""
VOUCHES_MAX = 8
"""Witnesses that one message asks."""
ENTRIES_MAX = 1024
"""Entries in one message."""
ENTRIES_BYTES = 49_152
"""Bytes of entries from which a message gets no further one; the last may lead up to what fits a header."""
ENTRIES_ROOM = 4096
"""Bytes of a header that entries leave to what stands beside them, a checkpoint above all."""
NUMBER_MAX = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Update:
    """A signed update: ``token`` proves its header, the body is the delta blob."""

    federation: bytes
    token: bytes


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The sender's replica as of the update in ``token``; the body is the params, float32 little-endian."""

    federation: bytes
    token: bytes


@dataclass(frozen=True, slots=True)
class Hello:
    """Where the sender stands: its newest update token (empty before the first). ``reply`` asks for one back."""

    federation: bytes
    token: bytes
    reply: bool


@dataclass(frozen=True, slots=True)
class Want:
    """Send your updates ``first`` to ``last`` again; or, if they are gone or ``snapshot`` is set, your replica."""

    federation: bytes
    first: int
    last: int
    snapshot: bool


@dataclass(frozen=True, slots=True)
class Unavailable:
    """Answer to a :class:`Want` or a :class:`Recall` that cannot be served."""

    federation: bytes
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class Recall:
    """Send the sender's own replica back as you track it, if it is as of an update ``first`` to ``last``."""

    federation: bytes
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class Recalled:
    """Answer to a :class:`Recall`: the receiver's replica as of its update ``number``; the body is the params."""

    federation: bytes
    number: int


@dataclass(frozen=True, slots=True)
class Proof:
    """A proof of equivocation (``crypto/fork_proof.py``); it stands for itself, whoever sends it."""

    federation: bytes
    proof: bytes


@dataclass(frozen=True, slots=True)
class Notice:
    """The token of an entry that a member's root key signed (``gossip/notices.py``); it too stands for itself."""

    federation: bytes
    token: bytes


@dataclass(frozen=True, slots=True)
class Heads:
    """Checkpoint notes of other logs as the sender has seen them, at most ``HEADS_MAX``."""

    federation: bytes
    notes: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Prove:
    """Show that the first ``old`` entries of your log are the beginning of its first ``new``."""

    federation: bytes
    old: int
    new: int


@dataclass(frozen=True, slots=True)
class Consistency:
    """Answer to a :class:`Prove`: the sender's own root of ``old`` entries, and the path from it to ``new``."""

    federation: bytes
    old: int
    new: int
    root: bytes
    path: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Cosigned:
    """A checkpoint note of the receiver's log with the sender's cosignature."""

    federation: bytes
    note: bytes


class VouchRow(NamedTuple):
    """For ``witness``, a log id, which cosigned ``old`` entries: the log's root of these, and how it grew since."""

    witness: bytes
    old: int
    root: bytes
    path: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Vouch:
    """The log of the checkpoint in ``note`` asks witnesses that are not its neighbors to cosign it; handed on."""

    federation: bytes
    note: bytes
    rows: tuple[VouchRow, ...]


@dataclass(frozen=True, slots=True)
class Vouched:
    """The answer of one of them, handed on to the log: a checkpoint note of it with the cosignature."""

    federation: bytes
    note: bytes


@dataclass(frozen=True, slots=True)
class Newest:
    """Tell me the newest checkpoint of *my* log that you have seen."""

    federation: bytes


@dataclass(frozen=True, slots=True)
class Known:
    """Answer to a :class:`Newest`: that checkpoint, empty for none, and which of its entries the sender keeps.

    It keeps those from ``first`` up to but not including ``last``.
    """

    federation: bytes
    note: bytes
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class Fetch:
    """Send me entries ``first`` up to ``last`` of the log ``log_id``: the sender's or the receiver's own."""

    federation: bytes
    log_id: bytes
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class Entries:
    """Entries of the log ``log_id`` from ``first`` on, without private parts; none if they cannot be had.

    ``note`` is the checkpoint over just these and all before them, empty for none.
    """

    federation: bytes
    log_id: bytes
    first: int
    entries: tuple[Entry, ...]
    note: bytes


Message = (
    Update
    | Snapshot
    | Hello
    | Want
    | Unavailable
    | Recall
    | Recalled
    | Proof
    | Notice
    | Heads
    | Prove
    | Consistency
    | Cosigned
    | Vouch
    | Vouched
    | Newest
    | Known
    | Fetch
    | Entries
)
