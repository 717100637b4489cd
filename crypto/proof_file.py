"""Proof files: one entry of a log, verifiable offline by anybody who knows the log's key (C2SP tlog-proof).

::

    c2sp.org/tlog-proof@v1
    extra lrJxdWlkbnVuYy92MS9lbnRyeQ...
    index 700
    gSKyXoYZUgZ6jduWYrkDOARinOMGJveXjgMkBTcdPlQ=
    B95lDa8R83lS8n0eG+o0buTxRKQTYFi//1U8anccXmA=

    quidnunc/v1/03be1cb966d4a1b0a462d5844d6aab2a800bb121526e94a45a642cbe375fbbb2
    1500
    HIpHOo3my44kydRvJwaa1BypxcKeW8rOWueMZT4LGDM=

    — quidnunc/v1/03be1cb9... 7Uxr3SazA125uQ...
    — quidnunc/v1/9a327d5e... lbOeDgAAAABo53gC...

The entry's index, its inclusion path from the leaf side up, and the checkpoint note with whatever cosignatures
it has. ``extra`` is base64 of a canonical array ``["quidnunc/v1/entry", header, payload, salt]``, where payload
and salt are nil once the content is erased. Nothing in ``extra`` is believed: the path must lead from the
header's leaf hash to the signed root, and the payload must be the one that the header commits to.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Sequence
from typing import NamedTuple

from quidnunc.crypto.checkpoint import Checkpoint, origin_of, parse_checkpoint
from quidnunc.crypto.encoding import decode, encode
from quidnunc.crypto.entry import Entry, Header, open_entry, parse_header
from quidnunc.crypto.errors import LocalProtocolError, Malformed, Reason, RemoteProtocolError
from quidnunc.crypto.identity import DOMAIN
from quidnunc.crypto.merkle import HASH_BYTES, MAX_PATH, MAX_SIZE, leaf_hash, verify_inclusion
from quidnunc.crypto.note import Note, Verifier, decode_base64, format_note, parse_note, verify_note

PROOF_LINE = "c2sp.org/tlog-proof@v1"
ENTRY_TAG = DOMAIN + "entry"
MAX_EXTRA_BYTES = 66_560
"""Room for a header, the largest payload and its salt."""

MAX_PROOF_BYTES = 131_072

_SERIES = "c2sp.org/tlog-proof@"
_VERSION = re.compile(r"c2sp\.org/tlog-proof@v[0-9.]{1,16}")
_ENTRY_SERIES = re.compile(r"quidnunc/v[0-9]{1,9}/entry")
_INDEX = re.compile("index (0|[1-9][0-9]{0,18})")


class ProofFile(NamedTuple):
    """What stands in a proof file, none of it checked. ``extra`` is empty where the line is missing."""

    seq: int
    path: tuple[bytes, ...]
    note: Note
    extra: bytes = b""


class EntryProof(NamedTuple):
    """A verified proof: the entry (``payload`` is None if it was erased) and the checkpoint it stands in."""

    header: Header
    leaf: bytes
    payload: bytes | None
    checkpoint: Checkpoint
    path: tuple[bytes, ...]
    note: Note


def format_proof(proof: ProofFile) -> bytes:
    """The file; :func:`parse_proof` gives the same proof back."""
    wrong = _wrong(proof)
    if wrong:
        raise LocalProtocolError(wrong)
    head = [PROOF_LINE]
    if proof.extra:
        head.append(f"extra {_base64(proof.extra)}")
    head.append(f"index {proof.seq}")
    head += [_base64(each) for each in proof.path]
    return ("\n".join(head) + "\n\n" + format_note(proof.note)).encode()


def parse_proof(data: bytes) -> ProofFile:
    """The proof file with exactly these bytes.

    Anything else raises :class:`Malformed`; a file of another version of the format raises
    :class:`RemoteProtocolError` with :attr:`Reason.VERSION`.
    """
    head, note = _split(data)
    first, *lines = head.split("\n")
    if first != PROOF_LINE:
        if _VERSION.fullmatch(first):
            raise RemoteProtocolError(Reason.VERSION, f"proof of format {first!a}, known is {PROOF_LINE}")
        raise Malformed(f"not a proof file: the first line must be {PROOF_LINE}")
    extra = b""
    if lines and lines[0].startswith("extra "):
        extra = decode_base64(lines.pop(0).removeprefix("extra "))
        if not extra:
            raise Malformed("the extra line of a proof is empty: it must be left out")
    match = _INDEX.fullmatch(lines[0]) if lines else None
    if match is None:
        raise Malformed("a proof must have a line 'index N', a decimal number below 2**63 - 1")
    if len(lines) - 1 > MAX_PATH:
        raise Malformed(f"an inclusion path of {len(lines) - 1} hashes, limit is {MAX_PATH}")
    proof = ProofFile(int(match[1]), tuple(decode_base64(line) for line in lines[1:]), parse_note(note), extra)
    wrong = _wrong(proof)
    if wrong:
        raise Malformed(wrong)
    parse_checkpoint(proof.note.text)
    return proof


def entry_proof(entry: Entry, path: Sequence[bytes], note: bytes, *, index: int) -> bytes:
    """The proof file of ``entry``, which has this ``index`` and ``path`` in the tree that ``note`` signs.

    The private part stays behind; an entry without salt is one whose payload was erased. Nothing is checked
    here but form: verify what you hand on.
    """
    payload, salt = (entry.payload, entry.salt) if entry.salt else (None, None)
    extra = encode([ENTRY_TAG, entry.header, payload, salt])
    return format_proof(ProofFile(index, tuple(path), parse_note(note), extra))


def open_proof(data: bytes, logs: Sequence[Verifier]) -> EntryProof:
    """Verify the proof of an entry in one of ``logs``, each a log's key under its origin.

    Raises :class:`RemoteProtocolError`: :attr:`Reason.STRANGER` where the checkpoint is of no such log,
    :attr:`Reason.BAD_SIGNATURE` where its key did not sign, :attr:`Reason.VERSION` for a later format,
    :attr:`Reason.MALFORMED` for everything else.
    """
    proof = parse_proof(data)
    checkpoint = parse_checkpoint(proof.note.text)
    header_bytes, payload, salt = parse_extra(proof.extra)
    header = parse_header(header_bytes)
    if origin_of(header.log_id) != checkpoint.origin or header.seq != proof.seq:
        raise Malformed(
            f"entry {header.seq} of log {header.log_id.hex()[:16]} in a proof of entry {proof.seq} "
            f"of {checkpoint.origin}"
        )
    if payload is not None and salt is not None:
        open_entry(Entry(header_bytes, payload, salt))
    known = [verifier for verifier in logs if verifier.name == checkpoint.origin]
    if not known:
        raise RemoteProtocolError(Reason.STRANGER, f"proof of {checkpoint.origin}, whose key is not known here")
    if not verify_note(proof.note, known):
        raise RemoteProtocolError(Reason.BAD_SIGNATURE, f"checkpoint is not signed by the key of {checkpoint.origin}")
    leaf = leaf_hash(header_bytes)
    verify_inclusion(leaf, proof.seq, checkpoint.size, proof.path, checkpoint.root)
    return EntryProof(header, leaf, payload, checkpoint, proof.path, proof.note)


def parse_extra(extra: bytes) -> tuple[bytes, bytes | None, bytes | None]:
    """Header, payload and salt in the extra line of a proof; payload and salt are both None if erased."""
    if not extra:
        raise Malformed("the proof has no extra line: it must hold the entry")
    match decode(extra, max_bytes=MAX_EXTRA_BYTES):
        case [tag, bytes(header), bytes(payload), bytes(salt)] if tag == ENTRY_TAG:
            return header, payload, salt
        case [tag, bytes(header), None, None] if tag == ENTRY_TAG:
            return header, None, None
        case [str(tag), *_] if tag != ENTRY_TAG and _ENTRY_SERIES.fullmatch(tag):
            raise RemoteProtocolError(
                Reason.VERSION, f"the entry of the proof is of format {tag}, known is {ENTRY_TAG}"
            )
    raise Malformed(f"the extra line of a proof must be an array of {ENTRY_TAG!r}, header, payload and salt")


def _split(data: bytes) -> tuple[str, str]:
    """What stands before the first empty line, and the note behind it."""
    if len(data) > MAX_PROOF_BYTES:
        raise Malformed(f"a proof of {len(data)} bytes, limit is {MAX_PROOF_BYTES}")
    try:
        head, blank, note = data.decode("utf-8").partition("\n\n")
    except UnicodeDecodeError:
        raise Malformed("not a proof file: it must be UTF-8 text") from None
    if not blank and not head.startswith(_SERIES):
        raise Malformed(f"not a proof file: the first line must be {PROOF_LINE}")
    if not blank:
        raise Malformed("the proof is cut short: no empty line, and no checkpoint behind it")
    return head, note


def _wrong(proof: ProofFile) -> str:
    """What is wrong with sizes in ``proof``, "" if nothing is."""
    if not 0 <= proof.seq < MAX_SIZE:
        return f"the index of a proof is {proof.seq}, must be 0 to {MAX_SIZE - 1}"
    if len(proof.path) > MAX_PATH:
        return f"an inclusion path of {len(proof.path)} hashes, limit is {MAX_PATH}"
    if any(len(each) != HASH_BYTES for each in proof.path):
        return f"a hash of an inclusion path must be {HASH_BYTES} bytes"
    if len(proof.extra) > MAX_EXTRA_BYTES:
        return f"extra data of {len(proof.extra)} bytes, limit is {MAX_EXTRA_BYTES}"
    return ""


def _base64(data: bytes) -> str:
    return b64encode(data).decode("ascii")
