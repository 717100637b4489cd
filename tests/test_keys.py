"""Key files are refused, with the command that mends them, unless only their owner can read them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from quidnunc.crypto.errors import KeyFileError
from quidnunc.crypto.keyfile import MAX_KEY_FILE_BYTES
from quidnunc.peer import keys


@pytest.fixture
def path(tmp_path: Path) -> Path:
    directory = tmp_path / "keys"
    directory.mkdir(mode=0o700)
    return directory / "operational.key"


def test_a_created_key_is_private_fresh_and_loads_back(path: Path) -> None:
    before = os.umask(0)
    try:
        secret = keys.create(path, "operational")
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o600
    assert len(secret) == 32
    assert keys.load(path, "operational") == secret
    assert keys.create(path.with_name("other.key"), "operational") != secret


def test_a_key_is_never_overwritten(path: Path) -> None:
    secret = keys.create(path, "root")
    with pytest.raises(KeyFileError, match="there is a key already"):
        keys.create(path, "root")
    with pytest.raises(KeyFileError, match="there is a key already"):
        keys.write(path, "root", b"x" * 32)
    assert keys.load(path, "root") == secret
    assert os.listdir(path.parent) == [path.name]


def test_the_wrong_kind_is_refused(path: Path) -> None:
    keys.create(path, "root")
    with pytest.raises(KeyFileError, match="the file holds the root key, must hold the operational key"):
        keys.load(path, "operational")


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644, 0o777, 0o700, 0o610])
def test_a_mode_wider_than_0600_is_refused_with_the_command_that_mends_it(path: Path, mode: int) -> None:
    keys.create(path, "operational")
    path.chmod(mode)
    with pytest.raises(KeyFileError, match=f"others may read it \\(mode 0{mode:o}\\)") as caught:
        keys.load(path, "operational")
    assert caught.value.hint == f"chmod 600 {path}"
    path.chmod(0o400)
    keys.load(path, "operational")


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o777])
def test_a_directory_others_may_write_to_is_refused(path: Path, mode: int) -> None:
    keys.create(path, "operational")
    path.parent.chmod(mode)
    with pytest.raises(KeyFileError, match="others may write to it") as caught:
        keys.load(path, "operational")
    assert caught.value.hint == f"chmod 700 {path.parent}"


def test_a_file_of_another_owner_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys.create(path, "operational")
    monkeypatch.setattr(os, "geteuid", lambda: 4242)
    with pytest.raises(KeyFileError, match="this process runs as 4242") as caught:
        keys.load(path, "operational")
    assert caught.value.hint == f"chown 4242 {path}"


def test_a_link_is_not_followed_even_to_a_good_key(path: Path) -> None:
    keys.create(path, "operational")
    link = path.with_name("link.key")
    link.symlink_to(path)
    with pytest.raises(KeyFileError, match="a symbolic link"):
        keys.load(link, "operational")


def test_what_is_no_file_or_not_there_is_refused_without_waiting(path: Path) -> None:
    with pytest.raises(KeyFileError, match="no such key file"):
        keys.load(path, "root")
    with pytest.raises(KeyFileError, match="no such key file"):
        keys.load(path / "nowhere" / "root.key", "root")
    os.mkfifo(path, 0o600)
    with pytest.raises(KeyFileError, match="not a regular file"):
        keys.load(path, "root")


def test_the_size_is_capped(path: Path) -> None:
    path.touch(0o600)
    path.write_bytes(b"\0" * (MAX_KEY_FILE_BYTES + 1))
    with pytest.raises(KeyFileError, match=f"limit is {MAX_KEY_FILE_BYTES}"):
        keys.load(path, "root")
    with path.open("r+b") as file:
        file.truncate(1 << 40)
    with pytest.raises(KeyFileError, match=f"limit is {MAX_KEY_FILE_BYTES}"):
        keys.load(path, "root")


def test_every_flipped_bit_is_found_and_the_file_is_named(path: Path) -> None:
    keys.create(path, "operational")
    good = path.read_bytes()
    for at in range(len(good)):
        for bit in range(8):
            damaged = bytearray(good)
            damaged[at] ^= 1 << bit
            path.write_bytes(damaged)
            with pytest.raises(KeyFileError, match=r"operational\.key: ") as caught:
                keys.load(path, "operational")
            assert good[-32:].hex() not in str(caught.value)


def test_bytes_for_a_caller_that_writes_itself_are_a_key_file(path: Path) -> None:
    path.touch(0o600)
    path.write_bytes(keys.encode("root", b"r" * 32))
    assert keys.load(path, "root") == b"r" * 32
