"""``quidnunc key`` and every command that needs a key: what opens it, what does not, and that none is ever lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from cli_helpers import Result, make_home, quidnunc
from founders import charter
from terminal import COMMAND, Terminal

from quidnunc.crypto import keyfile
from quidnunc.crypto.errors import StoreUnwritable
from quidnunc.crypto.keyfile import MIN_MEM_KIB, MIN_OPS, Cost, KeyFile, LockedKeyFile
from quidnunc.gossip.federation.founding import draft_note, open_charter
from quidnunc.peer import home as homes
from quidnunc.peer import keys
from quidnunc.peer.home import Home

CHEAP = ("--passes", str(MIN_OPS), "--memory", str(MIN_MEM_KIB // 1024))
PHRASE = "correct horse battery"


@pytest.fixture(autouse=True)
def quick_and_clean(monkeypatch: pytest.MonkeyPatch) -> None:
    """New keys at the least cost; no credential from outside."""
    monkeypatch.setattr(keyfile.Cost.__new__, "__defaults__", (MIN_OPS, MIN_MEM_KIB))
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)


def private(path: Path, text: str) -> Path:
    path.touch(0o600)
    path.write_text(text)
    return path


@pytest.fixture
def phrase(tmp_path: Path) -> Path:
    return private(tmp_path / "phrase", f"{PHRASE}\n")


@pytest.fixture
def home(tmp_path: Path) -> Home:
    make_home(tmp_path / "a", "Hospital A")
    return Home.at(tmp_path / "a")


@pytest.fixture
def locked(tmp_path: Path, phrase: Path) -> Home:
    make_home(tmp_path / "l", "Hospital L", "--passphrase-file", str(phrase))
    return Home.at(tmp_path / "l")


def key(home: Home, *words: str | Path) -> Result:
    return quidnunc("--home", home.root, "--no-input", "key", *words)


def both(home: Home) -> list[KeyFile | LockedKeyFile]:
    return [keys.read(path) for path in (home.root_key, home.operational_key)]


def secrets(home: Home) -> list[bytes]:
    return [
        keys.load(path, kind, PHRASE.encode)
        for path, kind in ((home.root_key, "root"), (home.operational_key, "operational"))
    ]


# init.


def test_init_locks_both_keys_with_the_passphrase_in_a_file(locked: Home) -> None:
    assert all(isinstance(found, LockedKeyFile) for found in both(locked))
    root, operational = both(locked)
    assert isinstance(root, LockedKeyFile)
    assert isinstance(operational, LockedKeyFile)
    assert root.salt != operational.salt
    assert root.nonce != operational.nonce
    assert secrets(locked)
    assert {path.stat().st_mode & 0o777 for path in (locked.root_key, locked.operational_key)} == {0o600}


def test_init_without_a_source_leaves_keys_open_and_says_so(tmp_path: Path) -> None:
    result = quidnunc("--home", tmp_path / "a", "init", "--name", "A", "--no-input")
    assert result.code == 0
    assert "note: the new keys are not locked; lock them with: quidnunc key lock" in result.err
    assert not quidnunc("--home", tmp_path / "b", "init", "--name", "A", "--no-passphrase", "--json").data["locked"]


def test_init_with_a_bad_source_makes_nothing(tmp_path: Path, phrase: Path) -> None:
    phrase.chmod(0o644)
    for words in (["--passphrase-file", phrase], ["--passphrase-fd", "987654"], ["--passphrase-file", tmp_path / "no"]):
        result = quidnunc("--home", tmp_path / "a", "init", "--name", "A", *words)
        assert result.code == 77
        assert not (tmp_path / "a").exists()


# show, lock, change, unlock.


def test_show_needs_no_passphrase(home: Home, locked: Home) -> None:
    card = quidnunc("--home", locked.root, "id", "--json").data
    root, operational = key(locked, "show", "--json").data["keys"]
    assert root["public"] == card["keys"]["root"]
    assert (root["kind"], root["locked"], root["kdf"]) == ("root", True, "argon2id13")
    assert (operational["passes"], operational["memory_kib"]) == (MIN_OPS, MIN_MEM_KIB)
    assert [row["kdf"] for row in key(home, "show", "--json").data["keys"]] == ["none", "none"]
    shown = key(locked, "show").out
    assert "locked with a passphrase: argon2id, 2 passes over 19 MiB" in shown
    assert root["public"] in shown
    locked.root_key.rename(locked.root / "elsewhere.key")
    rows = key(locked, "show", "--json").data["keys"]
    assert [row["present"] for row in rows] == [False, True]
    assert "not here" in key(locked, "show").out
    assert key(locked, "show", locked.root / "elsewhere.key", "--json").data["keys"][0]["public"] == root["public"]
    assert key(locked, "show", "root").code == 77


def test_lock_change_and_unlock_keep_the_keys(home: Home, tmp_path: Path, phrase: Path) -> None:
    before = secrets(home)
    result = key(home, "lock", "--passphrase-file", phrase, *CHEAP)
    assert result.code == 0, result.err
    assert all(isinstance(found, LockedKeyFile) for found in both(home))
    assert secrets(home) == before

    new = private(tmp_path / "new", "another\n")
    words = ["change", "--passphrase-file", phrase, "--new-passphrase-file", new, "--passes", "3", "--memory", "20"]
    assert key(home, *words).code == 0
    assert [found.cost for found in both(home) if isinstance(found, LockedKeyFile)] == [Cost(3, 20 * 1024)] * 2
    assert key(home, "unlock", "--passphrase-file", phrase).code == 77

    result = key(home, "unlock", "--passphrase-file", new, "--json")
    assert [row["locked"] for row in result.data["keys"]] == [False, False]
    assert [found.secret for found in both(home) if isinstance(found, KeyFile)] == before


def test_one_key_alone_and_a_key_elsewhere(home: Home, tmp_path: Path, phrase: Path) -> None:
    assert key(home, "lock", "root", "--passphrase-file", phrase, *CHEAP).code == 0
    assert [isinstance(found, LockedKeyFile) for found in both(home)] == [True, False]
    # Of both, what is not locked yet.
    assert key(home, "lock", "--passphrase-file", phrase, *CHEAP).code == 0
    offline = tmp_path / "usb"
    offline.mkdir(0o700)
    home.root_key.rename(offline / "root.key")
    assert quidnunc("key", "unlock", offline / "root.key", "--passphrase-file", phrase, "--no-input").code == 0
    assert isinstance(keys.read(offline / "root.key"), KeyFile)
    assert key(home, "unlock", "--passphrase-file", phrase).code == 0


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["unlock"], 77, "not locked"),
        (["change"], 77, "not locked"),
        (["unlock", "operational"], 77, "operational.key: not locked"),
        (["lock"], 77, "no new passphrase was given"),
        (["lock", "nowhere/root.key"], 77, "no such key file"),
        (["lock", "--memory", "18"], 2, "--memory is 18, must be 19 to 1024 MiB"),
        (["lock", "--memory", "1025"], 2, "--memory is 1025, must be 19 to 1024 MiB"),
        (["lock", "--passes", "1"], 2, "--passes is 1, must be 2 to 16"),
        (["lock", "--passes", "17"], 2, "--passes is 17, must be 2 to 16"),
        (["change", "--passphrase-fd", "5", "--new-passphrase-fd", "5"], 2, "is named for both"),
        (["lock", "--passphrase-file", "x", "--passphrase-fd", "5"], 2, "not allowed with"),
        (["lock", "--passphrase-fd", "-1"], 2, "--passphrase-fd"),
        (["lock", "--passphrase-fd", "x"], 2, "number of an open file descriptor"),
        (["lock", "--passphrase", PHRASE], 2, "unrecognized arguments"),
    ],
)
def test_what_cannot_be_done_is_refused_and_changes_nothing(
    home: Home, words: list[str], code: int, message: str
) -> None:
    before = [path.read_bytes() for path in (home.root_key, home.operational_key)]
    result = key(home, *words)
    assert (result.code, result.out) == (code, "")
    assert message in result.err
    assert [path.read_bytes() for path in (home.root_key, home.operational_key)] == before


def test_lock_twice_is_refused_with_what_was_meant(locked: Home, phrase: Path) -> None:
    result = key(locked, "lock", "--passphrase-file", phrase, "--json")
    assert result.code == 77
    assert "locked already" in result.envelope["error"]["message"]
    assert "quidnunc key change" in result.envelope["error"]["hint"]


def test_a_passphrase_that_opens_one_key_of_two_changes_neither(locked: Home, tmp_path: Path, phrase: Path) -> None:
    new = private(tmp_path / "new", "another")
    words = ["change", "operational", "--passphrase-file", phrase, "--new-passphrase-file", new, *CHEAP]
    assert key(locked, *words).code == 0
    before = [path.read_bytes() for path in (locked.root_key, locked.operational_key)]
    result = key(locked, "unlock", "--passphrase-file", phrase)
    assert (result.code, "operational.key: the passphrase does not open the key file" in result.err) == (77, True)
    assert [path.read_bytes() for path in (locked.root_key, locked.operational_key)] == before


# What needs a secret asks for it, what does not does not.


@pytest.fixture
def draft(locked: Home, home: Home) -> Path:
    """A charter of both homes; the task is not built for it."""
    from dataclasses import replace

    from quidnunc.gossip.federation.card import open_card

    cards = [open_card(each.card.read_bytes()) for each in (home, locked)]
    members = tuple(sorted(cards, key=lambda member: member.log_id))
    path = home.root.parent / "charter.note"
    path.write_bytes(draft_note(replace(charter(2), members=members)))
    return path


def test_every_source_opens_a_key(locked: Home, draft: Path, phrase: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def signed(*words: str | Path) -> int:
        fresh = draft.with_name("fresh.note")
        fresh.unlink(missing_ok=True)
        result = quidnunc(
            "--home", locked.root, "federation", "sign", "--yes", draft, "--out", fresh, "--no-input", *words
        )
        assert result.code == 0, result.err
        return len(open_charter(fresh.read_bytes()).signed)

    assert signed("--passphrase-file", phrase) == 1
    with phrase.open("rb") as file:
        assert signed("--passphrase-fd", str(os.dup(file.fileno()))) == 1
    directory = draft.parent / "credentials"
    directory.mkdir()
    private(directory / "quidnunc-passphrase", PHRASE)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(directory))
    assert signed() == 1
    # The credential comes first.
    assert signed("--passphrase-file", private(draft.with_name("wrong"), "wrong")) == 1


def test_without_a_source_a_locked_key_ends_with_77_naming_the_ways(
    locked: Home, draft: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("QUIDNUNC_PASSPHRASE", "PASSPHRASE", "QUIDNUNC_KEY_PASSPHRASE"):
        monkeypatch.setenv(name, PHRASE)
    before = draft.read_bytes()
    for words in (["federation", "sign", "--yes", draft], ["run"], ["run", "--check"], ["key", "unlock"]):
        result = quidnunc("--home", locked.root, *words, "--no-input", "--json")
        assert result.code == 77
        error = result.envelope["error"]
        assert "locked, and no passphrase was given" in error["message"]
        for way in ("credential quidnunc-passphrase", "--passphrase-file", "--passphrase-fd", "terminal"):
            assert way in error["hint"]
    assert draft.read_bytes() == before


def test_a_wrong_passphrase_ends_with_77_naming_the_file(locked: Home, draft: Path, tmp_path: Path) -> None:
    wrong = private(tmp_path / "wrong", "wrong horse")
    before = draft.read_bytes()
    for words in (["federation", "sign", "--yes", draft], ["run", "--check"], ["run"]):
        result = quidnunc("--home", locked.root, *words, "--passphrase-file", wrong)
        assert result.code == 77
        assert ".key: the passphrase does not open the key file" in result.err
        assert "wrong horse" not in result.err
    assert draft.read_bytes() == before


def test_what_needs_no_secret_asks_for_no_passphrase(locked: Home) -> None:
    for words in (["id"], ["ledger", "verify"], ["ledger", "status"], ["budget", "show"], ["key", "show"]):
        result = quidnunc("--home", locked.root, *words, "--no-input")
        assert result.code != 77, result.err
        assert "passphrase was given" not in result.err
    assert quidnunc("--home", locked.root, "status", "--no-input").code == 3


# A terminal.


def test_a_person_is_asked_twice_and_sees_nothing_of_it(tmp_path: Path) -> None:
    home = Home.at(tmp_path / "t")
    command = [*COMMAND, "--home", str(home.root), "init", "--name", "Terminal"]
    with Terminal(command) as terminal:
        terminal.sees("passphrase for the new keys (empty: leave them unlocked): ")
        terminal.types(PHRASE)
        terminal.sees("the same passphrase again: ")
        terminal.types(PHRASE)
        assert terminal.ends() == 0
        assert "Terminal has an identity" in terminal.shown
        assert PHRASE not in terminal.shown
    assert all(isinstance(found, LockedKeyFile) for found in both(home))
    with Terminal([*COMMAND, "--home", str(home.root), "key", "unlock"]) as terminal:
        terminal.sees("passphrase: ")
        terminal.types(PHRASE)
        assert terminal.ends() == 0
        assert PHRASE not in terminal.shown
    assert all(isinstance(found, KeyFile) for found in both(home))


def test_two_that_differ_make_nothing_and_an_empty_one_means_no(tmp_path: Path) -> None:
    home = Home.at(tmp_path / "t")
    command = [*COMMAND, "--home", str(home.root), "init", "--name", "Terminal"]
    with Terminal(command) as terminal:
        answers = {"unlocked):": PHRASE, "again:": f"{PHRASE}!"}
        assert terminal.ends(answers) == 77
        assert "the two passphrases differ" in terminal.shown
    assert not home.exists()
    with Terminal(command) as terminal:
        assert terminal.ends({"unlocked):": ""}) == 0
    assert all(isinstance(found, KeyFile) for found in both(home))


# Secrecy from other processes.


def test_the_passphrase_is_in_no_command_line_and_no_environment(locked: Home) -> None:
    """While a command waits for its passphrase, and after it has it, /proc shows none of it."""
    reader, writer = os.pipe()
    command = [sys.executable, "-P", "-c", HOLD, "--home", str(locked.root), "key", "unlock", "root"]
    process = subprocess.Popen(
        [*command, "--passphrase-fd", str(reader)],
        pass_fds=[reader],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    try:
        os.close(reader)
        os.write(writer, PHRASE.encode())
        os.close(writer)
        assert process.stdout is not None
        assert process.stdout.readline() == b"opening\n"
        for name in ("cmdline", "environ"):
            assert PHRASE.encode() not in Path(f"/proc/{process.pid}/{name}").read_bytes()
        process.communicate(b"\n", timeout=60)
        assert process.returncode == 0
    finally:
        process.kill()
        process.wait()


HOLD = """
import sys
from quidnunc.crypto.keyfile import LockedKeyFile
from quidnunc.peer.cli import main
unlock = LockedKeyFile.unlock
def held(self, passphrase):
    print("opening", flush=True)
    sys.stdin.readline()
    return unlock(self, passphrase)
LockedKeyFile.unlock = held
sys.exit(main(sys.argv[1:]))
"""


def test_an_opener_keeps_nothing_and_opens_once(locked: Home) -> None:
    opener = keys.Opener.of(locked.root_key, "root", PHRASE.encode)
    assert PHRASE not in repr(opener)
    assert len(opener()) == 32
    assert (opener._found, opener._passphrase) == (None, None)
    with pytest.raises(Exception, match="was opened before"):
        opener()


# No key is ever lost.

STEPS = ("open", "fchmod", "write", "fsync", "close", "rename", "unlink")

KILLED = """
import os, signal, sys
from pathlib import Path
from quidnunc.peer import keys
path, data, name, count = Path(sys.argv[1]), bytes.fromhex(sys.argv[2]), sys.argv[3], int(sys.argv[4])
real, seen = getattr(os, name), 0
def dying(*args, **options):
    global seen
    seen += 1
    if seen > count:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(*args, **options)
setattr(os, name, dying)
keys.replace(path, data)
"""


@pytest.mark.parametrize("name", STEPS)
@pytest.mark.parametrize("count", [0, 1])
def test_a_kill_at_any_step_leaves_the_old_key_or_the_new_one(tmp_path: Path, name: str, count: int) -> None:
    directory = tmp_path / "keys"
    directory.mkdir(0o700)
    path = directory / "root.key"
    secret = keys.create(path, "root")
    data = keys.encode("root", secret, PHRASE.encode())
    words = [sys.executable, "-P", "-c", KILLED, str(path), data.hex(), name, str(count)]
    done = subprocess.run(words, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}, timeout=60, check=False)
    assert done.returncode == -signal.SIGKILL or (done.returncode, count) == (0, 1)
    assert keys.load(path, "root", PHRASE.encode) == secret
    keys.replace(path, data)
    assert os.listdir(directory) == ["root.key"]
    assert keys.load(path, "root", PHRASE.encode) == secret


@pytest.mark.parametrize("name", ["write", "fsync", "rename"])
def test_a_disk_that_fails_keeps_every_key(
    home: Home, phrase: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    before = secrets(home)

    def failing(*args: object, **options: object) -> object:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(homes.os, name, failing)
        result = key(home, "lock", "--passphrase-file", phrase, *CHEAP)
    assert (result.code, "no space left on device" in result.err) == (73, True)
    assert all(isinstance(found, KeyFile) for found in both(home))
    assert secrets(home) == before
    assert sorted(os.listdir(home.keys)) == ["operational.key", "root.key"]


def test_a_kill_between_two_keys_leaves_each_openable(
    home: Home, phrase: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, calls = secrets(home), iter([True, False])
    real = keys.replace

    def once(path: Path, data: bytes) -> None:
        if not next(calls):
            raise StoreUnwritable("killed here")
        real(path, data)

    with monkeypatch.context() as patch:
        patch.setattr(keys, "replace", once)
        assert key(home, "lock", "--passphrase-file", phrase, *CHEAP).code == 73
    assert [isinstance(found, LockedKeyFile) for found in both(home)] == [True, False]
    assert secrets(home) == before
    assert key(home, "lock", "--passphrase-file", phrase, *CHEAP).code == 0
    assert secrets(home) == before
