"""The log keys of a ledger as its entries bring them in, and those of others as its notices do."""

from __future__ import annotations

import contextlib

from quidnunc.crypto.entry import EntryType
from quidnunc.crypto.errors import Malformed, RemoteProtocolError
from quidnunc.crypto.log_keys import LogKeys
from quidnunc.gossip.federation.genesis import parse_genesis
from quidnunc.gossip.key_change import KeyRevoke, KeyRotate, follow
from quidnunc.gossip.provenance import parse_record

CHANGES = (EntryType.KEY_ROTATE, EntryType.KEY_REVOKE)


class KeyTrack:
    """Reads entries in order; ``keys`` are those of the log ``log_id``, which begins with ``public``."""

    def __init__(self, log_id: bytes, public: bytes) -> None:
        self._log_id = log_id
        self._root: bytes | None = None
        self.keys = LogKeys.of(public)

    def read(self, seq: int, kind: int, payload: bytes) -> None:
        """Take in entry ``seq``; raises RemoteProtocolError for a change of keys that the root key did not sign."""
        if seq == 0:
            with contextlib.suppress(RemoteProtocolError):  # a finding of its own; then nobody can change keys
                self._root = parse_genesis(payload).root
        elif kind in CHANGES:
            record = parse_record(kind, payload)
            assert isinstance(record, KeyRotate | KeyRevoke)
            if self._root is None:
                raise Malformed("changes keys, and no genesis names a root key")
            self.keys = follow(self.keys, record, self._log_id, seq, self._root)
