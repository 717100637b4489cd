"""Proofs that a key signed what an honest one never signs, as portable bytes.

A canonical array ``["quidnunc/v1/equivocation", kind, ...]``; kind and what follows it is one of

==  ==========================================================  ===========================================
A   note, note                                                  two roots at one size
B   note, note, index, header, path, header, path               two entries at one index of unequal trees
B2  older note, newer note, root, path                          the newer tree begins with another root
C   note, index, header, path, header before or nil, path       an entry that no log of ours can hold
C2  token, token                                                one update published, or accepted, twice
D   name, kind, ... (of an A, B or B2)                          a witness cosigned both notes
==  ==========================================================  ===========================================

A proof of kind B takes some two thousand bytes at a million entries. Every proof has one
spelling: the notes of an A ascend by their text, those of a B by size, the tokens of a C2 by ``seq``. Here is
only their form; :mod:`quidnunc.crypto.fork` says whether one proves anything.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from enum import StrEnum
from typing import NamedTuple, TypeAlias

from quidnunc.crypto.encoding import Encodable, Value, decode, encode
from quidnunc.crypto.errors import LocalProtocolError, Malformed, Reason, RemoteProtocolError
from quidnunc.crypto.identity import DOMAIN
from quidnunc.crypto.merkle import HASH_BYTES, MAX_PATH, MAX_SIZE
from quidnunc.crypto.note import MAX_NOTE_BYTES, is_name
from quidnunc.crypto.token import MAX_TOKEN_BYTES

FORK_TAG = DOMAIN + "equivocation"
MAX_FORK_BYTES = 65_536
MAX_LEAF_BYTES = 4096
"""The largest entry header that a proof may show; one of ours has at most 256 bytes, one of a liar any."""

_SERIES = re.compile(r"quidnunc/v[0-9]{1,9}/equivocation")


class ForkKind(StrEnum):
    """What a proof shows. The letters stand in stored evidence and never change."""

    SIZE = "A"
    ENTRY = "B"
    PREFIX = "B2"
    CHAIN = "C"
    TWICE = "C2"
    WITNESS = "D"


class SizeFork(NamedTuple):
    """Kind A: two notes of one log and size with different roots."""

    note_a: bytes
    note_b: bytes


class EntryFork(NamedTuple):
    """Kind B: the smaller and the larger tree hold different headers at ``seq``."""

    note_a: bytes
    note_b: bytes
    seq: int
    header_a: bytes
    path_a: tuple[bytes, ...]
    header_b: bytes
    path_b: tuple[bytes, ...]


class PrefixFork(NamedTuple):
    """Kind B2: the newer tree's first entries, as many as the older note's size, have the root ``root``."""

    older: bytes
    newer: bytes
    root: bytes
    path: tuple[bytes, ...]


class ChainFault(NamedTuple):
    """Kind C: the header at ``seq`` is wrong by itself, or does not follow the one ``before`` it."""

    note: bytes
    seq: int
    header: bytes
    path: tuple[bytes, ...]
    before: bytes | None
    before_path: tuple[bytes, ...]


class TwiceFault(NamedTuple):
    """Kind C2: tokens of two entries of one log that say what may be said once."""

    token_a: bytes
    token_b: bytes


LogFork: TypeAlias = SizeFork | EntryFork | PrefixFork
"""Two histories of one log."""


class WitnessFork(NamedTuple):
    """Kind D: the witness called ``name`` cosigned both notes of ``proof``."""

    name: str
    proof: LogFork


ForkProof: TypeAlias = LogFork | ChainFault | TwiceFault | WitnessFork

_KINDS: dict[type, ForkKind] = {
    SizeFork: ForkKind.SIZE,
    EntryFork: ForkKind.ENTRY,
    PrefixFork: ForkKind.PREFIX,
    ChainFault: ForkKind.CHAIN,
    TwiceFault: ForkKind.TWICE,
    WitnessFork: ForkKind.WITNESS,
}


def kind_of(proof: ForkProof) -> ForkKind:
    """The kind of ``proof``."""
    return _KINDS[type(proof)]


def encode_fork(proof: ForkProof) -> bytes:
    """The bytes of ``proof``; one that :func:`parse_fork` would refuse raises :class:`LocalProtocolError`."""
    data = encode([FORK_TAG, *_fields(proof)])
    try:
        parse_fork(data)
    except Malformed as error:
        raise LocalProtocolError(error.message) from None
    return data


def parse_fork(data: bytes) -> ForkProof:
    """The proof with exactly these bytes, not verified.

    Anything else raises :class:`Malformed`; a proof of a later version of the format raises
    :class:`RemoteProtocolError` with :attr:`Reason.VERSION`.
    """
    value = decode(data, max_bytes=MAX_FORK_BYTES)
    if not isinstance(value, list) or len(value) < 2 or not isinstance(value[0], str):
        raise Malformed(f"a proof of equivocation must be an array of {FORK_TAG!r}, a kind and what belongs to it")
    if value[0] != FORK_TAG:
        if _SERIES.fullmatch(value[0]):
            raise RemoteProtocolError(Reason.VERSION, f"proof of format {value[0]}, known is {FORK_TAG}")
        raise Malformed(f"not a proof of equivocation: it must begin with {FORK_TAG!r}")
    return _parse(value[1:])


def _fields(proof: ForkProof) -> list[Encodable]:
    if isinstance(proof, WitnessFork):
        return [ForkKind.WITNESS, proof.name, *_fields(proof.proof)]
    return [kind_of(proof), *(list(each) if isinstance(each, tuple) else each for each in proof)]


def _parse(fields: Sequence[Value]) -> ForkProof:
    match fields:
        case ["A", bytes(a), bytes(b)]:
            return SizeFork(_note(a), _note(b))
        case ["B", bytes(a), bytes(b), int(index), bytes(header_a), list(path_a), bytes(header_b), list(path_b)]:
            return EntryFork(
                _note(a), _note(b), _index(index), _leaf(header_a), _path(path_a), _leaf(header_b), _path(path_b)
            )
        case ["B2", bytes(a), bytes(b), bytes(root), list(path)]:
            return PrefixFork(_note(a), _note(b), _hash(root), _path(path))
        case ["C", bytes(note), int(index), bytes(header), list(path), None, []]:
            return ChainFault(_note(note), _index(index), _leaf(header), _path(path), None, ())
        case ["C", bytes(note), int(index), bytes(header), list(path), bytes(before), list(before_path)]:
            shown = _leaf(before), _path(before_path)
            return ChainFault(_note(note), _index(index), _leaf(header), _path(path), *shown)
        case ["C2", bytes(a), bytes(b)]:
            return TwiceFault(_token(a), _token(b))
        case ["D", str(name), str(kind), *rest] if kind in ("A", "B", "B2"):
            if not is_name(name):
                raise Malformed("a proof against a witness must name it")
            proof = _parse([kind, *rest])
            if isinstance(proof, SizeFork | EntryFork | PrefixFork):
                return WitnessFork(name, proof)
    raise Malformed(f"no kind of proof is {str(fields[0])[:16]!a} with {len(fields) - 1} fields of these types")


def _note(data: bytes) -> bytes:
    return _capped(data, MAX_NOTE_BYTES, "note")


def _leaf(data: bytes) -> bytes:
    return _capped(data, MAX_LEAF_BYTES, "header")


def _token(data: bytes) -> bytes:
    return _capped(data, MAX_TOKEN_BYTES, "token")


def _capped(data: bytes, limit: int, what: str) -> bytes:
    if len(data) > limit:
        raise Malformed(f"a {what} of {len(data)} bytes in a proof, limit is {limit}")
    return data


def _index(index: int) -> int:
    if isinstance(index, bool) or not 0 <= index < MAX_SIZE:
        raise Malformed(f"the index of an entry in a proof must be 0 to {MAX_SIZE - 1}")
    return index


def _hash(data: Value) -> bytes:
    if not isinstance(data, bytes) or len(data) != HASH_BYTES:
        raise Malformed(f"a hash in a proof must be {HASH_BYTES} bytes")
    return data


def _path(values: Sequence[Value]) -> tuple[bytes, ...]:
    if len(values) > MAX_PATH + 1:
        raise Malformed(f"a path of {len(values)} hashes in a proof, limit is {MAX_PATH + 1}")
    return tuple(_hash(each) for each in values)
