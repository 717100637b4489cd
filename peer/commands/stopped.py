"""One more entry in the ledger of a peer that does not run: the way of all words that end a log, change keys, erase."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from quidnunc.crypto.entry import Entry, Header
from quidnunc.crypto.errors import KeyFileError, QuidnuncError
from quidnunc.crypto.identity import Role, SecretKey, derive_seed
from quidnunc.crypto.log import Log
from quidnunc.gossip.provenance import Record, payload_of
from quidnunc.peer.home import Home
from quidnunc.peer.ledger.ending import require_open
from quidnunc.peer.ledger.store import LOST, ORIGIN, RESTORED_AT, Store
from quidnunc.peer.output import ExitCode, UsageError


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


class NeverAsked(QuidnuncError):
    """A ledger that may be less than what its key has signed: an entry now could be the second one at its place."""

    exit_code = ExitCode.NOT_PERMITTED


def require_asked(store: Store) -> None:
    """Raise NeverAsked for a ledger that came out of a backup, or is to come back, and has not gone on since.

    Only a peer that runs can ask its neighbors what else this log holds; when it has, it has written an entry.
    """
    how = unasked(store)
    if how is not None:
        raise NeverAsked(
            f"{store.path}: {how} what else this log holds: signed now, its next entry could be a second one at its "
            "place",
            hint="start the peer, wait until quidnunc status no longer says recovering, stop it, and try again",
        )


def unasked(store: Store) -> str | None:
    """Why ``store`` may be less than what its key has signed; None if neighbors were asked, or need not be."""
    lost, restored = store.get_meta(ORIGIN) == LOST, store.get_meta(RESTORED_AT)
    if (store.size or not lost) and restored != str(store.size).encode():
        return None
    how = "is to come back from its neighbors, which" if lost and not store.size else "came out of a backup; neighbors"
    return f"{how} have not been asked yet"


@contextlib.contextmanager
def stopped_log(home: Home, secret: bytes, read: Callable[[Header, Entry], object]) -> Iterator[StoppedLog]:
    """The log of ``home``, whose operational secret is ``secret``, while nobody else may use it.

    ``read`` is called with every entry in order. Raises StoreLocked while the peer runs, LogRetired where the log has
    ended, NeverAsked where neighbors may hold more of it, UsageError where it has not begun, KeyFileError for the
    secret of another log, and what opening a ledger raises.
    """
    with home.lock(), Store.open(home.ledger) as store:
        require_open(store)
        require_asked(store)
        if not store.size:
            raise UsageError(f"{home.ledger}: nothing was signed yet", hint="make a new home instead")
        key = SecretKey(derive_seed(secret, Role.LOG, store.keys.epoch))
        if key.public != store.keys.spans[-1].public:
            raise KeyFileError(f"{home.operational_key}: not the key of this ledger")
        log = Log(store.log_id)
        for entry in store.entries():
            read(log.replay(entry), entry)
        yield StoppedLog(store, log, key)
