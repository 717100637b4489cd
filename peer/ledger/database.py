"""SQLite as the ledger wants it: durable, strict, read back, and with errors an operator can act on."""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import secrets
import sqlite3
import urllib.parse
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import UnionType
from typing import Any

from quidnunc.crypto.encoding import encode
from quidnunc.crypto.errors import (
    ConfigError,
    LedgerCorrupt,
    LocalProtocolError,
    QuidnuncError,
    StoreLocked,
    StoreNewer,
    StoreUnwritable,
)
from quidnunc.crypto.identity import tagged_hash
from quidnunc.crypto.merkle import leaf_hash
from quidnunc.peer.files import PRIVATE_FILE, fsync_dir, unwritable

Connection = sqlite3.Connection
"""An open ledger database, for those who need nothing else of SQLite."""

APPLICATION_ID = 0x514E4C47  # "QNLG"
SCHEMA_VERSION = 1

SCHEMA = (
    "CREATE TABLE entry (seq INTEGER PRIMARY KEY, header BLOB NOT NULL, type INTEGER NOT NULL, "
    "payload BLOB NOT NULL, salt BLOB NOT NULL) STRICT",
    "CREATE TABLE private (seq INTEGER PRIMARY KEY, salt BLOB NOT NULL, bytes BLOB NOT NULL) STRICT",
    "CREATE TABLE node (level INTEGER NOT NULL, position INTEGER NOT NULL, hash BLOB NOT NULL, "
    "PRIMARY KEY (level, position)) STRICT, WITHOUT ROWID",
    "CREATE TABLE checkpoint (size INTEGER PRIMARY KEY, note BLOB NOT NULL) STRICT",
    "CREATE TABLE token (hash BLOB PRIMARY KEY, author BLOB NOT NULL, number INTEGER NOT NULL, "
    "body BLOB NOT NULL, seal BLOB NOT NULL) STRICT",
    "CREATE INDEX token_number ON token (author, number)",
    "CREATE TABLE evidence (hash BLOB PRIMARY KEY, body BLOB NOT NULL) STRICT",
    "CREATE TABLE head (log_id BLOB PRIMARY KEY, size INTEGER NOT NULL, root BLOB NOT NULL, note BLOB NOT NULL, "
    "seal BLOB NOT NULL) STRICT",
    "CREATE TABLE cosignature (witness BLOB PRIMARY KEY, size INTEGER NOT NULL, note BLOB NOT NULL, "
    "seal BLOB NOT NULL) STRICT",
    "CREATE TABLE meta (key TEXT PRIMARY KEY, value BLOB NOT NULL, seal BLOB NOT NULL) STRICT",
)
"""Entries and checkpoints are covered by signatures, and ``node`` (hashes of complete subtrees of 2**8, 2**16, ...
entries, from which proofs are made) follows from the entries. Rows of ``evidence`` are named by their hash. Those of
``token``, ``head`` (other logs as last seen), ``cosignature`` (what witnesses signed under own checkpoints) and
``meta`` have a ``seal``, a hash of the other columns, so that a flipped bit is found there as well."""

PUBLIC_TABLES = ("entry", "node", "checkpoint", "token", "evidence", "head", "cosignature")
"""What :func:`copy_public` takes along; ``meta`` as far as it says whose ledger it is, private parts never."""

WITHHELD = "withheld"
"""The key in ``meta`` that says that private parts were left out on purpose."""

VALUE_BYTES_MAX = 16 * 1024 * 1024
"""Bytes of one row at most, far above what is ever written; SQLite refuses more before it makes room for it."""

_BUSY_S = 5.0

_ROOM = 64 * 1024
"""Bytes below which a write of SQLite's fails: it makes the index of its WAL grow by 32 KiB at a time."""

CACHE_KIB = 256
"""What a connection of the daemon's keeps of its database, instead of SQLite's 2 MiB: it appends, and reads little."""

_PRAGMAS = {
    "journal_mode": "wal",
    "synchronous": 2,  # FULL: only this syncs the WAL at every commit
    "trusted_schema": 0,
    "cell_size_check": 1,
    "fullfsync": 1,  # macOS: without it fsync stops at the drive's cache
    "checkpoint_fullfsync": 1,
}

_UNWRITABLE = {
    sqlite3.SQLITE_FULL: "free some space on this file system; nothing that was committed is lost",
    sqlite3.SQLITE_IOERR: "check the disk: the operating system reports read or write errors",
    sqlite3.SQLITE_READONLY: "mount the file system for writing, or chown the file to whom quidnunc runs as",
    sqlite3.SQLITE_CANTOPEN: "give the user that runs quidnunc this file and its directory",
    sqlite3.SQLITE_PERM: "give the user that runs quidnunc this file and its directory",
    sqlite3.SQLITE_NOMEM: "",
}


class DatabaseCorrupt(LedgerCorrupt):
    """The database file itself is damaged, so that no entry can be named (``seq`` is -1)."""

    def __init__(self, path: Path, why: str) -> None:
        super().__init__(-1, why)
        self.message = f"{path}: {why}"
        self.args = (self.message,)


def create(path: Path, meta: dict[str, bytes]) -> None:
    """Put an empty ledger database with these ``meta`` rows at ``path``, whole or not at all.

    Raises ConfigError when something is there already, StoreUnwritable when the disk fails.
    """
    with _new_file(path) as temporary, contextlib.closing(_connect(temporary, "rw")) as connection:
        connection.execute("PRAGMA journal_mode=wal")
        connection.execute("BEGIN IMMEDIATE")
        for statement in SCHEMA:
            connection.execute(statement)
        rows = [(key, value, row_seal("meta", key, value)) for key, value in meta.items()]
        connection.executemany("INSERT INTO meta VALUES (?, ?, ?)", rows)
        connection.execute(f"PRAGMA application_id={APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
        connection.execute("COMMIT")


def copy(source: Path, path: Path) -> None:
    """Copy the ledger at ``source``, consistent even while it is written to, to a new file.

    Raises ConfigError when something is there already, StoreUnwritable when the disk fails.
    """
    with (
        contextlib.closing(open_database(source, readonly=True)) as connection,
        _new_file(path) as temporary,
        contextlib.closing(_connect(temporary, "rw")) as target,
    ):
        connection.backup(target)


def copy_public(source: Path, path: Path, finish: Callable[[sqlite3.Connection], object]) -> None:
    """Copy the ledger at ``source`` to a new file without anything private, consistent even while it is written to.

    Row by row into a new database: pages of the old one may still hold what was deleted from it. ``finish`` may add
    what follows from the rows. Raises ConfigError
    when something is there already, StoreUnwritable when the disk fails.
    """
    with (
        contextlib.closing(open_database(source, readonly=True)) as connection,
        _new_file(path) as temporary,
        contextlib.closing(_connect(temporary, "rw")) as target,
    ):
        target.execute("BEGIN IMMEDIATE")
        for statement in SCHEMA:
            target.execute(statement)
        connection.execute("BEGIN")
        for table in PUBLIC_TABLES:
            # The order of tokens says which came first.
            order = "level, position" if table == "node" else "rowid"
            rows = connection.execute(f"SELECT * FROM {table} ORDER BY {order}")
            marks = ", ".join("?" * len(rows.description))
            target.executemany(f"INSERT INTO {table} VALUES ({marks})", rows)
        named = connection.execute("SELECT * FROM meta WHERE key IN ('log_id', 'public') ORDER BY key")
        target.executemany("INSERT INTO meta VALUES (?, ?, ?)", named)
        target.execute("INSERT INTO meta VALUES (?, ?, ?)", (WITHHELD, b"", row_seal("meta", WITHHELD, b"")))
        finish(target)
        target.execute(f"PRAGMA application_id={APPLICATION_ID}")
        target.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
        target.execute("COMMIT")


def open_database(path: Path, *, readonly: bool = False) -> sqlite3.Connection:
    """Connect, check that this is a ledger of ours, and set and read back what durability depends on.

    Raises ConfigError when there is none, StoreNewer, DatabaseCorrupt, StoreLocked or StoreUnwritable.
    """
    if not path.is_file():
        what = "not a file, so no ledger" if path.exists() else "no ledger here"
        raise ConfigError(
            f"{path}: {what}",
            hint="check the path; a ledger that was lost comes back by quidnunc restore, or by ledger recover",
        )
    with translated(path):
        connection = _connect(path, _readonly_mode(path) if readonly else "rw")
        try:
            _identify(connection, path)
            for name, wanted in _PRAGMAS.items():
                if readonly and name == "journal_mode":
                    continue
                connection.execute(f"PRAGMA {name}={wanted}")
                found = connection.execute(f"PRAGMA {name}").fetchone()[0]
                if found != wanted:
                    raise StoreUnwritable(
                        f"{path}: SQLite set {name} to {found!r}, {wanted!r} is needed for durability",
                        hint="use a local file system and a current SQLite",
                    )
        except BaseException:
            connection.close()
            raise
    return connection


def row_seal(table: str, *columns: bytes | str | int) -> bytes:
    """What the ``seal`` column of a row must be, given the columns before it."""
    raw = [each.encode("utf-8", "surrogateescape") if isinstance(each, str) else each for each in columns]
    return tagged_hash("store-row", encode([table, *raw]))


def stored_hashes(connection: sqlite3.Connection, level: int, start: int, stop: int) -> list[bytes]:
    """Hashes of the subtrees ``start`` to ``stop`` of a stored level, or of leaves, for a ``Tiled`` tree.

    Values of another kind are left out as by :func:`sound`, whose generality would cost a third of every proof.
    """
    if level:
        where = "level = ? AND position >= ? AND position < ? ORDER BY position"
        rows = connection.execute(f"SELECT hash FROM node WHERE {where}", (level, start, stop))
        return [found for (found,) in rows if isinstance(found, bytes)]
    where = "seq >= ? AND seq < ? ORDER BY seq"
    rows = connection.execute(f"SELECT header FROM entry WHERE {where}", (start, stop))
    return [leaf_hash(found) for (found,) in rows if isinstance(found, bytes)]


def quick_check(connection: sqlite3.Connection) -> list[str]:
    """What SQLite finds wrong with its own pages; empty when nothing is."""
    return _findings(connection.execute("PRAGMA quick_check(10)"))


def integrity_check(connection: sqlite3.Connection) -> list[str]:
    """What :func:`quick_check` finds, and entries of indexes that are not those of their tables."""
    return _findings(connection.execute("PRAGMA integrity_check(10)"))


def _findings(rows: Iterable[tuple[str]]) -> list[str]:
    """One finding a line; SQLite puts several into one row, under a heading that says nothing here."""
    lines = [line for (row,) in rows for line in row.split("\n") if line and line != "ok"]
    return [line for line in lines if not line.startswith("***")] or lines


def oversized(connection: sqlite3.Connection) -> list[tuple[str, int, int]]:
    """(table, seq, bytes) of entries and private parts that are larger than a row can be read."""
    found = []
    for table, columns in (("entry", ("header", "payload", "salt")), ("private", ("bytes", "salt"))):
        size = " + ".join(f"length({column})" for column in columns)
        rows = connection.execute(f"SELECT seq, {size} FROM {table} WHERE {size} > {VALUE_BYTES_MAX // 2}")
        found += [(table, seq, total) for seq, total in sound(rows, int, int)]
    return found


def sound(rows: Iterable[tuple[Any, ...]], *kinds: type | UnionType) -> Iterator[tuple[Any, ...]]:
    """The rows whose values are of these kinds: in a damaged file even a strict table gives others, or NULL.

    What is left out here, :func:`integrity_check` names.
    """
    for row in rows:
        if all(isinstance(value, kind) for value, kind in zip(row, kinds, strict=True)):
            yield row


@contextlib.contextmanager
def translated(path: Path) -> Iterator[None]:
    """Turn what SQLite raises into an error of ours that names the file and the remedy."""
    try:
        yield
    except UnicodeDecodeError as error:
        # Of a damaged schema, SQLite quotes bytes in its message that Python cannot decode.
        raise DatabaseCorrupt(path, "its schema is damaged") from error
    except sqlite3.Error as error:
        raise _meaning(path, error) from error


def _connect(path: Path, mode: str) -> sqlite3.Connection:
    connection = sqlite3.connect(
        f"file:{urllib.parse.quote(str(path))}?mode={mode}",
        uri=True,
        isolation_level=None,
        check_same_thread=False,
        timeout=_BUSY_S,
    )
    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, VALUE_BYTES_MAX)
    # Damaged text must reach our checks, not end in a UnicodeDecodeError.
    connection.text_factory = lambda data: data.decode("utf-8", "surrogateescape")
    return connection


def _readonly_mode(path: Path) -> str:
    """Reading a WAL database wants to write beside it, which a read-only medium does not allow."""
    quiet = not path.with_name(path.name + "-wal").exists()
    return "ro&immutable=1" if quiet and not os.access(path.parent, os.W_OK) else "ro"


@contextlib.contextmanager
def _new_file(path: Path) -> Iterator[Path]:
    """A private file for SQLite to fill, which then appears at ``path``, whole and synced, or not at all."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        os.close(os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, PRIVATE_FILE))
        with translated(path):
            yield temporary
        descriptor = os.open(temporary, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.link(temporary, path)
        fsync_dir(path.parent)
    except FileExistsError:
        raise ConfigError(f"{path}: is there already", hint="a ledger is never overwritten") from None
    except OSError as error:
        raise unwritable(path, error) from error
    finally:
        for suffix in ("", "-wal", "-shm", "-journal"):
            temporary.with_name(temporary.name + suffix).unlink(missing_ok=True)


def _identify(connection: sqlite3.Connection, path: Path) -> None:
    application = connection.execute("PRAGMA application_id").fetchone()[0]
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if application != APPLICATION_ID:
        raise DatabaseCorrupt(path, f"application id {application:#x}, a ledger has {APPLICATION_ID:#x}")
    if version > SCHEMA_VERSION:
        raise StoreNewer(
            f"{path}: schema version {version}, this program knows versions up to {SCHEMA_VERSION}",
            hint="run the newer quidnunc that wrote it",
        )
    # A doctored backup may hold triggers or views; ours holds exactly this.
    if version != SCHEMA_VERSION or _layout(connection) != _own_layout():
        raise DatabaseCorrupt(path, f"its tables are not those of schema version {SCHEMA_VERSION}")


def _layout(connection: sqlite3.Connection) -> list[tuple[str, str, str, str | None]]:
    """Everything that stands in a database, by kind, name, table and text; SQLite would read ``mEta`` as ``meta``."""
    return connection.execute("SELECT type, name, tbl_name, sql FROM sqlite_schema ORDER BY rowid").fetchall()


@functools.cache
def _own_layout() -> list[tuple[str, str, str, str | None]]:
    with contextlib.closing(sqlite3.connect(":memory:")) as connection:
        for statement in SCHEMA:
            connection.execute(statement)
        return _layout(connection)


def _is_full(directory: Path) -> bool:
    """Whether no file there can grow by a page, or none can be made."""
    try:
        stats = os.statvfs(directory)
    except OSError:
        return False
    return stats.f_bavail * stats.f_frsize < _ROOM or (stats.f_files > 0 and stats.f_favail == 0)


def _meaning(path: Path, error: sqlite3.Error) -> QuidnuncError:
    code = getattr(error, "sqlite_errorcode", None)
    if code is None:
        return LocalProtocolError(f"{path}: {error}")
    match code & 0xFF:
        case sqlite3.SQLITE_TOOBIG:
            return DatabaseCorrupt(path, f"it has a row of more than {VALUE_BYTES_MAX} bytes; no ledger has")
        case sqlite3.SQLITE_IOERR | sqlite3.SQLITE_CANTOPEN if _is_full(path.parent):
            # Some calls that find no room are reported as errors of the disk, which nobody would look for there.
            return unwritable(path, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
        case sqlite3.SQLITE_CANTOPEN if os.path.exists(path) and not os.access(path, os.R_OK):
            return ConfigError(f"{path}: cannot be read: permission denied", hint="check who may read it (chown)")
        case primary if primary in _UNWRITABLE:
            return StoreUnwritable(f"{path}: cannot be written: {error}", hint=_UNWRITABLE[primary])
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
            return StoreLocked(f"{path}: in use by another process", hint="only one process may write to a ledger")
        case _:
            return DatabaseCorrupt(path, str(error))
