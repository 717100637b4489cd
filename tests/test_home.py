"""The layout of a home, its lock, and files that are replaced whole or not at all."""

from __future__ import annotations

import errno
import os
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from quidnunc.crypto.errors import ConfigError, StoreLocked, StoreUnwritable
from quidnunc.peer.files import atomic_write, read_capped
from quidnunc.peer.home import SOCKET_PATH_MAX, Home


@pytest.fixture
def home(tmp_path: Path) -> Home:
    made = Home.at(tmp_path / "home")
    made.create()
    return made


def test_directories_are_private_even_with_a_lax_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        home = Home.at(tmp_path / "home")
        home.create()
    finally:
        os.umask(before)
    for directory in (home.root, home.keys, home.state, home.blobs, home.run):
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700


def test_creating_twice_keeps_what_is_there_and_closes_what_was_open(home: Home) -> None:
    home.root_key.write_bytes(b"key")
    home.keys.chmod(0o755)
    home.create()
    assert home.root_key.read_bytes() == b"key"
    assert stat.S_IMODE(home.keys.stat().st_mode) == 0o700


def test_a_home_does_not_move_with_the_current_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    home = Home.at("here")
    monkeypatch.chdir("/")
    assert home.config == tmp_path / "here" / "config.toml"


def test_a_second_process_is_refused_and_told_who_holds_the_home(home: Home) -> None:
    holder = """if True:
        import sys
        from quidnunc.peer.home import Home
        with Home.at(sys.argv[1]).lock():
            print("held", flush=True)
            sys.stdin.read()
    """
    command = [sys.executable, "-c", holder, str(home.root)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        assert home.locked_by() == other.pid
        with pytest.raises(StoreLocked, match=f"in use by process {other.pid}"), home.lock():
            pass
        other.kill()
    assert home.locked_by() is None
    with home.lock():
        assert home.locked_by() == os.getpid()


def test_a_lock_file_with_rubbish_in_it_is_no_obstacle(home: Home) -> None:
    home.lock_file.write_bytes(b"\xff" * 100)
    with home.lock():
        assert home.lock_file.read_text() == f"{os.getpid()}\n"


def test_the_lock_is_not_inherited_by_programs_started_under_it(home: Home) -> None:
    with home.lock():
        child = subprocess.Popen(["sleep", "60"])
    try:
        with home.lock():
            pass
    finally:
        child.kill()
        child.wait()


def test_a_short_home_holds_its_own_socket(home: Home) -> None:
    path = home.prepare_socket()
    assert path == home.run / "control.sock"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
    assert home.prepare_socket() == path
    assert not path.exists()


@pytest.fixture
def long_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Home]:
    with tempfile.TemporaryDirectory(dir="/tmp") as runtime:
        monkeypatch.setenv("XDG_RUNTIME_DIR", runtime)
        home = Home.at(tmp_path / ("long" * 30))
        home.create()
        yield home


def test_a_long_home_gets_a_short_socket_that_clients_with_another_environment_find(
    long_home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = long_home.prepare_socket()
    assert len(os.fsencode(path)) <= SOCKET_PATH_MAX
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    assert long_home.socket() == path


def test_two_long_homes_do_not_share_a_socket(long_home: Home) -> None:
    other = Home(long_home.root.with_name("other" * 30))
    assert other.socket() != long_home.socket()


def test_a_socket_directory_somebody_else_can_write_to_is_refused(long_home: Home) -> None:
    directory = long_home.socket().parent
    directory.mkdir()
    directory.chmod(0o777)
    with pytest.raises(ConfigError, match="not a directory of ours with mode 0700"):
        long_home.prepare_socket()


def test_atomic_write_replaces_a_file_and_its_mode(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"old")
    path.chmod(0o666)
    atomic_write(path, b"new", 0o640)
    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert os.listdir(tmp_path) == ["f"]


def test_atomic_write_replaces_a_link_and_not_what_it_points_to(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_bytes(b"untouched")
    path = tmp_path / "f"
    path.symlink_to(target)
    atomic_write(path, b"new")
    assert target.read_bytes() == b"untouched"
    assert not path.is_symlink()


def test_atomic_write_can_refuse_to_replace(tmp_path: Path) -> None:
    path = tmp_path / "f"
    atomic_write(path, b"first", replace=False)
    with pytest.raises(FileExistsError):
        atomic_write(path, b"second", replace=False)
    assert path.read_bytes() == b"first"
    assert os.listdir(tmp_path) == ["f"]


@pytest.mark.parametrize("call", ["write", "fsync", "rename"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EROFS])
def test_a_write_that_fails_keeps_the_old_file_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, code: int
) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"old")

    def fail(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(StoreUnwritable, match="f: cannot be written") as caught:
        atomic_write(path, b"new")
    monkeypatch.undo()
    assert caught.value.hint
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["f"]


def test_the_file_is_synced_before_the_rename_and_the_directory_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    real = {"fsync": os.fsync, "rename": os.rename}

    def fsync(descriptor: int) -> None:
        calls.append("fsync dir" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "fsync file")
        real["fsync"](descriptor)

    def rename(old: Path, new: Path) -> None:
        calls.append("rename")
        real["rename"](old, new)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "rename", rename)
    atomic_write(tmp_path / "f", b"x")
    assert calls == ["fsync file", "rename", "fsync dir"]


def test_reading_is_capped_and_wants_a_regular_file(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"x" * 10)
    assert read_capped(path, 10) == b"x" * 10
    with pytest.raises(ConfigError, match="10 bytes, limit is 9"):
        read_capped(path, 9)
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(ConfigError, match="not a regular file"):
        read_capped(tmp_path / "fifo", 10)
    with pytest.raises(ConfigError, match="not a regular file"):
        read_capped(tmp_path, 10)
