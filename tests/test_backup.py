"""A home in one file and back: what is in it, what is refused, and that a refusal leaves nothing behind."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import stat
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cli_helpers import Result, make_home, quidnunc
from hypothesis import given, settings
from hypothesis import strategies as st
from test_cli_ledger import Scribe, published, received, spend

from quidnunc.crypto.entry import EntryType
from quidnunc.crypto.errors import ConfigError, QuidnuncError
from quidnunc.crypto.keyfile import MIN_MEM_KIB, MIN_OPS, Cost
from quidnunc.gossip.federation.card import open_card
from quidnunc.gossip.resume import Resume
from quidnunc.peer import keys
from quidnunc.peer.backup import archive, make
from quidnunc.peer.backup.archive import BackupDamaged, Writer
from quidnunc.peer.blobs import FileBlobs
from quidnunc.peer.home import Home
from quidnunc.peer.ledger.store import LOST, ORIGIN, Store
from quidnunc.peer.node_builder import fill

REPLICA, DELTA, OTHER = b"own replica" * 50, b"own delta" * 30, b"a neighbor's" * 70


def digest(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


@pytest.fixture(scope="module")
def peer(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A home that has published one update and received one, with the params of both."""
    root = tmp_path_factory.mktemp("backup") / "a"
    make_home(root, "Hospital A")
    home = Home.at(root)
    blobs = FileBlobs(home.blobs)
    for data in (REPLICA, DELTA, OTHER):
        blobs.put(data, durable=True)
    scribe = Scribe(home)
    scribe.write((EntryType.GENESIS, open_card((root / "card.note").read_bytes()).genesis))
    scribe.write(spend(1), replace(published(1), replica_after=digest(REPLICA), delta=digest(DELTA)))
    scribe.write(replace(received(), replica=digest(OTHER)))
    return home


@pytest.fixture
def home(peer: Home, tmp_path: Path) -> Home:
    """A copy that a test may spoil."""
    return Home.at(shutil.copytree(peer.root, tmp_path / "a"))


@pytest.fixture(scope="module")
def backup(peer: Home, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A backup of the peer."""
    path = tmp_path_factory.mktemp("file") / "a.backup"
    assert quidnunc("--home", peer.root, "backup", path).code == 0
    return path


def restore(path: Path, root: Path, *more: str) -> Result:
    return quidnunc("--home", root, *more, "restore", path)


def files(root: Path) -> dict[str, bytes]:
    """Every file under ``root`` but SQLite's, the lock and the socket."""
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file() and not path.name.startswith(("ledger.db", "lock", "control"))
    }


def test_what_comes_back_is_what_was_there(peer: Home, backup: Path, tmp_path: Path) -> None:
    root = tmp_path / "deep" / "b"
    result = restore(backup, root, "--json")
    assert result.data["entries"] == 4
    assert files(root) == files(peer.root)
    with Store.open(peer.ledger, readonly=True) as before, Store.open(Home.at(root).ledger) as after:
        assert list(before.entries()) == list(after.entries())
        assert before.root == after.root
    for path in root.rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600)
    said, before = (quidnunc("--home", each, "ledger", "verify") for each in (root, peer.root))
    both = [[line for line in each.out.splitlines() if "side tables" not in line] for each in (said, before)]
    assert (said.code, both[0]) == (before.code, both[1]), "but for one row, which says that it was restored"
    assert not list(root.rglob(".*"))


def test_a_ledger_that_had_not_begun_is_told_from_a_new_one(tmp_path: Path) -> None:
    """The peer may have begun since the backup was made: the restored home must not begin by itself."""
    make_home(tmp_path / "a", "Hospital A")
    assert quidnunc("--home", tmp_path / "a", "backup", tmp_path / "file").code == 0
    assert restore(tmp_path / "file", tmp_path / "b").code == 0
    copied = []
    for root in (tmp_path / "a", tmp_path / "b"):
        resume = Resume()
        with Store.open(Home.at(root).ledger) as store:
            fill(resume, store)
        copied.append(resume.copied)
    assert copied == [False, True]
    lost = Home.at(tmp_path / "a")
    with Store.open(lost.ledger) as store:
        store.put_meta(ORIGIN, LOST)
    assert quidnunc("--home", lost.root, "backup", tmp_path / "other").code == 0
    assert restore(tmp_path / "other", tmp_path / "c").code == 0
    with Store.open(Home.at(tmp_path / "c").ledger) as store:
        assert store.get_meta(ORIGIN) == LOST, "what was lost stays lost"


def test_a_backup_says_what_it_is_of_and_warns_of_open_keys(peer: Home, tmp_path: Path) -> None:
    path = tmp_path / "a.backup"
    result = quidnunc("--home", peer.root, "--json", "backup", path)
    data = result.data
    assert (data["name"], data["entries"], data["params_missing"]) == ("Hospital A", 4, 0)
    assert data["unlocked_keys"] == ["keys/root.key", "keys/operational.key"]
    assert any("without a passphrase" in warning for warning in result.envelope["warnings"])
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert os.listdir(tmp_path) == ["a.backup"]


def test_locked_keys_stay_locked_and_a_root_key_may_be_elsewhere(home: Home, tmp_path: Path) -> None:
    secret = keys.load(home.operational_key, "operational")
    keys.replace(home.operational_key, keys.encode("operational", secret, b"phrase", Cost(MIN_OPS, MIN_MEM_KIB)))
    home.root_key.unlink()
    path = tmp_path / "a.backup"
    result = quidnunc("--home", home.root, "--json", "backup", path)
    assert result.data["unlocked_keys"] == []
    assert result.envelope["warnings"] == []
    assert restore(path, tmp_path / "b").code == 0
    assert (tmp_path / "b/keys/operational.key").read_bytes() == home.operational_key.read_bytes()
    assert not (tmp_path / "b/keys/root.key").exists()


def test_params_that_are_lost_are_no_obstacle_and_are_told(home: Home, tmp_path: Path) -> None:
    blobs = FileBlobs(home.blobs)
    blobs.path(digest(REPLICA)).write_bytes(b"damaged")
    blobs.discard(digest(OTHER))
    path = tmp_path / "a.backup"
    assert quidnunc("--home", home.root, "--json", "backup", path).data["params_missing"] == 2
    assert restore(path, tmp_path / "b").code == 0
    assert list(FileBlobs(tmp_path / "b/state/blobs").names()) == [digest(DELTA)]


def test_a_daemon_that_replaces_params_meanwhile_leads_to_a_newer_copy(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blobs, newer = FileBlobs(home.blobs), b"newer replica" * 9
    scribe = Scribe(home)
    with Store.open(home.ledger) as store:
        for entry in store.entries():
            scribe.log.replay(entry)
    copy = make.database.copy
    copies = []

    def slow(source: Path, path: Path) -> None:
        copy(source, path)
        copies.append(path)
        if len(copies) == 1:
            blobs.put(newer)
            scribe.write(spend(2), replace(published(2), replica_after=digest(newer), delta=digest(DELTA)))
            blobs.discard(digest(REPLICA))

    monkeypatch.setattr(make.database, "copy", slow)
    data = quidnunc("--home", home.root, "--json", "backup", tmp_path / "a.backup").data
    assert (len(copies), data["entries"], data["params_missing"]) == (2, 6, 0)
    assert sorted(os.listdir(tmp_path)) == ["a", "a.backup"]


def test_a_file_that_is_there_is_never_replaced(peer: Home, tmp_path: Path) -> None:
    path = tmp_path / "a.backup"
    path.write_bytes(b"precious")
    result = quidnunc("--home", peer.root, "backup", path)
    assert (result.code, "is there already" in result.err) == (64, True)
    assert path.read_bytes() == b"precious"


@pytest.mark.parametrize(
    ("spoil", "code", "words"),
    [
        (lambda home: home.ledger.unlink(), 64, "no ledger here"),
        (lambda home: home.ledger.write_bytes(b"x" * 9000), 65, "not a database"),
        (lambda home: home.operational_key.unlink(), 77, "no such key file"),
        (lambda home: home.operational_key.chmod(0o644), 77, "others may read it"),
        (lambda home: home.config.unlink(), 64, "config.toml: not there"),
        (lambda home: home.card.unlink(), 32, "card.note: not there"),
    ],
)
def test_a_home_that_could_not_be_restored_is_not_backed_up(
    home: Home, tmp_path: Path, spoil: Callable[[Home], Any], code: int, words: str
) -> None:
    for suffix in ("-wal", "-shm"):
        home.ledger.with_name(f"ledger.db{suffix}").unlink(missing_ok=True)
    spoil(home)
    result = quidnunc("--home", home.root, "backup", tmp_path / "a.backup")
    assert (result.code, words in result.err) == (code, True), result.err
    assert os.listdir(tmp_path) == ["a"]


def test_only_an_empty_home_takes_a_backup(home: Home, backup: Path, tmp_path: Path) -> None:
    before = files(home.root)
    result = restore(backup, home.root)
    assert (result.code, "not empty" in result.err) == (64, True)
    assert files(home.root) == before
    (tmp_path / "file").write_bytes(b"")
    assert restore(backup, tmp_path / "file").code == 64
    (tmp_path / "disk" / "lost+found").mkdir(parents=True)
    assert restore(backup, tmp_path / "disk").code == 0


@pytest.mark.parametrize("there", [True, False])
def test_a_refused_backup_leaves_nothing(backup: Path, tmp_path: Path, there: bool) -> None:
    data = bytearray(backup.read_bytes())
    data[600] ^= 1
    (tmp_path / "bad").write_bytes(bytes(data))
    root = tmp_path / "b"
    if there:
        root.mkdir()
    result = restore(tmp_path / "bad", root)
    assert (result.code, "not what was backed up" in result.err) == (65, True)
    assert (os.listdir(root) == []) if there else not root.exists()


def rebuilt(path: Path, change: Callable[[dict[str, bytes]], Any], **facts: Any) -> bytes:
    """A backup with files changed, and a manifest that fits them."""
    with path.open("rb") as file:
        found = archive.members(file, path)
        manifest = archive.read_manifest(file, path, found)
        content = {each.name: b"".join(archive.chunks(file, each)) for each in found[:-1]}
    change(content)
    out = io.BytesIO()
    writer = Writer(out)
    for name, data in content.items():
        writer.add(name, io.BytesIO(data), len(data))
    writer.finish(msgspec.structs.replace(manifest, files=list(writer.items), **facts))
    return out.getvalue()


def other_card(content: dict[str, bytes], tmp: Path) -> None:
    content["card.note"] = make_home(tmp / "stranger", "Stranger").read_bytes()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda content: content.pop("state/ledger.db"), "holds no state/ledger.db"),
        (lambda content: content.pop("keys/operational.key"), "holds no keys/operational.key"),
        (lambda content: content.update({"../outside": b"x"}), "holds '../outside', which is no file of a home"),
        (lambda content: content.update({"/etc/passwd": b"x"}), "holds '/etc/passwd'"),
        (lambda content: content.update({"state/lock": b"x"}), "holds 'state/lock'"),
        (lambda content: content.update({f"state/blobs/ab/{'c' * 62}": b"x"}), "said to have the hash"),
        (lambda content: content.update({"config.toml": b"version = 9\n"}), "config.toml: version = 9"),
        (
            lambda content: content.update({"config.toml": b"x" * 1048577}),
            "config.toml: 1048577 bytes, limit is 1048576",
        ),
        (lambda content: content.update({"card.note": b"x"}), "card"),
        (lambda content: content.update({"charter.note": b"x"}), "charter"),
        (lambda content: content.update({"keys/root.key": b"x"}), "keys/root.key"),
        (lambda content: content.update({"state/ledger.db": b"x" * 5000}), "state/ledger.db"),
        (lambda content: content.update({"keys/operational.key": content["keys/root.key"]}), "holds the root key"),
    ],
)
def test_a_backup_with_hashes_that_fit_is_still_checked(
    backup: Path, tmp_path: Path, change: Callable[[dict[str, bytes]], Any], words: str
) -> None:
    bad = tmp_path / "bad"
    bad.write_bytes(rebuilt(backup, change))
    result = restore(bad, tmp_path / "b")
    assert (result.code, words in result.err) == (65, True), result.err
    assert ".restore-" not in result.err
    assert os.listdir(tmp_path) == ["bad"]


def test_card_ledger_and_manifest_are_of_one_peer(backup: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad"
    bad.write_bytes(rebuilt(backup, lambda content: other_card(content, tmp_path)))
    assert "not of one peer" in restore(bad, tmp_path / "b").err
    bad.write_bytes(rebuilt(backup, lambda content: None, entries=3))
    assert "not of one peer" in restore(bad, tmp_path / "b").err


def test_a_later_format_is_told_from_a_damaged_one(backup: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad"
    bad.write_bytes(rebuilt(backup, lambda content: content.update(new=b"x"), v=2))
    result = restore(bad, tmp_path / "b")
    assert (result.code, "format 2, this program knows formats up to 1" in result.err) == (78, True)
    bad.write_bytes(rebuilt(backup, lambda content: None, v=0))
    assert restore(bad, tmp_path / "b").code == 65


def test_a_disk_that_fails_leaves_nothing(backup: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    moved: list[str] = []
    rename = Path.rename

    def fails(path: Path, target: Path) -> Path:
        if path.name == "keys":
            raise OSError(28, "No space left on device")
        moved.append(path.name)
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", fails)
    result = restore(backup, tmp_path / "b")
    assert (result.code, "no space left" in result.err) == (73, True)
    assert "state" in moved
    assert not (tmp_path / "b").exists()


def test_no_file_is_too_large_or_one_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    writer = Writer(io.BytesIO())
    with pytest.raises(ConfigError, match=f"limit of a backup is {archive.FILE_BYTES_MAX} bytes"):
        writer.add("state/ledger.db", io.BytesIO(), archive.FILE_BYTES_MAX + 1)
    with pytest.raises(ConfigError, match="became 1 bytes shorter"):
        writer.add("config.toml", io.BytesIO(b"x"), 2)
    monkeypatch.setattr(archive, "MEMBERS_MAX", 3)
    writer = Writer(io.BytesIO())
    for name in ("a", "b"):
        writer.add(name, io.BytesIO(b"x"), 1)
    with pytest.raises(ConfigError, match="limit of a backup is 2 files"):
        writer.add("c", io.BytesIO(b"x"), 1)


def read(data: bytes, tmp: Path) -> archive.Manifest:
    """What is left of a file once every hash in it has been compared."""
    path = tmp / "some.backup"
    path.write_bytes(data)
    with archive.open_archive(path) as file:
        found = archive.members(file, path)
        manifest = archive.read_manifest(file, path, found)
        for member, item in zip(found[:-1], manifest.files, strict=True):
            if digest(b"".join(archive.chunks(file, member))).hex() != item.sha256:
                raise BackupDamaged(path, "a hash differs")
    return manifest


@given(data=st.data())
@settings(max_examples=60)
def test_a_flipped_bit_anywhere_is_found(backup: Path, tmp_path_factory: pytest.TempPathFactory, data: Any) -> None:
    whole = backup.read_bytes()
    at, bit = data.draw(st.integers(0, len(whole) - 1)), data.draw(st.integers(0, 7))
    spoiled = bytearray(whole)
    spoiled[at] ^= 1 << bit
    with pytest.raises(QuidnuncError):
        read(bytes(spoiled), tmp_path_factory.getbasetemp())


def test_every_bit_of_the_manifest_and_the_headers_counts(backup: Path, tmp_path: Path) -> None:
    whole = backup.read_bytes()
    with backup.open("rb") as file:
        last = archive.members(file, backup)[-1]
    for at in (*range(0, 512, 19), *range(last.offset - 512, len(whole), 37)):
        spoiled = bytearray(whole)
        spoiled[at] ^= 1
        with pytest.raises(QuidnuncError):
            read(bytes(spoiled), tmp_path)


@given(data=st.data())
@settings(max_examples=60)
def test_a_backup_cut_short_or_with_more_behind_it_is_refused(
    backup: Path, tmp_path_factory: pytest.TempPathFactory, data: Any
) -> None:
    whole = backup.read_bytes()
    tmp = tmp_path_factory.getbasetemp()
    with pytest.raises(BackupDamaged):
        read(whole[: data.draw(st.integers(0, len(whole) - 1))], tmp)
    with pytest.raises(BackupDamaged):
        read(whole + data.draw(st.binary(min_size=1, max_size=600)), tmp)


@given(st.binary(max_size=2000))
def test_anything_else_is_no_backup(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    with pytest.raises(BackupDamaged):
        read(data, tmp_path_factory.getbasetemp())


@pytest.mark.parametrize("kind", ["missing", "directory", "fifo"])
def test_what_is_no_file_is_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "x"
    if kind == "directory":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    assert restore(path, tmp_path / "b").code == 64


def test_links_and_directories_have_no_place_in_a_backup(tmp_path: Path) -> None:
    for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.CHRTYPE, tarfile.XHDTYPE):
        info = tarfile.TarInfo("config.toml")
        info.type, info.linkname = kind, "/etc/passwd" if kind in (tarfile.SYMTYPE, tarfile.LNKTYPE) else ""
        with pytest.raises(BackupDamaged, match="not a backup"):
            read(info.tobuf(tarfile.USTAR_FORMAT) + archive.END, tmp_path)
