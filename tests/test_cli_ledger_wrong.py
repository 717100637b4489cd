"""Something else where the ledger should be: every command says what it is, by its exit code, and changes nothing."""

from __future__ import annotations

import contextlib
import copy
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from cli_helpers import quidnunc
from founders import charter, founders
from test_cli_witness import Ledger

from quidnunc.crypto.encoding import encode
from quidnunc.crypto.errors import LedgerCorrupt, StoreNewer
from quidnunc.gossip.federation.founding import draft_note, open_charter
from quidnunc.gossip.provenance import CharterAdopt, ReputationChange, payload_of
from quidnunc.gossip.resume import fold
from quidnunc.peer.home import Home
from quidnunc.peer.ledger.database import SCHEMA_VERSION
from quidnunc.peer.ledger.store import Store

COMMANDS = [
    *(["ledger", word] for word in ("status", "log", "verify", "fsck", "trace")),
    ["ledger", "show", "0"],
    ["ledger", "prove", "0", "--out", "entry.tlog-proof"],
    ["ledger", "evidence", "list"],
    ["budget", "show"],
]

EXPORTS = [
    ["ledger", "export", "--format", kind, "--out", f"out.{kind}"] for kind in ("jsonl", "tiles", "html", "bundle")
]


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5000])


def newer(path: Path) -> None:
    change(path, f"PRAGMA user_version={SCHEMA_VERSION + 1}")


def of_another_program(path: Path) -> None:
    path.unlink()
    change(path, "CREATE TABLE photos (name TEXT)")


def doctored(path: Path) -> None:
    change(path, "CREATE TRIGGER t AFTER INSERT ON entry BEGIN DELETE FROM entry; END")


def change(path: Path, statement: str) -> None:
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute(statement)


WRONG: list[tuple[Callable[[Path], object], int, str]] = [
    (lambda path: path.write_bytes(b""), 65, "application id 0x0"),
    (lambda path: path.write_bytes(b"\x89PNG\r\n" * 2000), 65, "not a database"),
    (lambda path: path.write_bytes(b"SQLite format 3\0" + bytes(9000)), 65, "ledger.db"),
    (cut, 65, "malformed|damaged"),
    (newer, 78, f"schema version {SCHEMA_VERSION + 1}"),
    (of_another_program, 65, "application id"),
    (doctored, 65, "its tables are not those"),
]
NAMES = ["empty", "picture", "zeros", "cut", "newer", "another program's", "doctored"]


def snapshot(home: Path) -> dict[str, bytes]:
    """Every file of a home; what SQLite keeps beside a database that is open is no part of it."""
    files = (path for path in home.rglob("*") if path.is_file() and not path.name.endswith(("-wal", "-shm")))
    return {str(path.relative_to(home)): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Ledger:
    made = Ledger(tmp_path_factory.mktemp("wrong") / "a")
    for _ in range(3):
        made.grow()
    return made


@pytest.fixture
def ledger(original: Ledger, tmp_path: Path) -> Ledger:
    """The same in a home of its own, with a database that nothing lies beside."""
    made = copy.copy(original)
    made.path = Path(shutil.copytree(original.path, tmp_path / "a"))
    made.ledger = Home.at(made.path).ledger
    made.log = copy.deepcopy(original.log)
    return made


@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: " ".join(words[:2]))
@pytest.mark.parametrize(("spoil", "code", "why"), WRONG, ids=NAMES)
def test_what_is_no_ledger_is_told_and_left_alone(
    ledger: Ledger,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    spoil: Callable[[Path], object],
    code: int,
    why: str,
    words: list[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    spoil(ledger.ledger)
    before = snapshot(tmp_path)
    result = quidnunc("--home", ledger.path, "--json", *words)
    assert snapshot(tmp_path) == before
    error = result.envelope["error"]
    assert (result.code, result.envelope["ok"]) == (code, False), error
    assert any(part in error["message"] for part in why.split("|")), error


@pytest.mark.parametrize(("spoil", "code", "why"), WRONG, ids=NAMES)
def test_a_daemon_does_not_begin_on_it(
    ledger: Ledger, tmp_path: Path, spoil: Callable[[Path], object], code: int, why: str
) -> None:
    spoil(ledger.ledger)
    before = snapshot(tmp_path)
    with pytest.raises(StoreNewer if code == 78 else LedgerCorrupt):
        Store.open(ledger.ledger)
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("kind", [0x7F, 0x80, 0xFF])
def test_entries_of_unknown_types_are_kept_and_verified_and_never_resumed_from(ledger: Ledger, kind: int) -> None:
    """A later version wrote them: they are shown by number, and a daemon of this version does not go on."""
    entry = ledger.log.append(kind, encode({"later": 1}), salt=bytes(16), t_ms=9)
    ledger.commit([entry])
    assert ledger.verify().code == 0
    assert quidnunc("--home", ledger.path, "ledger", "fsck").code == 0
    shown = quidnunc("--home", ledger.path, "ledger", "log", "-n", "1").out
    assert f"type 0x{kind:02x} (unknown)" in shown
    chosen = quidnunc("--home", ledger.path, "--json", "ledger", "log", "--type", f"0x{kind:02X}").data["log"]
    assert [each["type_code"] for each in chosen] == [kind]
    with Store.open(ledger.ledger, readonly=True) as store, pytest.raises(LedgerCorrupt, match="no payload format"):
        fold(store.entries())


IMPOSSIBLE = {
    "a number no log reaches": ("UPDATE entry SET seq = 9223372036854775807 WHERE seq = 3", "I1", -1),
    "a number below zero": ("UPDATE entry SET seq = -5 WHERE seq = 0", "I1", -1),
    "a payload like a bomb": ("UPDATE entry SET payload = zeroblob(40000000) WHERE seq = 3", "I20", 3),
    "a header like a bomb": ("UPDATE entry SET header = zeroblob(40000000) WHERE seq = 3", "I20", 3),
    "a header of another program": ("UPDATE entry SET header = x'c0' WHERE seq = 3", "I4", 3),
    "a header that fits nowhere": ("UPDATE entry SET header = zeroblob(70000) WHERE seq = 3", "I4", 3),
    "a note like a bomb": ("UPDATE checkpoint SET note = zeroblob(40000000)", "I6", -1),
}


@pytest.mark.parametrize(("statement", "code", "place"), IMPOSSIBLE.values(), ids=IMPOSSIBLE)
def test_what_no_ledger_can_hold_ends_in_no_bug(
    ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, statement: str, code: str, place: int
) -> None:
    """Numbers out of range ended reading commands with a report of a bug; large rows took gigabytes of memory."""
    monkeypatch.chdir(tmp_path)
    change(ledger.ledger, statement)
    for words in [*COMMANDS, *EXPORTS]:
        result = quidnunc("--home", ledger.path, "--json", *words)
        assert result.code != 1, (words, result.envelope["error"])
    found = quidnunc("--home", ledger.path, "--json", "ledger", "fsck").envelope["data"]["invariants"]
    assert place in [each["seq"] for row in found if row["code"] == code for each in row["problems"]]


def test_a_header_that_does_not_parse_is_named_by_its_entry(ledger: Ledger) -> None:
    change(ledger.ledger, "UPDATE entry SET header = x'c0' WHERE seq = 3")
    for words in (["ledger", "status"], ["ledger", "evidence", "list"], ["ledger", "peers"]):
        result = quidnunc("--home", ledger.path, "--json", *words)
        assert (result.code, result.envelope["error"]["message"][:14]) == (65, "ledger entry 3"), words


def adopt(ledger: Ledger, federation: bytes) -> None:
    """As a daemon does at its first start, and with a cosignature of a neighbor under it."""
    record = CharterAdopt(federation, 0, (), 3, bytes(32))
    entry = ledger.log.append(record.TYPE, payload_of(record), salt=bytes(16), t_ms=2)
    ledger.commit([entry], [(who.member.log_id, size, note) for who, size, note in [ledger.cosign(ledger.group[1], 1)]])


def another_charter(home: Path) -> None:
    (home / "charter.note").write_bytes(draft_note(charter(founders(3))))


@pytest.mark.parametrize(
    ("lose", "why"),
    [
        (lambda home: (home / "charter.note").unlink(), "charter.note: not there, and this ledger is of federation"),
        (lambda home: (home / "charter.note").write_bytes(b"torn"), "charter.note"),
        (another_charter, "charter.note: of federation"),
    ],
    ids=["gone", "torn", "another one"],
)
def test_without_its_charter_a_whole_ledger_is_not_called_broken(
    tmp_path: Path, lose: Callable[[Path], object], why: str
) -> None:
    """Regression: cosigners were called strangers (30, with the advice to restore a backup), and peers counted 0."""
    ledger = Ledger(tmp_path / "a")
    adopt(ledger, toy_federation(ledger))
    for words in (["verify"], ["fsck"]):
        assert quidnunc("--home", ledger.path, "ledger", *words).code == 0
    lose(ledger.path)
    for words in (["verify"], ["fsck"]):
        result = quidnunc("--home", ledger.path, "--json", "ledger", *words)
        assert result.code == 32, result.envelope["error"]
        assert "cosignatures are not checked" in result.envelope["error"]["message"]
        assert any(why in each for each in result.envelope["warnings"]), result.envelope["warnings"]
    assert quidnunc("--home", ledger.path, "--json", "ledger", "status").data["verdict"] == "NOT CHECKED"
    proof = quidnunc("--home", ledger.path, "ledger", "prove", "1", "--out", tmp_path / "p")
    assert (proof.code, "cosignatures are left out: " in proof.err) == (0, True)


def toy_federation(ledger: Ledger) -> bytes:
    return open_charter((ledger.path / "charter.note").read_bytes()).charter.federation_id


def test_peers_are_counted_where_nobody_can_name_them(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "a")
    adopt(ledger, toy_federation(ledger))
    who = ledger.group[2].member.log_id
    change = ReputationChange(who, 0, 1, ())
    ledger.commit([ledger.log.append(change.TYPE, payload_of(change), salt=bytes(16), t_ms=3)])
    (ledger.path / "charter.note").unlink()
    rows = quidnunc("--home", ledger.path, "--json", "ledger", "peers").data["peers"]
    assert [each["standing"] for each in rows if each["log_id"] == who.hex()] == ["reduced"]


def test_a_ledger_without_entries_is_incomplete_everywhere(ledger: Ledger) -> None:
    for path in ledger.ledger.parent.glob(f"{ledger.ledger.name}*"):
        path.unlink()
    Store.create(ledger.ledger, ledger.log.log_id, ledger.own.member.log).close()
    codes = {" ".join(words[:2]): quidnunc("--home", ledger.path, "--json", *words).code for words in COMMANDS}
    assert codes["ledger verify"] == 32
    assert codes["ledger fsck"] == 0, "nothing is wrong with it"
    assert codes["ledger show"] == codes["ledger trace"] == codes["ledger prove"] == 2


@pytest.mark.parametrize("count", [10**38, 2**63, 2**63 - 1, 1])
def test_the_last_so_many_entries_of_a_log_that_has_fewer(ledger: Ledger, count: int) -> None:
    """Regression: a number beyond what a machine word holds ended in a traceback."""
    found = quidnunc("--home", ledger.path, "--json", "ledger", "log", "-n", str(count))
    assert (found.code, len(found.data["log"])) == (0, min(count, ledger.log.size))


def without_privilege(*words: str | Path) -> tuple[int, str]:
    """Exit code and stderr of a command line for which modes of files count, also where the tests run as root."""
    drop = "-dac_override,-dac_read_search"
    tool = ["setpriv", "--bounding-set", drop, "--inh-caps", drop] if os.geteuid() == 0 else []
    if tool and shutil.which("setpriv") is None:
        pytest.skip("as root modes of files do not count, and setpriv is not there")
    command = [*tool, sys.executable, "-P", "-m", "quidnunc.peer", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, done.stderr


@pytest.mark.parametrize(
    ("mode", "what", "words", "code", "said"),
    [
        (0o000, "state", ["ledger", "verify"], 64, "state/ledger.db: cannot be reached: permission denied"),
        (0o000, "state/ledger.db", ["ledger", "log"], 64, "state/ledger.db: cannot be read: permission denied"),
        (0o000, "charter.note", ["run", "--check"], 64, "charter.note: cannot be reached: permission denied"),
    ],
    ids=["state", "ledger", "charter"],
)
def test_what_may_not_be_read_is_told_as_such(
    ledger: Ledger, mode: int, what: str, words: list[str], code: int, said: str
) -> None:
    """Regression: a directory or a charter of somebody else's ended in a traceback, a ledger "cannot be written"."""
    before = snapshot(ledger.path)
    path = ledger.path / what
    was = path.stat().st_mode
    path.chmod(mode)
    try:
        found, told = without_privilege("--home", ledger.path, *words)
    finally:
        path.chmod(was)
    assert (found, said in told) == (code, True), told
    assert snapshot(ledger.path) == before
