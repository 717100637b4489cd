"""A new file takes no other's place, whoever was first and whatever the file system can do."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any, NoReturn

import pytest

from quidnunc.crypto.errors import ConfigError, StoreUnwritable
from quidnunc.peer.new_file import new_file, write_new


def no_links(*args: Any, **more: Any) -> NoReturn:
    raise OSError(errno.EPERM, os.strerror(errno.EPERM))


@pytest.fixture(params=["links", "no links"])
def directory(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory on a file system with hard links, or on one without, as a memory stick has."""
    if request.param == "no links":
        monkeypatch.setattr(os, "link", no_links)
    return tmp_path


def test_a_new_file_is_whole_and_has_its_mode(directory: Path) -> None:
    write_new(directory / "a", b"whole", 0o640)
    assert ((directory / "a").read_bytes(), (directory / "a").stat().st_mode & 0o777) == (b"whole", 0o640)
    assert [path.name for path in directory.iterdir()] == ["a"]


def test_what_came_first_stays_even_if_it_came_while_we_wrote(directory: Path) -> None:
    path = directory / "a"

    def write() -> None:
        with new_file(path) as temporary:
            temporary.write_bytes(b"ours")
            path.write_bytes(b"theirs")

    with pytest.raises(ConfigError, match="is there already"):
        write()
    with pytest.raises(ConfigError, match="is there already"):
        write_new(path, b"ours again")
    assert path.read_bytes() == b"theirs"
    assert [each.name for each in directory.iterdir()] == ["a"]


def test_a_failed_write_leaves_nothing(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreUnwritable, match="no space left"):
        write_new(directory / "a", b"data")
    assert not list(directory.iterdir())
