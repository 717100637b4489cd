"""Bad files of every kind: each has one fault, and gets exactly one finding, with place, value, bound and remedy."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from cli_helpers import quidnunc
from faulty_tables import Bad, Rows, changed, lines, renamed, text, without
from four_sites import SCHEMA, rows, text_of

from quidnunc.crypto.errors import ConfigError
from quidnunc.gossip.tabular.findings import Code, DataFault, Finding, Severity
from quidnunc.gossip.tabular.options import Options
from quidnunc.gossip.tabular.schema import parse_schema
from quidnunc.gossip.task import Site
from quidnunc.peer.csv_task import csv_task, examine_file


def european(table: Rows) -> bytes:
    for row in table:
        row["age"] = f"{row['age'].partition('.')[0]},5"
    return text_of(table, ";").encode()


def leaking(table: Rows) -> bytes:
    for index, row in enumerate(table):
        row["sugar"] = str((250 if row["readmitted"] == "yes" else 100) + index % 40)
    return text_of(table).encode()


BAD = (
    Bad("a misspelt column", renamed("age,", "aeg,"), Code.UNKNOWN_COLUMN, 1, "aeg", remedy="did you mean 'age'?"),
    Bad("other capitals", renamed("ward,", "WARD,"), Code.UNKNOWN_COLUMN, 1, "WARD", remedy="did you mean 'ward'?"),
    Bad("a missing column", without("sugar"), Code.MISSING_COLUMN, 1, "sugar", remedy="the file has: patient, age"),
    Bad("no target", without("readmitted"), Code.MISSING_COLUMN, 1, "readmitted", remedy="the file has"),
    Bad("too old", changed("age", "212", 4), Code.OUT_OF_RANGE, 6, "age", "212", 1, 'outside = "clip"'),
    Bad("thrice too old", changed("age", "212", 9, 4, 7), Code.OUT_OF_RANGE, 6, "age", "212", 3),
    Bad(
        "age in months",
        changed("age", lambda cell: str(10 * float(cell))),
        Code.OUT_OF_RANGE,
        2,
        "age",
        count=240,
        remedy="all fit when divided by 10: another unit?",
    ),
    Bad("a new category", changed("sex", "X", 0), Code.UNSEEN_CATEGORY, 2, "sex", "X", 1, "correct the cell"),
    Bad("a small letter", changed("sex", "m", 2), Code.UNSEEN_CATEGORY, 4, "sex", "m", 1, "did you mean 'M'?"),
    Bad("a new number", changed("ward", "4.0", 0), Code.UNSEEN_CATEGORY, 2, "ward", "4.0", 1),
    Bad("a target of neither kind", changed("readmitted", "yess", 1), Code.UNSEEN_CATEGORY, 3, "readmitted", "yess", 1),
    Bad(
        "decimal commas",
        changed("age", lambda cell: cell.replace(".", ",")),
        Code.WRONG_DECIMAL,
        2,
        "age",
        count=240,
        remedy='decimal = ","',
    ),
    Bad(
        "a decimal comma among points",
        changed("age", "27,4", 3),
        Code.WRONG_DECIMAL,
        5,
        "age",
        "27,4",
        1,
        "write all numbers with one decimal sign: row 2, column age has",
    ),
    Bad(
        "three digits after a comma",
        changed("sugar", lambda cell: cell and f"{cell},125"),
        Code.THOUSANDS_SEPARATOR,
        column="sugar",
        remedy="without thousands separators",
    ),
    Bad(
        "decimal commas of unequal length",
        lambda table: changed("age", "27,4", 3)(table) and changed("age", "27,125", 2, 5)(table),
        Code.WRONG_DECIMAL,
        4,
        "age",
        "27,125",
        3,
    ),
    Bad("thousands", changed("sugar", "1,234.5", 3), Code.THOUSANDS_SEPARATOR, 5, "sugar", "1,234.5", 1),
    Bad("thousands with spaces", changed("sugar", "1 234", 3), Code.THOUSANDS_SEPARATOR, 5, "sugar", "1 234", 1),
    Bad("a word for missing", changed("sugar", "NA", 3, 5), Code.MISSING_TOKEN, 5, "sugar", "NA", 2, 'missing = "NA"'),
    Bad("missing category", changed("ward", "?", 8), Code.MISSING_TOKEN, 10, "ward", "?", 1, 'missing = "?"'),
    Bad("a unit in the cell", changed("age", "61 years", 3), Code.NOT_A_NUMBER, 5, "age", "61 years", 1, "the unit"),
    Bad("infinity", changed("age", "1e999", 3), Code.NOT_A_NUMBER, 5, "age", "1e999", 1),
    Bad("hexadecimal", changed("age", "0x40", 3), Code.NOT_A_NUMBER, 5, "age", "0x40", 1),
    Bad(
        "no target in a row", changed("readmitted", "", 6), Code.MISSING_TARGET, 8, "readmitted", count=1, remedy="drop"
    ),
    Bad("no group in a row", changed("patient", " ", 6), Code.MISSING_GROUP, 8, "patient", count=1),
    Bad("too few rows", lambda table: text_of(table[:29]).encode(), Code.TOO_FEW_ROWS, remedy="add rows"),
    Bad(
        "too few complete rows",
        changed("sex", "", *range(215)),
        Code.TOO_FEW_ROWS,
        remedy='missing = "indicator"',
    ),
    Bad(
        "all negative",
        changed("readmitted", "no"),
        Code.CONSTANT_TARGET,
        column="readmitted",
        remedy="values in the file: no",
    ),
    Bad("semicolons", text(lambda found: found.replace(",", ";")), Code.WRONG_DELIMITER, 1, remedy='delimiter = ";"'),
    Bad("a European export", european, Code.WRONG_DELIMITER, 1, remedy='delimiter = ";"'),
    Bad("tabs", text(lambda found: found.replace(",", "\t")), Code.WRONG_DELIMITER, 1, remedy='delimiter = "tab"'),
    Bad("UTF-16", text(str, "utf-16"), Code.WRONG_ENCODING, remedy='encoding = "utf-16"'),
    Bad("UTF-16 without a mark", text(str, "utf-16-le"), Code.WRONG_ENCODING, remedy='encoding = "utf-16"'),
    Bad(
        "Latin-1",
        lambda table: text_of(table).replace("see file", "Größe").encode("latin-1"),
        Code.WRONG_ENCODING,
        row=next(i for i, row in enumerate(rows("north")) if row["remark"]) + 2,
        value="0xf6",
        remedy='encoding = "cp1252"',
    ),
    Bad("a workbook", lambda table: b"PK\x03\x04" + bytes(500), Code.NOT_TEXT, remedy="save the sheet as CSV"),
    Bad("zero bytes", text(lambda found: found.replace("\n", "\n\0", 1)), Code.NOT_TEXT, 2),
    Bad("nothing", lambda table: b"", Code.EMPTY_FILE),
    Bad("blank lines", lambda table: b"\xef\xbb\xbf\r\n , \r\n", Code.EMPTY_FILE),
    Bad("a header alone", text(lambda found: lines(found)[0]), Code.EMPTY_FILE),
    Bad("twice the same name", renamed("sugar,", "age,"), Code.DUPLICATE_COLUMN, 1, "age", remedy="rename"),
    Bad("a column without a name", renamed("remark,", ","), Code.UNNAMED_COLUMN, 1, remedy="name it"),
    Bad("a short row", text(lambda found: found.replace(lines(found)[9], "n004,60\n")), Code.RAGGED_ROW, 10, count=1),
    Bad(
        "a comma too many",
        text(lambda found: found.replace('"see file, page 2"', "see file, page 2")),
        Code.RAGGED_ROW,
        row=next(i for i, row in enumerate(rows("north")) if row["remark"]) + 2,
        count=sum(bool(row["remark"]) for row in rows("north")),
        remedy="quote cells",
    ),
    Bad("an open quote", text(lambda found: found.rstrip("\n") + '\nn999,50,"'), Code.BAD_QUOTES, 242),
    Bad("text after a quote", text(lambda found: found.replace('page 2"', 'page 2"x', 1)), Code.BAD_QUOTES),
    Bad("an endless cell", changed("remark", "x" * 1025, 3), Code.TOO_LARGE, 5),
    Bad("a leak", leaking, Code.LEAKAGE, column="sugar", remedy='kind = "ignore"'),
    Bad(
        "an unknown extra",
        lambda table: text_of([{**row, "x": "1"} for row in table]).encode(),
        Code.EXTRA_COLUMN,
        1,
        "x",
    ),
    Bad("a bad Parquet file", lambda table: b"PAR1" + bytes(64), Code.NOT_TEXT, remedy="write it again"),
)


def findings_of(path: Path) -> tuple[Finding, ...]:
    try:
        return examine_file(path, parse_schema(SCHEMA), Options()).findings
    except DataFault as fault:
        return (fault.finding,)


@pytest.fixture(params=BAD, ids=lambda bad: bad.name.replace(" ", "-"))
def bad(request: pytest.FixtureRequest) -> Bad:
    found: Bad = request.param
    return found


@pytest.fixture
def path(bad: Bad, tmp_path: Path) -> Path:
    if "Parquet" in bad.name:
        pytest.importorskip("pyarrow")
    file = tmp_path / "bad.csv"
    file.write_bytes(bad.make(rows("north")))
    return file


def test_the_same_file_without_the_fault_has_no_findings(tmp_path: Path) -> None:
    file = tmp_path / "good.csv"
    file.write_text(text_of(rows("north")))
    assert findings_of(file) == ()


def test_every_fault_is_found_once_with_its_place_and_remedy(bad: Bad, path: Path) -> None:
    (found,) = findings_of(path)
    assert found.code == bad.code
    assert bad.remedy in found.remedy
    assert found.remedy
    assert found.column == bad.column
    for expected, said in ((bad.row, found.row), (bad.value, found.value), (bad.count, found.count)):
        assert not expected or said == expected


def test_the_command_says_exactly_one_error(bad: Bad, path: Path, tmp_path: Path) -> None:
    schema = tmp_path / "schema.toml"
    schema.write_text(SCHEMA)
    plain = quidnunc("data", "check", path, "--schema", schema)
    found = quidnunc("data", "check", path, "--schema", schema, "--json")
    said = found.envelope
    (finding,) = said["data"]["findings"]
    assert finding["code"] == bad.code
    if finding["severity"] == Severity.ERROR:
        assert (plain.code, len(re.findall("^error: ", plain.err, re.MULTILINE))) == (20, 1)
        assert f"[{bad.code}]" in plain.err
        assert "hint: " in plain.err
        assert (found.code, said["error"]["id"]) == (20, "check_failed")
    else:
        assert (plain.code, found.code) == (0, 0)
        assert plain.err.startswith("warning: ")
        assert len(said["warnings"]) == 1


def test_the_task_refuses_what_the_check_refuses(bad: Bad, path: Path) -> None:
    site = Site(path=str(path), schema=SCHEMA)
    (finding,) = findings_of(path)
    if finding.severity == Severity.ERROR:
        with pytest.raises(ConfigError) as raised:
            csv_task(site)
        assert finding.what in raised.value.message
        assert raised.value.message.startswith(f"{path}: ")
        assert raised.value.hint == finding.remedy
    else:
        assert len(csv_task(site).train[0])


def test_at_least_fifteen_kinds_are_tried() -> None:
    assert len({each.code for each in BAD}) >= 15
