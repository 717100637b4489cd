"""The records of a journal: what a node was built from, each event with what it drew and did, how the journal ends.

Bodies of messages are not kept, only their sizes and hashes: a node reads no more of them. Neither are keys, nor words
of the task's own code, which may quote data.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from quidnunc.crypto.encoding import decode, encode
from quidnunc.crypto.errors import Malformed
from quidnunc.gossip.events import (
    Compared,
    Event,
    Finished,
    Frame,
    Paused,
    PeerDown,
    PeerUp,
    Received,
    Started,
    Stopping,
    Storage,
    TimerFired,
)
from quidnunc.gossip.jobs import Accounted, Described, JobFailed, Spent
from quidnunc.gossip.journal.forms import form
from quidnunc.gossip.journal.frames import RECORD_BYTES_MAX
from quidnunc.gossip.provenance import NoiseSource
from quidnunc.gossip.rebuild import Software
from quidnunc.gossip.resume import Resume
from quidnunc.gossip.settings import Settings

BODY_BYTES_MAX = 1024 * 1024 * 1024
"""No message has a larger body (``limits.payload_bytes_max``)."""
SECONDS_MAX = 1e11
"""Later than any clock of a daemon will show, and still a time that can be printed."""
LEFT_OUT = "(left out)"


@dataclass(frozen=True, slots=True)
class Heard:
    """A :class:`Received` without the bytes of its body: ``size`` of them, with the SHA-256 ``body``."""

    peer: bytes
    header: bytes
    size: int
    body: bytes


Kept = Started | PeerUp | PeerDown | Heard | TimerFired | Finished | Paused | Storage | Compared | Stopping


@dataclass(frozen=True, slots=True)
class Life:
    """What a node was built from.

    ``charter`` is the signed text, ``log_key`` and ``witness_key`` are public, ``leaves`` the leaf hashes of all
    entries its log began with, one behind the other, ``last_t_ms`` the time of the last. ``rebuilt``: in the same
    process, in place of a node that had taken entries back. ``described`` has neither the hash nor the exact size of
    the local data. The rest is as in :class:`~quidnunc.gossip.rebuild.Self`.
    """

    charter: bytes
    log_id: bytes
    log_key: bytes
    witness_key: bytes
    genesis: bytes
    charter_note: bytes
    dataset: bytes
    described: Described
    noise_source: NoiseSource
    epsilon_cap_u: int | None
    accounted: Accounted | None
    elsewhere: Spent
    software: Software
    settings: Settings
    resume: Resume
    leaves: bytes
    last_t_ms: int
    rebuilt: bool


@dataclass(frozen=True, slots=True)
class Step:
    """An event that a node handled at ``now``, what it drew meanwhile, in order, and marks of what it had done.

    ``effects`` are the marks (:mod:`quidnunc.gossip.journal.marks`), ``leaves`` the leaf hashes of the entries in its
    commits. ``raised`` names the class of the error with which it ended instead, empty for none.
    """

    now: float
    event: Kept
    entropy: tuple[bytes, ...]
    signatures: tuple[bytes, ...]
    effects: bytes
    leaves: bytes
    raised: str


@dataclass(frozen=True, slots=True)
class Set:
    """The host has told the node, outside of any event, whether training is paused."""

    paused: bool


@dataclass(frozen=True, slots=True)
class End:
    """Nothing more is written in this journal, for this reason."""

    why: str


Entered = Life | Step | Set | End


def write_record(record: Entered) -> bytes:
    """A record's bytes; raises LocalProtocolError for one that the encoding does not take."""
    return encode(_FORM.write(record))


def read_record(data: bytes) -> Entered:
    """The record in ``data``; raises Malformed."""
    record: Entered = _FORM.read(decode(data, max_bytes=RECORD_BYTES_MAX))
    if isinstance(record, Step) and not 0 <= record.now < SECONDS_MAX:
        raise Malformed(f"an event at {record.now} s")
    if isinstance(record, Step) and isinstance(record.event, Heard):
        heard = record.event
        if not 0 <= heard.size <= BODY_BYTES_MAX or len(heard.body) != 32:
            raise Malformed(f"a body of {heard.size} bytes with a hash of {len(heard.body)}")
    if isinstance(record, Life | Step) and len(record.leaves) % 32:
        raise Malformed(f"{len(record.leaves)} bytes of leaf hashes")
    return record


def kept(event: Event) -> Kept:
    """What a journal keeps of an event."""
    match event:
        case Received(peer, frame):
            return Heard(peer, frame.header, len(frame.body), frame.body_hash())
        case Finished(JobFailed() as failed):
            return Finished(replace(failed, why=LEFT_OUT))
        case Finished(Described() as described):
            return Finished(replace(described, data_root=b""))
    return event


def revived(event: Kept) -> Event:
    """The event again; a body is zeros of the right size and known hash."""
    match event:
        case Heard(peer, header, size, body):
            return Received(peer, Frame(header, bytes(size), body))
    return event


_FORM = form(Entered)
