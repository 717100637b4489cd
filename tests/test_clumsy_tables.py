"""Files as people send them: other formats, no names on top, odd spellings. Each gets one error that says so."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from cli_helpers import quidnunc
from faulty_tables import Bad, Rows, changed, lines, renamed, text
from four_sites import SCHEMA, rows, text_of

from quidnunc.crypto.errors import ConfigError
from quidnunc.gossip.tabular.findings import Code, DataFault
from quidnunc.gossip.tabular.table import LIMITS, Dialect, read_table
from quidnunc.gossip.tabular.text import decode_text
from quidnunc.peer import table_file


def raw(data: bytes | str) -> Callable[[Rows], bytes]:
    return lambda table: data.encode() if isinstance(data, str) else data


def above(line: str) -> Callable[[Rows], bytes]:
    return text(lambda found: f"{line}\n{found}")


def cell(value: str) -> Callable[[Rows], bytes]:
    return changed("age", value, 3)


def quoted(table: Rows) -> bytes:
    found = [{f"'{name}'": f"'{value}'" for name, value in row.items() if name != "remark"} for row in table]
    return text_of(found).encode()


def wide(number: int) -> Callable[[Rows], bytes]:
    return raw(",".join(f"c{index}" for index in range(number)) + "\n" + ",".join("1" * number) + "\n")


CLUMSY = (
    Bad("UTF-32", text(str, "utf-32"), Code.WRONG_ENCODING, value="utf-32", remedy="save it as UTF-8"),
    Bad("UTF-32 without a mark", text(str, "utf-32-be"), Code.WRONG_ENCODING, value="utf-32"),
    Bad("an array in JSON", raw('[{"a":1,"y":0},{"a":2,"y":1}]'), Code.NOT_TEXT, remedy="export the table as CSV"),
    Bad("JSON by lines", raw('{"a": 1, "y": 0}\n{"a": 2, "y": 1}\n'), Code.NOT_TEXT, remedy="export the table as CSV"),
    Bad("a web page", raw("<!DOCTYPE html>\n<html><body>error 500</body></html>"), Code.NOT_TEXT),
    Bad("bzip2", raw(b"BZh91AY&SY" + bytes(40)), Code.NOT_TEXT, remedy="unpack it first"),
    Bad("xz", raw(b"\xfd7zXZ\0" + bytes(40)), Code.NOT_TEXT, remedy="unpack it first"),
    Bad("an image", raw(b"\x89PNG\r\n\x1a\n" + bytes(40)), Code.NOT_TEXT, remedy="export the table as CSV"),
    Bad("zeros alone", raw(bytes(600)), Code.NOT_TEXT),
    Bad("no header", text(lambda found: "".join(lines(found)[1:])), Code.NO_HEADER, 1, remedy="row of names on top"),
    Bad("a remark on top", above("# exported 2024-01-31"), Code.NO_HEADER, 1, remedy="delete the lines above"),
    Bad("a remark with commas", above("# exported, by me,,,,,,"), Code.NO_HEADER, 1, remedy="delete the lines above"),
    Bad("a title", above("Export of ward 3, cardiology"), Code.NO_HEADER, 1, remedy="delete the lines above"),
    Bad("another table", raw("make,doors,price\n" + "x,4,9\n" * 40), Code.NO_HEADER, 1, remedy="choose the schema"),
    Bad("numbered columns", raw("7,9,8\n" + "1,2,3\n" * 40), Code.NO_HEADER, 1, remedy="row of names on top"),
    Bad("a remark below", text(lambda found: f"{found}# end\n"), Code.RAGGED_ROW, 242, remedy="delete the remark"),
    Bad("a footer", text(lambda found: f"{found}240 rows\n"), Code.RAGGED_ROW, 242, remedy="where it is no record"),
    Bad(
        "a comma at the end",
        text(lambda found: "".join(line.replace("\n", ",\n") for line in lines(found))),
        Code.UNNAMED_COLUMN,
        1,
        remedy="a delimiter at the end of every row",
    ),
    Bad(
        "a comma at the end of rows",
        text(lambda found: lines(found)[0] + "".join(line.replace("\n", ",\n") for line in lines(found)[1:])),
        Code.RAGGED_ROW,
        2,
        count=240,
        remedy="remove the delimiter at the end of the rows",
    ),
    Bad(
        "a space before quotes", text(lambda found: found.replace(',"', ', "')), Code.RAGGED_ROW, remedy="spaces before"
    ),
    Bad("single quotes", quoted, Code.BAD_QUOTES, 1, remedy="double quotes"),
    Bad("colons", text(lambda found: found.replace(",", ":")), Code.WRONG_DELIMITER, 1, remedy="';', tab, '|'"),
    Bad("many columns", wide(2049), Code.TOO_LARGE, 1),
    Bad("many equal names", raw(",".join(["a"] * 2000) + "\n"), Code.DUPLICATE_COLUMN, 1, "a"),
    Bad("a line without end", raw("x" * (LIMITS.row_chars_max + 1)), Code.TOO_LARGE, 1),
    Bad("a row of commas", raw("," * (LIMITS.row_chars_max + 1)), Code.TOO_LARGE, 1),
    Bad("a unit in the name", renamed("age,", "age (years),"), Code.UNKNOWN_COLUMN, 1, "age (years)", remedy="'age'?"),
    Bad("a minus of typography", cell("\u221227"), Code.NOT_A_NUMBER, 5, "age", "\u221227", 1, "characters: -27"),
    Bad("wide digits", cell("\uff12\uff17"), Code.NOT_A_NUMBER, 5, "age", remedy="characters: 27"),
    Bad("a hidden character", cell("\u200b27"), Code.NOT_A_NUMBER, 5, "age", "\\u200b27", remedy="characters: 27"),
    Bad("thousands of India", cell("1,23,456"), Code.THOUSANDS_SEPARATOR, 5, "age", "1,23,456", 1),
    Bad("a date", cell("2024-01-31"), Code.NOT_A_NUMBER, 5, "age", "2024-01-31", 1, "days or an age"),
    Bad("a German date", cell("31.01.2024"), Code.NOT_A_NUMBER, 5, "age", "31.01.2024", 1, "days or an age"),
    Bad("a time", cell("12:30"), Code.NOT_A_NUMBER, 5, "age", "12:30", 1, "minutes"),
    Bad("a percent sign", cell("27 %"), Code.NOT_A_NUMBER, 5, "age", "27 %", 1, "without the sign"),
    Bad("a bound", cell("<40"), Code.NOT_A_NUMBER, 5, "age", "<40", 1, "the limit itself"),
    Bad("a span", cell("20-30"), Code.NOT_A_NUMBER, 5, "age", "20-30", 1, "its middle"),
    Bad("a truth value", cell("TRUE"), Code.NOT_A_NUMBER, 5, "age", "TRUE", 1, "write 1 or 0"),
    Bad("a formula", cell("=A1+1"), Code.NOT_A_NUMBER, 5, "age", "=A1+1", 1, "values of the cells"),
    Bad("a spreadsheet's error", cell("#DIV/0!"), Code.MISSING_TOKEN, 5, "age", "#DIV/0!", 1, 'missing = "#DIV/0!"'),
    Bad("a number of a thousand digits", cell("1" * 1000), Code.NOT_A_NUMBER, 5, "age", count=1, remedy="correct"),
    Bad("one group", changed("patient", "p"), Code.TOO_FEW_ROWS, remedy='another column with kind = "group"'),
)


@pytest.mark.parametrize("bad", CLUMSY, ids=lambda bad: bad.name.replace(" ", "-"))
def test_what_is_clumsy_gets_one_error_with_place_and_remedy(bad: Bad, tmp_path: Path) -> None:
    table, schema = tmp_path / "t.csv", tmp_path / "s.toml"
    table.write_bytes(bad.make(rows("north")))
    schema.write_text(SCHEMA)
    found = quidnunc("data", "check", table, "--schema", schema, "--json")
    assert found.code == 20
    (finding,) = found.envelope["data"]["findings"]
    assert (finding["code"], finding["severity"]) == (bad.code, "error")
    assert bad.remedy in finding["remedy"]
    assert (finding["column"] or "") == bad.column
    for expected, said in ((bad.row, finding["row"]), (bad.value, finding["value"]), (bad.count, finding["count"])):
        assert not expected or said == expected
    assert len(finding["message"]) < 300


def test_a_mark_twice_and_a_last_ctrl_z_are_passed_over() -> None:
    assert decode_text("\ufeff\ufeffa,b\n1,2\n\x1a".encode()) == "a,b\n1,2\n"
    assert decode_text("a,b\n1,2\n".encode("utf-16-be"), "utf-16") == "a,b\n1,2\n"


@pytest.mark.parametrize(
    ("written", "stated", "told"),
    [("utf-8", "latin-1", "UTF-8"), ("utf-8-sig", "cp1252", "UTF-8"), ("utf-8", "utf-16", "UTF-8")],
)
def test_another_encoding_than_the_stated_is_seen(written: str, stated: str, told: str) -> None:
    with pytest.raises(DataFault, match=f"the file is {told} text, must be {stated}") as raised:
        decode_text("Größe,b\n1,2\n".encode(written), stated)
    assert raised.value.finding.code == Code.WRONG_ENCODING
    assert "leave encoding out" in raised.value.hint


@pytest.mark.parametrize(
    "header", ["2019,2020,2021,y", "0,1,2,3", "patient,250.00,401.9,y", "#id,age,sex,y", "x,1,y,z"]
)
def test_numbers_in_order_and_single_ones_are_names(header: str) -> None:
    assert read_table(f"{header}\n1,2,3,4\n5,6,7,8\n").names == tuple(header.split(","))


def test_a_row_is_read_up_to_its_limit() -> None:
    limits = replace(LIMITS, row_chars_max=8)
    assert read_table("a,b\n1234,67\n", Dialect(), limits).rows == 1
    for long in ("a,b\n1234,678\n", 'a,b\n"12\n45",6\n'):
        with pytest.raises(DataFault, match="row 2: a row is too long, or a quote is not closed, limit is 8"):
            read_table(long, Dialect(), limits)


def test_a_value_that_the_site_declares_missing_is_an_error(tmp_path: Path) -> None:
    table, schema = tmp_path / "t.csv", tmp_path / "s.toml"
    table.write_text(text_of(rows("north")))
    schema.write_text(SCHEMA)
    found = quidnunc("data", "check", table, "--schema", schema, "--missing", "NA M")
    assert found.code == 20
    assert "column sex: 'M' is one of the values in the schema, and means missing in this site's options" in found.err


# What is no file at all.


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("directory", "not a regular file, but a directory"),
        ("pipe", "not a regular file, but a pipe"),
        ("loop", "cannot be read: too many levels of symbolic links"),
        ("socket", "cannot be read: "),
        ("/dev/zero", "not a regular file, but a device"),
        ("~nobody-of-this-name/t.csv", "no user ~nobody-of-this-name on this machine"),
        ("x" * 300, "cannot be read: file name too long"),
    ],
)
def test_what_is_no_file_is_named_by_its_kind(
    name: str, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("directory").mkdir()
    os.mkfifo("pipe")
    Path("loop").symlink_to("loop")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket")
    Path("t.csv").write_text("a,y\n1,0\n")
    for words in ((name,), ("t.csv", "--schema", name)):
        found = quidnunc("data", "check", *words)
        assert (found.code, found.err.count("error: ")) == (64, 1)
        assert f"error: {name}: {why}" in found.err
        assert "hint: " in found.err


def test_a_file_that_is_written_to_meanwhile_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "t.csv"
    path.write_text("a,y\n1,0\n")
    read = table_file.read_capped

    def slowly(place: Path, limit: int) -> bytes:
        data = read(place, limit)
        place.write_text("a,y\n1,0\n2,1\n")
        return data

    monkeypatch.setattr(table_file, "read_capped", slowly)
    with pytest.raises(ConfigError, match=r"t\.csv: changed while it was read") as raised:
        table_file.load_table(path)
    assert "when its export has ended" in raised.value.hint


def test_the_table_is_not_overwritten_by_its_schema(tmp_path: Path) -> None:
    table, link = tmp_path / "t.csv", tmp_path / "l.toml"
    table.write_text("a,y\n" + "".join(f"{number},{number % 2}\n" for number in range(60)))
    link.symlink_to(table)
    before = table.read_bytes()
    for out in (table, link):
        found = quidnunc("data", "check", table, "--write-schema", out, "--yes")
        assert (found.code, "is the table itself" in found.err) == (2, True)
    assert table.read_bytes() == before
