"""Checkpoints: the size and root of a log as the text of a signed note (C2SP tlog-checkpoint).

::

    quidnunc/v1/03be1cb966d4a1b0a462d5844d6aab2a800bb121526e94a45a642cbe375fbbb2
    2
    HIpHOo3my44kydRvJwaa1BypxcKeW8rOWueMZT4LGDM=

    — quidnunc/v1/03be1cb9... 7Uxr3SazA125uQ...

Origin of the log, number of entries, base64 of the root. Extension lines, which the format allows and advises
against, are refused: what is signed here is exactly what is read.
"""

from __future__ import annotations

import re
from base64 import b64encode
from typing import NamedTuple

from quidnunc.crypto.errors import LocalProtocolError, Malformed, Reason, RemoteProtocolError
from quidnunc.crypto.identity import DOMAIN, SecretKey
from quidnunc.crypto.log_keys import Keys, key_at
from quidnunc.crypto.merkle import HASH_BYTES, MAX_SIZE, empty_root
from quidnunc.crypto.note import (
    COSIGNATURE,
    Verifier,
    add_signature,
    decode_base64,
    format_note,
    is_name,
    parse_note,
    sign_note,
    verify_note,
)

_SIZE = re.compile("0|[1-9][0-9]{0,18}")


class Checkpoint(NamedTuple):
    """What a log says of itself: its first ``size`` entries have the Merkle root ``root`` (32 bytes)."""

    origin: str
    size: int
    root: bytes


def origin_of(log_id: bytes) -> str:
    """The origin line and signer name of a log of ours: ``quidnunc/v1/`` and its id in hex."""
    return DOMAIN + log_id.hex()


def format_checkpoint(checkpoint: Checkpoint) -> str:
    """The text to be signed; a checkpoint that cannot be raises :class:`LocalProtocolError`."""
    wrong = _wrong(checkpoint)
    if wrong:
        raise LocalProtocolError(wrong)
    root = b64encode(checkpoint.root).decode("ascii")
    return f"{checkpoint.origin}\n{checkpoint.size}\n{root}\n"


def parse_checkpoint(text: str) -> Checkpoint:
    """The checkpoint with exactly this text; anything else raises :class:`Malformed`."""
    lines = text.split("\n")
    if len(lines) != 4 or lines[3]:
        raise Malformed("a checkpoint must be three lines: origin, size, root")
    if not _SIZE.fullmatch(lines[1]):
        raise Malformed("the size of a checkpoint must be a decimal number below 2**63")
    checkpoint = Checkpoint(lines[0], int(lines[1]), decode_base64(lines[2]))
    wrong = _wrong(checkpoint)
    if wrong:
        raise Malformed(wrong)
    return checkpoint


def sign_checkpoint(checkpoint: Checkpoint, key: SecretKey) -> bytes:
    """The signed note over ``checkpoint``, by ``key`` under the log's own origin."""
    return sign_note(format_checkpoint(checkpoint), checkpoint.origin, key).encode()


def witness_verifier(log_id: bytes, public: bytes) -> Verifier:
    """The key under which the member with the log ``log_id`` cosigns: its witness key, named by its own origin."""
    return Verifier(origin_of(log_id), public, COSIGNATURE)


def cosign_checkpoint(note: bytes, log_id: bytes, key: SecretKey, *, time: int) -> bytes:
    """``note`` with one more line: ``key``, the witness key of the member ``log_id``, saw it at ``time`` (seconds).

    Whoever calls this has made the checkpoint's consistency with all earlier ones durable. A note that is no
    checkpoint raises :class:`Malformed`.
    """
    parsed = parse_note(note)
    parse_checkpoint(parsed.text)
    return format_note(add_signature(parsed, origin_of(log_id), key, COSIGNATURE, time=time)).encode()


def open_checkpoint(note: bytes, origin: str, public: Keys) -> Checkpoint:
    """The checkpoint in ``note``, after checking that it is of ``origin`` and signed by its key for that size.

    Raises :class:`Malformed`, or :class:`RemoteProtocolError` with :attr:`Reason.STRANGER` for another log's
    and :attr:`Reason.BAD_SIGNATURE` for one that this key did not sign.
    """
    parsed = parse_note(note)
    checkpoint = parse_checkpoint(parsed.text)
    if checkpoint.origin != origin:
        raise RemoteProtocolError(Reason.STRANGER, f"checkpoint of {checkpoint.origin}, expected {origin}")
    key = key_at(public, checkpoint.size)
    if key is None or not verify_note(parsed, [Verifier(origin, key)]):
        raise RemoteProtocolError(Reason.BAD_SIGNATURE, f"checkpoint is not signed by the key of {origin}")
    return checkpoint


def _wrong(checkpoint: Checkpoint) -> str:
    """What is wrong with ``checkpoint``, "" if nothing is."""
    if not is_name(checkpoint.origin):
        return "the origin of a checkpoint must be a name without white space, control or '+'"
    if not 0 <= checkpoint.size <= MAX_SIZE:
        return f"the size of a checkpoint must be from 0 to {MAX_SIZE}"
    if len(checkpoint.root) != HASH_BYTES:
        return f"the root of a checkpoint is {len(checkpoint.root)} bytes, must be {HASH_BYTES}"
    if checkpoint.size == 0 and checkpoint.root != empty_root():
        return "the root of a checkpoint of size 0 must be that of the empty tree"
    return ""
