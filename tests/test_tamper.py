"""The tamper matrix: whatever is done to a row of any table, fsck names the invariant, and the entry if any."""

from __future__ import annotations

import contextlib
import itertools
import random
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import test_audit
import test_claims
from cli_helpers import make_home, quidnunc
from node_helpers import founders, parsed, start_all, toy_charter, toy_world
from test_fork_world import run_twice

from quidnunc.crypto.errors import LedgerCorrupt, StoreError
from quidnunc.gossip.attestation import CosignatureRow, WitnessSummary
from quidnunc.gossip.events import Commit
from quidnunc.gossip.federation.card import make_card
from quidnunc.gossip.federation.founding import draft_note
from quidnunc.gossip.federation.terms import RoundSpec
from quidnunc.gossip.provenance import EquivocationProof, Merge, UpdatePublished, UpdateReceived
from quidnunc.peer.home import Home
from quidnunc.peer.ledger.database import SCHEMA
from quidnunc.peer.ledger.invariants import INVARIANTS, verdicts
from quidnunc.peer.ledger.store import Store
from quidnunc.sim.world import Hooks, Peer

ROUNDS = RoundSpec(80, 0, 0, "majority")
TABLES = ("entry", "private", "node", "checkpoint", "token", "evidence", "head", "cosignature", "meta")


@dataclass
class Kept:
    """A ledger in which every table has rows, the commits it came from, and the numbers of telling entries."""

    path: Path
    seqs: dict[type, list[int]] = field(default_factory=dict)
    sizes: list[int] = field(default_factory=list)


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Kept:
    """Five peers, one of which is run twice; the ledger of an honest one, as its store would have it."""
    commits: list[Commit] = []

    def committed(peer: Peer, commit: Commit) -> None:
        if peer.index == 0:
            commits.append(commit)

    world, _ = toy_world(5, seed=11, watch=False, rounds=ROUNDS)
    world.hooks = Hooks(on_commit=committed)
    start_all(world)
    peer = world.peers[0]
    world.run(100.0, stop=lambda: len(peer.disk.entries) > 230)
    run_twice(world, 3)
    world.run(200.0, stop=lambda: bool(peer.disk.proofs) and len(peer.disk.entries) > 290)
    made = Kept(tmp_path_factory.mktemp("tamper") / "ledger.db")
    with Store.create(made.path, peer.log_id, peer.secret.public) as store:
        for commit in commits:
            store.commit(commit.entries, commit.note, commit.tokens, commit.proofs, commit.cosigned)
            made.sizes.append(store.size)
        for log_id, head in peer.disk.heads.items():
            store.witness(log_id, *head)
        store.put_meta("dataset-salt", bytes(32))
    for header, record in parsed(peer.disk.entries):
        made.seqs.setdefault(type(record), []).append(header.seq)
    assert store_rows(made.path).keys() == set(TABLES), "every table of the schema, with rows in it"
    return made


def store_rows(path: Path) -> dict[str, int]:
    with raw(path) as connection:
        tables = [row[0] for row in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
        counts = {name: connection.execute(f"SELECT count(*) FROM {name}").fetchone()[0] for name in tables}
    return {name: count for name, count in counts.items() if count}


@contextlib.contextmanager
def raw(path: Path) -> Iterator[sqlite3.Connection]:
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        yield connection


@pytest.fixture
def copy(kept: Kept, tmp_path: Path) -> Path:
    return Path(shutil.copy(kept.path, tmp_path / "ledger.db"))


Found = set[tuple[str, int]]


def fsck(path: Path) -> tuple[Found, str]:
    """(code, place) of everything that is wrong, and all of it in words; I6 where it cannot even be opened."""
    try:
        with Store.open(path, readonly=True) as store:
            layers = (*store.verify().layers, *store.meaning())
    except LedgerCorrupt as error:
        return {("I6", -1)}, f"I6 {error.message}"
    found = [problem for verdict in verdicts(layers) for problem in verdict.problems]
    return {(each.code, each.seq) for each in found}, "; ".join(f"{each.code} {each.why}" for each in found)


def changed(path: Path, *statements: str) -> tuple[Found, str]:
    with raw(path) as connection:
        for statement in statements:
            assert connection.execute(statement).rowcount, statement
    return fsck(path)


def test_an_untouched_ledger_is_whole(kept: Kept) -> None:
    assert fsck(kept.path) == (set(), "")
    with Store.open(kept.path, readonly=True) as store:
        checked = {layer.name: layer.checked for layer in (*store.verify().layers, *store.meaning())}
    updates = len(kept.seqs[UpdatePublished])
    assert checked["claims"] == updates
    assert checked["evidence"] == updates + len(kept.seqs[UpdateReceived]) + len(kept.seqs[EquivocationProof]) + 1


# A byte flipped in every kind of column.

ROWS = {
    "entry": "seq = 77",
    "private": "seq = {merge}",
    "node": "level = 8 AND position = 0",
    "checkpoint": "size = {size}",
    "token": "author = (SELECT value FROM meta WHERE key = 'log_id') AND number = 5",
    "evidence": "1",
    "head": "rowid = (SELECT max(rowid) FROM head)",
    "cosignature": "rowid = (SELECT max(rowid) FROM cosignature)",
    "meta": "key = 'dataset-salt'",
}
CODES = {
    ("entry", "seq"): "I1",
    ("entry", "header"): "I2 I4 I5",
    ("entry", "type"): "I19",
    ("entry", "payload"): "I5",
    ("entry", "salt"): "I5",
    ("private", "seq"): "I5",
    ("private", "salt"): "I5",
    ("private", "bytes"): "I5",
    ("node", "level"): "I6",
    ("node", "position"): "I6",
    ("node", "hash"): "I6",
    ("checkpoint", "size"): "I7 I18",
    ("checkpoint", "note"): "I7",
    **{("token", column): "I15" for column in ("hash", "author", "number", "body", "seal")},
    **{("evidence", column): "I15" for column in ("hash", "body")},
    **{("head", column): "I15" for column in ("log_id", "size", "root", "note", "seal")},
    **{("cosignature", column): "I15" for column in ("witness", "size", "note", "seal")},
    **{("meta", column): "I15" for column in ("key", "value", "seal")},
}


def place(kept: Kept, table: str) -> tuple[str, int | None]:
    """Which row of a table is spoiled, and the entry, or size, that must be named; None where there is none."""
    merge, size = kept.seqs[Merge][3], kept.sizes[len(kept.sizes) // 2]
    own = kept.seqs[UpdatePublished][4]
    where = ROWS[table].format(merge=merge, size=size)
    named = {"entry": 77, "private": merge, "node": 255, "checkpoint": size, "token": own}
    named["evidence"] = kept.seqs[EquivocationProof][0]
    return where, named.get(table)


def test_the_matrix_has_every_column_of_every_table(kept: Kept) -> None:
    with raw(kept.path) as connection:
        columns = {
            (table, row[1]) for table in TABLES for row in connection.execute(f"PRAGMA table_info({table})").fetchall()
        }
    assert columns == CODES.keys()
    assert len([statement for statement in SCHEMA if statement.startswith("CREATE TABLE")]) == len(TABLES)


@pytest.mark.parametrize(("table", "column"), CODES)
def test_a_flipped_byte_is_named_by_code_and_entry(kept: Kept, copy: Path, table: str, column: str) -> None:
    where, named = place(kept, table)
    with raw(copy) as connection:
        (value,) = connection.execute(f"SELECT {column} FROM {table} WHERE {where}").fetchone()
    ends = (len(value) // 2, len(value) - 1) if isinstance(value, bytes) else (0,)
    for at in ends:
        spoiled = copy.with_name("spoiled.db")
        shutil.copy(copy, spoiled)
        with raw(spoiled) as connection:
            connection.execute(f"UPDATE {table} SET {column} = ? WHERE {where}", (flipped(value, at),))
        found, words = fsck(spoiled)
        hits = [seq for code, seq in found if code in CODES[table, column].split()]
        assert hits, words
        # A header of which only its hash tells is seen where the next one names it.
        assert named is None or {named, named + 1} & set(hits), (found, words)
        assert named is not None or table in words


def flipped(value: Any, at: int) -> Any:
    if isinstance(value, bytes):
        return value[:at] + bytes([value[at] ^ 0x10]) + value[at + 1 :]
    return value + 4096 if isinstance(value, int) else value[:-1] + chr(ord(value[-1]) ^ 1)


@pytest.mark.parametrize("every", [17, pytest.param(1, marks=pytest.mark.soak)])
@pytest.mark.parametrize("table", TABLES)
def test_every_row_of_every_table_with_a_flipped_byte_is_named(kept: Kept, copy: Path, table: str, every: int) -> None:
    """Row by row, any byte of any of its columns: the code is that of the column, the place that of the row."""
    rng = random.Random(f"{table} {every}")
    columns = [column for each, column in CODES if each == table]
    with raw(copy) as connection:
        # Not by rowid: node and meta have none, and a flipped key must be put back.
        rows = connection.execute(f"SELECT {', '.join(columns)} FROM {table} ORDER BY 1, 2").fetchall()
    count = 0
    chosen = rows if len(rows) <= 12 else rows[::every]
    for row in chosen:
        column = rng.choice(columns)
        value = row[columns.index(column)]
        if value == b"":
            continue  # no byte in it
        where = " AND ".join(f"{each} IS ?" for each in columns)
        with raw(copy) as connection:
            at = rng.randrange(len(value)) if isinstance(value, bytes) else 0
            try:
                sql = f"UPDATE {table} SET {column} = ? WHERE {where}"
                done = connection.execute(sql, (flipped(value, at), *row)).rowcount
            except sqlite3.IntegrityError:
                continue  # the row it would become is there
        assert done == 1
        found, words = fsck(copy)
        hits = [seq for code, seq in found if code in (*CODES[table, column].split(), *ALSO.get(table, ()))]
        assert hits, (table, column, row[:1], words)
        place = placed(kept, table, row)
        assert place is None or {place, place + 1} & set(hits), (table, column, row[:1], place, sorted(found))
        assert place is not None or table in words or "meta" in words, (table, column, row[:1], words)
        shutil.copy(kept.path, copy)
        count += 1
    assert count >= len(chosen) / 3


ALSO = {"meta": ("I6", "I18"), "checkpoint": ("I18",), "evidence": ("I15",), "token": ("I15", "I18")}
"""Further codes: a meta row may say which checkpoints there are, or whose log it is."""


def placed(kept: Kept, table: str, row: tuple[Any, ...]) -> int | None:
    """The entry, or size, that a flipped row is named by; None where it is named by itself."""
    match table:
        case "entry" | "private" | "checkpoint":
            return int(row[0])
        case "node":
            return (int(row[1]) + 1) * 256 - 1
        case "evidence":
            return kept.seqs[EquivocationProof][0]
        case "token":
            named = named_by(kept, table, row)
            return int(named[1]) if isinstance(named, tuple) else None
    return None


# Rows deleted, one by one.


@pytest.mark.parametrize("table", TABLES)
def test_every_row_that_is_deleted_is_named(kept: Kept, copy: Path, table: str) -> None:
    """Each row of a small table, some of a long one."""
    key = {"node": "position", "meta": "key"}.get(table, "rowid")
    with raw(copy) as connection:
        keys = [row[0] for row in connection.execute(f"SELECT {key} FROM {table} ORDER BY {key}")]
        names = {}
        for each in keys:
            names[each] = connection.execute(f"SELECT * FROM {table} WHERE {key} = ?", (each,)).fetchone()
    for each in keys if len(keys) <= 12 else [*keys[:: len(keys) // 5], keys[-1]]:
        spoiled = copy.with_name("spoiled.db")
        shutil.copy(copy, spoiled)
        with raw(spoiled) as connection:
            connection.execute(f"DELETE FROM {table} WHERE {key} = ?", (each,))
        found, words = fsck(spoiled)
        expected = deleted(kept, table, each, names[each])
        assert (expected in found) if isinstance(expected, tuple) else (expected in words), (each, words)


def deleted(kept: Kept, table: str, key: Any, row: tuple[Any, ...]) -> tuple[str, int] | str:
    """What fsck must say of a row that is gone: (code, place), or the words that name it."""
    match table:
        case "entry":
            last = kept.sizes[-1] - 1
            return ("I7", kept.sizes[-1]) if key == last else ("I1", key)
        case "private":
            return "I5", key
        case "node":
            return "I6", 256 * (key + 1) - 1
        case "checkpoint":
            return "I18", key
        case "token":
            return named_by(kept, "token", row)
        case "evidence":
            return "I15", kept.seqs[EquivocationProof][0]
        case "meta":
            return "says which checkpoints there are" if key.startswith("checkpoints/") else f"meta '{key}'"
    return f"{table} {row[0][:8].hex()}: missing"


def named_by(kept: Kept, table: str, row: tuple[Any, ...]) -> tuple[str, int] | str:
    """The entry that a token belongs to: the own update, or the reception that names it."""
    with Store.open(kept.path, readonly=True) as store:
        if row[1] == store.log_id:
            return "I15", kept.seqs[UpdatePublished][row[2] - 1]
        for header, record in parsed(store.entries()):
            if isinstance(record, UpdateReceived) and record.token == row[0]:
                return "I15", header.seq
    raise AssertionError("a token that no entry names")


# Swapped, truncated, backdated, older, invented.


@pytest.mark.parametrize("columns", [("header", "type", "payload", "salt"), ("payload", "salt"), ("header",)])
def test_two_entries_swapped(copy: Path, columns: tuple[str, ...]) -> None:
    with raw(copy) as connection:
        pair = [connection.execute("SELECT * FROM entry WHERE seq = ?", (seq,)).fetchone() for seq in (40, 41)]
        names = ["seq", "header", "type", "payload", "salt"]
        for mine, other in (pair, pair[::-1]):
            for column in columns:
                at = names.index(column)
                connection.execute(f"UPDATE entry SET {column} = ? WHERE seq = ?", (other[at], mine[0]))
    found, words = fsck(copy)
    code = "I1" if "header" in columns else "I5"
    assert {(code, 40), (code, 41)} <= found, words


def exchanged(path: Path, table: str, columns: list[str]) -> tuple[Found, str]:
    """fsck after two neighboring rows have exchanged these columns."""
    with raw(path) as connection:
        rowids = [row[0] for row in connection.execute(f"SELECT rowid FROM {table} ORDER BY rowid LIMIT 2 OFFSET 1")]
        rows = [
            connection.execute(f"SELECT {','.join(columns)} FROM {table} WHERE rowid = ?", (r,)).fetchone()
            for r in rowids
        ]
        assignments = ",".join(f"{column} = ?" for column in columns)
        for rowid, values in zip(rowids, reversed(rows), strict=True):
            connection.execute(f"UPDATE {table} SET {assignments} WHERE rowid = ?", (*values, rowid))
    return fsck(path)


@pytest.mark.parametrize(
    ("table", "columns", "code"),
    [
        ("private", ["salt", "bytes"], "I5"),
        ("checkpoint", ["note"], "I7"),
        ("token", ["body"], "I15"),
        ("token", ["body", "seal"], "I15"),
        ("head", ["note"], "I15"),
        ("head", ["size", "root", "note", "seal"], "I15"),
        ("cosignature", ["size", "note"], "I15"),
        ("meta", ["value"], "I6"),
    ],
)
def test_two_rows_of_a_table_swapped(copy: Path, table: str, columns: list[str], code: str) -> None:
    with raw(copy) as connection:
        keys = [row[0] for row in connection.execute(f"SELECT * FROM {table} ORDER BY rowid LIMIT 2 OFFSET 1")]
    found, words = exchanged(copy, table, columns)
    assert code in {each for each, _ in found}, words
    if isinstance(keys[0], int):
        assert {(code, key) for key in keys} <= found, (keys, words)
    elif table != "meta":
        assert all(key[:8].hex() in words for key in keys) or any(seq >= 0 for _, seq in found), words


@pytest.mark.parametrize("every", [29, pytest.param(1, marks=pytest.mark.soak)])
def test_any_two_neighboring_entries_swapped_are_both_named(kept: Kept, copy: Path, every: int) -> None:
    with raw(copy) as connection:
        rows = connection.execute("SELECT header, type, payload, salt, seq FROM entry ORDER BY seq").fetchall()
    for mine, other in list(itertools.pairwise(rows))[::every]:
        with raw(copy) as connection:
            for row, seq in ((mine, other[4]), (other, mine[4])):
                connection.execute("UPDATE entry SET header=?, type=?, payload=?, salt=? WHERE seq=?", (*row[:4], seq))
        found, words = fsck(copy)
        assert {("I1", mine[4]), ("I1", other[4])} <= found, words
        shutil.copy(kept.path, copy)


@pytest.mark.parametrize("every", [29, pytest.param(1, marks=pytest.mark.soak)])
def test_any_entry_backdated_is_named(kept: Kept, copy: Path, every: int) -> None:
    """By its own time, which goes back behind that of the entry before, or by the entry behind it."""
    with raw(copy) as connection:
        rows = connection.execute("SELECT seq, header FROM entry WHERE seq > 0 ORDER BY seq").fetchall()
    for seq, header in rows[::every]:
        with raw(copy) as connection:
            at = header.index(b"\xcf\x00\x00\x01") + 1
            earlier = int.from_bytes(header[at : at + 8], "big") - 3_600_000
            changed_header = header[:at] + earlier.to_bytes(8, "big") + header[at + 8 :]
            connection.execute("UPDATE entry SET header = ? WHERE seq = ?", (changed_header, seq))
        found, words = fsck(copy)
        assert ("I3", seq) in found, (seq, words)
        shutil.copy(kept.path, copy)


@pytest.mark.parametrize("rows", [1, 10, 100])
def test_a_ledger_truncated_with_or_without_its_checkpoints(kept: Kept, copy: Path, rows: int) -> None:
    left = kept.sizes[-1] - rows
    found, words = changed(copy, f"DELETE FROM entry WHERE seq >= {left}")
    assert ("I7", kept.sizes[-1]) in found, words
    found, words = changed(copy, f"DELETE FROM checkpoint WHERE size > {left}")
    gone = [size for size in kept.sizes if size > left]
    assert {("I18", size) for size in gone} <= found, words


def test_an_entry_backdated(copy: Path) -> None:
    """The claimed time moved back an hour in the header itself: the next entry names another one."""
    with raw(copy) as connection:
        (header,) = connection.execute("SELECT header FROM entry WHERE seq = 50").fetchone()
        at = header.index(b"\xcf\x00\x00\x01") + 1
        earlier = int.from_bytes(header[at : at + 8], "big") - 3_600_000
        backdated = header[:at] + earlier.to_bytes(8, "big") + header[at + 8 :]
        connection.execute("UPDATE entry SET header = ? WHERE seq = 50", (backdated,))
    found, words = fsck(copy)
    assert {("I3", 50), ("I2", 51)} <= found, words


@pytest.mark.parametrize("table", ["head", "cosignature"])
def test_an_older_row_that_was_once_true(kept: Kept, copy: Path, table: str) -> None:
    """What a partial restore would leave: a row that fits its seal and is not the newest one."""
    with Store.open(copy) as store:
        with raw(copy) as connection:
            old = connection.execute(f"SELECT * FROM {table} ORDER BY rowid LIMIT 1").fetchone()
        if table == "head":
            store.witness(old[0], old[1] + 5, bytes(32), b"newer")
    if table == "cosignature":
        with Store.open(copy) as store:
            store.put_meta("later", b"")
    spoil = copy.with_name("older.db")
    shutil.copy(copy, spoil)
    with raw(spoil) as connection:
        marks = ",".join("?" * len(old))
        if table == "cosignature":
            connection.execute("DELETE FROM cosignature WHERE witness = ?", (old[0],))
        else:
            connection.execute(f"INSERT OR REPLACE INTO {table} VALUES ({marks})", old)
    found, words = fsck(spoil)
    assert ("I15", -1) in found
    assert f"{table} {old[0][:8].hex()}: missing, or an older one" in words
    with pytest.raises(LedgerCorrupt, match="missing, or an older one"):
        Store.open(spoil)


def test_rows_that_nobody_wrote(kept: Kept, copy: Path) -> None:
    size = next(size for size in kept.sizes if size + 1 not in kept.sizes)
    found, words = changed(
        copy,
        f"INSERT INTO checkpoint SELECT size + 1, note FROM checkpoint WHERE size = {size}",
        "INSERT INTO private VALUES (100000, zeroblob(16), x'00')",
        "INSERT INTO meta VALUES ('extra', x'00', zeroblob(32))",
        "INSERT INTO node VALUES (8, 7, zeroblob(32))",
        "INSERT INTO evidence VALUES (zeroblob(32), x'00')",
    )
    assert {("I5", 100_000), ("I6", -1), ("I15", -1)} <= found, words
    assert {("I7", size + 1), ("I18", size + 1)} <= found, words


# One break for every invariant.


def last_entry(kept: Kept) -> int:
    return kept.sizes[-1] - 1


def stories() -> dict[str, Found]:
    """What an audit finds in logs whose every hash holds, by the invariant that is to be broken."""
    told = {
        "I9": {5: test_audit.retired(5)},
        "I10": {8: test_audit.spend(3, 900)},
        "I11": {7: test_audit.merge(600_000_000, 399_999_999)},
        "I12": {9: replace(test_audit.update(2, 8, 900), base=b"?" * 32)},
        "I13": {5: test_audit.received(1)},
        "I22": {10: test_audit.rotated(10, signer=2)},
        "I16": {10: WitnessSummary(1, (CosignatureRow(b"w" * 32, 11, bytes(72)),))},
    }
    found = {}
    for code, changes in told.items():
        story: list[Any] = test_audit.story()
        for seq, each in changes.items():
            story[seq] = each
        found[code] = set(test_audit.codes(story))
    claims = test_claims.told()
    claims[2] = (3, replace(claims[2][1], claims=test_claims.claim(c=1.5)))  # type: ignore[type-var]
    found["I21"] = {(each.code, each.seq) for each in test_claims.audited(claims).findings}
    return found


STORIES = {"I9": 6, "I10": 9, "I11": 7, "I12": 9, "I13": 5, "I16": 10, "I21": 3, "I22": 10}
NEWEST = "size = (SELECT max(size) FROM checkpoint)"
BREAKS: dict[str, tuple[str, Callable[[Kept], int]]] = {
    "I1": ("DELETE FROM entry WHERE seq = 30", lambda kept: 30),
    "I2": (
        "UPDATE entry SET header = CAST(substr(header, 1, length(header) - 1) || x'00' AS BLOB) WHERE seq = 30",
        lambda kept: 31,
    ),
    "I4": ("UPDATE entry SET header = x'80' WHERE seq = 30", lambda kept: 30),
    "I5": ("UPDATE entry SET salt = zeroblob(16) WHERE seq = 30", lambda kept: 30),
    "I6": ("DELETE FROM node", lambda kept: 255),
    "I7": (
        "UPDATE checkpoint SET note = x'00' WHERE size = (SELECT max(size) FROM checkpoint)",
        lambda kept: kept.sizes[-1],
    ),
    "I8": ("DELETE FROM checkpoint WHERE size = (SELECT max(size) FROM checkpoint)", last_entry),
    "I15": ("DELETE FROM evidence", lambda kept: kept.seqs[EquivocationProof][0]),
    "I17": ("UPDATE node SET hash = zeroblob(32)", last_entry),
    "I18": ("DELETE FROM checkpoint WHERE size = (SELECT min(size) FROM checkpoint)", lambda kept: kept.sizes[0]),
    "I19": ("UPDATE entry SET type = 99 WHERE seq = 30", lambda kept: 30),
    "I20": ("UPDATE entry SET payload = zeroblob(65536) WHERE seq = 30", lambda kept: 30),
}


def test_no_invariant_is_without_its_break() -> None:
    assert BREAKS.keys() | STORIES.keys() | {"I3"} == INVARIANTS.keys(), "I3: test_an_entry_backdated"


@pytest.mark.parametrize("code", BREAKS)
def test_a_break_of_the_rows_is_named(kept: Kept, copy: Path, code: str) -> None:
    statement, place = BREAKS[code]
    found, words = changed(copy, statement)
    assert (code, place(kept)) in found, words


@pytest.mark.parametrize(("code", "place"), STORIES.items())
def test_a_break_of_the_meaning_is_named(code: str, place: int) -> None:
    assert (code, place) in stories()[code]


# Any bit of the file.


def pages(path: Path) -> dict[int, str]:
    """Root page of every table and index, by page number."""
    with raw(path) as connection:
        return dict(connection.execute("SELECT rootpage, name FROM sqlite_schema WHERE rootpage > 0").fetchall())


def dump(path: Path) -> list[str]:
    with raw(path) as connection:
        connection.execute("PRAGMA journal_mode=delete")
        connection.execute("PRAGMA journal_mode=wal")
        return list(connection.iterdump())


@pytest.mark.parametrize("every", [12, pytest.param(1, marks=pytest.mark.soak)])
def test_any_bit_flipped_anywhere_is_named_or_changes_nothing(kept: Kept, copy: Path, every: int) -> None:
    """A bit in the used bytes of every so many pages, more in every root page, those of indexes among them."""
    wanted = dump(copy)
    content = copy.read_bytes()
    rng = random.Random(every)
    roots = pages(copy)
    assert {"token_number", *TABLES} < set(roots.values())
    named, harmless = 0, 0
    spoiled = copy.with_name("spoiled.db")
    for number in range(1, len(content) // 4096 + 1):
        used = [at for at in range((number - 1) * 4096, number * 4096) if content[at]]
        count = 12 // every if number in roots else number % every == 0
        for at in rng.sample(used, min(len(used), count)):
            data = bytearray(content)
            data[at] ^= 1 << rng.randrange(8)
            for suffix in ("-wal", "-shm"):
                spoiled.with_name(spoiled.name + suffix).unlink(missing_ok=True)
            spoiled.write_bytes(data)
            try:
                found, words = fsck(spoiled)
            except StoreError as error:  # a newer version of the format, or a file that cannot be read
                found, words = {("I6", -1)}, error.message
            if not found:
                harmless += 1
                assert dump(spoiled) == wanted, f"byte {at} of page {number} ({roots.get(number)})"
            named += bool(found and words)
    assert named > 4 * harmless


# The command.


@pytest.fixture
def home(kept: Kept, tmp_path: Path) -> Path:
    make_home(tmp_path / "a", "any")
    home = Home.at(tmp_path / "a")
    for each in home.ledger.parent.glob(f"{home.ledger.name}*"):
        each.unlink()
    own = founders(5)[0]
    home.card.write_bytes(make_card(own.member, own.root))
    home.charter.write_bytes(draft_note(toy_charter(founders(5), rounds=ROUNDS)))
    shutil.copy(kept.path, home.ledger)
    return tmp_path / "a"


def command(home: Path) -> Any:
    return quidnunc("--home", home, "--json", "ledger", "fsck")


def test_the_command_lists_every_invariant_by_its_code(home: Path) -> None:
    data = command(home).data
    assert data["ok"]
    assert [each["code"] for each in data["invariants"]] == [f"I{n}" for n in range(1, 23) if n != 14]
    assert all(each["ok"] and not each["problems"] for each in data["invariants"])
    shown = quidnunc("--home", home, "ledger", "fsck").out
    assert "  I18  OK   every checkpoint that was signed is kept" in shown


def test_the_command_names_code_and_entry(home: Path) -> None:
    with raw(Home.at(home).ledger) as connection:
        connection.execute("UPDATE entry SET payload = x'80' WHERE seq = 60")
    result = command(home)
    assert result.code == 30
    broken = {each["code"]: each["problems"] for each in result.envelope["data"]["invariants"] if not each["ok"]}
    assert 60 in {problem["seq"] for problem in broken["I5"]}
    shown = quidnunc("--home", home, "ledger", "fsck")
    assert "  I5   BAD  payloads, private parts and salts are those committed to" in shown.out
    assert "entry 60: payload: 1 bytes" in shown.out


def test_a_database_that_cannot_be_read_is_a_finding_too(home: Path) -> None:
    path = Home.at(home).ledger
    path.write_bytes(b"not SQLite" * 1000)
    result = command(home)
    assert result.code == 65
    first = result.envelope["data"]["invariants"][5]
    assert (first["code"], first["ok"], len(first["problems"])) == ("I6", False, 1)
    assert "ledger.db" in result.envelope["error"]["message"]
    assert path.read_bytes() == b"not SQLite" * 1000
