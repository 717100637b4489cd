"""Mutations of valid bytes, and every decoder of crypto/ with golden messages; tests and bench/fuzz.py share them.

One seed for the whole session, QUIDNUNC_FUZZ_SEED if that is set. It is part of the names of the tests that use it,
so that a failure says how to repeat it.
"""

from __future__ import annotations

import os
import random
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from histories import T_MS, History, cosigned, witness

from quidnunc.crypto import checkpoint, entry, keyfile, note, policy, policy_file, proof_file, suspicion, tiles, token
from quidnunc.crypto.checkpoint import origin_of, witness_verifier
from quidnunc.crypto.encoding import decode, encode
from quidnunc.crypto.entry import EntryType
from quidnunc.crypto.errors import KeyFileError, QuidnuncError, RemoteProtocolError
from quidnunc.crypto.fork_build import (
    against_witness,
    fault_of_headers,
    fork_of_headers,
    fork_of_notes,
    fork_of_prefix,
    fork_of_tokens,
)
from quidnunc.crypto.fork_proof import ForkProof, encode_fork, parse_fork
from quidnunc.crypto.merkle import Tree, leaf_hash
from quidnunc.crypto.note import format_vkey

SEED = int(os.environ.get("QUIDNUNC_FUZZ_SEED") or secrets.randbits(32))

# Sizes and signs at which integers and headers of msgpack change their form.
_EDGES = (0, 1, 0x7F, 0x80, 0x90, 0x99, 0x9F, 0xA0, 0xC0, 0xC4, 0xC5, 0xCC, 0xCD, 0xCE, 0xCF, 0xD0, 0xD9, 0xDC, 0xFF)


def mutate(data: bytes, corpus: Sequence[bytes], rng: random.Random) -> bytes:
    """``data`` with one to three small things wrong, or spliced with another message of ``corpus``."""
    mutated = bytearray(data)
    for _ in range(1 + (rng.random() < 0.3) + (rng.random() < 0.1)):
        _MUTATIONS[int(rng.random() * len(_MUTATIONS))](mutated, corpus, rng)
    return bytes(mutated)


def _at(data: bytearray, rng: random.Random) -> int:
    return int(rng.random() * len(data)) if data else 0


def _flip(data: bytearray, corpus: Sequence[bytes], rng: random.Random) -> None:
    if data:
        data[_at(data, rng)] ^= 1 << int(rng.random() * 8)


def _edge(data: bytearray, corpus: Sequence[bytes], rng: random.Random) -> None:
    if data:
        data[_at(data, rng)] = _EDGES[int(rng.random() * len(_EDGES))]


def _step(data: bytearray, corpus: Sequence[bytes], rng: random.Random) -> None:
    if data:
        at = _at(data, rng)
        data[at] = (data[at] + (1 if rng.random() < 0.5 else 255)) % 256


def _insert(data: bytearray, corpus: Sequence[bytes], rng: random.Random) -> None:
    data.insert(_at(data, rng), int(rng.random() * 256))


def _delete(data: bytearray, corpus: Sequence[bytes], rng: random.Random) -> None:
    at = _at(data, rng)
    del data[at : at + 1 + int(rng.random() ** 4 * 40)]


def _cut(data: bytearray, corpus: Sequence[bytes], rng: random.Random) -> None:
    del data[_at(data, rng) :]


def _repeat(data: bytearray, corpus: Sequence[bytes], rng: random.Random) -> None:
    at, size = _at(data, rng), 1 + int(rng.random() * 40)
    data[at:at] = data[at : at + size]


def _splice(data: bytearray, corpus: Sequence[bytes], rng: random.Random) -> None:
    other = corpus[int(rng.random() * len(corpus))]
    at, size = int(rng.random() * (len(other) + 1)), int(rng.random() * 80)
    place = _at(data, rng)
    data[place : place + (size if rng.random() < 0.5 else 0)] = other[at : at + size]


def _lines(data: bytearray, corpus: Sequence[bytes], rng: random.Random) -> None:
    """Drop, double or swap lines: what a text format is made of."""
    lines = bytes(data).split(b"\n")
    at, to = int(rng.random() * len(lines)), int(rng.random() * len(lines))
    what = rng.random()
    if what < 0.3:
        del lines[at]
    elif what < 0.6:
        lines.insert(to, lines[at])
    else:
        lines[at], lines[to] = lines[to], lines[at]
    data[:] = b"\n".join(lines)


def _tree(data: bytearray, corpus: Sequence[bytes], rng: random.Random) -> None:
    """Change one value inside a msgpack message and write it properly again: what byte edits hardly ever give."""
    try:
        value = decode(bytes(data), max_bytes=65_536)
    except RemoteProtocolError:
        return
    if isinstance(value, list) and value:
        at = int(rng.random() * len(value))
        what = rng.random()
        if what < 0.2:
            del value[at]
        elif what < 0.4:
            value.insert(at, value[int(rng.random() * len(value))])
        elif what < 0.6:
            to = int(rng.random() * len(value))
            value[at], value[to] = value[to], value[at]
        else:
            value[at] = _VALUES[int(rng.random() * len(_VALUES))]
        data[:] = encode(value)


_VALUES: tuple[Any, ...] = (
    None,
    True,
    0,
    1,
    -1,
    13,
    2**63 - 1,
    2**64 - 1,
    "",
    "A",
    "D",
    b"",
    bytes(32),
    [],
    [bytes(32)],
    {},
)

_MUTATIONS = (_flip, _flip, _edge, _step, _insert, _delete, _cut, _repeat, _splice, _splice, _lines, _tree)


@dataclass(frozen=True)
class Decoder:
    """One decoder: what it reads, how that is written again, what it raises, and golden messages."""

    name: str
    read: Callable[[bytes], Any]
    write: Callable[[Any], bytes]
    golden: Sequence[bytes]
    refusal: type[QuidnuncError] = RemoteProtocolError
    canonical: bool = True

    def try_one(self, data: bytes) -> bool:
        """Whether ``data`` is accepted; anything but a value that writes ``data`` again or the refusal is raised."""
        try:
            value = self.read(data)
        except self.refusal:
            return False
        written = self.write(value)
        if not self.canonical:
            assert self.read(written) == value, f"{self.name}: {data!r} reads as {value!r}, {written!r} does not"
        else:
            assert written == data, f"{self.name}: {data!r} is accepted and written as {written!r}"
        return True


def fork_examples() -> list[ForkProof]:
    """A valid proof of every kind against the log and the witness of :func:`fork_logs`."""
    ours, theirs = fork_logs()
    again = ours.fork(20)
    again.add(EntryType.UPDATE_PUBLISHED, again.entries[15].payload, t_ms=T_MS * 2)
    late = ours.fork(20)
    header = late.add(EntryType.EVAL, b"\x80").header
    broken = [*late.headers[:20], header.replace(late.log.leaf(19), bytes(32), 1)]
    size = fork_of_notes(ours.note(30), theirs.note(30))
    assert size is not None
    order = sorted((cosigned(ours.note(30), "v"), cosigned(theirs.note(30), "v")))
    found = [
        size,
        fork_of_headers(ours.note(20), ours.headers, theirs.note(33), theirs.headers),
        fork_of_prefix(ours.note(20), theirs.note(33), theirs.log._tree),
        fork_of_tokens(again.token(15), again.token(20)),
        against_witness(origin_of(witness("v")[0]), size, *order),
        fault_of_headers(_signed(ours, broken), broken),
    ]
    return [proof for proof in found if proof is not None]


def fork_logs() -> tuple[History, History]:
    """Two histories of the log ``guilty`` that part at entry 12."""
    ours = History("guilty").grow(40)
    return ours, ours.fork(12).grow(28, "forked")


def _signed(log: History, headers: list[bytes]) -> bytes:
    tree = Tree()
    for each in headers:
        tree.append(leaf_hash(each))
    return checkpoint.sign_checkpoint(checkpoint.Checkpoint(log.origin, tree.size, tree.root()), log.key)


def _text(parse: Callable[[str], Any]) -> Callable[[bytes], Any]:
    """A parser of str as one of bytes; bytes that are no UTF-8 are never given to it."""

    def read(data: bytes) -> Any:
        return parse(data.decode("utf-8", "surrogateescape"))

    return read


def _written(write: Callable[[Any], str]) -> Callable[[Any], bytes]:
    return lambda value: write(value).encode("utf-8", "surrogateescape")


def decoders() -> list[Decoder]:
    """Every decoder of crypto/ with golden messages of its format."""
    log = History("clinic").grow(40)
    notes = [cosigned(log.note(size), *names) for size, names in ((0, ""), (1, "b"), (37, "bc"), (40, "bcdef"))]
    witnesses = tuple(
        policy.Witness(name, witness_verifier(witness(name)[0], witness(name)[1].public)) for name in "bcdef"
    )
    policies = [
        policy_file.format_policy(policy.flat_policy(log.verifier, witnesses[:count], (count + 1) // 2))
        for count in range(5)
    ]
    policies.append(b"# a comment\n\n  log\t" + format_vkey(log.verifier).encode() + b" https://x\n\nquorum none")
    proofs = [
        proof_file.entry_proof(log.entries[seq], log.log.inclusion(seq, 37), notes[2], index=seq) for seq in (0, 13, 36)
    ]
    values: list[Any] = [None, True, [1, -5, 2**63], {"a": b"x" * 300, "b": ["é", 0]}, [[[]]], "text"]
    return [
        Decoder("encoding", lambda data: decode(data, max_bytes=65_536), encode, [encode(each) for each in values]),
        Decoder("entry header", entry.parse_header, entry.encode_header, log.headers[:5]),
        Decoder("signed note", note.parse_note, _written(note.format_note), notes),
        Decoder(
            "verifier key",
            _text(note.parse_vkey),
            _written(format_vkey),
            [format_vkey(each).encode() for each in (log.verifier, witnesses[0].verifier)],
        ),
        Decoder(
            "checkpoint",
            _text(checkpoint.parse_checkpoint),
            _written(checkpoint.format_checkpoint),
            [each.split(b"\n\n")[0] + b"\n" for each in notes],
        ),
        Decoder(
            "token",
            token.parse_token,
            lambda parts: token.make_token(entry.Entry(*parts[:3]), parts.path, parts.note),
            [log.token(seq, 37) for seq in (0, 13, 36)],
        ),
        Decoder("proof file", proof_file.parse_proof, proof_file.format_proof, proofs),
        Decoder("policy", policy_file.parse_policy, policy_file.format_policy, policies, canonical=False),
        Decoder("fork proof", parse_fork, encode_fork, [encode_fork(each) for each in fork_examples()]),
        Decoder(
            "suspicion",
            suspicion.parse_suspicion,
            suspicion.encode_suspicion,
            [
                suspicion.encode_suspicion(suspicion.Suspicion(kind, log.log.log_id, T_MS, b"c" * 32, notes[2]))
                for kind in suspicion.SuspicionKind
            ],
        ),
        Decoder(
            "key file",
            keyfile.decode_key_file,
            lambda key: keyfile.encode_key_file(*key),
            [keyfile.encode_key_file(kind, bytes([7]) * 32) for kind in keyfile.KINDS],
            refusal=KeyFileError,
        ),
        Decoder(
            "tile path",
            _text(tiles.parse_tile_path),
            _written(tiles.tile_path),
            [b"tile/0/x001/x234/067", b"tile/1/001.p/17", b"tile/entries/273.p/112"],
        ),
    ]
