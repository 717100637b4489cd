"""Does a proof of equivocation hold? A pure function of its bytes and of public keys.

A proof is about *keys*: "this key signed two histories". Whether an organization cheated, lost its key or was
restored from an old backup is not in the bytes.

No proof holds against a key that signed one growing history and nothing else, whatever is made of its notes,
headers and tokens: not from checkpoints of different age, from restarts that go on where they were, from other
logs, or from a key after it was replaced (a key counts for the checkpoint sizes it was valid for, and for no
others). That a log refuses to answer, or fails a consistency check, is no proof; see
:mod:`quidnunc.crypto.suspicion`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeAlias

from quidnunc.crypto.checkpoint import Checkpoint, origin_of, parse_checkpoint
from quidnunc.crypto.encoding import Value, decode
from quidnunc.crypto.entry import MAX_PAYLOAD_BYTES, Entry, EntryType, Header, open_entry, parse_header
from quidnunc.crypto.errors import Malformed, Reason, RemoteProtocolError
from quidnunc.crypto.fork_proof import (
    ChainFault,
    EntryFork,
    ForkKind,
    LogFork,
    PrefixFork,
    SizeFork,
    TwiceFault,
    WitnessFork,
    kind_of,
    parse_fork,
)
from quidnunc.crypto.log_keys import KeySpan
from quidnunc.crypto.merkle import leaf_hash, verify_consistency, verify_inclusion
from quidnunc.crypto.note import COSIGNATURE, ED25519, Note, Verifier, parse_note, verify_note
from quidnunc.crypto.token import parse_token

_HEADER_START = b"\x99\x01"
"""How every header of version 1 begins: an array of nine, and the version."""


__all__ = ["Fork", "KeySpan", "KnownKeys", "verify_fork"]


class KnownKeys(NamedTuple):
    """Whose signatures count: keys of logs by origin, public keys of witnesses by the name they sign with."""

    logs: Mapping[str, Sequence[KeySpan]]
    witnesses: Mapping[str, Sequence[bytes]]


class Fork(NamedTuple):
    """A proof that holds. ``culprit`` is the origin of the log, or the name of the witness, whose ``keys`` signed.

    ``seq`` is an entry at which the histories differ, where the proof shows one; ``sizes`` are those of the
    checkpoints in it.
    """

    kind: ForkKind
    culprit: str
    origin: str
    keys: tuple[bytes, ...]
    sizes: tuple[int, ...]
    seq: int | None
    why: str


_Signed: TypeAlias = tuple[Checkpoint, tuple[bytes, ...]]


def verify_fork(data: bytes, known: KnownKeys) -> Fork:
    """What the proof in ``data`` shows.

    Raises :class:`RemoteProtocolError` when it shows nothing: :attr:`Reason.STRANGER` when a key it needs is
    not known, :attr:`Reason.BAD_SIGNATURE` when a key that counts did not sign, :attr:`Reason.VERSION` for a
    later format, :attr:`Reason.MALFORMED` for everything else.
    """
    proof = parse_fork(data)
    match proof:
        case WitnessFork(name, inner):
            return _differ(inner, *_cosigned(name, inner, known), witness=name)
        case ChainFault():
            return _chain(proof, known)
        case TwiceFault():
            return _twice(proof, known)
        case SizeFork() | EntryFork() | PrefixFork():
            first, second = proof[0], proof[1]
            return _differ(proof, _signed(first, known), _signed(second, known))


def _differ(proof: LogFork, first: _Signed, second: _Signed, *, witness: str = "") -> Fork:
    """The verdict on two notes, whose signatures have been checked, of which no log can have signed both."""
    (a, keys_a), (b, keys_b) = first, second
    if a.origin != b.origin:
        raise Malformed(f"two logs, {a.origin} and {b.origin}, need not agree")
    index = None
    match proof:
        case SizeFork():
            why = _two_roots(proof, a, b)
        case EntryFork():
            index = proof.seq
            why = _two_entries(proof, a, b)
        case PrefixFork():
            why = _two_prefixes(proof, a, b)
    kind = ForkKind.WITNESS if witness else kind_of(proof)
    keys = tuple(dict.fromkeys(keys_a + keys_b))
    return Fork(kind, witness or a.origin, a.origin, keys, (a.size, b.size), index, why)


def _two_roots(proof: SizeFork, a: Checkpoint, b: Checkpoint) -> str:
    if a.size != b.size:
        raise Malformed(f"sizes {a.size} and {b.size} in a proof of two roots at one size")
    if a.root == b.root:
        raise Malformed(f"both notes say the same: size {a.size}, one root")
    if not parse_note(proof.note_a).text < parse_note(proof.note_b).text:
        raise Malformed("the notes of a proof must ascend by their text")
    return f"two roots at size {a.size}"


def _two_entries(proof: EntryFork, a: Checkpoint, b: Checkpoint) -> str:
    if a.size >= b.size:
        raise Malformed(f"the notes of a proof must ascend by size, these are of {a.size} and {b.size}")
    if proof.header_a == proof.header_b:
        raise Malformed(f"both histories hold the same entry {proof.seq}")
    for header, path, checkpoint in ((proof.header_a, proof.path_a, a), (proof.header_b, proof.path_b, b)):
        _placed(header, proof.seq, checkpoint)
        verify_inclusion(leaf_hash(header), proof.seq, checkpoint.size, path, checkpoint.root)
    return f"two entries {proof.seq} in the histories of {a.size} and of {b.size} entries"


def _two_prefixes(proof: PrefixFork, a: Checkpoint, b: Checkpoint) -> str:
    if a.size >= b.size:
        raise Malformed(f"the notes of a proof must ascend by size, these are of {a.size} and {b.size}")
    verify_consistency(a.size, b.size, proof.root, b.root, proof.path)
    if proof.root == a.root:
        raise Malformed(f"the history of {b.size} entries begins with that of {a.size}")
    return f"the history of {b.size} entries does not begin with that of {a.size}"


def _chain(proof: ChainFault, known: KnownKeys) -> Fork:
    checkpoint, keys = _signed(proof.note, known)
    for header, path, index in (
        (proof.header, proof.path, proof.seq),
        (proof.before, proof.before_path, proof.seq - 1),
    ):
        if header is not None:
            verify_inclusion(leaf_hash(header), index, checkpoint.size, path, checkpoint.root)
    alone = _fault_alone(proof.header, proof.seq, checkpoint)
    if proof.before is None:
        why = alone
    elif alone:
        raise Malformed("the header is wrong by itself: the one before it does not belong into the proof")
    else:
        why = _fault_between(_placed(proof.before, proof.seq - 1, checkpoint), proof.before, proof.header)
    if not why:
        raise Malformed(f"nothing is wrong with entry {proof.seq}")
    origin = checkpoint.origin
    return Fork(ForkKind.CHAIN, origin, origin, keys, (checkpoint.size,), proof.seq, f"entry {proof.seq} {why}")


def _fault_alone(data: bytes, index: int, checkpoint: Checkpoint) -> str:
    """Why a leaf cannot be a header of this log at ``index``, "" if it can."""
    if not data.startswith(_HEADER_START):
        # It may be of a version that is not known here; an honest log must not be convicted of being newer.
        raise RemoteProtocolError(Reason.VERSION, f"entry {index} is no header of version 1: nothing is proven")
    try:
        header = parse_header(data)
    except Malformed as error:
        return f"does not parse: {error.message}"
    if origin_of(header.log_id) != checkpoint.origin:
        return f"belongs to log {header.log_id.hex()[:16]}"
    return "" if header.seq == index else f"calls itself entry {header.seq}"


def _fault_between(before: Header, before_data: bytes, data: bytes) -> str:
    header = parse_header(data)
    if header.prev != leaf_hash(before_data):
        return f"follows {header.prev.hex()[:16]}, entry {before.seq} is {leaf_hash(before_data).hex()[:16]}"
    if header.t_ms < before.t_ms:
        return f"is of {header.t_ms} ms, the entry before of {before.t_ms} ms"
    return "follows a retirement" if before.type == EntryType.LOG_RETIRE else ""


def _twice(proof: TwiceFault, known: KnownKeys) -> Fork:
    (a, payload_a, first), (b, payload_b, second) = _opened(proof.token_a, known), _opened(proof.token_b, known)
    if a.log_id != b.log_id:
        raise Malformed("the two tokens are of different logs")
    if a.seq >= b.seq:
        raise Malformed(f"the tokens of a proof must ascend by seq, these are of {a.seq} and {b.seq}")
    if a.type != b.type:
        raise Malformed(f"entries of types {a.type} and {b.type} may stand in one log")
    why = _said_twice(a.type, _mapping(payload_a), _mapping(payload_b))
    origin = origin_of(a.log_id)
    keys = tuple(dict.fromkeys(first[1] + second[1]))
    sizes = (first[0].size, second[0].size)
    return Fork(ForkKind.TWICE, origin, origin, keys, sizes, b.seq, f"entries {a.seq} and {b.seq} {why}")


def _said_twice(kind: int, a: Mapping[str, Value], b: Mapping[str, Value]) -> str:
    """Why entries with these payloads cannot both stand in one log."""
    number = a.get("un")
    if isinstance(number, int) and not isinstance(number, bool):
        same = ("fe", "un") if kind == EntryType.UPDATE_PUBLISHED else ("so", "un")
        agree = all(key in a and key in b and type(a[key]) is type(b[key]) and a[key] == b[key] for key in same)
        if agree and kind == EntryType.UPDATE_PUBLISHED:
            return f"both publish update {number}"
        # Accepted again from a snapshot is how an honest peer repairs a replica.
        accepted = all(type(each.get("dc")) is int and each["dc"] == 0 for each in (a, b))
        if agree and kind == EntryType.UPDATE_RECEIVED and accepted and b.get("sp") is False:
            return f"both accept update {number} of one author"
    raise Malformed("the two entries may stand in one log")


def _opened(data: bytes, known: KnownKeys) -> tuple[Header, bytes, _Signed]:
    header_bytes, payload, salt, path, note = parse_token(data)
    header = open_entry(Entry(header_bytes, payload, salt))
    checkpoint, keys = _signed(note, known)
    if origin_of(header.log_id) != checkpoint.origin:
        raise Malformed(f"entry of log {header.log_id.hex()[:16]} in a tree of {checkpoint.origin}")
    verify_inclusion(leaf_hash(header_bytes), header.seq, checkpoint.size, path, checkpoint.root)
    return header, payload, (checkpoint, keys)


def _placed(data: bytes, index: int, checkpoint: Checkpoint) -> Header:
    """The header in ``data``, which must say that it is entry ``index`` of this log."""
    header = parse_header(data)
    if header.seq != index or origin_of(header.log_id) != checkpoint.origin:
        raise Malformed(f"entry {header.seq} of log {header.log_id.hex()[:16]} stands in a proof as entry {index}")
    return header


def _mapping(payload: bytes) -> Mapping[str, Value]:
    value = decode(payload, max_bytes=MAX_PAYLOAD_BYTES)
    if not isinstance(value, dict):
        raise Malformed("the payload of an entry in a proof must be a map")
    return value


def _signed(data: bytes, known: KnownKeys) -> _Signed:
    """The checkpoint in a note, and the known keys of its log that signed it and may sign that size."""
    note, checkpoint = _checkpoint(data)
    spans = known.logs.get(checkpoint.origin, ())
    if not spans:
        raise RemoteProtocolError(Reason.STRANGER, f"the key of {checkpoint.origin} is not known")
    publics = tuple(span.public for span in spans if span.first <= checkpoint.size <= span.last)
    return checkpoint, _signers(note, checkpoint.origin, ED25519, publics)


def _cosigned(name: str, proof: LogFork, known: KnownKeys) -> tuple[_Signed, _Signed]:
    """The checkpoints in both notes, and the one key with which the witness ``name`` cosigned both."""
    publics = tuple(known.witnesses.get(name, ()))
    if not publics:
        raise RemoteProtocolError(Reason.STRANGER, f"the witness key of {name} is not known")
    (note_a, a), (note_b, b) = _checkpoint(proof[0]), _checkpoint(proof[1])
    first, second = (_signers(note, name, COSIGNATURE, publics) for note in (note_a, note_b))
    both = tuple(key for key in first if key in second)
    if not both:
        raise RemoteProtocolError(Reason.BAD_SIGNATURE, f"no one key of {name} cosigned both checkpoints")
    return (a, both), (b, both)


def _checkpoint(data: bytes) -> tuple[Note, Checkpoint]:
    note = parse_note(data)
    return note, parse_checkpoint(note.text)


def _signers(note: Note, name: str, sig_type: int, publics: Sequence[bytes]) -> tuple[bytes, ...]:
    """Those of ``publics`` that signed ``note`` under ``name``; none raises :class:`RemoteProtocolError`."""
    # One by one: ids of 4 bytes may collide, and a line that another key explains is not this one's.
    found = tuple(public for public in dict.fromkeys(publics) if verify_note(note, [Verifier(name, public, sig_type)]))
    if not found:
        raise RemoteProtocolError(Reason.BAD_SIGNATURE, f"a note is not signed by a key of {name} valid for its size")
    return found
