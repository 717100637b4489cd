"""What can happen to a peer (events) and what must then be done (effects).

``Node.handle(event, now) -> list[Effect]`` is the only way in and out of a peer's logic. Effects are performed in
order. Everything after a :class:`Commit` waits until the commit is durable: write-ahead.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

from quidnunc.crypto.entry import Entry
from quidnunc.crypto.errors import Reason
from quidnunc.crypto.fork_proof import ForkProof
from quidnunc.crypto.identity import tagged_hash
from quidnunc.gossip.jobs import Job, Result


@dataclass(frozen=True, slots=True)
class Frame:
    """One message between peers: a small canonical header and an opaque body (possibly empty).

    ``known_hash`` is the SHA-256 of the body where our own host has it already, as the name of the blob that the body
    is or from hashing it while it came in; no peer can set it.
    """

    header: bytes
    body: bytes = b""
    known_hash: bytes | None = field(default=None, compare=False, repr=False)

    def body_hash(self) -> bytes:
        """SHA-256 of the body; worked out now unless it is known."""
        return hashlib.sha256(self.body).digest() if self.known_hash is None else self.known_hash

    def digest(self) -> bytes:
        """What names the frame in an offer and in a refusal: cheap once the body's hash is known."""
        return tagged_hash("frame", self.body_hash(), self.header)


@dataclass(frozen=True, slots=True)
class Started:
    """The host is ready: store open, compute side up, overlay listening."""


@dataclass(frozen=True, slots=True)
class PeerUp:
    """An authenticated connection to ``peer`` (its transport public key) exists."""

    peer: bytes


@dataclass(frozen=True, slots=True)
class PeerDown:
    """No connection to ``peer`` is left."""

    peer: bytes


@dataclass(frozen=True, slots=True)
class Received:
    """A whole frame came from ``peer`` (its transport public key); the bytes are hostile until parsed."""

    peer: bytes
    frame: Frame


@dataclass(frozen=True, slots=True)
class TimerFired:
    """A timer set by :class:`SetTimer` ran out."""

    timer: str


@dataclass(frozen=True, slots=True)
class Finished:
    """A job set off by :class:`Run` came back."""

    result: Result


@dataclass(frozen=True, slots=True)
class Paused:
    """The operator stops (or resumes) local training; the peer goes on answering, merging and publishing."""

    paused: bool


@dataclass(frozen=True, slots=True)
class Storage:
    """Whether there is room on the disk. While there is none nothing is begun, accepted or signed."""

    room: bool


@dataclass(frozen=True, slots=True)
class Compared:
    """What a :class:`Compare` found: a proof that the log signed two histories, None for nothing of the kind."""

    proof: ForkProof | None


@dataclass(frozen=True, slots=True)
class Stopping:
    """The host is about to stop: whatever was accepted and not yet recorded is recorded now."""


Event = Started | PeerUp | PeerDown | Received | TimerFired | Finished | Paused | Storage | Compared | Stopping


@dataclass(frozen=True, slots=True)
class Commit:
    """Make ``entries`` and the signed checkpoint ``note`` over them durable, with the tokens kept for repair.

    ``tokens`` are (hash, author log id, update number, token bytes), ``proofs`` proofs of equivocation and notices
    that entries name, ``cosigned`` are (witness log id, size, note) of cosignatures under own checkpoints. ``earlier``
    are (size, note) of own checkpoints between the last commit and this one: those that come back with their entries.
    """

    entries: tuple[Entry, ...]
    note: bytes
    tokens: tuple[tuple[bytes, bytes, int, bytes], ...] = ()
    proofs: tuple[bytes, ...] = ()
    cosigned: tuple[tuple[bytes, int, bytes], ...] = ()
    earlier: tuple[tuple[int, bytes], ...] = ()


@dataclass(frozen=True, slots=True)
class Witness:
    """Make durable that the log ``log_id`` was seen with ``size`` entries and ``root`` under ``note``.

    Whatever follows, a cosignature above all, waits until it is, as with a :class:`Commit`.
    """

    log_id: bytes
    size: int
    root: bytes
    note: bytes


@dataclass(frozen=True, slots=True)
class Mirror:
    """Keep ``entries`` of another log, the first being entry ``first``, for its owner to ask for.

    They follow those kept before, or nothing of that log is kept yet. Losing them harms nobody but a peer that has
    lost its own.
    """

    log_id: bytes
    first: int
    entries: tuple[Entry, ...]


@dataclass(frozen=True, slots=True)
class Supply:
    """Send ``peer`` as many as fit of the entries ``first`` up to ``last`` of a log: the own one, or one kept.

    None of them, if the first is not here.
    """

    peer: bytes
    log_id: bytes
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class Compare:
    """Hold checkpoints of another log against the entries of it that are kept here, as far as they reach.

    ``notes`` are as its key signed them; the answer comes back as :class:`Compared`
    (:func:`~quidnunc.crypto.fork_build.fork_of_kept`).
    """

    log_id: bytes
    notes: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Rebuild:
    """Build the node anew from what is durable now, as at a start; this one is done and must hear of nothing more.

    The new one must be told that it starts, and which peers are connected.
    """


@dataclass(frozen=True, slots=True)
class StoreBlob:
    """Keep a received body under its hash (already compared) before a job reads it."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Forget:
    """These blobs are no longer needed by the node."""

    names: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Send:
    """Send ``frame`` to ``peer`` (its transport public key); best effort, loss is repaired by the protocol.

    ``body_blob`` names a blob to be sent as the body instead of ``frame.body``.
    """

    peer: bytes
    frame: Frame
    body_blob: bytes = b""


@dataclass(frozen=True, slots=True)
class SetTimer:
    """Fire ``timer`` after ``delay`` seconds; replaces a pending timer of the same name."""

    timer: str
    delay: float


@dataclass(frozen=True, slots=True)
class Run:
    """Have ``job`` computed; its result comes back as :class:`Finished`. Jobs run one at a time, in order."""

    job: Job


@dataclass(frozen=True, slots=True)
class Rest:
    """Do not look for ``peer`` any more: its log has ended. It is let in should it come, to be shown that."""

    peer: bytes


@dataclass(frozen=True, slots=True)
class Refuse:
    """The frame just received from ``peer`` is refused for ``reason``; the transport answers with the code."""

    peer: bytes
    reason: Reason


@dataclass(frozen=True, slots=True)
class Report:
    """Something an operator should be told. ``kind`` is a stable word, ``text`` a sentence."""

    kind: str
    text: str


Effect = (
    Commit
    | Witness
    | Mirror
    | Supply
    | Compare
    | Rebuild
    | StoreBlob
    | Forget
    | Send
    | SetTimer
    | Run
    | Rest
    | Refuse
    | Report
)
