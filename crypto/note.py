"""Signed notes: a text that people can read, and signatures (C2SP signed-note, Go's x/mod/sumdb/note).

::

    If you think cryptography is the answer to your problem,
    then you don't know what your problem is.

    — PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngot...

The *text* ends in a newline; the last blank line of a note parts it from the signature lines. Such a line
holds the signer's name and the base64 of a 4-byte key id and the signature. A key is called by its name and
its id, SHA-256(name 0A type public)[:4]; the type byte names the algorithm:

* 01: Ed25519 over the text;
* 04: a witness's cosignature (C2SP tlog-cosignature, v1): u64be time, then Ed25519 over
  ``"cosignature/v1\\ntime " time "\\n" text``.

Nothing of a note may be believed before :func:`verify_note` returned the name of somebody who is.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Sequence
from typing import NamedTuple

from quidnunc.crypto.errors import LocalProtocolError, Malformed, Reason, RemoteProtocolError
from quidnunc.crypto.identity import PUBLIC_BYTES, SIGNATURE_BYTES, SecretKey, verify

ED25519 = 0x01
COSIGNATURE = 0x04

MAX_NOTE_BYTES = 16_384
MAX_SIGNATURES = 64
MAX_NAME_BYTES = 256
KEY_ID_BYTES = 4
MAX_TIME = 2**63 - 1
"""The latest second a cosignature may name."""

_TIME_BYTES = 8
_CONTROL = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


class Signature(NamedTuple):
    """One signature line; ``signature`` is what follows the key id."""

    name: str
    key_id: bytes
    signature: bytes


class Note(NamedTuple):
    """A parsed note: ``text`` with its final newline, and the signatures, none of them checked."""

    text: str
    signatures: tuple[Signature, ...]


class Verifier(NamedTuple):
    """A key that is known: who holds it, the 32-byte public key and the algorithm."""

    name: str
    public: bytes
    type: int = ED25519

    @property
    def id(self) -> bytes:
        """The 4 bytes by which a signature line calls this key."""
        return key_id(self.name, self.type, self.public)


def key_id(name: str, sig_type: int, public: bytes) -> bytes:
    """The 4 bytes by which a signature line calls a key; they find a key and prove nothing."""
    return hashlib.sha256(name.encode("utf-8") + bytes([0x0A, sig_type]) + public).digest()[:KEY_ID_BYTES]


def sign_note(text: str, name: str, key: SecretKey, sig_type: int = ED25519, *, time: int = 0) -> str:
    """``text``, which ends in a newline, as a note signed by ``key`` under ``name``.

    ``time``, in seconds since 1970, is signed by a :data:`COSIGNATURE` and by nothing else.
    """
    if not text.endswith("\n") or not _is_clean(text):
        raise LocalProtocolError("the text of a note must be UTF-8, end in a newline and hold no other control")
    return format_note(Note(text, (_make_signature(text, name, key, sig_type, time),)))


def add_signature(note: Note, name: str, key: SecretKey, sig_type: int = ED25519, *, time: int = 0) -> Note:
    """``note`` with one more signature; the arguments are those of :func:`sign_note`."""
    if len(note.signatures) >= MAX_SIGNATURES:
        raise LocalProtocolError(f"the note has {MAX_SIGNATURES} signatures already, no more are read")
    return Note(note.text, (*note.signatures, _make_signature(note.text, name, key, sig_type, time)))


def format_note(note: Note) -> str:
    """The note as it is sent; :func:`parse_note` gives the same note back."""
    return f"{note.text}\n" + "".join(format_signature(each) for each in note.signatures)


def format_signature(signature: Signature) -> str:
    """One signature line with its newline."""
    content = base64.b64encode(signature.key_id + signature.signature).decode("ascii")
    return f"— {signature.name} {content}\n"


def parse_note(data: bytes | str, max_bytes: int = MAX_NOTE_BYTES) -> Note:
    """The note with exactly these bytes; anything that is not strictly one raises :class:`Malformed`."""
    text, lines = _split(_as_text(data, max_bytes))
    if not 0 < len(lines) <= MAX_SIGNATURES:
        raise Malformed(f"a note of {len(lines)} signature lines, must be 1 to {MAX_SIGNATURES}")
    return Note(text, tuple(parse_signature(line) for line in lines))


def parse_signature(line: str) -> Signature:
    """One signature line, without its newline; anything else raises :class:`Malformed`."""
    mark, _, rest = line.partition(" ")
    name, _, content = rest.partition(" ")
    if mark != "—" or not is_name(name):
        raise Malformed("a signature line of a note must be an em dash, a name and base64")
    raw = decode_base64(content)
    if len(raw) <= KEY_ID_BYTES:
        raise Malformed(f"a signature line of a note holds {len(raw)} bytes, must be more than {KEY_ID_BYTES}")
    return Signature(name, raw[:KEY_ID_BYTES], raw[KEY_ID_BYTES:])


def verify_note(note: Note, verifiers: Sequence[Verifier]) -> list[str]:
    """The names of those of ``verifiers`` who signed ``note``, each once, in the order of the lines.

    Signatures by unknown keys are passed over: anybody may add them. One by a known key that does not verify
    raises :class:`RemoteProtocolError` with :attr:`Reason.BAD_SIGNATURE`. An empty list is no error here.
    """
    known: dict[tuple[str, bytes], Verifier] = {}
    for verifier in verifiers:
        if known.setdefault((verifier.name, verifier.id), verifier) != verifier:
            raise LocalProtocolError(f"two keys of {verifier.name} have the id {verifier.id.hex()}")
    names: dict[str, None] = {}
    for signature in note.signatures:
        found = known.get((signature.name, signature.key_id))
        if found is not None:
            _check_signature(note.text, found, signature.signature)
            names[found.name] = None
    return list(names)


def cosignature_time(signature: Signature) -> int:
    """The time a cosignature claims, in seconds since 1970; believe it only of a verified one."""
    if len(signature.signature) != _TIME_BYTES + SIGNATURE_BYTES:
        raise Malformed(f"a cosignature of {len(signature.signature)} bytes, must be 72")
    return int.from_bytes(signature.signature[:_TIME_BYTES], "big")


def format_vkey(verifier: Verifier) -> str:
    """The key as one line of text: name, key id and key, ``example.com/foo+530d903a+AekyeRrm...``."""
    key = base64.b64encode(bytes([verifier.type]) + verifier.public).decode("ascii")
    return f"{verifier.name}+{verifier.id.hex()}+{key}"


def parse_vkey(text: str) -> Verifier:
    """The key that :func:`format_vkey` wrote; anything else raises :class:`Malformed`."""
    name, _, rest = text.partition("+")
    identifier, _, content = rest.partition("+")
    raw = decode_base64(content)
    if not is_name(name) or len(raw) != 1 + PUBLIC_BYTES or raw[0] not in (ED25519, COSIGNATURE):
        raise Malformed("a verifier key must be a name, a key id and an Ed25519 key")
    verifier = Verifier(name, raw[1:], raw[0])
    if identifier != verifier.id.hex():
        raise Malformed(f"a verifier key has the id {verifier.id.hex()}, and says another")
    return verifier


def is_name(name: str) -> bool:
    """Whether ``name`` can be a signer's: not empty, no white space, no control, no ``+``."""
    size = len(name.encode("utf-8", "replace"))
    return 0 < size <= MAX_NAME_BYTES and "+" not in name and name.split() == [name] and _is_clean(name)


def decode_base64(text: str) -> bytes:
    """The bytes whose standard, padded base64 is exactly ``text``; else raises :class:`Malformed`."""
    try:
        raw = base64.b64decode(text.encode("ascii"), validate=True)
    except (UnicodeEncodeError, binascii.Error):
        raise Malformed("base64 expected") from None
    if base64.b64encode(raw).decode("ascii") != text:
        raise Malformed("base64 is not canonical")
    return raw


def _as_text(data: bytes | str, max_bytes: int) -> str:
    try:
        raw = data.encode("utf-8") if isinstance(data, str) else data
        if len(raw) > max_bytes:
            raise Malformed(f"a note of {len(raw)} bytes, limit is {max_bytes}")
        return raw.decode("utf-8")
    except UnicodeError:
        raise Malformed("a note must be UTF-8") from None


def _split(content: str) -> tuple[str, list[str]]:
    """The text and the signature lines of a note."""
    if not _is_clean(content):
        raise Malformed("a note holds a control character other than newline")
    text, blank, signatures = content.rpartition("\n\n")
    if not blank or not signatures.endswith("\n"):
        raise Malformed("a note must be a text, a blank line and signature lines, each ending in a newline")
    return f"{text}\n", signatures[:-1].split("\n")


def _is_clean(text: str) -> bool:
    return _CONTROL.search(text) is None


def _cosigned(text: str, time: int) -> bytes:
    return f"cosignature/v1\ntime {time}\n{text}".encode()


def _make_signature(text: str, name: str, key: SecretKey, sig_type: int, time: int) -> Signature:
    if not is_name(name):
        raise LocalProtocolError(f"{name!r} cannot be the name of a signer: no white space, control or '+'")
    identifier = key_id(name, sig_type, key.public)
    if sig_type == ED25519:
        return Signature(name, identifier, key.sign(text.encode()))
    if sig_type != COSIGNATURE or not 0 <= time <= MAX_TIME:
        raise LocalProtocolError(f"cannot make a signature of type {sig_type} at time {time}")
    return Signature(name, identifier, time.to_bytes(_TIME_BYTES, "big") + key.sign(_cosigned(text, time)))


def _check_signature(text: str, verifier: Verifier, signature: bytes) -> None:
    message = text.encode()
    if verifier.type == COSIGNATURE and len(signature) == _TIME_BYTES + SIGNATURE_BYTES:
        time = int.from_bytes(signature[:_TIME_BYTES], "big")
        if time > MAX_TIME:
            raise RemoteProtocolError(Reason.BAD_SIGNATURE, f"a cosignature by {verifier.name} of a time above 2**63-1")
        message = _cosigned(text, time)
        signature = signature[_TIME_BYTES:]
    elif verifier.type != ED25519:
        raise RemoteProtocolError(
            Reason.BAD_SIGNATURE,
            f"a signature of {len(signature)} bytes by {verifier.name}, whose key is of type {verifier.type}",
        )
    verify(verifier.public, message, signature)
