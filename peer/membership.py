"""Which member of which federation a home is: its role keys, its place in the charter, and its ledger."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from quidnunc.crypto.errors import CharterError, CharterUnsigned, LedgerCorrupt
from quidnunc.crypto.identity import Role, SecretKey, derive_seed
from quidnunc.gossip.federation.charter import Charter
from quidnunc.gossip.federation.founding import NOTE_BYTES, open_charter, require_signed
from quidnunc.gossip.federation.member import Member
from quidnunc.peer.charter_file import missing_charter
from quidnunc.peer.files import read_capped
from quidnunc.peer.home import Home
from quidnunc.peer.ledger.store import Store


@dataclass(frozen=True, slots=True)
class Keys:
    """The role keys a daemon works with, derived from the operational secret."""

    log: SecretKey
    witness: SecretKey
    transport: SecretKey
    log_of: Callable[[int], SecretKey] = field(repr=False)
    """The log key of any epoch: which one it is, the ledger says, and it may come back with a later one."""

    @classmethod
    def derive(cls, secret: bytes) -> Keys:
        """The role keys of epoch 0."""

        def key(role: Role, epoch: int = 0) -> SecretKey:
            return SecretKey.from_seed(derive_seed(secret, role, epoch))

        return cls(key(Role.LOG), key(Role.WITNESS), key(Role.TRANSPORT), partial(key, Role.LOG))


def load_charter(path: Path, keys: Keys) -> tuple[Charter, Member, bytes]:
    """The fully signed charter at ``path``, our place in it, and the hash of the signed text.

    Raises CharterError when it is missing, not signed by everybody, or not about ``keys``.
    """
    try:
        note = read_capped(path, NOTE_BYTES)
    except FileNotFoundError:
        raise missing_charter(path) from None
    try:
        charter = require_signed(open_charter(note))
    except CharterUnsigned:
        raise
    except CharterError as error:
        raise CharterError(f"{path}: {error.message}", hint=error.hint) from None
    for member in charter.members:
        if member.log == keys.log.public:
            if member.transport != keys.transport.public or member.witness != keys.witness.public:
                raise CharterError(f"charter lists other transport or witness keys for {member.name} than this home's")
            return charter, member, hashlib.sha256(note).digest()
    raise CharterError(
        f"charter {charter.federation_id.hex()[:16]} does not list the log key of this home",
        hint="compare with: quidnunc id",
    )


def open_store(home: Home, member: Member) -> Store:
    """The ledger of this home; raises LedgerCorrupt when it is missing, damaged or another log's."""
    if not home.ledger.exists():
        why = f"{home.ledger} is missing, and a peer that began a new one would fork its own log"
        raise LedgerCorrupt(0, why)
    store = Store.open(home.ledger)
    if store.log_id != member.log_id:
        store.close()
        raise LedgerCorrupt(0, f"belongs to log {store.log_id.hex()[:16]}, this home is {member.log_id.hex()[:16]}")
    return store
