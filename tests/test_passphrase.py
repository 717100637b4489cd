"""Passphrases come from a credential, a private file, a descriptor or a terminal, and from nowhere else."""

from __future__ import annotations

import contextlib
import os
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quidnunc.crypto.errors import KeyFileError
from quidnunc.crypto.keyfile import MAX_MEM_KIB, MAX_OPS, MIN_MEM_KIB, MIN_OPS, Cost
from quidnunc.crypto.passphrase import MAX_PASSPHRASE_BYTES, passphrase_bytes
from quidnunc.peer import passphrase


@pytest.mark.parametrize(
    ("given_bytes", "expected"),
    [
        (b"secret", b"secret"),
        (b"secret\n", b"secret"),
        (b"secret\r\n", b"secret"),
        (b" two words ", b" two words "),
        (b"tab\there", b"tab\there"),
        ("Cafe\u0301".encode(), "Caf\u00e9".encode()),
        ("Caf\u00e9".encode(), "Caf\u00e9".encode()),
        ("\u212b".encode(), "\u00c5".encode()),
        (b"x" * MAX_PASSPHRASE_BYTES + b"\n", b"x" * MAX_PASSPHRASE_BYTES),
    ],
)
def test_what_counts_as_the_same_passphrase(given_bytes: bytes, expected: bytes) -> None:
    assert passphrase_bytes(given_bytes) == expected


@pytest.mark.parametrize(
    ("given_bytes", "message"),
    [
        (b"", "is empty"),
        (b"\n", "is empty"),
        (b"\r\n", "is empty"),
        (b"x" * (MAX_PASSPHRASE_BYTES + 1), f"longer than {MAX_PASSPHRASE_BYTES} bytes"),
        # U+0958 has no composed form: normalized it takes six bytes instead of three.
        ("\u0958".encode() * 171, f"1026 bytes in Unicode normal form C, limit is {MAX_PASSPHRASE_BYTES}"),
        (b"\xff\xfe", "not UTF-8"),
        ("x\ud800".encode("utf-8", "surrogatepass"), "not UTF-8"),
        (b"one\ntwo", "more than one line"),
        (b"one\n\n", "more than one line"),
        (b"one\r", "more than one line"),
        (b"one\0", "zero byte"),
        (b"\xef\xbb\xbfone\n", "begins with a byte order mark"),
    ],
)
def test_what_is_no_passphrase(given_bytes: bytes, message: str) -> None:
    with pytest.raises(KeyFileError, match=message) as caught:
        passphrase_bytes(given_bytes)
    assert caught.value.hint


@given(st.text(min_size=1, max_size=40))
def test_a_passphrase_is_its_own_normal_form_however_it_is_composed(text: str) -> None:
    forms = [unicodedata.normalize(form, text).encode("utf-8", "surrogatepass") for form in ("NFC", "NFD")]
    with contextlib.suppress(KeyFileError):
        phrase = passphrase_bytes(forms[0])
        assert passphrase_bytes(phrase) == passphrase_bytes(forms[1]) == phrase


def test_the_page_for_operators_says_where_a_passphrase_comes_from_and_what_a_key_file_may_ask() -> None:
    page = (Path(__file__).resolve().parent.parent / "docs" / "operations.md").read_text("utf-8")
    section = " ".join(page.partition("## Keys and passphrases\n")[2].partition("\n## ")[0].split())
    ways = [section.index(f"{at}. {way}") for at, way in enumerate(("the systemd credential", "`--passphrase-file"), 1)]
    ways += [section.index(f"{at}. {way}") for at, way in enumerate(("`--passphrase-fd", "a person"), 3)]
    assert ways == sorted(ways)
    usual = Cost()
    assert f"`{passphrase.CREDENTIAL}`" in section
    assert f"({usual.mem_kib // 1024} MiB, {usual.ops} passes;" in section
    assert f"less than {MIN_MEM_KIB // 1024} MiB or more than {MAX_MEM_KIB // 1024} MiB" in section
    assert f"other than {MIN_OPS} to {MAX_OPS} passes" in section
    assert f"at most {MAX_PASSPHRASE_BYTES} bytes" in section


@pytest.fixture
def path(tmp_path: Path) -> Path:
    made = tmp_path / "phrase"
    made.touch(0o600)
    made.write_bytes(b"from the file\n")
    return made


def test_a_private_file_is_read(path: Path) -> None:
    assert passphrase.from_file(path) == b"from the file"
    path.chmod(0o400)
    assert passphrase.from_file(path) == b"from the file"


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644, 0o700])
def test_a_file_that_others_can_read_is_refused(path: Path, mode: int) -> None:
    path.chmod(mode)
    with pytest.raises(KeyFileError, match=f"others may read it \\(mode 0{mode:o}\\)") as caught:
        passphrase.from_file(path)
    assert caught.value.hint == f"chmod 600 {path}"


def test_what_is_no_private_file_is_refused_without_waiting(path: Path, tmp_path: Path) -> None:
    with pytest.raises(KeyFileError, match="no such passphrase file"):
        passphrase.from_file(tmp_path / "nowhere")
    (tmp_path / "link").symlink_to(path)
    with pytest.raises(KeyFileError, match="a symbolic link"):
        passphrase.from_file(tmp_path / "link")
    os.mkfifo(tmp_path / "fifo", 0o600)
    with pytest.raises(KeyFileError, match="not a regular file"):
        passphrase.from_file(tmp_path / "fifo")
    path.write_bytes(b"x" * (MAX_PASSPHRASE_BYTES + 2))
    with pytest.raises(KeyFileError, match=f"{path}: the passphrase is longer than"):
        passphrase.from_file(path)
    path.write_bytes(b"x" * MAX_PASSPHRASE_BYTES + b"\n")
    assert len(passphrase.from_file(path)) == MAX_PASSPHRASE_BYTES


@pytest.mark.parametrize(
    ("pieces", "expected"),
    [([b"from the pipe"], b"from the pipe"), ([b"from ", b"the pipe\n"], b"from the pipe")],
)
def test_a_descriptor_is_read_to_its_end_and_closed(pieces: list[bytes], expected: bytes) -> None:
    reader, writer = os.pipe()
    for piece in pieces:
        os.write(writer, piece)
    os.close(writer)
    assert passphrase.from_descriptor(reader) == expected
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(reader)


def test_a_line_is_enough_while_the_other_end_stays_open() -> None:
    reader, writer = os.pipe()
    os.write(writer, b"a line\n")
    assert passphrase.from_descriptor(reader) == b"a line"
    os.close(writer)


def test_a_descriptor_that_will_not_do_is_refused() -> None:
    reader, writer = os.pipe()
    with pytest.raises(KeyFileError, match=f"file descriptor {writer}: cannot be read: bad file descriptor"):
        passphrase.from_descriptor(writer)
    os.write(writer, b"x" * 2000)
    with pytest.raises(KeyFileError, match="longer than"):
        passphrase.from_descriptor(reader)
    os.close(writer)
    with pytest.raises(KeyFileError, match="cannot be read"):
        passphrase.from_descriptor(987_654)
    with pytest.raises(KeyFileError, match="file descriptor 1: is for output"):
        passphrase.from_descriptor(1)
    master, slave = os.openpty()
    with pytest.raises(KeyFileError, match="a terminal, which shows what is typed"):
        passphrase.from_descriptor(slave)
    os.close(master)
    os.close(slave)


def test_a_credential_is_taken_where_systemd_put_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    assert passphrase.from_credential() is None
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert passphrase.from_credential() is None
    path = tmp_path / "quidnunc-passphrase"
    path.touch(0o400)
    path.chmod(0o600)
    path.write_bytes(b"from systemd\n")
    # 0440: root's file, with an access list for the service's user, whose mask shows as the group's bits.
    for mode in (0o400, 0o440, 0o600):
        path.chmod(mode)
        assert passphrase.from_credential() == b"from systemd"
    for mode in (0o444, 0o620, 0o604):
        path.chmod(mode)
        with pytest.raises(KeyFileError, match=f"mode 0{mode:o}") as caught:
            passphrase.from_credential()
        assert "LoadCredential=" in caught.value.hint
