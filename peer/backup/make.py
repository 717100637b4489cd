"""Making a backup: one consistent state of a home, beside a daemon that may go on writing.

The ledger is copied first (SQLite's own online backup), checked whole as at a start, and folded; what it leads to is
then looked for among the blobs. A daemon discards params that it has replaced, perhaps between the two: then the
ledger is copied again. Params that are not there at all are no obstacle, because neighbors are asked for them at the
next start; the caller is told how many those are.
"""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from quidnunc.crypto.errors import ConfigError
from quidnunc.crypto.keyfile import LockedKeyFile
from quidnunc.gossip.federation.member import Member
from quidnunc.gossip.resume import fold
from quidnunc.peer import keys
from quidnunc.peer.backup import contents
from quidnunc.peer.backup.archive import FORMAT, VERSION, Manifest, Writer
from quidnunc.peer.blobs import blob_names, open_blob
from quidnunc.peer.files import read_capped
from quidnunc.peer.home import Home
from quidnunc.peer.ledger import database
from quidnunc.peer.ledger.store import Store
from quidnunc.peer.new_file import new_file
from quidnunc.peer.release import program_version

_ATTEMPTS = 4


@dataclass(frozen=True, slots=True)
class Made:
    """What was written: the manifest, key files that are not locked, and blobs that the ledger names and lacks."""

    manifest: Manifest
    open_keys: tuple[str, ...]
    missing: int


@dataclass(frozen=True, slots=True)
class _Ledger:
    """A copy of a ledger, how far it goes, and the params it leads to that are held, with those that are not."""

    log_id: bytes
    entries: int
    root: bytes
    held: dict[bytes, BinaryIO]
    missing: int


def make(home: Home, member: Member, path: Path, made: str) -> Made:
    """Write the peer in ``home`` to the new file ``path``; ``made`` is the time, ISO 8601 in UTC.

    Raises ConfigError when something is at ``path`` already or the home lacks what a peer needs, KeyFileError for a
    key file that others can read, LedgerCorrupt for a ledger that no daemon would start on, StoreUnwritable.
    """
    small = {name: _read(home, name) for name in (contents.CONFIG, contents.CARD, contents.CHARTER, contents.MODEL)}
    open_keys = _keys(home, small)
    for name in contents.REQUIRED:
        if name != contents.LEDGER and small.get(name) is None:
            raise ConfigError(f"{contents.place(home.root, name)}: not there, and no peer can be restored without it")
    with new_file(path) as temporary:
        copy = temporary.with_suffix(".db")
        try:
            with contextlib.ExitStack() as stack:
                ledger = _copied(home, member, copy, stack)
                manifest = _write(home, temporary, copy, small, ledger, member, made)
        finally:
            for suffix in ("", "-wal", "-shm", "-journal"):
                copy.with_name(copy.name + suffix).unlink(missing_ok=True)
    return Made(manifest, open_keys, ledger.missing)


def _write(
    home: Home,
    temporary: Path,
    copy: Path,
    small: dict[str, bytes | None],
    ledger: _Ledger,
    member: Member,
    made: str,
) -> Manifest:
    with temporary.open("wb") as file:
        writer = Writer(file)
        for name, data in small.items():
            if data is not None:
                writer.add(name, io.BytesIO(data), len(data))
        with copy.open("rb") as source:
            writer.add(contents.LEDGER, source, os.fstat(source.fileno()).st_size)
        for digest, blob in _blobs(home, ledger.held):
            writer.add(contents.blob_name(digest), blob, os.fstat(blob.fileno()).st_size)
        manifest = Manifest(
            format=FORMAT,
            v=VERSION,
            program=program_version(),
            made=made,
            name=member.name,
            log_id=ledger.log_id.hex(),
            entries=ledger.entries,
            root=ledger.root.hex(),
            files=list(writer.items),
        )
        writer.finish(manifest)
        file.flush()
        os.fsync(file.fileno())
    return manifest


def _read(home: Home, name: str) -> bytes | None:
    """A small file of the home, or None where there is none; raises ConfigError when it cannot be read."""
    path, limit = contents.place(home.root, name), contents.limit_of(name)
    assert limit is not None
    try:
        return read_capped(path, limit)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {(error.strerror or type(error).__name__).lower()}") from None


def _keys(home: Home, small: dict[str, bytes | None]) -> tuple[str, ...]:
    """Add the key files as they are; returns those that no passphrase locks."""
    unlocked = []
    for name, kind in contents.KEYS.items():
        path = contents.place(home.root, name)
        if name == contents.ROOT_KEY and not path.exists():
            continue  # offline, where it belongs
        if not isinstance(keys.read(path, kind), LockedKeyFile):
            unlocked.append(name)
        small[name] = _read(home, name)
    return tuple(unlocked)


def _copied(home: Home, member: Member, copy: Path, stack: contextlib.ExitStack) -> _Ledger:
    """Copy the ledger, until the params that it leads to are held or it is clear that they are lost."""
    for attempt in range(_ATTEMPTS):
        copy.unlink(missing_ok=True)
        database.copy(home.ledger, copy)
        with Store.open(copy) as store:
            if store.log_id != member.log_id:
                raise ConfigError(
                    f"{home.ledger}: belongs to log {store.log_id.hex()[:16]}, this home's card to "
                    f"{member.log_id.hex()[:16]}",
                    hint="a backup holds one peer: put the ledger of this card back",
                )
            log_id, entries, root = store.log_id, store.size, store.root
            resume = fold(store.entries())
        personal = {resume.personal} if resume.personal else set[bytes]()
        states = {resume.replica, resume.base, *personal, *(tracked.state for tracked in resume.tracked.values())}
        wanted = {name for name in states if name is not None}
        held = {name: file for name in wanted if (file := open_blob(home.blobs, name)) is not None}
        for file in held.values():
            stack.enter_context(file)
        if len(held) == len(wanted) or attempt + 1 == _ATTEMPTS:
            return _Ledger(log_id, entries, root, held, len(wanted) - len(held))
    raise AssertionError


def _blobs(home: Home, held: dict[bytes, BinaryIO]) -> Iterator[tuple[bytes, BinaryIO]]:
    """``held``, and everything else that is there: deltas that neighbors may still ask for, the newest merges."""
    yield from sorted(held.items())
    if not home.blobs.is_dir():
        return
    for name in sorted(blob_names(home.blobs)):
        file = None if name in held else open_blob(home.blobs, name)
        if file is not None:
            with file:
                yield name, file
