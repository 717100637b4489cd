"""Updates as their authors signed them: what a token proves."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from quidnunc.crypto.entry import EntryType
from quidnunc.crypto.errors import Malformed
from quidnunc.crypto.log_keys import Keys
from quidnunc.crypto.token import Token, open_token
from quidnunc.gossip.message import NUMBER_MAX
from quidnunc.gossip.provenance import UpdatePublished, parse_record


@dataclass(frozen=True, slots=True)
class SignedUpdate:
    """An update header whose token verified: what ``author`` signed, and where it stands in the author's log."""

    author: bytes
    update: UpdatePublished
    token: Token
    token_bytes: bytes
    token_hash: bytes


def open_update(token_bytes: bytes, *, log_id: bytes, public: Keys) -> SignedUpdate:
    """Verify an update token of the log ``log_id`` and parse its payload; raises RemoteProtocolError."""
    token = open_token(token_bytes, log_id=log_id, public=public)
    if token.header.type != EntryType.UPDATE_PUBLISHED:
        raise Malformed(f"token of entry type {token.header.type:#04x}: expected an update")
    update = parse_record(token.header.type, token.payload)
    if not isinstance(update, UpdatePublished):
        raise Malformed("token payload: expected an update")
    if not 1 <= update.number <= NUMBER_MAX:
        raise Malformed(f"update number {update.number}: expected 1 or more")
    return SignedUpdate(log_id, update, token, token_bytes, hashlib.sha256(token_bytes).digest())
