"""A data schema from the file of whoever drafts the charter to the eyes of everybody who signs it."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import four_sites
import pytest
from cli_helpers import make_home, quidnunc
from founders import charter

from quidnunc.crypto.noise import NoiseStream
from quidnunc.gossip.blobs import MemoryBlobs
from quidnunc.gossip.federation.card import open_card
from quidnunc.gossip.federation.founding import draft_note, open_charter
from quidnunc.gossip.federation.terms import DATA_SCHEMA_BYTES
from quidnunc.gossip.jobs import Described, DescribeJob
from quidnunc.gossip.learning.compute import Compute
from quidnunc.gossip.task import Site
from quidnunc.peer.commands.data_schema import COLUMNS_SHOWN
from quidnunc.peer.config import load
from quidnunc.peer.home import Home
from quidnunc.peer.pipe import TO_CHILD
from quidnunc.peer.task_loader import load_task
from quidnunc.peer.task_setup import compute_setup

OWN = "ruled_task:task"
TEXT = "age\nblood_pressure\nlactate\n"


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))


@pytest.fixture(scope="module")
def cards(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    root = tmp_path_factory.mktemp("schema")
    return [make_home(root / name, f"Hospital {name.upper()}") for name in "ab"]


@pytest.fixture(scope="module")
def draft(cards: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A charter with a schema, drafted where there is no data."""
    root = tmp_path_factory.mktemp("draft")
    schema = root / "schema.toml"
    schema.write_bytes(b"\xef\xbb\xbf" + TEXT.replace("\n", "\r\n").encode())
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parent))
        words = ["--task", OWN, "--schema", schema, "--out", root / "charter.note"]
        result = quidnunc("federation", "create", *cards, *words)
    assert result.code == 0, result.err
    return root / "charter.note"


def test_a_charter_with_a_schema_is_drafted_without_data(draft: Path) -> None:
    task = open_charter(draft.read_bytes()).charter.task
    assert task.data_schema == TEXT
    assert task.dim == 2 * 3 + 2


def test_every_member_sees_the_schema_it_signs(draft: Path, cards: list[Path], tmp_path: Path) -> None:
    digest = hashlib.sha256(TEXT.encode()).hexdigest()[:16]
    line = f"data       schema of {len(TEXT)} bytes, SHA-256 {digest}, signed as it stands"
    shown = quidnunc("federation", "show", draft)
    signed = quidnunc(
        "--home", cards[0].parent, "federation", "sign", "--yes", draft, "--out", tmp_path / "signed.note"
    )
    assert line in shown.out
    assert line in signed.err
    assert quidnunc("--json", "federation", "show", draft).data["task"]["data_schema"] == TEXT
    assert quidnunc("federation", "show", draft, "--schema").out == TEXT
    assert quidnunc("--json", "federation", "show", draft, "--schema").data == {"data_schema": TEXT}


def test_the_schema_reaches_the_task_of_every_member(draft: Path, cards: list[Path], tmp_path: Path) -> None:
    charter = open_charter(draft.read_bytes()).charter
    home = Home.at(cards[0].parent)
    setup = compute_setup(charter, load(home.config), home)
    assert (setup.schema, setup.blank) == (TEXT, False)
    assert TO_CHILD.decode(TO_CHILD.encode(setup)) == setup
    table = tmp_path / "table.csv"
    table.write_text("age,blood_pressure,lactate,y\n" + "1,2,3,0\n" * 10)
    site = Site(path=str(table), schema=charter.task.data_schema)
    compute = Compute(load_task(OWN), site, charter.plan(), MemoryBlobs(), NoiseStream(bytes(32), b"compute"))
    described = compute.handle(DescribeJob())
    assert isinstance(described, Described)
    assert (described.schema, described.genesis) == (charter.task.schema, charter.task.genesis)


def test_a_schema_of_tables_is_shown_by_its_columns_before_it_is_signed(cards: list[Path], tmp_path: Path) -> None:
    schema = tmp_path / "schema.toml"
    schema.write_text(four_sites.SCHEMA)
    words = ["--task", "csv", "--schema", schema, "--out", tmp_path / "c.note"]
    result = quidnunc("federation", "create", *cards, *words)
    assert result.code == 0, result.err
    # ``create`` may sign at once: what is signed must be seen by whoever signs later, too.
    signed = quidnunc("--home", cards[1].parent, "federation", "sign", "--yes", tmp_path / "c.note")
    assert signed.code == 0, signed.err
    for text in (result.out, signed.err):
        lines = [" ".join(line.split()) for line in text.splitlines()]
        assert "predicts readmitted = yes; 20% of the rows test, 15% judge neighbors; seed 3" in lines
        for line in (
            "patient group",
            "age 18 to 100 years",
            "pressure 60 to 240 mm Hg, 0 is missing, missing: marked",
            "sugar 40 to 400 mg/dl, missing: median 110",
            "sex one of F, M",
            "remark ignore",
        ):
            assert line in lines


def test_many_columns_are_counted_and_none_is_hidden_from_the_full_text(cards: list[Path], tmp_path: Path) -> None:
    text = 'version = 1\n[target]\nname = "y"\npositive = "> 0"\n'
    text += "".join(f'[columns.c{i}]\nkind = "number"\nrange = [0, 1]\n' for i in range(COLUMNS_SHOWN + 2))
    (tmp_path / "schema.toml").write_text(text)
    words = ["--task", "csv", "--schema", tmp_path / "schema.toml", "--out", tmp_path / "c.note"]
    result = quidnunc("federation", "create", *cards, *words)
    assert result.code == 0, result.err
    assert f"c{COLUMNS_SHOWN - 1} " in result.out
    assert f"c{COLUMNS_SHOWN} " not in result.out
    assert "  and 2 more columns\n" in result.out
    assert quidnunc("federation", "show", tmp_path / "c.note", "--schema").out == text


@pytest.mark.parametrize("text", ["", "version = 1\n"])
def test_a_schema_that_cannot_be_used_is_shown_as_such_and_not_signed(
    cards: list[Path], tmp_path: Path, text: str
) -> None:
    members = tuple(sorted((open_card(card.read_bytes()) for card in cards), key=lambda member: member.log_id))
    base = charter(2)
    task = replace(base.task, reference="csv", options={}, data_schema=text)
    made = replace(base, members=members, task=task)
    file = tmp_path / "c.note"
    file.write_bytes(draft_note(made))
    shown = quidnunc("federation", "show", file)
    assert shown.code == 0, shown.err
    assert ("which this program cannot use" in shown.out) == bool(text)
    before = file.read_bytes()
    signed = quidnunc("--home", cards[0].parent, "federation", "sign", "--yes", file)
    assert (signed.code, "the charter's schema" in signed.err) == (64, True), signed.err
    assert file.read_bytes() == before


def test_a_charter_without_a_schema_has_none_to_show(cards: list[Path], tmp_path: Path) -> None:
    result = quidnunc("federation", "create", *cards, "--out", tmp_path / "c.note")
    assert result.code == 0, result.err
    assert "data  " not in result.out
    shown = quidnunc("federation", "show", tmp_path / "c.note", "--schema")
    assert (shown.code, shown.out) == (64, "")
    assert "task digits has no data schema" in shown.err


@pytest.mark.parametrize(
    ("content", "words", "code", "message"),
    [
        (None, ["--task", "csv"], 2, "task csv needs a data schema"),
        (b"age\n", ["--task", "digits"], 2, "task digits reads no data schema"),
        (b"", ["--task", OWN], 64, "no schema in it"),
        (b" \n", ["--task", OWN], 64, "no schema in it"),
        (b"\xff\xfe", ["--task", OWN], 64, "not UTF-8 at byte 0"),
        (b"a\n\tb\n", ["--task", OWN], 64, "the schema, line 2: holds control"),
        (b"x" * (DATA_SCHEMA_BYTES + 1), ["--task", OWN], 64, "65537 bytes, limit is 65536"),
    ],
)
def test_create_refuses_a_schema_that_cannot_be_signed(
    cards: list[Path], tmp_path: Path, content: bytes | None, words: list[str], code: int, message: str
) -> None:
    if content is not None:
        (tmp_path / "schema.toml").write_bytes(content)
        words = [*words, "--schema", str(tmp_path / "schema.toml")]
    result = quidnunc("federation", "create", *cards, *words, "--out", tmp_path / "c.note")
    assert (result.code, result.out) == (code, ""), result.err
    assert message in result.err
    assert result.err.count("error:") == 1
    assert not (tmp_path / "c.note").exists()


# init --data.


@pytest.mark.parametrize(
    ("content", "rows", "bucket"),
    [(b"a,b\n" + b"1,2\n" * 300, 300, 8), (b"a,b\r\n1,2\r\n3,4", 2, 1), (b"a,b\n", 0, 0), (b"", 0, 0)],
)
def test_init_counts_the_lines_of_a_table(tmp_path: Path, content: bytes, rows: int, bucket: int) -> None:
    table = tmp_path / "ward.csv"
    table.write_bytes(content)
    result = quidnunc("--json", "--home", tmp_path / "h", "init", "--name", "A", "--data", table)
    assert (result.data["data"], result.data["rows"], result.data["size_bucket"]) == (str(table), rows, bucket)
    assert load(tmp_path / "h" / "config.toml").data.path == str(table)
    assert open_card((tmp_path / "h" / "card.note").read_bytes()).size_bucket == bucket


def test_init_says_what_the_card_tells_and_can_be_told_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "ward.csv").write_text("a\n" + "1\n" * 100)
    monkeypatch.chdir(tmp_path)
    shown = quidnunc("--home", tmp_path / "a", "init", "--name", "A", "--data", "ward.csv")
    assert f"data         {tmp_path / 'ward.csv'} (100 rows, by its lines)" in shown.out
    assert "at least 64 training examples: this the card tells the others" in shown.out
    words = ["--name", "B", "--data", "ward.csv", "--examples", "0"]
    silent = quidnunc("--json", "--home", tmp_path / "b", "init", *words)
    assert (silent.data["rows"], silent.data["size_bucket"]) == (100, 0)
    folder = quidnunc("--json", "--home", tmp_path / "c", "init", "--name", "C", "--data", tmp_path)
    assert (folder.data["data"], folder.data["rows"]) == (str(tmp_path), 0)


@pytest.mark.parametrize("path", ["none.csv", "/dev/zero", "x" * 300, "a\udcff.csv"])
def test_init_refuses_data_it_cannot_read(tmp_path: Path, path: str) -> None:
    result = quidnunc("--home", tmp_path / "h", "init", "--name", "A", "--data", path)
    assert (result.code, result.out) == (64, "")
    assert "--data" in result.err
    assert not (tmp_path / "h").exists()
