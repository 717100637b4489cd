"""The ledger on disk: what was committed is there, whatever happens; what is damaged is found and named."""

from __future__ import annotations

import contextlib
import gzip
import random
import shutil
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from ledgers import Author

from quidnunc.crypto.entry import Entry
from quidnunc.crypto.errors import (
    ConfigError,
    LedgerCorrupt,
    LocalProtocolError,
    StoreError,
    StoreNewer,
    StoreUnwritable,
)
from quidnunc.gossip.resume import Resume, Tracked
from quidnunc.peer.ledger import database
from quidnunc.peer.ledger.findings import LAYERS, PROBLEMS_MAX
from quidnunc.peer.ledger.start_check import tell_missing_tokens
from quidnunc.peer.ledger.store import META_BYTES_MAX, Store
from quidnunc.peer.output import exit_code_of

FIXTURE = Path(__file__).parent / "vectors" / "ledger-v1.db.gz"


@pytest.fixture
def author() -> Author:
    return Author()


@pytest.fixture
def store(tmp_path: Path, author: Author) -> Iterator[Store]:
    with Store.create(tmp_path / "ledger.db", author.log_id, author.key.public) as made:
        yield made


@pytest.fixture
def filled(store: Store, author: Author) -> Store:
    return fill(store, author)


def fill(store: Store, author: Author) -> Store:
    """Ten entries under three checkpoints, three private parts, one token, one meta value."""
    for count in (1, 4, 5):
        entries = author.entries(count)
        store.commit(entries, author.note(), [author.token(entries[0], count)] if count == 4 else [])
    store.put_meta("standings", b"private to this peer")
    return store


def reopened(store: Store) -> Store:
    store.close()
    return Store.open(store.path)


@contextlib.contextmanager
def raw(path: Path) -> Iterator[sqlite3.Connection]:
    """The database without any of our checks."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        yield connection


def test_an_empty_ledger_opens_again(store: Store, author: Author) -> None:
    assert (store.size, store.checkpoint(), list(store.entries())) == (0, None, [])
    again = reopened(store)
    assert (again.size, again.root, again.log_id, again.public) == (
        0,
        author.log.root,
        author.log_id,
        author.key.public,
    )
    assert again.verify().ok
    again.close()


def test_what_was_committed_is_read_back_in_order(filled: Store, author: Author) -> None:
    openings = [
        lambda: filled,
        lambda: Store.open(filled.path),
        lambda: Store.open(filled.path, readonly=True),
    ]
    for opening in openings:
        store = opening()
        assert (store.size, store.root) == (10, author.log.root)
        entries = list(store.entries())
        assert [entry.leaf for entry in entries] == [author.log.leaf(seq) for seq in range(10)]
        assert [bool(entry.private) for entry in entries] == [seq in (2, 8) or seq == 5 for seq in range(10)]
        assert list(store.entries(3, 7)) == entries[3:7]
        assert store.entry(9) == entries[9]
        assert store.checkpoint() == author.note()
        assert [size for size, _ in store.checkpoints()] == [1, 5, 10]
        token = store.token_by_number(author.log_id, 4)
        assert token is not None
        assert store.token_by_number(author.log_id, 5) is None
        assert store.get_meta("standings") == b"private to this peer"
        assert store.get_meta("absent") is None
        store.close()


@pytest.mark.parametrize("seq", [-1, 10])
def test_an_entry_outside_the_ledger_is_our_bug(filled: Store, seq: int) -> None:
    with pytest.raises(LocalProtocolError):
        filled.entry(seq)


def test_the_first_of_two_tokens_for_one_update_stays(filled: Store, author: Author) -> None:
    first = filled.token_by_number(author.log_id, 4)
    entries = author.entries(1)
    filled.commit(entries, author.note(), [author.token(entries[0], 4), author.token(entries[0], 4)])
    assert filled.token_by_number(author.log_id, 4) == first


def test_a_ledger_is_never_overwritten(filled: Store, author: Author) -> None:
    with pytest.raises(ConfigError, match="is there already"):
        Store.create(filled.path, author.log_id, author.key.public)
    assert filled.size == 10
    assert {path.name for path in filled.path.parent.iterdir()} <= {
        "ledger.db",
        "ledger.db-wal",
        "ledger.db-shm",
    }


def test_files_are_private(filled: Store) -> None:
    assert {path.stat().st_mode & 0o777 for path in filled.path.parent.glob("ledger.db*")} == {0o600}


def test_no_ledger_is_a_configuration_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no ledger here"):
        Store.open(tmp_path / "ledger.db")


# --- commit refuses what does not fit, and the store is dead afterwards ---


def _wrong_note(author: Author) -> tuple[list[Entry], bytes]:
    return author.entries(1), author.note().replace(b"\n11\n", b"\n12\n")


def _older_note(author: Author) -> tuple[list[Entry], bytes]:
    note = author.note()
    return author.entries(1), note


def _foreign_note(author: Author) -> tuple[list[Entry], bytes]:
    return author.entries(1), Author(2).note()


def _rubbish_note(author: Author) -> tuple[list[Entry], bytes]:
    return author.entries(1), b"\xff"


def _gap(author: Author) -> tuple[list[Entry], bytes]:
    return author.entries(2)[1:], author.note()


def _repeated(author: Author) -> tuple[list[Entry], bytes]:
    (entry,) = author.entries(1)
    return [entry, entry], author.note()


def _other_salt(author: Author) -> tuple[list[Entry], bytes]:
    (entry,) = author.entries(1)
    return [entry._replace(salt=b"s" * 16)], author.note()


def _other_private(author: Author) -> tuple[list[Entry], bytes]:
    author.entry()
    return [author.entry(private=b"a")._replace(private=b"b")], author.note()


def _rubbish_header(author: Author) -> tuple[list[Entry], bytes]:
    (entry,) = author.entries(1)
    return [entry._replace(header=b"rubbish")], author.note()


@pytest.mark.parametrize(
    "make",
    [
        _wrong_note,
        _older_note,
        _foreign_note,
        _rubbish_note,
        _gap,
        _repeated,
        _other_salt,
        _other_private,
        _rubbish_header,
    ],
)
def test_a_commit_that_does_not_fit_changes_nothing_and_ends_the_store(
    filled: Store, author: Author, make: Callable[[Author], tuple[list[Entry], bytes]]
) -> None:
    before = filled.root
    with pytest.raises(LedgerCorrupt):
        filled.commit(*make(author))
    with pytest.raises(LedgerCorrupt):
        filled.checkpoint()
    with pytest.raises(LedgerCorrupt):
        filled.commit(author.entries(1), author.note())
    again = reopened(filled)
    assert (again.size, again.root) == (10, before)
    assert again.verify().ok
    again.close()


def test_two_writers_are_found_out_by_the_second_one(filled: Store, author: Author) -> None:
    other = Store.open(filled.path)
    other.commit(author.entries(1), author.note())
    other.close()
    fork = Author()
    fork.entries(10)
    with pytest.raises(LedgerCorrupt, match="on disk has 11 entries, 11 signed") as caught:
        filled.commit(fork.entries(1), fork.note())
    assert "another process" in caught.value.hint


def test_a_row_changed_behind_our_back_is_found_by_the_next_commit(filled: Store, author: Author) -> None:
    with raw(filled.path) as connection:
        connection.execute("UPDATE entry SET header = zeroblob(120) WHERE seq = 9")
    with pytest.raises(LedgerCorrupt):
        filled.commit(author.entries(1), author.note())


def test_an_interrupted_commit_ends_the_store(filled: Store, author: Author, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(note: bytes) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(filled, "_check_note", interrupt)
    with pytest.raises(KeyboardInterrupt):
        filled.commit(author.entries(1), author.note())
    monkeypatch.undo()
    with pytest.raises(LedgerCorrupt, match="interrupted"):
        filled.checkpoint()
    assert reopened(filled).size == 10


@pytest.mark.parametrize(
    "token", [(b"\0" * 32, b"a" * 32, 1, b"body"), (b"", b"", 1, b""), (b"\0" * 32, b"a" * 32, -1, b"")]
)
def test_a_token_that_is_not_one_is_our_bug_and_does_not_end_the_store(
    filled: Store, author: Author, token: tuple[bytes, bytes, int, bytes]
) -> None:
    entries, note = author.entries(1), author.note()
    with pytest.raises(LocalProtocolError):
        filled.commit(entries, note, [token])
    with pytest.raises(LocalProtocolError):
        filled.commit([], note)
    filled.commit(entries, note)
    assert filled.size == 11


def test_meta_is_bounded_and_its_identity_cannot_be_changed(filled: Store) -> None:
    filled.put_meta("k", b"x" * META_BYTES_MAX)
    with pytest.raises(LocalProtocolError):
        filled.put_meta("k", b"x" * (META_BYTES_MAX + 1))
    with pytest.raises(LocalProtocolError):
        filled.put_meta("log_id", b"x" * 32)
    assert filled.get_meta("k") == b"x" * META_BYTES_MAX


def test_a_read_only_store_writes_nothing_and_sees_later_commits(filled: Store, author: Author) -> None:
    with Store.open(filled.path, readonly=True) as reader:
        with pytest.raises(LocalProtocolError, match="read-only"):
            reader.commit(author.entries(1), author.note())
        with pytest.raises(LocalProtocolError, match="read-only"):
            reader.put_meta("k", b"")
        later = Author()
        for entry in filled.entries():
            later.log.replay(entry)
        filled.commit(later.entries(1), later.note())
        assert (reader.size, reader.root) == (11, later.log.root)


def test_readers_in_other_threads_never_see_half_a_commit(filled: Store, author: Author) -> None:
    seen: list[tuple[int, int]] = []
    done = threading.Event()

    def read() -> None:
        with Store.open(filled.path, readonly=True) as reader:
            while not done.is_set():
                signed = max(size for size, _ in filled.checkpoints())
                seen.append((signed, len(list(filled.entries()))))
                assert reader.verify().ok

    thread = threading.Thread(target=read)
    thread.start()
    for _ in range(30):
        filled.commit(author.entries(3), author.note())
    done.set()
    thread.join()
    assert all(entries >= signed and (entries - 10) % 3 == 0 for signed, entries in seen)


# --- disk trouble ---


def fill_until_it_fails(store: Store, author: Author) -> None:
    for _ in range(100):
        store.commit(author.entries(20), author.note())


def test_a_full_disk_is_named_loses_nothing_and_ends_the_store(filled: Store, author: Author) -> None:
    pages = filled._connection.execute("PRAGMA page_count").fetchone()[0]
    filled._connection.execute(f"PRAGMA max_page_count={pages}")
    with pytest.raises(StoreUnwritable, match="full") as caught:
        fill_until_it_fails(filled, author)
    assert "free some space" in caught.value.hint
    with pytest.raises(StoreUnwritable):
        filled.checkpoint()
    with Store.open(filled.path) as again:
        assert again.size >= 10
        assert again.verify().ok


class Failing:
    """A connection of which one statement fails as SQLite tells it when the operating system does."""

    def __init__(self, real: sqlite3.Connection, statement: str, code: int) -> None:
        self.real, self.statement, self.code = real, statement, code

    def execute(self, sql: str, *values: Any) -> Any:
        if sql.startswith(self.statement):
            error = sqlite3.OperationalError("disk I/O error")
            error.sqlite_errorcode = self.code
            raise error
        return self.real.execute(sql, *values)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)


@pytest.mark.parametrize("statement", ["BEGIN", "INSERT INTO entry", "SELECT max(size)", "COMMIT"])
@pytest.mark.parametrize(
    "code", [sqlite3.SQLITE_IOERR_FSYNC, sqlite3.SQLITE_IOERR_WRITE, sqlite3.SQLITE_IOERR_READ, sqlite3.SQLITE_READONLY]
)
def test_a_disk_error_at_any_step_of_a_commit_ends_the_store_and_loses_nothing(
    filled: Store, author: Author, statement: str, code: int
) -> None:
    """An fsync that failed may have lost what it should have kept: no second try, whatever it says then."""
    size, root, real = filled.size, filled.root, filled._connection
    filled._connection = Failing(real, statement, code)  # type: ignore[assignment]
    with pytest.raises(StoreUnwritable, match="cannot be written") as caught:
        filled.commit(author.entries(3), author.note())
    assert exit_code_of(caught.value) == 73
    filled._connection = real
    for again in (lambda: filled.commit(author.entries(1), author.note()), filled.checkpoint, lambda: filled.size):
        with pytest.raises(StoreUnwritable):
            again()
    filled.close()
    with Store.open(filled.path) as reopened:
        assert (reopened.size, reopened.root, reopened.verify().ok) == (size, root, True)


@pytest.mark.parametrize("call", ["fdatasync", "pwrite64"])
def test_calls_that_really_fail_keep_what_was_committed(tmp_path: Path, call: str) -> None:
    """Every such call of SQLite fails from some moment on, as on a disk that dies."""
    script = """
import sys; from pathlib import Path; sys.path.insert(0, sys.argv[2])
from ledgers import Author
from quidnunc.crypto.errors import StoreUnwritable
from quidnunc.peer.ledger.store import Store
author, path = Author(), Path(sys.argv[1]) / "ledger.db"
store = Store.open(path)
author.entries(store.size)
size = store.size
try:
    for _ in range(40):
        store.commit(author.entries(3), author.note()); size = store.size
except StoreUnwritable as error:
    print(size, error.message)
"""
    author = Author()
    with Store.create(tmp_path / "ledger.db", author.log_id, author.key.public) as store:
        store.commit(author.entries(10), author.note())
    inject = f"inject={call}:error=EIO:when=20+"
    tool = ["strace", "-f", "-qq", "-o", str(tmp_path / "trace"), "-e", f"trace={call}", "-e", inject]
    if shutil.which("strace") is None or subprocess.run([*tool, "true"], check=False, capture_output=True).returncode:
        pytest.skip("strace cannot be used here")
    command = [*tool, sys.executable, "-c", script, str(tmp_path), str(Path(__file__).parent)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    kept, _, why = done.stdout.partition(" ")
    assert "cannot be written: disk I/O error" in why, done.stderr
    with Store.open(tmp_path / "ledger.db") as again:
        assert again.size in (int(kept), int(kept) + 3), "the last one was written, and not known to be synced"
        assert again.size > 10
        assert again.verify().ok


def test_a_real_file_system_that_fills_up(tmp_path: Path) -> None:
    script = """
import sys; from pathlib import Path; sys.path.insert(0, sys.argv[2])
from ledgers import Author
from quidnunc.crypto.errors import StoreUnwritable
from quidnunc.peer.ledger.store import Store
author, path = Author(), Path(sys.argv[1]) / "ledger.db"
store = Store.create(path, author.log_id, author.key.public)
size = 0
try:
    for _ in range(10_000):
        store.commit(author.entries(40), author.note()); size = store.size
except StoreUnwritable as error:
    print(error.message)
store.close()
again = Store.open(path) if size else None
assert again is not None and again.size == size and again.verify().ok, (again.size, size)
print("kept", size)
"""
    out = run_mounted(f"mount -t tmpfs -o size=1m none {tmp_path}", script, tmp_path)
    assert "cannot be written" in out
    assert "kept" in out


def test_a_read_only_medium_can_be_verified_but_not_opened_for_writing(filled: Store) -> None:
    filled.close()
    home = filled.path.parent
    script = """
import sys; from pathlib import Path
from quidnunc.crypto.errors import StoreUnwritable
from quidnunc.peer.ledger.store import Store
path = Path(sys.argv[1]) / "ledger.db"
with Store.open(path, readonly=True) as store:
    assert store.size == 10 and store.verify().ok
try:
    Store.open(path)
except StoreUnwritable as error:
    print(error.message)
"""
    out = run_mounted(f"mount --bind {home} {home} && mount -o remount,bind,ro {home}", script, home)
    assert "ledger.db: cannot be written" in out


def run_mounted(mount: str, script: str, path: Path) -> str:
    """What ``script`` prints with ``mount`` done in a namespace of its own; skips where that is not allowed."""
    run = ["unshare", "-m", "sh", "-ec", f'{mount} && exec "$@"', "sh"]
    if shutil.which("unshare") is None or subprocess.run([*run, "true"], capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount")
    command = [*run, sys.executable, "-c", script, str(path), str(Path(__file__).parent)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(("pragma", "value"), [("synchronous", 1), ("cell_size_check", 0)])
def test_settings_that_do_not_stick_are_refused(
    filled: Store, monkeypatch: pytest.MonkeyPatch, pragma: str, value: int
) -> None:
    filled.close()
    real = database._connect

    class Deaf(sqlite3.Connection):
        def execute(self, sql: str, *args: object) -> sqlite3.Cursor:
            return super().execute(sql.replace(f"{pragma}=", f"{pragma}={value}--"), *args)  # type: ignore[arg-type]

    def connect(path: Path, mode: str) -> sqlite3.Connection:
        real(path, mode).close()
        return sqlite3.connect(path, isolation_level=None, factory=Deaf)

    monkeypatch.setattr(database, "_connect", connect)
    with pytest.raises(StoreUnwritable, match=pragma):
        Store.open(filled.path)


def test_a_newer_schema_is_refused(filled: Store) -> None:
    filled.close()
    with raw(filled.path) as connection:
        connection.execute(f"PRAGMA user_version={database.SCHEMA_VERSION + 1}")
    with pytest.raises(StoreNewer, match="schema version 2"):
        Store.open(filled.path)


@pytest.mark.parametrize(
    "damage",
    [
        "PRAGMA application_id=7",
        "PRAGMA user_version=0",
        "CREATE TRIGGER t AFTER INSERT ON entry BEGIN DELETE FROM entry; END",
        "CREATE VIEW v AS SELECT 1",
        "DROP INDEX token_number",
    ],
)
def test_a_database_that_is_not_quite_ours_is_refused(filled: Store, damage: str) -> None:
    filled.close()
    with raw(filled.path) as connection:
        connection.execute(damage)
    with pytest.raises(LedgerCorrupt, match=r"ledger\.db"):
        Store.open(filled.path)


@pytest.mark.parametrize("content", [b"", b"rubbish" * 1000, b"SQLite format 3\0" + bytes(5000)])
def test_a_file_that_is_no_database_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "ledger.db"
    path.write_bytes(content)
    with pytest.raises(LedgerCorrupt, match=r"ledger\.db"):
        Store.open(path)


# --- damage is found and named ---

DAMAGE = [
    ("entry", "seq", "7007", "seq = 7", ("chain", "I1", 7, "missing")),
    ("entry", "header", None, "seq = 7", ("canonical chain payloads", "I1 I2 I4 I5", 7, "header")),
    ("entry", "type", "type + 1", "seq = 7", ("chain", "I19", 7, "type")),
    ("entry", "payload", None, "seq = 7", ("payloads", "I5", 7, "payload")),
    ("entry", "salt", None, "seq = 7", ("payloads", "I5", 7, "salt")),
    ("private", "seq", "3", "seq = 2", ("payloads", "I5", 2, "private")),
    ("private", "seq", "5000", "seq = 2", ("payloads", "I5", 5000, "belongs to no entry")),
    ("private", "salt", None, "seq = 2", ("payloads", "I5", 2, "private")),
    ("private", "bytes", None, "seq = 2", ("payloads", "I5", 2, "private")),
    ("checkpoint", "size", "6", "size = 5", ("merkle", "I7", 6, "size")),
    ("checkpoint", "note", None, "size = 5", ("own signatures", "I7", 5, "checkpoint")),
    ("token", "hash", None, "1", ("side tables", "I15", -1, "token")),
    ("token", "author", None, "1", ("side tables", "I15", -1, "token")),
    ("token", "number", "number + 1", "1", ("side tables", "I15", -1, "token")),
    ("token", "body", None, "1", ("side tables", "I15", -1, "token")),
    ("token", "seal", None, "1", ("side tables", "I15", -1, "token")),
    ("meta", "key", "'standing'", "key = 'standings'", ("side tables", "I15", -1, "meta 'standing'")),
    ("meta", "value", None, "key = 'standings'", ("side tables", "I15", -1, "meta 'standings'")),
    ("meta", "seal", None, "key = 'standings'", ("side tables", "I15", -1, "meta 'standings'")),
]


@pytest.mark.parametrize(("table", "column", "value", "where", "named"), DAMAGE)
def test_a_flipped_byte_in_any_column_is_found_and_named(
    filled: Store, table: str, column: str, value: str | None, where: str, named: tuple[str, str, int, str]
) -> None:
    layers, codes, seq, word = named
    filled.close()
    with raw(filled.path) as connection:
        (data,) = connection.execute(f"SELECT {column} FROM {table} WHERE {where}").fetchone()
    # A flipped bit in every byte of a short blob, or in 40 places of a long one; another value for a number.
    variants = [None] if value else range(0, len(data), max(1, len(data) // 40))
    damaged = filled.path.with_name("damaged.db")
    for at in variants:
        shutil.copy(filled.path, damaged)
        with raw(damaged) as connection:
            if at is None:
                connection.execute(f"UPDATE {table} SET {column} = {value} WHERE {where}")
            else:
                flipped = bytearray(data)
                flipped[at] ^= 1 << at % 8
                connection.execute(f"UPDATE {table} SET {column} = ? WHERE {where}", (bytes(flipped),))
        with Store.open(damaged, readonly=True) as store:
            report = store.verify()
        assert not report.ok
        problems = [(layer.name, p) for layer in report.layers for p in layer.problems]
        assert any(
            # A header changed in a field only its hash covers is seen where the next one links to it.
            name in layers and p.code in codes.split() and p.seq in (seq, seq + 1) and word in p.why
            for name, p in problems
        ), problems
        if table == "entry" or (table == "private" and "5000" not in (value or "")):
            with pytest.raises(LedgerCorrupt):
                Store.open(damaged).close()


def test_removed_rows_are_found(filled: Store) -> None:
    filled.close()
    for table, key, layer in [
        ("entry", "seq = 9", "merkle"),
        ("entry", "seq = 0", "chain"),
        ("private", "seq = 2", "payloads"),
        ("checkpoint", "size = 10", "merkle"),
    ]:
        damaged = filled.path.with_name("damaged.db")
        shutil.copy(filled.path, damaged)
        with raw(damaged) as connection:
            connection.execute(f"DELETE FROM {table} WHERE {key}")
        with Store.open(damaged, readonly=True) as store:
            assert not store.verify().layer(layer).ok, (table, key)


def test_any_bit_flipped_in_the_file_is_found_or_changes_nothing(filled: Store) -> None:
    filled.close()
    with raw(filled.path) as connection:
        connection.execute("PRAGMA journal_mode=delete")
        connection.execute("PRAGMA journal_mode=wal")
        wanted = list(connection.iterdump())
    content = filled.path.read_bytes()
    rng = random.Random(5)
    damaged = filled.path.with_name("damaged.db")
    used = [at for at in range(len(content)) if content[at]]
    found = 0
    for at in [*rng.sample(used, 150), 18, 28, 44, 60, 100]:
        changed = bytearray(content)
        changed[at] ^= 1 << rng.randrange(8)
        damaged.write_bytes(changed)
        try:
            with Store.open(damaged) as store:
                bad = not store.verify().ok
        except (LedgerCorrupt, StoreError):
            bad = True
        if not bad:
            with raw(damaged) as connection:
                assert list(connection.iterdump()) == wanted, f"byte {at}"
        found += bad
    assert found > 100


def test_problems_are_counted_but_kept_within_bounds(store: Store, author: Author) -> None:
    store.commit(author.entries(PROBLEMS_MAX + 50), author.note())
    store.close()
    with raw(store.path) as connection:
        connection.execute("UPDATE entry SET type = 99")
    with Store.open(store.path, readonly=True) as reader:
        layer = reader.verify().layer("chain")
    assert (layer.failed, len(layer.problems)) == (PROBLEMS_MAX + 50, PROBLEMS_MAX)


def test_a_report_says_what_was_checked(filled: Store, author: Author) -> None:
    steps: list[tuple[int, int]] = []
    report = filled.verify(lambda done, total: steps.append((done, total)))
    assert report.ok
    assert (report.size, report.root, report.checkpoints) == (10, author.log.root, 3)
    assert tuple(layer.name for layer in report.layers) == LAYERS
    assert {layer.name: layer.checked for layer in report.layers if layer.name != "database"} == {
        "chain": 10,
        "canonical": 10,
        "payloads": 10,
        "merkle": 3,
        "own signatures": 3,
        "side tables": 6,
    }
    assert steps[0] == (0, 10)
    assert steps[-1] == (10, 10)


def test_a_backup_taken_in_mid_run_is_a_whole_ledger(filled: Store, author: Author, tmp_path: Path) -> None:
    filled.backup(tmp_path / "copy.db")
    filled.commit(author.entries(2), author.note())
    with Store.open(tmp_path / "copy.db") as copy:
        assert copy.size == 10
        assert copy.verify().ok
        assert copy.get_meta("standings") == b"private to this peer"
    with pytest.raises(ConfigError, match="is there already"):
        filled.backup(tmp_path / "copy.db")


# --- crashes ---

WRITER = """
import sys; from pathlib import Path; sys.path.insert(0, sys.argv[2])
from ledgers import Author
from quidnunc.peer.ledger.store import Store
author = Author()
with Store.open(Path(sys.argv[1])) as store:
    for entry in store.entries(): author.log.replay(entry)
    while True:
        store.commit(author.entries(1 + store.size % 4), author.note())
        sys.stdout.write(f"{store.size}\\n"); sys.stdout.flush()
"""


def kill_in_mid_commit(path: Path, rng: random.Random) -> None:
    """What was said to be committed (printed) is there after SIGKILL, and the ledger is whole."""
    command = [sys.executable, "-c", WRITER, str(path), str(Path(__file__).parent)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        for _ in range(rng.randrange(1, 60)):
            sent = int(writer.stdout.readline())
        writer.kill()
        for line in writer.stdout.read().splitlines(keepends=True):
            sent = int(line) if line.endswith("\n") else sent
    with Store.open(path) as store:
        assert store.size >= sent
        assert sent in dict(store.checkpoints())
        assert store.verify().ok


def test_kill_9_loses_nothing_that_was_acknowledged(store: Store) -> None:
    store.close()
    rng = random.Random(3)
    for _ in range(3):
        kill_in_mid_commit(store.path, rng)


@pytest.mark.faults
def test_kill_9_forty_times(store: Store) -> None:
    store.close()
    rng = random.Random(4)
    for _ in range(40):
        kill_in_mid_commit(store.path, rng)


def test_a_database_without_the_end_of_its_wal_opens_at_an_earlier_checkpoint(filled: Store, author: Author) -> None:
    wal = filled.path.with_name("ledger.db-wal")
    torn = filled.path.with_name("torn.db")
    sizes = set()
    content = wal.read_bytes()
    for cut in range(0, len(content), 997):
        shutil.copy(filled.path, torn)
        torn.with_name("torn.db-wal").write_bytes(content[:cut])
        with Store.open(torn) as store:
            sizes.add(store.size)
            assert store.verify().ok
    assert sizes == {0, 1, 5, 10}


# --- frozen bytes ---


def write_fixture(path: Path) -> None:
    """Write the frozen ledger anew. Only before a release: afterwards its bytes are a promise."""
    author = Author()
    with Store.create(path, author.log_id, author.key.public) as made:
        fill(made, author)
    FIXTURE.parent.mkdir(exist_ok=True)
    FIXTURE.write_bytes(gzip.compress(path.read_bytes(), mtime=0))


def test_a_ledger_of_schema_version_1_opens_forever(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    path.write_bytes(gzip.decompress(FIXTURE.read_bytes()))
    with Store.open(path) as store:
        assert store.verify().ok
        assert store.size == 10
        assert store.root.hex() == "f6d0ea1310e7010af2c1daad027e4d05fc9d30c1e8791eed94236b34f2b553e7"
        assert store.token_by_number(Author().log_id, 4) is not None
        assert store.get_meta("standings") == b"private to this peer"
        author = Author()
        for entry in store.entries():
            author.log.replay(entry)
        store.commit(author.entries(1), author.note())


# --- against a model ---


class StoreMachine(RuleBasedStateMachine):
    """A store against two lists and a dict."""

    directory: pytest.TempPathFactory

    def __init__(self) -> None:
        super().__init__()
        self.author = Author()
        self.path = self.directory.mktemp("machine") / "ledger.db"
        self.store = Store.create(self.path, self.author.log_id, self.author.key.public)
        self.entries: list[Entry] = []
        self.notes: list[tuple[int, bytes]] = []
        self.meta: dict[str, bytes] = {}
        self.tokens: dict[int, bytes] = {}

    @rule(count=st.integers(1, 5), number=st.integers(0, 3))
    def commit(self, count: int, number: int) -> None:
        entries = self.author.entries(count)
        token = self.author.token(entries[-1], number)
        self.store.commit(entries, self.author.note(), [token])
        self.entries += entries
        self.notes.append((len(self.entries), self.author.note()))
        self.tokens.setdefault(number, token[3])

    @rule(key=st.sampled_from("abc"), value=st.binary(max_size=20))
    def put_meta(self, key: str, value: bytes) -> None:
        self.store.put_meta(key, value)
        self.meta[key] = value

    @rule()
    def reopen(self) -> None:
        self.store.close()
        self.store = Store.open(self.path)

    @rule()
    def fail(self) -> None:
        fork = Author(7)
        with pytest.raises(LedgerCorrupt):
            self.store.commit(fork.entries(1), fork.note())
        self.reopen()

    @rule(start=st.integers(0, 30), length=st.integers(0, 10))
    def read(self, start: int, length: int) -> None:
        assert list(self.store.entries(start, start + length)) == self.entries[start : start + length]

    @rule()
    def verify(self) -> None:
        report = self.store.verify()
        assert report.ok
        assert (report.size, report.root) == (len(self.entries), self.author.log.root)

    @invariant()
    def agrees(self) -> None:
        with Store.open(self.path, readonly=True) as reader:
            for store in (self.store, reader):
                assert (store.size, store.root) == (len(self.entries), self.author.log.root)
                assert list(store.checkpoints()) == self.notes
                assert {key: store.get_meta(key) for key in self.meta} == self.meta
                for number, body in self.tokens.items():
                    assert store.token_by_number(self.author.log_id, number) == body

    def teardown(self) -> None:
        self.store.close()


def test_it_behaves_like_its_model(tmp_path_factory: pytest.TempPathFactory) -> None:
    StoreMachine.directory = tmp_path_factory
    run_state_machine_as_test(StoreMachine, settings=settings(deadline=None, max_examples=15, stateful_step_count=12))


@pytest.mark.parametrize("code", [sqlite3.SQLITE_IOERR_SHMSIZE, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN])
@pytest.mark.parametrize(
    ("free", "inodes", "full"), [(64 * 1024 - 1, 9, True), (64 * 1024, 9, False), (2**30, 0, True)]
)
def test_an_error_of_a_disk_that_is_full_is_told_as_such(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, free: int, inodes: int, full: bool
) -> None:
    """SQLite reports a memory map that cannot grow on a full tmpfs as a disk I/O error."""
    stats = SimpleNamespace(f_bavail=free, f_frsize=1, f_files=100, f_favail=inodes)
    monkeypatch.setattr(database.os, "statvfs", lambda path: stats)
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorcode = code
    with pytest.raises(StoreUnwritable) as caught, database.translated(tmp_path / "ledger.db"):
        raise error
    assert ("no space left" in caught.value.message) == full
    assert ("free some space" in caught.value.hint) == full


# What a start finds in side tables.


@pytest.mark.parametrize("size", [1, 5])
@pytest.mark.parametrize("spot", ["text", "signature"])
def test_a_flipped_bit_in_an_older_checkpoint_is_found_at_start(filled: Store, size: int, spot: str) -> None:
    filled.close()
    with raw(filled.path) as connection:
        (note,) = connection.execute("SELECT note FROM checkpoint WHERE size = ?", (size,)).fetchone()
        spoiled = bytearray(note)
        spoiled[note.index(b"\n") + 4 if spot == "text" else -9] ^= 1
        connection.execute("UPDATE checkpoint SET note = ? WHERE size = ?", (bytes(spoiled), size))
    with pytest.raises(LedgerCorrupt) as caught:
        Store.open(filled.path)
    assert caught.value.seq == size - 1
    assert "the checkpoint over it is damaged" in caught.value.message


def test_a_checkpoint_of_another_size_is_found_at_start(filled: Store) -> None:
    filled.close()
    with raw(filled.path) as connection:
        connection.execute("UPDATE checkpoint SET note = (SELECT note FROM checkpoint WHERE size = 5) WHERE size = 1")
    with pytest.raises(LedgerCorrupt, match="not of this log at this size"):
        Store.open(filled.path)


@pytest.mark.parametrize("column", ["hash", "author", "body", "seal"])
def test_a_flipped_bit_in_a_token_is_found_at_start(filled: Store, column: str) -> None:
    filled.close()
    with raw(filled.path) as connection:
        (found,) = connection.execute(f"SELECT {column} FROM token").fetchone()
        connection.execute(f"UPDATE token SET {column} = ?", (found[:-1] + bytes([found[-1] ^ 1]),))
    with pytest.raises(database.DatabaseCorrupt, match="the token of update 4 of"):
        Store.open(filled.path)


def test_tokens_that_are_gone_are_told_at_start(caplog: pytest.LogCaptureFixture) -> None:
    mine = Resume(number=9, tokens=[(7, b"token"), (9, b"token")])
    mine.tracked[b"o" * 32] = Tracked(5, 8, b"s" * 32, {4: b"leaf", 5: b"leaf"}, {5: b"token"})
    mine.tracked[b"p" * 32] = Tracked(2, 3, b"s" * 32, {2: b"leaf"}, {2: b"token"})
    with caplog.at_level("WARNING", logger="quidnunc.peer"):
        assert tell_missing_tokens(mine, range(6, 10)) == 3
    assert [record.getMessage().partition(":")[0] for record in caplog.records] == [
        "tokens=missing author=this peer updates=6 to 8 count=2",
        f"tokens=missing author={b'o'.hex() * 8} updates=4 count=1",
    ]
    caplog.clear()
    assert tell_missing_tokens(Resume(number=0), range(1, 1)) == 0
    assert caplog.records == []
