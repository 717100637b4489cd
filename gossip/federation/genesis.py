"""The first entry of a log: who keeps it. Its hash names the log, whatever keys are rotated later.

The payload (entry type 0x01) is a canonical map::

    charter  nil       kept for logs that are born into a federation
    root     bin 32    the organization's root key, offline
    key      bin 32    the log key of epoch 0
    nonce    bin 16    fresh, so that a name and its keys can begin a second log
    org      text      the organization's name
    pop      bin 64    by ``key`` over tagged("key-pop", root, key, nonce)
    pred     nil       kept for the log that this one continues
"""

from __future__ import annotations

import unicodedata
from typing import NamedTuple

from quidnunc.crypto.encoding import decode, encode
from quidnunc.crypto.entry import log_id_of
from quidnunc.crypto.errors import ConfigError, LocalProtocolError, Malformed
from quidnunc.crypto.identity import PUBLIC_BYTES, SIGNATURE_BYTES, SecretKey, tagged, verify
from quidnunc.gossip.federation.fields import Fields

NAME_BYTES = 64
NONCE_BYTES = 16
GENESIS_BYTES = 512

_KEYS = ("charter", "root", "key", "nonce", "org", "pop", "pred")


class Genesis(NamedTuple):
    """A verified genesis payload and the id of the log that it begins."""

    log_id: bytes
    root: bytes
    key: bytes
    nonce: bytes
    org: str


def checked_name(name: str) -> str:
    """``name`` if it can stand on a terminal and in a table; else ConfigError.

    An organization's name is 1 to 64 bytes of printable text (letters, digits, signs, single spaces) without
    leading, trailing or invisible characters: names are compared by eye.
    """
    size = len(name.encode("utf-8", "replace"))
    if not 1 <= size <= NAME_BYTES:
        raise ConfigError(f"a name of {size} bytes, must be 1 to {NAME_BYTES}", hint="choose a shorter name")
    if not name.isprintable() or name != " ".join(name.split()) or not unicodedata.is_normalized("NFC", name):
        raise ConfigError(
            f"the name {name!a} holds control, invisible, decomposed or needless space characters",
            hint="use letters, digits, signs and single spaces, in Unicode NFC",
        )
    return name


def make_genesis(root: bytes, log_key: SecretKey, nonce: bytes, org: str) -> bytes:
    """The genesis payload of a new log of ``org``, whose root public key is ``root``; ``nonce`` is 16 fresh bytes."""
    if len(root) != PUBLIC_BYTES or len(nonce) != NONCE_BYTES:
        raise LocalProtocolError(f"a root key of {len(root)} and a nonce of {len(nonce)} bytes, must be 32 and 16")
    pop = log_key.sign(tagged("key-pop", root, log_key.public, nonce))
    payload = {"charter": None, "root": root, "key": log_key.public, "nonce": nonce, "pop": pop, "pred": None}
    return encode({**payload, "org": checked_name(org)})


def parse_genesis(payload: bytes) -> Genesis:
    """Read a genesis payload strictly and check its proof of possession.

    Raises Malformed, or RemoteProtocolError with BAD_SIGNATURE when the log key did not sign.
    """
    fields = Fields(decode(payload, max_bytes=GENESIS_BYTES), "genesis", _KEYS)
    fields.nothing("charter")
    fields.nothing("pred")
    root, key = fields.data("root", PUBLIC_BYTES), fields.data("key", PUBLIC_BYTES)
    nonce = fields.data("nonce", NONCE_BYTES)
    org = fields.text("org", NAME_BYTES)
    try:
        checked_name(org)
    except ConfigError as error:
        raise Malformed(f"genesis.org: {error}") from None
    verify(key, tagged("key-pop", root, key, nonce), fields.data("pop", SIGNATURE_BYTES))
    return Genesis(log_id_of(payload), root, key, nonce, org)
