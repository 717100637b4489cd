"""Blobs on disk: whole or absent, whatever happens to the files or to the writers."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from quidnunc.crypto.errors import LocalProtocolError, StoreUnwritable
from quidnunc.gossip.blobs import Blobs
from quidnunc.peer import blobs as module
from quidnunc.peer.blobs import FileBlobs


@pytest.fixture
def blobs(tmp_path: Path) -> FileBlobs:
    return FileBlobs(tmp_path / "blobs")


def test_it_is_a_blobs(blobs: FileBlobs) -> None:
    store: Blobs = blobs
    assert store.get(b"\0" * 32) is None


@pytest.mark.parametrize("durable", [False, True])
def test_what_is_put_is_got_under_its_sha256(blobs: FileBlobs, durable: bool) -> None:
    for data in (b"", b"x", bytes(100_000)):
        name = blobs.put(data, durable=durable)
        assert name == hashlib.sha256(data).digest()
        assert blobs.get(name) == data
        assert FileBlobs(blobs.root).get(name) == data


def test_files_are_private_and_lie_where_sha256sum_would_say(blobs: FileBlobs) -> None:
    blobs.put(b"hello")
    path = blobs.root / "2c" / "f24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"
    assert path.read_bytes() == b"hello"
    assert path.stat().st_mode & 0o777 == 0o600


def test_discarding_forgets_and_absent_ones_are_ignored(blobs: FileBlobs) -> None:
    name = blobs.put(b"x")
    blobs.discard(name)
    blobs.discard(name)
    assert blobs.get(name) is None


def test_the_cap_holds_at_the_limit_and_one_past_it(tmp_path: Path) -> None:
    small = FileBlobs(tmp_path, max_bytes=10)
    assert small.get(small.put(b"x" * 10)) == b"x" * 10
    with pytest.raises(LocalProtocolError, match=r"blob of 11 bytes, limit is 10 \(limits.blob_bytes_max\)"):
        small.put(b"x" * 11)
    large = FileBlobs(tmp_path).put(b"x" * 11)
    assert small.get(large) is None


@pytest.mark.parametrize("name", [b"", b"x" * 31, b"x" * 33])
def test_a_name_that_is_no_hash_is_our_bug(blobs: FileBlobs, name: bytes) -> None:
    with pytest.raises(LocalProtocolError):
        blobs.get(name)


@given(data=st.binary(min_size=1, max_size=300), at=st.integers(0), bit=st.integers(0, 7), cut=st.booleans())
@settings(deadline=None, max_examples=60)
def test_a_damaged_blob_is_absent_and_kept_aside(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, at: int, bit: int, cut: bool
) -> None:
    blobs = FileBlobs(tmp_path_factory.mktemp("blobs"))
    name = blobs.put(data)
    path = blobs.path(name)
    damaged = bytearray(data)
    if cut:
        del damaged[at % len(data) :]
    else:
        damaged[at % len(data)] ^= 1 << bit
    path.write_bytes(damaged)
    assert blobs.get(name) is None
    assert path.with_name(path.name + ".bad").read_bytes() == damaged
    assert list(blobs.names()) == []
    assert blobs.put(data) == name
    assert blobs.get(name) == data


def test_putting_over_a_damaged_blob_mends_it(blobs: FileBlobs) -> None:
    name = blobs.put(b"good")
    blobs.path(name).write_bytes(b"evil")
    blobs.put(b"good", durable=True)
    assert blobs.get(name) == b"good"


@pytest.mark.parametrize("kind", ["link", "directory", "fifo"])
def test_what_is_not_a_regular_file_is_absent(blobs: FileBlobs, tmp_path: Path, kind: str) -> None:
    name = blobs.put(b"good")
    path = blobs.path(name)
    path.unlink()
    if kind == "link":
        (tmp_path / "elsewhere").write_bytes(b"good")
        path.symlink_to(tmp_path / "elsewhere")
    elif kind == "directory":
        path.mkdir()
    else:
        os.mkfifo(path)
    assert blobs.get(name) is None
    blobs.put(b"good")
    assert blobs.get(name) == b"good"


def test_a_good_copy_that_arrives_while_the_bad_one_is_set_aside_survives(
    blobs: FileBlobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = blobs.put(b"good")
    path = blobs.path(name)
    path.write_bytes(b"evil")
    real = Path.rename

    def rename(self: Path, target: Path) -> Path:
        if target.suffix == ".bad":
            path.write_bytes(b"good")
        return real(self, target)

    monkeypatch.setattr(Path, "rename", rename)
    assert blobs.get(name) == b"good"
    assert path.read_bytes() == b"good"


@pytest.mark.parametrize("call", ["open", "write", "fsync", "rename"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EIO])
def test_a_disk_that_fails_is_named_and_nothing_half_written_stays(
    blobs: FileBlobs, monkeypatch: pytest.MonkeyPatch, call: str, code: int
) -> None:
    real = getattr(os, call)

    def fail(*args: object, **kwargs: object) -> object:
        if call == "open" and not int(args[1]) & os.O_CREAT:  # type: ignore[call-overload]
            return real(*args, **kwargs)
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(StoreUnwritable, match=os.strerror(code).lower()):
        blobs.put(b"x", durable=True)
    monkeypatch.undo()
    assert list((blobs.root / "tmp").iterdir()) == []
    assert blobs.get(hashlib.sha256(b"x").digest()) is None


def test_a_write_that_is_taken_in_parts_is_finished(blobs: FileBlobs, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: real(descriptor, bytes(data)[:7]))
    name = blobs.put(bytes(range(100)))
    monkeypatch.undo()
    assert blobs.get(name) == bytes(range(100))


def test_only_durable_puts_pay_for_fsync(blobs: FileBlobs, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        synced.append(os.fstat(descriptor).st_ino)
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    name = blobs.put(b"x")
    assert synced == []
    blobs.put(b"x", durable=True)
    path = blobs.path(name)
    wanted = {path.stat().st_ino, path.parent.stat().st_ino, blobs.root.stat().st_ino}
    assert set(synced) == wanted
    synced.clear()
    name = blobs.put(b"y", durable=True)
    path = blobs.path(name)
    assert synced == [path.stat().st_ino, path.parent.stat().st_ino, blobs.root.stat().st_ino]


def test_opening_sweeps_what_dead_writers_left_and_spares_living_ones(blobs: FileBlobs) -> None:
    dead, living = blobs.root / "tmp" / "dead", blobs.root / "tmp" / "living"
    dead.write_bytes(b"half")
    living.write_bytes(b"half")
    with living.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        FileBlobs(blobs.root)
        assert not dead.exists()
        assert living.exists()
    FileBlobs(blobs.root)
    assert not living.exists()


def test_a_file_swept_before_its_writer_could_lock_it_is_written_again(
    blobs: FileBlobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = module.write_all
    swept = []

    def write_all(descriptor: int, data: bytes) -> None:
        if not swept:
            for file in (blobs.root / "tmp").iterdir():
                swept.append(file)
                file.unlink()
        real(descriptor, data)

    monkeypatch.setattr(module, "write_all", write_all)
    assert blobs.get(blobs.put(b"x")) == b"x"
    assert swept


def test_two_processes_writing_and_discarding_the_same_blobs_never_see_half_of_one(tmp_path: Path) -> None:
    worker = """
import random, sys
from pathlib import Path
from quidnunc.peer.blobs import FileBlobs
rng = random.Random(int(sys.argv[2]))
blobs = FileBlobs(Path(sys.argv[1]))
for _ in range(300):
    if rng.random() < 0.1: blobs = FileBlobs(Path(sys.argv[1]))
    data = bytes([rng.randrange(5)]) * 50_000
    name = blobs.put(data, durable=rng.random() < 0.05)
    found = blobs.get(name)
    assert found in (None, data)
    if rng.random() < 0.5: blobs.discard(name)
"""
    workers = [subprocess.Popen([sys.executable, "-c", worker, str(tmp_path), str(seed)]) for seed in range(3)]
    assert [process.wait() for process in workers] == [0, 0, 0]
    assert not list(tmp_path.glob("*/*.bad"))
    assert not list((tmp_path / "tmp").iterdir())


def test_what_was_durable_survives_kill_9_and_half_written_files_are_swept(tmp_path: Path) -> None:
    worker = """
import os, sys
from pathlib import Path
from quidnunc.peer.blobs import FileBlobs
blobs = FileBlobs(Path(sys.argv[1]))
while True:
    os.write(1, blobs.put(os.urandom(200_000), durable=True).hex().encode() + b"\\n")
"""
    for count in (1, 5, 12):
        command = [sys.executable, "-c", worker, str(tmp_path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as writer:
            assert writer.stdout is not None
            names = [bytes.fromhex(writer.stdout.readline().decode()) for _ in range(count)]
            writer.kill()
        blobs = FileBlobs(tmp_path)
        assert list((tmp_path / "tmp").iterdir()) == []
        assert all(blobs.get(name) for name in [*names, *blobs.names()])


class BlobMachine(RuleBasedStateMachine):
    """FileBlobs against a dict, with damage and reopening."""

    directory: pytest.TempPathFactory

    def __init__(self) -> None:
        super().__init__()
        self.root = self.directory.mktemp("machine")
        self.blobs = FileBlobs(self.root)
        self.model: dict[bytes, bytes] = {}

    @rule(data=st.sampled_from([b"", b"a", b"b", b"c" * 5000]), durable=st.booleans())
    def put(self, data: bytes, durable: bool) -> None:
        self.model[self.blobs.put(data, durable=durable)] = data

    @precondition(lambda self: self.model)
    @rule(draw=st.data())
    def discard(self, draw: st.DataObject) -> None:
        name = draw.draw(st.sampled_from(sorted(self.model)))
        self.blobs.discard(name)
        del self.model[name]

    @precondition(lambda self: self.model)
    @rule(draw=st.data())
    def damage(self, draw: st.DataObject) -> None:
        name = draw.draw(st.sampled_from(sorted(self.model)))
        self.blobs.path(name).write_bytes(self.model.pop(name) + b"!")
        assert self.blobs.get(name) is None

    @rule()
    def reopen(self) -> None:
        self.blobs = FileBlobs(self.root)

    def teardown(self) -> None:
        assert sorted(self.blobs.names()) == sorted(self.model)
        for name, data in self.model.items():
            assert self.blobs.get(name) == data


def test_it_behaves_like_a_dict(tmp_path_factory: pytest.TempPathFactory) -> None:
    from hypothesis.stateful import run_state_machine_as_test

    BlobMachine.directory = tmp_path_factory
    run_state_machine_as_test(BlobMachine, settings=settings(deadline=None, max_examples=20, stateful_step_count=15))
