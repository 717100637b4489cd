"""Standard streams that are closed, full, or left by their reader change no verdict and are no bug of the program."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from cli_helpers import make_home
from terminal import COMMAND


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("streams") / "a"
    make_home(path, "Hospital A")
    return path


def shell(home: Path, words: str, streams: str) -> tuple[int, str]:
    """Exit code and stderr of ``quidnunc WORDS STREAMS``, as a shell redirects."""
    line = f'"$@" {words} {streams}'
    env = {key: value for key, value in os.environ.items() if key != "PYTHONUNBUFFERED"}
    done = subprocess.run(
        ["/bin/sh", "-c", line, "sh", *COMMAND, "--home", str(home)],
        capture_output=True,
        text=True,
        check=False,
        env=env,
        timeout=60,
    )
    assert not list(home.glob("quidnunc-error-*")), "taken for a bug"
    return done.returncode, done.stderr


@pytest.mark.parametrize(
    ("words", "streams", "code"),
    [
        ("status", ">&-", 3),
        ("id", ">&-", 0),
        ("--json id", "<&- >&- 2>&-", 0),
        ("run", ">&-", 64),
        ("status", "2>/dev/full", 3),
        ("--json nonsense", "| true", 0),
    ],
)
def test_a_closed_stream_is_discarded(home: Path, words: str, streams: str, code: int) -> None:
    found, said = shell(home, words, streams)
    assert found == code
    assert "Traceback" not in said
    assert "bug" not in said


@pytest.mark.parametrize("words", ["id", "--json ledger log", "--json status", "--help"])
def test_a_full_stdout_is_one_line_and_code_73(home: Path, words: str) -> None:
    code, said = shell(home, words, ">/dev/full")
    assert (code, said) == (73, "error: standard output: cannot be written: no space left on device\n")


def test_a_closed_descriptor_is_not_given_to_the_ledger(home: Path) -> None:
    """What a closed stdout leaves free is not where the ledger is opened: a print would land in it."""
    before = (home / "state" / "ledger.db").read_bytes()
    assert shell(home, "ledger verify", "<&- >&- 2>&-")[0] == shell(home, "ledger verify", "")[0]
    assert (home / "state" / "ledger.db").read_bytes() == before
