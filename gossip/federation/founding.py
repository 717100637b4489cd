"""How a charter comes into force: a text file that is passed round by hand until every member's root key signed it.

A signed note (C2SP signed-note); a draft has no signature lines yet::

    quidnunc/v1/charter
    <hex of the federation id>
    base64(charter body)

    — quidnunc/v1/root/<hex of the root public key> base64(key id, signature)
"""

from __future__ import annotations

import base64
from collections.abc import Iterable
from typing import NamedTuple

from quidnunc.crypto.errors import CharterError, CharterUnsigned, Malformed, RemoteProtocolError
from quidnunc.crypto.identity import SecretKey
from quidnunc.crypto.note import (
    Note,
    Verifier,
    decode_base64,
    format_signature,
    parse_signature,
    sign_note,
    verify_note,
)
from quidnunc.gossip.federation.card import root_key_name
from quidnunc.gossip.federation.charter import MAX_MEMBERS, Charter
from quidnunc.gossip.federation.member import Member
from quidnunc.gossip.federation.spoiled import diagnose

CHARTER_LINE = "quidnunc/v1/charter"
NOTE_BYTES = 1024 * 1024


class Opened(NamedTuple):
    """A charter, the log ids of the members that signed it, and the members that did not."""

    charter: Charter
    signed: frozenset[bytes]
    missing: tuple[Member, ...]


def draft_note(charter: Charter) -> bytes:
    """The note of ``charter`` before anybody signed."""
    return f"{_text(charter)}\n".encode()


def open_charter(data: bytes) -> Opened:
    """Read a charter note and check every member's signature that is on it.

    Signatures by others are ignored, as the note format asks. Raises CharterError for everything that is
    wrong; missing signatures are not: see :func:`require_signed`.
    """
    try:
        charter, note = _read(data)
        members = {verifier.name: member for verifier, member in _root_keys(charter)}
        signers = verify_note(note, [verifier for verifier, _ in _root_keys(charter)])
    except RemoteProtocolError as error:
        found = diagnose(data, CHARTER_LINE, "charter", _reads) if len(data) <= NOTE_BYTES else None
        why, hint = found or (error.message, "ask its drafter for the file again")
        raise CharterError(f"charter refused: {why}", hint=hint) from None
    signed = frozenset(members[name].log_id for name in signers)
    return Opened(charter, signed, tuple(m for m in charter.members if m.log_id not in signed))


def sign_charter(data: bytes, root: SecretKey) -> bytes:
    """The note with the signature of ``root`` added; raises CharterError unless it is a member's root key."""
    opened = open_charter(data)
    if all(member.root != root.public for member in opened.charter.members):
        raise CharterError(
            f"root key {root.public.hex()[:16]} belongs to no member of this charter",
            hint="hand your card to the drafter and sign the new draft",
        )
    signed = sign_note(_text(opened.charter), root_key_name(root.public), root)
    return merge_notes(data, [signed.encode("utf-8")])


def merge_notes(first: bytes, others: Iterable[bytes]) -> bytes:
    """One note with the member signatures of all; raises CharterError unless all are of the same charter.

    Signatures stand in the order of the members: the result does not depend on how the notes were passed
    round.
    """
    charter = open_charter(first).charter
    lines: dict[bytes, str] = {}
    for data in (first, *others):
        opened = open_charter(data)
        if opened.charter.federation_id != charter.federation_id:
            raise CharterError(
                f"charters of two federations, {charter.federation_id.hex()[:16]} and "
                f"{opened.charter.federation_id.hex()[:16]}, cannot be merged",
                hint="pass round one and the same draft",
            )
        known = {(verifier.name, verifier.id): member for verifier, member in _root_keys(charter)}
        for signature in _read(data)[1].signatures:
            member = known.get((signature.name, signature.key_id))
            if member is not None:
                lines[member.log_id] = format_signature(signature)
    ordered = "".join(lines[member.log_id] for member in charter.members if member.log_id in lines)
    return f"{_text(charter)}\n{ordered}".encode()


def require_signed(opened: Opened) -> Charter:
    """The charter, if every member signed it; else CharterUnsigned, naming all that did not."""
    if not opened.missing:
        return opened.charter
    total = len(opened.charter.members)
    missing = ", ".join(f"{member.name} ({member.log_id.hex()[:8]})" for member in opened.missing)
    raise CharterUnsigned(
        f"charter {opened.charter.federation_id.hex()[:16]} is signed by {len(opened.signed)} of {total} members, "
        f"missing: {missing}",
        hint="have each of them run: quidnunc federation sign FILE",
    )


def _reads(data: bytes) -> bool:
    try:
        _read(data)
    except RemoteProtocolError:
        return False
    return True


def _text(charter: Charter) -> str:
    body = base64.b64encode(charter.body()).decode("ascii")
    return f"{CHARTER_LINE}\n{charter.federation_id.hex()}\n{body}\n"


def _root_keys(charter: Charter) -> list[tuple[Verifier, Member]]:
    return [(Verifier(root_key_name(member.root), member.root), member) for member in charter.members]


def _read(data: bytes) -> tuple[Charter, Note]:
    """The charter in a note, and the note, whose signatures are not checked yet and may be none."""
    if len(data) > NOTE_BYTES:
        raise Malformed(f"the file is {len(data)} bytes, limit is {NOTE_BYTES}")
    try:
        head, blank, tail = data.decode("utf-8").partition("\n\n")
    except UnicodeDecodeError:
        raise Malformed("not a charter note: not UTF-8") from None
    lines = head.split("\n")
    if not blank or len(lines) != 3 or lines[0] != CHARTER_LINE:
        raise Malformed(f"not a charter note: the first of three lines must be {CHARTER_LINE}")
    signatures = tail.split("\n")
    if signatures.pop() or len(signatures) > MAX_MEMBERS:
        raise Malformed(f"not a charter note: up to {MAX_MEMBERS} signature lines, each ending in a newline")
    charter = Charter.parse(decode_base64(lines[2]))
    if lines[1] != charter.federation_id.hex():
        raise Malformed(f"federation id {lines[1][:64]!a} is not that of the body")
    return charter, Note(f"{head}\n", tuple(parse_signature(line) for line in signatures))
