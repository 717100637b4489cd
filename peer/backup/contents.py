"""Which files of a home a backup holds, and how large each may be."""

from __future__ import annotations

import re
from pathlib import Path

from quidnunc.crypto.keyfile import MAX_KEY_FILE_BYTES
from quidnunc.gossip.federation.card import CARD_BYTES
from quidnunc.gossip.federation.founding import NOTE_BYTES
from quidnunc.peer.backup.archive import FILE_BYTES_MAX
from quidnunc.peer.config import CONFIG_BYTES_MAX, MIB

BLOB_BYTES_MAX = 4096 * MIB
"""The most that ``limits.blob_bytes_max`` allows."""

CONFIG = "config.toml"
CARD = "card.note"
CHARTER = "charter.note"
MODEL = "genesis.params"
ROOT_KEY = "keys/root.key"
OPERATIONAL_KEY = "keys/operational.key"
LEDGER = "state/ledger.db"

REQUIRED = (CONFIG, CARD, OPERATIONAL_KEY, LEDGER)
"""Without one of these there is no peer."""

KEYS = {ROOT_KEY: "root", OPERATIONAL_KEY: "operational"}

_LIMITS = {
    CONFIG: CONFIG_BYTES_MAX,
    CARD: CARD_BYTES,
    CHARTER: NOTE_BYTES,
    MODEL: BLOB_BYTES_MAX,
    ROOT_KEY: MAX_KEY_FILE_BYTES,
    OPERATIONAL_KEY: MAX_KEY_FILE_BYTES,
    LEDGER: FILE_BYTES_MAX,
}
_BLOB = re.compile(r"state/blobs/([0-9a-f]{2})/([0-9a-f]{62})")


def limit_of(name: str) -> int | None:
    """Bytes that the file ``name`` of a backup may have, or None when a backup holds no such file."""
    return BLOB_BYTES_MAX if _BLOB.fullmatch(name) else _LIMITS.get(name)


def blob_name(digest: bytes) -> str:
    """Where a backup holds the blob with that SHA-256."""
    digits = digest.hex()
    return f"state/blobs/{digits[:2]}/{digits[2:]}"


def blob_digest(name: str) -> str | None:
    """The SHA-256 in hex of the blob that the file ``name`` of a backup is, or None when it is none."""
    found = _BLOB.fullmatch(name)
    return None if found is None else found[1] + found[2]


def place(root: Path, name: str) -> Path:
    """Where the file ``name``, one that :func:`limit_of` knows, lies under ``root``."""
    return root.joinpath(*name.split("/"))
