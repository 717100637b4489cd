"""``ledger export``: what leaves is whole, verifies elsewhere, and holds nothing private; bundles serve as ledgers."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from base64 import b64decode
from pathlib import Path
from typing import Any

import pytest
from cli_helpers import quidnunc
from federation_homes import Federation, federation
from ledgers import Author

from quidnunc.crypto.checkpoint import parse_checkpoint
from quidnunc.crypto.entry import Entry, open_entry
from quidnunc.crypto.merkle import Tree, leaf_hash
from quidnunc.crypto.note import parse_note, parse_vkey, verify_note
from quidnunc.crypto.tiles import ENTRIES, parse_tile_path, split_bundle, split_tile, tile_root
from quidnunc.peer.commands.ledger_export import FORMATS
from quidnunc.peer.home import Home
from quidnunc.peer.ledger import tally
from quidnunc.peer.ledger.bundle import write_tiles
from quidnunc.peer.ledger.store import Store


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    return federation(tmp_path_factory.mktemp("export"), 12.0)


@pytest.fixture(scope="module")
def bundle(three: Federation, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bundle") / "b"
    assert export(three.homes[0], "bundle", path).code == 0
    return path


def export(home: Path, form: str, out: Path | str, *words: str | Path) -> Any:
    return quidnunc("--home", home, "--json", "ledger", "export", "--format", form, "--out", out, *words)


# jsonl.


def test_every_entry_survives_as_a_line(three: Federation, tmp_path: Path) -> None:
    out = tmp_path / "a.jsonl"
    data = export(three.homes[0], "jsonl", out).data
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    with Store.open(Home.at(three.homes[0]).ledger, readonly=True) as store:
        stored = list(store.entries())
    assert data["entries"] == len(lines) == len(stored)
    assert data["bytes"] == out.stat().st_size
    for line, entry in zip(lines, stored, strict=True):
        back = Entry(*(b64decode(line[key]) for key in ("header", "payload_bytes", "salt")))
        assert (back.leaf.hex(), open_entry(back).seq) == (line["hash"], line["seq"])
        assert back == entry._replace(private=b"", private_salt=b"")
        assert line["valid"]
        assert not {"private", "private_bytes", "private_salt"} & line.keys()
    assert any(line["payload"].get("private") for line in lines), "the commitment stays"


def test_private_parts_are_written_only_when_asked_for_and_to_a_private_file(three: Federation, tmp_path: Path) -> None:
    out = tmp_path / "a.jsonl"
    assert export(three.homes[0], "jsonl", out, "--private").code == 0
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    merges = [line for line in lines if line["type"] == "merge"]
    assert merges
    assert all(line["private"]["standings"] for line in merges)
    with Store.open(Home.at(three.homes[0]).ledger, readonly=True) as store:
        assert b64decode(merges[0]["private_bytes"]) == store.entry(merges[0]["seq"]).private
    assert out.stat().st_mode & 0o077 == 0


def test_jsonl_can_be_piped(three: Federation) -> None:
    result = quidnunc("--home", three.homes[1], "ledger", "export", "--format", "jsonl", "--out", "-")
    with Store.open(Home.at(three.homes[1]).ledger, readonly=True) as store:
        assert [json.loads(line)["seq"] for line in result.out.splitlines()] == list(range(store.size))
    assert export(three.homes[1], "jsonl", "-").code == 2


def piped(home: Path, *words: str | Path) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "quidnunc.peer.cli", "--home", str(home), "ledger", *map(str, words)]
    return subprocess.run(command, capture_output=True, timeout=120)


def test_a_file_called_dash_is_stdout_and_nothing_else_is_said_there(
    three: Federation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Regression: proofs, pages, tiles and bundles went to a file of that name."""
    monkeypatch.chdir(tmp_path)
    home = three.homes[0]
    proof = piped(home, "prove", "5", "--out", "-", "--policy-out", "p")
    assert quidnunc("--home", home, "ledger", "prove", "5", "--out", "there").code == 0
    assert (proof.returncode, proof.stdout) == (0, (tmp_path / "there").read_bytes())
    assert b"verify-proof" in proof.stderr
    page = piped(home, "export", "--format", "html", "--out", "-")
    assert (page.returncode, page.stdout[:15], page.stderr) == (0, b"<!DOCTYPE html>", b"")
    for words in (["prove", "5"], ["export", "--format", "html"]):
        assert quidnunc("--home", home, "--json", "ledger", *words, "--out", "-").code == 2
    for form in ("tiles", "bundle"):
        assert export(home, form, "-").code == 2
    for words in (["prove", "5", "--out", "q", "--policy-out", "-"], ["diff", "--since", "3", "--proof-out", "-"]):
        result = quidnunc("--home", home, "ledger", *words)
        assert (result.code, "stdout" in result.err) == (2, True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["p", "there"]


# tiles.


def test_tiles_give_the_signed_root_back(three: Federation, tmp_path: Path) -> None:
    out = tmp_path / "a.tiles"
    data = export(three.homes[0], "tiles", out).data
    note = parse_note((out / "checkpoint").read_bytes())
    checkpoint = parse_checkpoint(note.text)
    key = parse_vkey(data["key"])
    assert verify_note(note, [key]) == [key.name] == [checkpoint.origin]
    files = [path for path in out.rglob("*") if path.is_file() and path.name != "checkpoint"]
    tiles = {parse_tile_path(path.relative_to(out).as_posix()): path.read_bytes() for path in files}
    assert data["files"] == len(tiles) + 1
    tree = Tree()
    for tile in sorted(tile for tile in tiles if tile.level == 0):
        headers = split_bundle(tiles[tile._replace(level=ENTRIES)], tile.width)
        assert [leaf_hash(header) for header in headers] == split_tile(tiles[tile], tile.width)
        for header in headers:
            tree.append(leaf_hash(header))
    assert (tree.size, tree.root()) == (checkpoint.size, checkpoint.root)
    assert data["entries"] == tree.size


def test_full_tiles_and_the_levels_above(tmp_path: Path) -> None:
    """600 entries: two full tiles of hashes and of entries, a partial one of each, and one level above."""
    author = Author()
    with Store.create(tmp_path / "ledger.db", author.log_id, author.key.public) as store:
        store.commit(author.entries(600), author.note())
        assert write_tiles(store, author.note(), 600, tmp_path / "t") == 8
    root = tmp_path / "t"
    names = sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())
    entries, hashes = (f"tile/{level}/" for level in ("entries", "0"))
    assert names == sorted(
        ["checkpoint", "tile/1/000.p/2", *(f"{level}{part}" for level in (entries, hashes) for part in ("000", "001"))]
        + [f"{level}002.p/88" for level in (entries, hashes)]
    )
    upper = split_tile((root / "tile/1/000.p/2").read_bytes(), 2)
    assert [tile_root((root / "tile/0" / name).read_bytes()) for name in ("000", "001")] == upper


# bundles.


def test_a_bundle_has_neither_keys_nor_private_parts(three: Federation, bundle: Path) -> None:
    assert sorted(path.relative_to(bundle).as_posix() for path in bundle.rglob("*") if path.is_file()) == [
        "card.note",
        "charter.note",
        "state/ledger.db",
    ]
    with Store.open(Home.at(three.homes[0]).ledger, readonly=True) as store:
        private = [entry.private for entry in store.entries() if entry.private]
        assert private
    raw = (bundle / "state/ledger.db").read_bytes()
    assert not [each for each in private if each in raw]
    with sqlite3.connect(f"file:{bundle / 'state/ledger.db'}?mode=ro", uri=True) as connection:
        assert connection.execute("SELECT count(*) FROM private").fetchone() == (0,)
        keys = sorted(key for (key,) in connection.execute("SELECT key FROM meta") if not tally.reserved(key))
        assert keys == ["log_id", "public", "withheld"]
    connection.close()


READING = [
    ["status"],
    ["log", "-n", "0"],
    ["show", "7"],
    ["verify"],
    ["fsck"],
    ["peers"],
    ["why", "2"],
    ["evidence", "list"],
]


@pytest.mark.parametrize("words", READING, ids=lambda words: words[0])
def test_every_reading_command_says_of_a_bundle_what_it_says_of_the_home(
    three: Federation, bundle: Path, tmp_path: Path, words: list[str]
) -> None:
    def said(*where: str | Path) -> Any:
        data = quidnunc(*where, "--json", "ledger", *words).data
        for blob in data.get("blobs", []):
            del blob["held"]
        return {key: value for key, value in data.items() if key not in ("layers", "private_bytes")}

    wanted = said("--home", three.homes[0])
    assert said("--home", bundle) == wanted
    result = quidnunc("--home", tmp_path / "none", "--json", "ledger", *words, "--ledger", bundle)
    assert result.code == 0, result.err


def test_a_bundle_on_a_read_only_medium_leaves_nothing_behind(bundle: Path, tmp_path: Path) -> None:
    copied = Path(shutil.copytree(bundle, tmp_path / "b"))
    before = sorted(path.name for path in copied.rglob("*"))
    assert quidnunc("ledger", "verify", "--ledger", copied).code == 0
    assert sorted(path.name for path in copied.rglob("*")) == before


def test_a_bare_copy_is_read_beside_the_charter_of_the_home(three: Federation, tmp_path: Path) -> None:
    copied = tmp_path / "other.db"
    with Store.open(Home.at(three.homes[1]).ledger, readonly=True) as store:
        store.backup(copied)
    data = quidnunc("--home", three.homes[0], "--json", "ledger", "verify", "--ledger", copied).data
    assert (data["verified"], data["identity"], data["name"]) == (True, True, three.name(1))
    lone = quidnunc("--home", tmp_path / "none", "--json", "ledger", "verify", "--ledger", tmp_path / "absent.db")
    assert (lone.code, "no ledger here" in lone.err) == (64, True)


@pytest.mark.parametrize("name", ["card.note", "charter.note"])
def test_a_bundle_takes_no_more_than_a_card_and_a_charter(three: Federation, tmp_path: Path, name: str) -> None:
    """Regression: whatever lay there was copied, a link to an endless device until the disk was full."""
    home = Path(shutil.copytree(three.homes[0], tmp_path / "home"))
    for lay in (lambda at: at.symlink_to("/dev/zero"), os.mkfifo, lambda at: at.write_bytes(bytes(2**20 + 1))):
        (home / name).unlink()
        lay(home / name)
        result = export(home, "bundle", tmp_path / "out")
        assert (result.code, name in result.err) == (64, True), result.err
        assert os.listdir(tmp_path) == ["home"]


def test_a_bundle_that_was_changed_does_not_verify(bundle: Path, tmp_path: Path) -> None:
    copied = Path(shutil.copytree(bundle, tmp_path / "b"))
    with sqlite3.connect(copied / "state/ledger.db") as connection:
        connection.execute("UPDATE entry SET payload = x'80' WHERE seq = 4")
    connection.close()
    assert quidnunc("ledger", "verify", "--ledger", copied).code == 30


def test_proofs_and_traces_are_made_from_bundles(three: Federation, bundle: Path, tmp_path: Path) -> None:
    nowhere = ("--home", tmp_path / "none", "--json", "ledger")
    assert quidnunc(*nowhere, "prove", "5", "--ledger", bundle, "--out", tmp_path / "p").code == 0
    others = [word for home in three.homes[1:] for word in ("--ledger", home)]
    own = quidnunc("--home", three.homes[0], "--json", "ledger", "trace", *others).data
    assert quidnunc(*nowhere, "trace", "--ledger", bundle, *others).data == own


# What cannot be.


def test_nothing_is_overwritten_and_nothing_half_done_stays(three: Federation, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    for form in ("tiles", "bundle"):
        result = export(three.homes[0], form, tmp_path / "there")
        assert (result.code, "is there already" in result.err) == (64, True)
        assert export(three.homes[0], form, tmp_path / "no" / "such").code == 73
    assert export(three.homes[0], "jsonl", tmp_path / "no" / "such").code == 73
    (tmp_path / "file").write_text("precious")
    for form in FORMATS:
        result = export(three.homes[0], form, tmp_path / "file")
        assert (result.code, "is there already" in result.err) == (64, True)
    prove = ("--home", three.homes[0], "ledger", "prove", "5", "--out")
    for words in (tmp_path / "file",), (tmp_path / "new", "--policy-out", tmp_path / "file"):
        result = quidnunc(*prove, *words)
        assert (result.code, "is there already" in result.err) == (64, True)
    assert (tmp_path / "file").read_text() == "precious"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "there"]


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--format", "tiles", "--private"], "--private goes with --format jsonl"),
        (["--format", "jsonl", "--ledger", "x"], "--ledger names another member's ledger"),
        (["--format", "csv"], "invalid choice"),
        ([], "--format"),
    ],
)
def test_words_that_make_no_sense_together(three: Federation, words: list[str], why: str) -> None:
    result = quidnunc("--home", three.homes[0], "ledger", "export", *words)
    assert (result.code, why in result.err) == (2, True)


def test_an_empty_ledger_has_no_tiles(three: Federation, tmp_path: Path) -> None:
    home = Home.at(tmp_path / "empty")
    home.create()
    shutil.copy(Home.at(three.homes[0]).card, home.card)
    Store.create(home.ledger, three.world.peers[0].log_id, three.world.peers[0].secret.public).close()
    assert export(home.root, "tiles", tmp_path / "t").code == 32
    assert export(home.root, "jsonl", tmp_path / "j").data["entries"] == 0
    assert export(home.root, "html", tmp_path / "h").code == 0
