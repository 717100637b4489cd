"""``quidnunc demo --data``: one peer per table of a directory; whatever is wrong with them is said before any work."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import daemons
import pytest
from cli_helpers import Result, quidnunc
from four_sites import ROWS, SCHEMA, SITES, rows, text_of, write
from heart_data import ROWS as HEART_ROWS
from heart_data import heart

from quidnunc.gossip.federation.founding import open_charter
from quidnunc.gossip.tabular.schema import parse_schema
from quidnunc.peer.commands.demo_data import survey
from quidnunc.peer.commands.demo_silos import margin, silo_lines, with_silos
from quidnunc.peer.config import load
from quidnunc.peer.home import Home
from quidnunc.peer.output import Outcome
from quidnunc.peer.rehearsal import COMMAND, command

HEART_SCHEMA = Path(__file__).resolve().parent.parent / "examples" / "heart" / "schema.toml"


def demo(*arguments: str, temporary: Path) -> tuple[dict[str, Any], str]:
    """The envelope of a demo that ended well, and what it said on stderr."""
    process = subprocess.run(
        [*COMMAND, "--json", "demo", *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=280,
        env={**os.environ, "TMPDIR": str(temporary)},
    )
    assert process.returncode == 0, process.stderr
    envelope: dict[str, Any] = json.loads(process.stdout)
    return envelope, process.stderr


def lines_of(outcome: Outcome) -> list[str]:
    return [line if isinstance(line, str) else line.text for line in outcome.lines]


# The whole thing, with real daemons.


@pytest.mark.slow
def test_a_demo_on_four_tables(tmp_path: Path) -> None:
    files = write(tmp_path / "data")
    envelope, said = demo("--data", str(tmp_path / "data"), "--rounds", "6", temporary=tmp_path)
    data = envelope["data"]
    peers = {each["name"]: each for each in data["peers"]}
    assert list(peers) == sorted(SITES)
    assert {name: each["rows_read"] for name, each in peers.items()} == ROWS
    for name, each in peers.items():
        home = Home.at(each["home"])
        assert (each["data"], load(home.config).data.path) == (str(files[name]),) * 2
        assert 0 < each["rows_test"] < each["rows_train"] < each["rows_used"] == each["rows_read"]
        assert 0.5 <= each["guess_accuracy"] <= 1
        assert each["updates_sent"] >= 6
        assert each["ledger_verified"]
        assert open_charter(home.charter.read_bytes()).charter.task.data_schema == SCHEMA
        assert home.locked_by() is None
    worst = min(peers.values(), key=lambda each: each["accuracy"])
    assert data["worst"]["name"] == worst["name"]
    assert data["worst"]["change"] == pytest.approx(worst["accuracy"] - worst["alone_accuracy"])
    losers = {name for name, each in peers.items() if each["accuracy"] < each["alone_accuracy"]}
    assert {each["name"] for each in data["losers"]} == losers
    assert not data["schema_inferred"]
    assert envelope["warnings"] == []
    assert [line.split()[:2] for line in said.splitlines()[1:5]] == [[n, str(ROWS[n])] for n in sorted(SITES)]
    assert daemons.alive(tmp_path) == []
    checked = command("data", "check", home=Path(worst["home"]))
    assert checked["data"]["rows_used"] == worst["rows_used"]


@pytest.mark.slow
def test_a_demo_on_four_hospitals(tmp_path: Path) -> None:
    directory = tmp_path / "heart"
    directory.mkdir()
    for name in HEART_ROWS:
        (directory / f"{name}.csv").symlink_to(heart(name).absolute())
    envelope, _ = demo("--data", str(directory), "--schema", str(HEART_SCHEMA), "--rounds", "8", temporary=tmp_path)
    data = envelope["data"]
    assert {each["name"]: each["rows_read"] for each in data["peers"]} == HEART_ROWS
    assert all(each["rows_used"] == each["rows_read"] for each in data["peers"])
    assert all(each["ledger_verified"] for each in data["peers"])
    assert data["worst"]["name"] in HEART_ROWS


@pytest.mark.slow
def test_a_demo_on_tables_with_semicolons_and_decimal_commas(tmp_path: Path) -> None:
    directory = tmp_path / "tables"
    files = write(directory)
    files.pop("north").unlink()
    for site, file in files.items():
        file.write_text(european(site), "cp1252")
    flags = ("--delimiter", ";", "--decimal", ",", "--encoding", "cp1252")
    envelope, _ = demo("--data", str(directory), *flags, "--rounds", "2", temporary=tmp_path)
    for each in envelope["data"]["peers"]:
        assert (each["rows_read"], each["ledger_verified"]) == (ROWS[each["name"]], True)
        said = load(Home.at(each["home"]).config).data.options
        assert said == {"delimiter": ";", "decimal": ",", "encoding": "cp1252"}


# What is found out before the start.


def european(site: str) -> str:
    table = rows(site)
    for row in table:
        row["age"] = row["age"].replace(".", ",")
        row["remark"] = row["remark"] and "siehe Größe"
    return text_of(table, ";")


def test_tables_are_read_as_the_flags_say_and_an_error_names_a_flag_that_there_is(
    refused: Callable[..., Result], tmp_path: Path
) -> None:
    for site, file in write(tmp_path / "data").items():
        file.write_text(european(site), "utf-8")
    result = refused("--data", tmp_path / "data")
    assert (result.code, "or --delimiter" in result.err) == (20, True)
    result = refused("--data", tmp_path / "data", "--delimiter", ";")
    assert (result.code, "(--decimal ,)" in result.err) == (20, True)
    found = survey(tmp_path / "data", None, {"delimiter": ";", "decimal": ","})
    assert {silo.name: silo.rows_read for silo in found.silos} == ROWS
    (tmp_path / "data" / "schema.toml").unlink()
    assert survey(tmp_path / "data", None, {"delimiter": ";", "decimal": ","}).inferred
    assert refused("--data", tmp_path / "data", "--delimiter", "x").code == 64
    result = refused("--delimiter", ";")
    assert (result.code, "--delimiter says how tables are written" in result.err) == (2, True)


def test_a_schema_beside_the_tables_is_used_unless_another_is_named(tmp_path: Path) -> None:
    write(tmp_path)
    assert survey(tmp_path, None).schema == SCHEMA
    other = tmp_path / "other.toml"
    other.write_text(SCHEMA.replace("seed = 3", "seed = 4"))
    named = survey(tmp_path, other)
    assert parse_schema(named.schema).seed == 4
    assert (named.inferred, named.warnings) == (False, ())


def test_without_a_schema_one_is_inferred_over_all_tables_and_that_is_said(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "schema.toml").unlink()
    found = survey(tmp_path, None)
    assert found.inferred
    assert "inferred from all tables together" in found.warnings[0]
    assert "epsilon does not cover" in found.warnings[0]
    age = next(column for column in parse_schema(found.schema).columns if column.name == "age")
    ages = [float(row["age"]) for site in SITES for row in rows(site)]
    assert age.low <= min(ages) <= max(ages) <= age.high


def test_a_warning_about_all_tables_is_said_once(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "schema.toml").write_text(SCHEMA.replace("median = 110\n", ""))
    assert [warning.partition(":")[0] for warning in survey(tmp_path, None).warnings] == ["all tables"]


def test_rows_are_shown_before_the_start(tmp_path: Path) -> None:
    write(tmp_path)
    shown = silo_lines(survey(tmp_path, None).silos)
    assert shown[0].split() == ["table", "rows", "used", "train", "holdout", "test"]
    for line, site in zip(shown[1:], sorted(SITES), strict=True):
        name, read, used, *parts = line.split()
        assert (name, int(read), int(used)) == (site, ROWS[site], ROWS[site])
        assert sum(map(int, parts)) == ROWS[site]


def test_names_of_any_length_stay_in_their_columns(tmp_path: Path) -> None:
    for path in write(tmp_path).values():
        path.rename(path.with_name(f"{path.stem}{'é' * 20 if path.stem == 'north' else ''}.CSV"))
    shown = silo_lines(survey(tmp_path, None).silos)
    assert len({len(line) for line in shown}) == 1


# What is said afterwards.


def outcome_of(accuracies: dict[str, tuple[float | None, float]]) -> Outcome:
    rows = [{"name": name, "accuracy": got, "alone_accuracy": alone} for name, (got, alone) in accuracies.items()]
    return Outcome({"peers": rows}, ["the rest"])


def test_the_worst_and_the_losers_are_named(tmp_path: Path) -> None:
    write(tmp_path)
    found = survey(tmp_path, None)
    known = {"north": (0.8, 0.7), "east": (0.7, 0.75), "south": (None, 0.9), "west": (0.6, 0.5)}
    outcome = with_silos(outcome_of(known), found)
    assert outcome.data["worst"]["name"] == "west"
    assert outcome.data["worst"]["change"] == pytest.approx(0.1)
    assert [each["name"] for each in outcome.data["losers"]] == ["east"]
    text = lines_of(outcome)
    tested = next(silo.rows_test for silo in found.silos if silo.name == "west")
    assert f"worst off: west with 0.600 together, 0.500 alone: +10.0 points on {tested} test rows" in text
    assert "worse together than alone: east (-5.0 points)" in text
    assert text[-1] == "the rest"
    better = with_silos(outcome_of({"north": (0.8, 0.8)}), found)
    assert "nobody is worse together than alone" in lines_of(better)
    ended = with_silos(outcome_of({"north": (None, 0.8)}), found)
    assert (ended.data["worst"], ended.data["losers"]) == (None, [])


@pytest.mark.parametrize(
    ("accuracy", "n", "expected"),
    # Wilson's interval, as published for 0 of 10 (0 to .278), 5 of 10 (.237 to .763) and 8 of 10 (.490 to .943).
    [(0.0, 10, 0.1388), (0.5, 10, 0.2634), (0.8, 10, 0.2266)],
)
def test_the_margin_is_wilsons(accuracy: float, n: int, expected: float) -> None:
    assert margin(accuracy, n) == pytest.approx(expected, abs=1e-3)


# Refusals: one clear error each, before anything is written.


@pytest.fixture
def refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """A demo that must fail before it makes a directory for its homes."""
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    monkeypatch.setattr(signal, "signal", lambda number, handler: None)

    def run(*words: str | Path) -> Result:
        result = quidnunc("demo", *words)
        assert result.code != 0
        assert result.err.count("error: ") == 1
        assert result.out == ""
        assert list(temporary.iterdir()) == []
        return result

    return run


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "0 CSV files, must be 2 to 16"),
        (["a.csv"], "1 CSV files, must be 2 to 16"),
        ([f"h{i:02}.csv" for i in range(17)], "17 CSV files, must be 2 to 16"),
        (["a.csv", ".b.csv", "c.txt"], "1 CSV files"),
        (["a.csv", "A.CSV"], "is taken"),
        (["a.csv", "charter.note.csv"], "the name 'charter.note' is taken"),
        (["a.csv", f"{'b' * 65}.csv"], "names a member: a name of 65 bytes"),
        (["a.csv", "b\x1b.csv"], "names a member"),
        (["a.csv", "b\udcff.csv"], "names a member"),
    ],
)
def test_a_directory_that_cannot_be_a_federation(
    refused: Callable[..., Result], tmp_path: Path, names: list[str], message: str
) -> None:
    directory = tmp_path / "data"
    directory.mkdir()
    for name in names:
        (directory / name).write_text(text_of(rows("east")))
    result = refused("--data", directory)
    assert result.code == 64
    assert message in result.err


def test_paths_that_cannot_be_read(refused: Callable[..., Result], tmp_path: Path) -> None:
    files = write(tmp_path / "data")
    for words, message in (
        (["--data", tmp_path / "none"], "cannot be read: no such file"),
        (["--data", files["north"]], "cannot be read: not a directory"),
        (["--data", tmp_path / "data", "--schema", tmp_path / "none.toml"], "none.toml: cannot be read: no such file"),
    ):
        result = refused(*words)
        assert (result.code, message in result.err) == (64, True), result.err
    files["east"].unlink()
    files["east"].symlink_to(tmp_path / "nowhere")
    assert "east.csv: cannot be read: no such file" in refused("--data", tmp_path / "data").err
    files["east"].unlink()
    files["east"].mkdir()
    assert "east.csv: not a regular file" in refused("--data", tmp_path / "data").err


def test_a_schema_that_does_not_serve(refused: Callable[..., Result], tmp_path: Path) -> None:
    write(tmp_path / "data")
    schema = tmp_path / "data" / "schema.toml"
    for text, message in (
        ("version = 2\n", "schema.toml:1: version"),
        (SCHEMA.replace("kind", "knid", 1), "schema.toml"),
        ("not toml", "not TOML"),
        ("", "no schema in it"),
        (SCHEMA + "\ttab = 1\n", "the schema, line"),
        (SCHEMA.replace("seed = 3", "seed = 3\ntest = 0"), "no row is left to test on"),
    ):
        schema.write_text(text)
        result = refused("--data", tmp_path / "data")
        assert (result.code, message in result.err) == (64, True), result.err


@pytest.mark.parametrize(
    ("change", "code", "place"),
    [
        (lambda text: text.replace("M", "X", 1), "unseen_category", "column sex"),
        (lambda text: "", "empty_file", "the file is empty"),
        (lambda text: text.replace(",", ";"), "wrong_delimiter", "the header is one cell"),
        (lambda text: text.replace("age", "agee", 1), "unknown_column", "column agee"),
        (lambda text: "\n".join(text.split("\n")[:5]), "too_few_rows", "4 rows can be used"),
    ],
)
def test_the_first_bad_table_is_named_with_its_code(
    refused: Callable[..., Result], tmp_path: Path, change: Callable[[str], str], code: str, place: str
) -> None:
    files = write(tmp_path / "data")
    for site in ("south", "west"):
        files[site].write_text(change(files[site].read_text()))
    result = refused("--data", tmp_path / "data")
    assert result.code == 20
    assert f"{files['south']}: " in result.err
    assert f"[{code}]" in result.err
    assert place in result.err
    again = quidnunc("--json", "demo", "--data", tmp_path / "data").envelope
    assert again["data"]["file"] == str(files["south"])
    assert [finding["code"] for finding in again["data"]["findings"]] == [code]


@pytest.mark.parametrize(
    "words",
    [
        *(["--peers", "4"], ["--alpha", "0.5"], ["--attackers", "1"], ["--attack", "sign_flip"], ["--task", "digits"]),
        *(["--rounds", "0"], ["--epsilon", "0"], ["--seed", "-1"]),
    ],
)
def test_flags_that_make_no_sense_with_tables(refused: Callable[..., Result], tmp_path: Path, words: list[str]) -> None:
    write(tmp_path / "data")
    result = refused("--data", tmp_path / "data", f"{words[0]}={words[1]}")
    assert result.code == 2
    assert words[0] in result.err


def test_a_schema_without_tables(refused: Callable[..., Result], tmp_path: Path) -> None:
    write(tmp_path / "data")
    result = refused("--schema", tmp_path / "data" / "schema.toml")
    assert result.code == 2
    assert "--schema" in result.err
