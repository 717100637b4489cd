"""``ledger fsck --repair-derived``: what follows from the entries is written anew, and nothing else is ever touched."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from cli_helpers import quidnunc
from founders import founders
from node_helpers import start_all, toy_world

from quidnunc.gossip.federation.card import make_card
from quidnunc.gossip.federation.charter import RoundSpec
from quidnunc.gossip.federation.founding import draft_note
from quidnunc.peer.home import Home
from quidnunc.peer.ledger.store import Store

ME = "(SELECT value FROM meta WHERE key = 'log_id')"
OWN = f"author = {ME} AND number = 5"
DERIVED = {
    "a subtree changed": ("UPDATE node SET hash = zeroblob(32)", "subtrees"),
    "a subtree gone": ("DELETE FROM node", "subtrees"),
    "a subtree of nothing": ("INSERT INTO node VALUES (16, 3, zeroblob(32))", "subtrees"),
    "a type changed": ("UPDATE entry SET type = 99 WHERE seq = 77", "types"),
    "an own token gone": (f"DELETE FROM token WHERE {OWN}", "tokens"),
    "the body of an own token": (f"UPDATE token SET body = x'80' WHERE {OWN}", "tokens"),
    "the author of an own token": (f"UPDATE token SET author = zeroblob(32) WHERE {OWN}", "tokens"),
    "the number of an own token": (f"UPDATE token SET number = 9999 WHERE {OWN}", "tokens"),
}
BENEATH = {
    "a payload": "UPDATE entry SET payload = x'80' WHERE seq = 60",
    "a header": "UPDATE entry SET header = zeroblob(120) WHERE seq = 60",
    "an older checkpoint": "DELETE FROM checkpoint WHERE size = (SELECT min(size) FROM checkpoint)",
    "a private part": "UPDATE private SET salt = zeroblob(16)",
}
BESIDE = {
    "a token of another": f"DELETE FROM token WHERE rowid = (SELECT min(rowid) FROM token WHERE author != {ME})",
    "a head": "UPDATE head SET size = size + 1",
    "a meta value": "UPDATE meta SET value = x'00' WHERE key = 'rows'",
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The home of a peer with more than 256 entries, and an index over everything."""
    world, _ = toy_world(3, seed=1, watch=False, rounds=RoundSpec(1_000_000, 0, 2, "majority"))
    peer, commits = world.peers[0], []
    old = world.hooks.on_commit

    def keep(who: Any, commit: Any) -> None:
        if who is peer:
            commits.append(commit)
        if old is not None:
            old(who, commit)

    world.hooks.on_commit = keep
    start_all(world)
    world.run(200.0, stop=lambda: len(peer.disk.entries) > 290)
    home = Home.at(tmp_path_factory.mktemp("repair") / "a")
    home.create()
    member = founders(3)[0].member
    home.card.write_bytes(make_card(member, founders(3)[0].root))
    home.charter.write_bytes(draft_note(world.charter))
    with Store.create(home.ledger, peer.log_id, peer.secret.public) as store:
        for commit in commits:
            store.commit(commit.entries, commit.note, commit.tokens, commit.proofs, commit.cosigned)
        for log_id, head in peer.disk.heads.items():
            store.witness(log_id, *head)
    return home.root


@pytest.fixture
def home(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "a"))


def spoil(home: Path, statement: str) -> None:
    with closing(sqlite3.connect(Home.at(home).ledger, isolation_level=None)) as connection:
        assert connection.execute(statement).rowcount, statement
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def rows(home: Path) -> dict[str, list[Any]]:
    with closing(sqlite3.connect(Home.at(home).ledger)) as connection:
        tables = [row[0] for row in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
        return {table: sorted(connection.execute(f"SELECT * FROM {table}").fetchall()) for table in tables}


def fsck(home: Path, *words: str) -> Any:
    return quidnunc("--home", home, "--json", "ledger", "fsck", "--repair-derived", *words)


@pytest.mark.parametrize("what", DERIVED)
def test_a_derived_row_is_written_anew_bit_for_bit_and_only_when_asked(whole: Path, home: Path, what: str) -> None:
    statement, counted = DERIVED[what]
    spoil(home, statement)
    before = rows(home)
    dry = fsck(home)
    repair = dry.envelope["data"]["repair"]
    assert (dry.code, repair["written"], repair["refused"]) == (30, False, None)
    assert {key for key in ("subtrees", "types", "tokens") if repair[key]} == {counted}
    assert rows(home) == before, "a look changes nothing"
    done = fsck(home, "--write")
    assert (done.code, done.data["ok"], done.data["repair"]["written"]) == (0, True, True)
    assert rows(home) == rows(whole)
    Store.open(Home.at(home).ledger).close()


@contextmanager
def hidden_index(home: Path) -> Iterator[sqlite3.Connection]:
    """A connection to the ledger in which SQLite does not know that tokens have an index, and so leaves it as it is."""
    where = "FROM sqlite_schema WHERE name = 'token_number'"
    with closing(sqlite3.connect(Home.at(home).ledger, isolation_level=None)) as connection:
        row = connection.execute(f"SELECT rowid, * {where}").fetchone()
        connection.execute("PRAGMA writable_schema=ON")
        connection.execute(f"DELETE {where}")
        connection.execute("PRAGMA writable_schema=RESET")
    with closing(sqlite3.connect(Home.at(home).ledger, isolation_level=None)) as connection:
        yield connection
        connection.execute("PRAGMA writable_schema=ON")
        marks = "(rowid, type, name, tbl_name, rootpage, sql) VALUES (?, ?, ?, ?, ?, ?)"
        connection.execute(f"INSERT INTO sqlite_schema {marks}", row)
        connection.execute("PRAGMA writable_schema=RESET")


COLUMNS = "rowid, hash, author, number, body, seal"


def lacks(home: Path, whose: str) -> None:
    """The table holds a token that its index does not name."""
    where = f"FROM token WHERE rowid = (SELECT max(rowid) FROM token WHERE author {whose} {ME})"
    with closing(sqlite3.connect(Home.at(home).ledger, isolation_level=None)) as connection:
        row = connection.execute(f"SELECT {COLUMNS} {where}").fetchone()
        connection.execute(f"DELETE {where}")
    with hidden_index(home) as connection:
        connection.execute(f"INSERT INTO token ({COLUMNS}) VALUES (?, ?, ?, ?, ?, ?)", row)


def outlives(home: Path, whose: str) -> None:
    """The index names a token that is gone."""
    with closing(sqlite3.connect(Home.at(home).ledger, isolation_level=None)) as connection:
        (author,) = connection.execute(f"SELECT author FROM token WHERE author {whose} {ME}").fetchone()
        row = (10**6, b"h" * 32, author, 10**6, b"", b"")
        connection.execute(f"INSERT INTO token ({COLUMNS}) VALUES (?, ?, ?, ?, ?, ?)", row)
    with hidden_index(home) as connection:
        connection.execute(f"DELETE FROM token WHERE rowid = {10**6}")


@pytest.mark.parametrize("whose", ["=", "!="], ids=["own", "another's"])
@pytest.mark.parametrize("damage", [lacks, outlives])
def test_an_index_that_is_not_that_of_its_table_is_named_and_made_anew(
    whole: Path, home: Path, damage: Callable[[Path, str], None], whose: str
) -> None:
    damage(home, whose)
    assert numbered(home) == numbered(whole), "nothing but the index is damaged"
    dry = fsck(home)
    broken = {each["code"]: each["problems"] for each in dry.envelope["data"]["invariants"] if not each["ok"]}
    assert dry.code == 30
    assert "I6" in broken
    assert set(broken) <= {"I6", "I15"}, "what is looked up through it may be missing too"
    assert all("index token_number" in problem["why"] for problem in broken["I6"])
    repair = dry.envelope["data"]["repair"]
    assert (repair["subtrees"], repair["types"], repair["tokens"], repair["indexes"]) == (0, 0, 0, True)
    assert integrity(home) != [("ok",)]
    done = fsck(home, "--write")
    assert (done.code, done.data["ok"], done.data["repair"]["written"]) == (0, True, True)
    assert integrity(home) == [("ok",)]
    assert numbered(home) == numbered(whole)
    Store.open(Home.at(home).ledger).close()


def numbered(home: Path) -> list[Any]:
    """The tokens in the order in which they came, read without their index."""
    with closing(sqlite3.connect(Home.at(home).ledger)) as connection:
        return connection.execute("SELECT rowid, * FROM token NOT INDEXED ORDER BY rowid").fetchall()


def integrity(home: Path) -> list[Any]:
    with closing(sqlite3.connect(Home.at(home).ledger)) as connection:
        return connection.execute("PRAGMA integrity_check").fetchall()


@pytest.mark.parametrize("what", BENEATH)
def test_nothing_is_repaired_over_entries_or_checkpoints_that_are_damaged(home: Path, what: str) -> None:
    spoil(home, BENEATH[what])
    spoil(home, "DELETE FROM node")
    before = rows(home)
    result = fsck(home, "--write")
    repair = result.envelope["data"]["repair"]
    assert (result.code, repair["written"]) == (30, False)
    assert "is broken at" in repair["refused"]
    assert rows(home) == before


@pytest.mark.parametrize("what", BESIDE)
def test_what_does_not_follow_from_entries_stays_as_it_is_and_is_told(whole: Path, home: Path, what: str) -> None:
    spoil(home, BESIDE[what])
    beside = {key: each for key, each in rows(home).items() if key != "node"}
    spoil(home, "DELETE FROM node")
    result = fsck(home, "--write")
    broken = {each["code"] for each in result.envelope["data"]["invariants"] if not each["ok"]}
    assert (result.code, broken, result.envelope["data"]["repair"]["written"]) == (30, {"I15"}, True)
    found = rows(home)
    assert found.pop("node") == rows(whole)["node"]
    assert found == beside


def test_writing_asks_for_the_home_and_for_no_peer_in_it(home: Path) -> None:
    spoil(home, "DELETE FROM node")
    with Home.at(home).lock():
        assert fsck(home).code == 30, "looking goes on beside a daemon"
        held = fsck(home, "--write")
    assert (held.code, held.envelope["error"]["hint"]) == (4, "stop the peer first")
    assert quidnunc("--home", home, "ledger", "fsck", "--write").code == 2
    assert fsck(home, "--write", "--ledger", home).code == 2
    assert "would be written anew" in quidnunc("--home", home, "ledger", "fsck", "--repair-derived").out
    assert fsck(home, "--write").code == 0
    assert "no derived row needs repair" in quidnunc("--home", home, "ledger", "fsck", "--repair-derived").out
