"""One more entry in the ledger of a peer that does not run: the way of all words that end a log, change keys, erase."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from quidnunc.crypto.entry import Entry, Header
from quidnunc.crypto.errors import KeyFileError
from quidnunc.crypto.identity import Role, SecretKey, derive_seed
from quidnunc.crypto.log import Log
from quidnunc.gossip.provenance import Record, payload_of
from quidnunc.peer.home import Home
from quidnunc.peer.ledger.ending import require_open
from quidnunc.peer.ledger.store import Store


@dataclass(frozen=True, slots=True)
class StoppedLog:
    """The ledger of a stopped peer, its log with all entries read, and the log key that is valid for the next one."""

    store: Store
    log: Log
    key: SecretKey

    def commit(self, record: Record) -> int:
        """Append ``record`` under a checkpoint of its own, durably; returns the number of its entry."""
        seq, t_ms = self.log.size, int(time.time() * 1000)
        epoch = self.store.keys.epoch_at(seq + 1)
        entry = self.log.append(record.TYPE, payload_of(record), salt=os.urandom(16), t_ms=t_ms, key_epoch=epoch)
        self.store.commit([entry], self.log.checkpoint(self.key))
        return seq


@contextlib.contextmanager
def stopped_log(home: Home, secret: bytes, read: Callable[[Header, Entry], object]) -> Iterator[StoppedLog]:
    """The log of ``home``, whose operational secret is ``secret``, while nobody else may use it.

    ``read`` is called with every entry in order. Raises StoreLocked while the peer runs, LogRetired where the log has
    ended, KeyFileError for the secret of another log, and what opening a ledger raises.
    """
    with home.lock(), Store.open(home.ledger) as store:
        require_open(store)
        key = SecretKey(derive_seed(secret, Role.LOG, store.keys.epoch))
        if key.public != store.keys.spans[-1].public:
            raise KeyFileError(f"{home.operational_key}: not the key of this ledger")
        log = Log(store.log_id)
        for entry in store.entries():
            read(log.replay(entry), entry)
        yield StoppedLog(store, log, key)
