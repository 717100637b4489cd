"""A member card: what an organization hands, by hand, to whoever drafts a charter.

A signed note (C2SP signed-note) by the root key::

    quidnunc/v1/card
    base64(canonical map of the member)

    — quidnunc/v1/root/<hex of the root public key> base64(key id, signature)
"""

from __future__ import annotations

import base64

from quidnunc.crypto.encoding import decode, encode
from quidnunc.crypto.errors import CharterError, Malformed, RemoteProtocolError
from quidnunc.crypto.identity import DOMAIN, SecretKey
from quidnunc.crypto.note import Verifier, decode_base64, parse_note, sign_note, verify_note
from quidnunc.gossip.federation.member import Member
from quidnunc.gossip.federation.spoiled import diagnose

CARD_LINE = "quidnunc/v1/card"
CARD_BYTES = 8192


def root_key_name(root: bytes) -> str:
    """The name that a root key (its public half) signs notes under."""
    return f"{DOMAIN}root/{root.hex()}"


def make_card(member: Member, root: SecretKey) -> bytes:
    """The card of ``member``, signed by its ``root`` key."""
    if root.public != member.root:
        raise CharterError(
            f"the root key at hand is {root.public.hex()[:16]}, the card names {member.root.hex()[:16]}",
            hint="use the root key made together with this home",
        )
    body = base64.b64encode(encode(member.to_value())).decode("ascii")
    return sign_note(f"{CARD_LINE}\n{body}\n", root_key_name(root.public), root).encode("utf-8")


def open_card(data: bytes) -> Member:
    """The member that a card describes, after checking its signature, genesis and keys.

    Raises CharterError for everything that is wrong with it.
    """
    try:
        return _member(data)
    except RemoteProtocolError as error:
        found = diagnose(data, CARD_LINE, "card", _reads) if len(data) <= CARD_BYTES else None
        why, hint = found or (error.message, "ask for the card file that init wrote")
        raise CharterError(f"card refused: {why}", hint=hint) from None


def _member(data: bytes) -> Member:
    note = parse_note(data, CARD_BYTES)
    lines = note.text.split("\n")
    if len(lines) != 3 or lines[0] != CARD_LINE or lines[2]:
        raise Malformed(f"not a member card: the first of two lines must be {CARD_LINE}")
    member = Member.from_value(decode(decode_base64(lines[1]), max_bytes=CARD_BYTES), "card")
    name = root_key_name(member.root)
    if name not in verify_note(note, [Verifier(name, member.root)]):
        raise Malformed(f"the card of {member.name} is not signed by its root key")
    return member


def _reads(data: bytes) -> bool:
    try:
        _member(data)
    except RemoteProtocolError:
        return False
    return True
