"""``quidnunc data check`` as a person uses it: what it shows, where its schema comes from, what it writes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from cli_helpers import make_home, quidnunc
from four_sites import ROWS, SCHEMA, rows, text_of, write

from quidnunc.gossip.tabular.schema import parse_schema


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    return write(tmp_path / "data")


@pytest.fixture
def schema(files: dict[str, Path]) -> Path:
    return files["north"].parent / "schema.toml"


def test_it_shows_columns_rows_parts_and_target(files: dict[str, Path], schema: Path) -> None:
    shown = quidnunc("data", "check", files["north"], "--schema", schema)
    assert (shown.code, shown.err) == (0, "")
    lines = shown.out.splitlines()
    assert lines[0].split() == ["column", "kind", "unit", "missing", "outside", "values"]
    assert any(line.startswith("age") and "years" in line and "(range 18 to 100)" in line for line in lines)
    assert any(line.startswith("sex") and "F: " in line and "M: " in line for line in lines)
    assert f"{ROWS['north']} rows read, {ROWS['north']} used, 0 dropped" in lines
    assert any(line.startswith("split      train ") for line in lines)
    assert any(line.startswith("target     readmitted = yes: ") for line in lines)
    assert lines[-1].endswith(f"north.csv: no errors under schema {schema}")


def test_json_holds_all_of_it(files: dict[str, Path], schema: Path) -> None:
    data = quidnunc("data", "check", files["south"], "--schema", schema, "--json").data
    assert (data["rows_read"], data["rows_used"], data["rows_dropped"]) == (ROWS["south"], ROWS["south"], 0)
    assert sum(data["parts"].values()) == ROWS["south"]
    assert (data["target"], data["rule"], data["features"], data["findings"]) == ("readmitted", "= yes", 9, [])
    by_name = {column["name"]: column for column in data["columns"]}
    assert by_name["pressure"]["missing_percent"] == 100.0
    assert (by_name["age"]["low"], by_name["age"]["high"], by_name["age"]["unit"]) == (18, 100, "years")
    assert set(by_name["ward"]["counts"]) == {"1", "2", "3"}
    assert by_name["remark"]["kind"] == "ignore"


def test_rows_that_may_be_one_persons_are_told_with_what_epsilon_covers(tmp_path: Path, schema: Path) -> None:
    """Regression: a table with the same patient twice passed the check, and nobody learned what epsilon then means."""
    found = [{**row, "patient": f"n{index}"} for index, row in enumerate(rows("north"))]
    table = tmp_path / "t.csv"
    table.write_text(text_of(found))
    clean = quidnunc("data", "check", table, "--schema", schema)
    assert (clean.code, "repeated" in clean.out, "grouped" in clean.out) == (0, False, False)
    table.write_text(text_of([*found, *found[3:5]]))
    shown = quidnunc("data", "check", table, "--schema", schema)
    assert shown.code == 0
    size = len(found)
    assert (
        f"repeated   2 rows are like an earlier one in all that is read; the first is row {size + 2}, like row 5"
        in (shown.out.splitlines())
    )
    assert "grouped    4 rows are of 2 groups that have several, up to 2" in shown.out.splitlines()
    assert "epsilon for single records does not cover that person as one: k rows" in shown.out
    assert "--privacy-unit site, which covers all rows together" in shown.out
    told = quidnunc("data", "check", table, "--schema", schema, "--json").data["repeats"]
    assert told == {"rows": 2, "row": size + 2, "like": 5, "groups": 2, "grouped_rows": 4, "largest": 2}


def test_without_a_schema_one_is_inferred_and_written(files: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "inferred.toml"
    found = quidnunc("data", "check", files["east"], "--write-schema", out, "--json")
    assert found.code == 0
    (warning,) = found.envelope["warnings"]
    assert "not covered by epsilon" in warning
    assert "correct its ranges" in found.err
    text = out.read_text()
    assert text.splitlines()[1].startswith("# Inferred from data")
    assert parse_schema(text).target.rule.text == "= yes"
    again = quidnunc("data", "check", files["east"], "--schema", out, "--json")
    assert again.data["findings"] == []
    refused = quidnunc("data", "check", files["east"], "--write-schema", out)
    assert (refused.code, "there is a file already" in refused.err) == (73, True)
    assert quidnunc("data", "check", files["east"], "--write-schema", out, "--yes").code == 0


def test_a_schema_inferred_from_a_faulty_table_is_not_written(tmp_path: Path) -> None:
    table, out = tmp_path / "t.csv", tmp_path / "s.toml"
    table.write_text("a;y\n" + "".join(f"{n},5;{n % 2}\n" for n in range(60)))
    found = quidnunc("data", "check", table, "--delimiter", ";", "--write-schema", out)
    assert (found.code, out.exists(), "not written" in found.err) == (20, False, True)
    fixed = quidnunc("data", "check", table, "--delimiter", ";", "--decimal", ",", "--write-schema", out)
    assert (fixed.code, out.exists()) == (0, True)


def test_several_errors_are_listed_and_counted(tmp_path: Path, schema: Path) -> None:
    found = rows("east")
    found[0]["age"], found[1]["sex"], found[2]["sugar"] = "7", "Q", "high"
    table = tmp_path / "t.csv"
    table.write_text(text_of(found))
    shown = quidnunc("data", "check", table, "--schema", schema)
    assert shown.code == 20
    assert [line.split(":")[0] for line in shown.out.splitlines() if line.startswith("error ")] == [
        *("error out_of_range", "error not_a_number", "error unseen_category"),
    ]
    assert f"error: {table}: 3 errors, the first: row 2, column age" in shown.err
    data = quidnunc("data", "check", table, "--schema", schema, "--json").envelope["data"]
    assert [each["row"] for each in data["findings"]] == [2, 4, 3]


def test_what_is_in_a_file_cannot_steer_the_terminal(tmp_path: Path, schema: Path) -> None:
    found = rows("east")
    found[0]["sex"] = "\x1b[2J\u202e" + "x" * 100
    table = tmp_path / "t.csv"
    table.write_text(text_of(found))
    shown = quidnunc("data", "check", table, "--schema", schema)
    assert (shown.code, "\x1b" in shown.err + shown.out) == (20, False)
    assert "\\x1b[2J\\u202e" in shown.err
    assert "x" * 60 not in shown.err


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["nowhere.csv"], 64, "nowhere.csv: cannot be read: no such file or directory"),
        (["FILE", "--schema", "nowhere.toml"], 64, "nowhere.toml: cannot be read"),
        (["FILE", "--schema", "FILE"], 64, "north.csv: not TOML"),
        (["FILE", "--schema", "SCHEMA", "--target", "age"], 2, "--target is for an inferred schema"),
        (["FILE", "--target", "agee"], 64, "north.csv: no column 'agee' to be the target"),
        (["FILE", "--target", "age"], 64, "north.csv: no positive rule can be guessed for the target 'age'"),
        (["FILE", "--delimiter", ":"], 64, "option delimiter is ':', must be ,, ;, tab, |"),
        (["FILE", "--decimal", "x"], 64, "option decimal is 'x', must be '.' or ','"),
        ([], 64, "no peer lives here"),
    ],
)
def test_misuse_is_one_error(
    words: list[str], code: int, message: str, files: dict[str, Path], schema: Path, tmp_path: Path
) -> None:
    spelled = [{"FILE": str(files["north"]), "SCHEMA": str(schema)}.get(word, word) for word in words]
    found = quidnunc("--home", tmp_path / "home", "data", "check", *spelled)
    assert found.code == code
    assert message in found.err
    assert found.err.count("error: ") == 1


@pytest.mark.parametrize("text", ["", " \n\n", "# to be written\n", "\ufeff"])
def test_an_empty_schema_file_is_an_error_and_infers_nothing(files: dict[str, Path], tmp_path: Path, text: str) -> None:
    empty = tmp_path / "empty.toml"
    empty.write_text(text, "utf-8")
    found = quidnunc("data", "check", files["north"], "--schema", empty)
    assert found.code == 64
    assert f"error: {empty}: no schema in it" in found.err
    assert "--write-schema" in found.err


def test_a_home_is_checked_under_its_charter(files: dict[str, Path], schema: Path, tmp_path: Path) -> None:
    foreign = tmp_path / "foreign.csv"
    foreign.write_text(text_of(rows("north"), ";"))
    homes = [tmp_path / name for name in "ab"]
    cards = [make_home(home, home.name) for home in homes]
    config = homes[0] / "config.toml"
    bare = quidnunc("--home", homes[0], "data", "check")
    assert (bare.code, "data.path is empty" in bare.err) == (64, True)
    text = config.read_text().replace('path = ""', f'path = "{foreign}"')
    config.write_text(text.replace("[data.options]\n", '[data.options]\ndelimiter = ";"\n'))
    inferred = quidnunc("--home", homes[0], "data", "check", "--json")
    assert inferred.data["schema"] == "inferred"
    note = tmp_path / "charter.note"
    created = quidnunc("federation", "create", *cards, "--task", "csv", "--schema", schema, "--out", note)
    assert created.code == 0, created.err
    for home in homes:
        assert quidnunc("--home", home, "federation", "sign", note, "--yes").code == 0
    assert quidnunc("--home", homes[0], "federation", "install", note).code == 0
    found = quidnunc("--home", homes[0], "data", "check", "--json")
    assert (found.data["schema"], found.data["rows_used"]) == ("the charter's schema", ROWS["north"])
    assert parse_schema(SCHEMA).features
    assert found.data["findings"] == []


def test_the_command_never_loads_torch(files: dict[str, Path], schema: Path) -> None:
    code = (
        "import sys; from quidnunc.peer.cli import main; "
        f"code = main(['data', 'check', {str(files['west'])!r}, '--schema', {str(schema)!r}]); "
        "sys.exit(code or ', '.join({'torch', 'libp2p', 'trio', 'sklearn', 'pyarrow'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
