"""``quidnunc run --check`` finds what a start would refuse: every case one clear error, and nothing is changed."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cli_helpers import Result, make_home, quidnunc
from founders import Founder, charter, private
from test_cli_ledger import Scribe

from quidnunc.crypto.entry import EntryType
from quidnunc.crypto.identity import SecretKey
from quidnunc.gossip.federation.card import open_card
from quidnunc.gossip.federation.charter import TaskSpec
from quidnunc.gossip.federation.founding import draft_note, sign_charter
from quidnunc.peer import keys
from quidnunc.peer.commands.run_check import loose_cap
from quidnunc.peer.config import Config, Privacy
from quidnunc.peer.home import Home

SCHEMA = """version = 1
[target]
name = "sick"
positive = "= 1"
values = [0, 1]
[columns.age]
kind = "number"
range = [0, 120]
"""
AT_B = "/ip4/192.0.2.9/tcp/4901"
TABLE = "age,sick\n" + "".join(f"{age},{age % 2}\n" for age in range(20, 90))


@dataclass(frozen=True)
class Pair:
    """Two homes under one signed charter on the task csv; ``a`` has a table that fits."""

    root: Path

    @property
    def a(self) -> Home:
        return Home.at(self.root / "a")

    @property
    def b(self) -> Home:
        return Home.at(self.root / "b")

    def check(self) -> Result:
        return quidnunc("--home", self.a.root, "run", "--check")


def founder_of(home: Home) -> Founder:
    root = SecretKey.from_seed(keys.load(home.root_key, "root"))
    return Founder(root, keys.load(home.operational_key, "operational"), open_card(home.card.read_bytes()))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    root = tmp_path_factory.mktemp("check")
    (root / "table.csv").write_text(TABLE)
    pair = Pair(root)
    for home, more in ((pair.a, ("--data", str(root / "table.csv"))), (pair.b, ("--announce", AT_B))):
        make_home(home.root, f"Hospital {home.root.name.upper()}", *more)
    both = sorted((founder_of(pair.a), founder_of(pair.b)), key=lambda each: each.member.log_id)
    task = TaskSpec("csv", b"s" * 32, b"g" * 32, 650, 0, {}, SCHEMA)
    note = draft_note(charter(both, task=task))
    for each in both:
        note = sign_charter(note, each.root)
    for home in (pair.a, pair.b):
        home.charter.write_bytes(note)
    return pair


@pytest.fixture
def pair(made: Pair, tmp_path: Path) -> Pair:
    """A copy that a test may spoil; its table stays where it is."""
    shutil.copytree(made.root, tmp_path / "copy")
    return Pair(tmp_path / "copy")


def configured(home: Home, before: str, after: str) -> None:
    text = home.config.read_text()
    assert before in text
    home.config.write_text(text.replace(before, after))


def free(home: Home) -> str:
    return next(line for line in home.config.read_text().splitlines() if line.startswith("listen"))


def test_a_home_that_is_fit_passes(pair: Pair) -> None:
    result = pair.check()
    assert (result.code, result.err) == (0, "")
    assert "Hospital A is ready to run" in result.out


def test_a_home_whose_neighbor_has_no_address_passes_and_is_told(pair: Pair) -> None:
    """Regression: nothing said that such a peer only waits, and listens where nobody looks for it."""
    table = next(line for line in pair.a.config.read_text().splitlines() if line.startswith("path ="))
    configured(pair.b, 'path = ""', table)
    result = quidnunc("--json", "--home", pair.b.root, "run", "--check")
    assert result.code == 0, result.err
    waits, nowhere = result.envelope["warnings"]
    assert waits.startswith("Hospital A: no address is known to dial; this peer waits")
    assert nowhere.startswith(f"network.listen is ['/ip4/127.0.0.1/tcp/0'], the card says ['{AT_B}']")


@pytest.mark.parametrize(("own", "told"), [(0.0, 0), (3.999, 0), (4.0, 0), (4.001, 1)])
def test_an_own_ceiling_above_the_charters_is_told_to_have_no_effect(own: float, told: int) -> None:
    config = Config(privacy=Privacy(epsilon_cap=own))
    found = loose_cap(charter(3, privacy=private(4.0, 50)), config)
    assert len(found) == told
    assert all("has no effect: the charter ends at epsilon 4" in each for each in found)
    assert loose_cap(charter(3), config) == []


Spoil = Callable[[Pair], Any]

CASES: dict[str, tuple[Spoil, int, str]] = {
    "the operational key of another member": (
        lambda pair: shutil.copy(pair.b.operational_key, pair.a.operational_key),
        77,
        "the key of Hospital B, this home is that of Hospital A by its card",
    ),
    "the root key of another member": (
        lambda pair: shutil.copy(pair.b.root_key, pair.a.root_key),
        77,
        "not the root key of Hospital A",
    ),
    "the card of another member": (
        lambda pair: shutil.copy(pair.b.card, pair.a.card),
        77,
        "the key of Hospital A, this home is that of Hospital B by its card",
    ),
    "records shared with a home that does not count this one": (
        lambda pair: configured(pair.a, "shared_homes = []", f'shared_homes = ["{pair.b.root}"]'),
        64,
        "does not name",
    ),
    "no card": (lambda pair: pair.a.card.unlink(), 32, "card.note: not there"),
    "a port that is none": (
        lambda pair: configured(pair.a, free(pair.a), 'listen = ["/ip4/127.0.0.1/tcp/99999"]'),
        64,
        "network.listen: address '/ip4/127.0.0.1/tcp/99999': port 99999 is not in 0..65535",
    ),
    "an address of another machine": (
        lambda pair: configured(pair.a, free(pair.a), 'listen = ["/ip4/192.0.2.7/tcp/4901"]'),
        64,
        "network.listen: /ip4/192.0.2.7/tcp/4901 cannot be listened on",
    ),
    "an address told that is none": (
        lambda pair: configured(pair.a, "announce = []", 'announce = ["/ip4/127.0.0.1/tcp/0"]'),
        64,
        "network.announce: address '/ip4/127.0.0.1/tcp/0': port 0",
    ),
    "an address book with a port that is none": (
        lambda pair: configured(
            pair.a, "[network.peers]", '[network.peers]\n"Hospital B" = ["/ip4/127.0.0.1/tcp/65536"]'
        ),
        64,
        "network.peers, Hospital B: address '/ip4/127.0.0.1/tcp/65536'",
    ),
    "no ledger": (lambda pair: pair.a.ledger.unlink(), 65, "ledger.db is missing"),
    "a ledger that is none": (lambda pair: pair.a.ledger.write_bytes(b"garbage" * 1000), 65, "ledger.db"),
    "the ledger of another member": (lambda pair: shutil.copy(pair.b.ledger, pair.a.ledger), 65, "belongs to log"),
    "no data": (lambda pair: configured(pair.a, f'path = "{data(pair)}"', 'path = ""'), 64, "data.path is empty"),
    "data that is gone": (
        lambda pair: configured(pair.a, f'path = "{data(pair)}"', 'path = "/nowhere/t.csv"'),
        64,
        "/nowhere/t.csv: cannot be read",
    ),
    "data that do not fit": (
        lambda pair: configured(pair.a, f'path = "{data(pair)}"', f'path = "{unfit(pair)}"'),
        64,
        "age",
    ),
}


def data(pair: Pair) -> str:
    line = next(line for line in pair.a.config.read_text().splitlines() if line.startswith("path = "))
    return line.partition('"')[2].rstrip('"')


def unfit(pair: Pair) -> Path:
    path = pair.root / "unfit.csv"
    path.write_text(TABLE.replace("\n50,", "\n500,"))
    return path


@pytest.mark.parametrize("case", CASES)
def test_what_a_start_would_refuse_is_found(pair: Pair, case: str) -> None:
    spoil, code, words = CASES[case]
    for suffix in ("-wal", "-shm"):
        pair.a.ledger.with_name(f"ledger.db{suffix}").unlink(missing_ok=True)
    spoil(pair)
    result = pair.check()
    assert (result.code, words in result.err, result.out) == (code, True, ""), result.err
    assert result.err.startswith("error: ")
    assert "Traceback" not in result.err


@pytest.mark.parametrize("what", ["state", "state/ledger.db"])
def test_a_ledger_that_cannot_be_written_is_found(pair: Pair, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    """Regression: it passed, because a check reads, and a start then ended with exit 73."""
    access, denied = os.access, str(pair.a.root / what)
    monkeypatch.setattr(os, "access", lambda path, mode: access(path, mode) and (str(path), mode) != (denied, os.W_OK))
    result = pair.check()
    assert (result.code, f"{denied}: cannot be written: permission denied" in result.err) == (73, True), result.err


def test_a_port_in_use_is_found_unless_it_is_this_daemons_own(pair: Pair) -> None:
    with ExitStack() as stack:
        taken = stack.enter_context(socket.socket())
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        configured(pair.a, free(pair.a), f'listen = ["/ip4/127.0.0.1/tcp/{port}"]')
        result = pair.check()
        assert (result.code, "address already in use" in result.err) == (64, True)
        with pair.a.lock():
            assert pair.check().code == 0


def test_all_that_is_wrong_is_told_at_once(pair: Pair) -> None:
    """Regression: with the port taken, a ledger that was gone was not mentioned."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"/ip4/127.0.0.1/tcp/{taken.getsockname()[1]}"
        configured(pair.a, free(pair.a), f'listen = ["{address}"]')
        pair.a.ledger.unlink()
        result = quidnunc("--json", "--home", pair.a.root, "run", "--check")
    assert result.envelope["error"]["message"].startswith(f"ledger entry 0: {pair.a.ledger} is missing")
    (other,) = result.envelope["warnings"]
    assert other.startswith(f"also: network.listen: {address} cannot be listened on")


def test_a_damaged_page_is_one_clean_line_that_names_the_file(pair: Pair) -> None:
    """Regression: ``ledger entry -1: *** in database main ***\\nPage 12: ...``."""
    data = bytearray(pair.a.ledger.read_bytes())
    size = int.from_bytes(data[16:18], "big")
    page = len(data) // size + 1
    data[28:32] = page.to_bytes(4, "big")  # SQLite's file format, section 1.3: pages in the file
    pair.a.ledger.write_bytes(data + bytes(size))
    result = pair.check()
    assert result.code == 65
    first = result.err.splitlines()[0]
    assert first.startswith(f"error: {pair.a.ledger}: ")
    assert f"page {page}" in first.lower()
    assert not any(each in first for each in ("\\n", "***", "entry -1"))
    verified = quidnunc("--home", pair.a.root, "ledger", "verify")
    assert verified.code in (30, 65)
    assert not any(each in verified.out + verified.err for each in ("\\n", "***", "-1"))


def test_a_charter_that_is_refused_is_named(pair: Pair) -> None:
    pair.a.charter.write_bytes(b"broken")
    assert f"error: {pair.a.charter}: charter refused: " in pair.check().err


def test_a_charter_that_is_gone_is_told_from_one_that_never_was(pair: Pair) -> None:
    pair.a.charter.unlink()
    assert "there is no charter yet" in pair.check().err
    Scribe(pair.a).write((EntryType.GENESIS, open_card(pair.a.card.read_bytes()).genesis))
    for words in (["run", "--check"], ["run"], ["federation", "show"]):
        result = quidnunc("--home", pair.a.root, *words)
        assert result.code == 64
        assert "the charter is gone, and this peer has run under it (1 ledger entries)" in result.err
        assert "run --charter FILE" in result.err


@pytest.mark.parametrize("words", [["ledger", "verify"], ["ledger", "status"], ["id"]])
def test_a_home_without_its_card_is_incomplete(pair: Pair, words: list[str]) -> None:
    pair.a.card.unlink()
    result = quidnunc("--home", pair.a.root, "--json", *words)
    error = result.envelope["error"]
    assert (result.code, error["id"]) == (32, "card_missing")
    assert error["message"].startswith(f"{pair.a.card}: not there")
    assert "tar xf FILE card.note" in error["hint"]
