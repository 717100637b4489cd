"""Reading delimited text: round trips, limits at the limit and one past it, nothing but ConfigError for any bytes."""

from __future__ import annotations

import csv
import io
import unicodedata
from dataclasses import replace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from quidnunc.crypto.errors import ConfigError
from quidnunc.gossip.tabular.findings import Code, DataFault, printable
from quidnunc.gossip.tabular.header import DELIMITERS
from quidnunc.gossip.tabular.table import LIMITS, Dialect, Table, read_table
from quidnunc.gossip.tabular.text import ENCODINGS, decode_text

CELLS = st.text(st.characters(exclude_categories=("Cs", "Cc")) | st.sampled_from(',;|"\t\n\r'), max_size=12)
NAMES = st.lists(st.text("abcdefgh_ é", min_size=1, max_size=8).map(str.strip).filter(bool), min_size=2, unique=True)


def written(names: list[str], rows: list[list[str]], delimiter: str, end: str) -> str:
    file = io.StringIO(newline="")
    csv.writer(file, delimiter=delimiter, quoting=csv.QUOTE_ALL, lineterminator=end).writerows([names, *rows])
    return file.getvalue()


@given(st.data(), NAMES, st.sampled_from(sorted(DELIMITERS)), st.sampled_from(["\n", "\r\n", "\r"]))
def test_a_table_comes_back_as_it_was_written(data: st.DataObject, names: list[str], delimiter: str, end: str) -> None:
    width = st.lists(CELLS, min_size=len(names), max_size=len(names))
    rows = data.draw(st.lists(width.filter(lambda row: any(cell.strip() for cell in row)), min_size=1, max_size=6))
    table = read_table(written(names, rows, delimiter, end), Dialect(delimiter))
    assert table.names == tuple(names)
    assert [list(row) for row in zip(*table.columns, strict=True)] == [
        [unicodedata.normalize("NFC", cell.strip()) for cell in row] for row in rows
    ]
    assert table.lines[0] == 2
    assert table.lines == sorted(set(table.lines))


@given(st.binary(max_size=300), st.sampled_from(ENCODINGS), st.sampled_from(sorted(DELIMITERS)))
@example(b"\xff\xfea\x00", "utf-16", ",")
@example(b'a,b\n"', "utf-8", ",")
@example(b"a\x0b,b\n1,2\n", "latin-1", ",")
def test_any_bytes_give_a_table_or_one_refusal(data: bytes, encoding: str, delimiter: str) -> None:
    found: Table | ConfigError
    try:
        found = read_table(decode_text(data, encoding), Dialect(delimiter))
    except ConfigError as error:
        found = error
    if isinstance(found, Table):
        assert found.rows
        assert {len(column) for column in found.columns} == {found.rows}
    else:
        assert isinstance(found, DataFault)
        assert found.finding.remedy


@given(st.text(max_size=200))
def test_any_text_gives_a_table_or_one_refusal(text: str) -> None:
    try:
        rows = read_table(text).rows
    except DataFault:
        return
    assert rows


def refusal(text: str, **limits: int) -> Code:
    with pytest.raises(DataFault) as raised:
        read_table(text, Dialect(), replace(LIMITS, **limits))
    return raised.value.finding.code


def read(text: str, **limits: int) -> Table:
    return read_table(text, Dialect(), replace(LIMITS, **limits))


def test_limits_hold_at_the_limit_and_not_one_past_it() -> None:
    text = "a,b\n1,2\n3,4\n"
    assert read(text, rows_max=2).rows == 2
    assert refusal(text, rows_max=1) == Code.TOO_LARGE
    assert read(text, columns_max=2).names == ("a", "b")
    assert refusal(text, columns_max=1) == Code.TOO_LARGE
    assert read(text, cells_max=4).rows == 2
    assert refusal(text, cells_max=3) == Code.TOO_LARGE
    assert read("a,b\nxxx,1\n", cell_chars_max=3).rows == 1
    assert refusal("a,b\nxxxx,1\n", cell_chars_max=3) == Code.TOO_LARGE
    assert refusal(f"a,b\n{'x' * 200_000},1\n", cell_chars_max=300_000) == Code.TOO_LARGE


def test_lines_are_those_of_an_editor() -> None:
    table = read('\n\na,b\n1,"two\nlines"\n\n,\n3,4\n')
    assert (table.header, table.lines) == (3, [4, 8])
    assert table.columns == (["1", "3"], ["two\nlines", "4"])


def test_a_byte_order_mark_and_spaces_are_no_part_of_a_cell() -> None:
    table = read_table(decode_text(b"\xef\xbb\xbf a ,b\r\n 1 , 2\r\n"))
    assert (table.names, table.columns) == (("a", "b"), (["1"], ["2"]))
    assert table.column("b") == ["2"]
    with pytest.raises(KeyError):
        table.column("c")


def test_composed_and_decomposed_letters_are_the_same() -> None:
    table = read("Gr\u006f\u0308\u00dfe,b\nM\u0061\u0308rz,1\n")
    assert (table.names[0], table.columns[0]) == ("Gr\u00f6\u00dfe", ["M\u00e4rz"])


def test_a_spreadsheets_sep_line_is_passed_over() -> None:
    for delimiter in ",;":
        table = read_table(f"sep={delimiter}\na{delimiter}b\n1{delimiter}2\n", Dialect(delimiter))
        assert (table.names, table.header, table.lines) == (("a", "b"), 2, [3])
    assert refusal("sep=;\na;b\n1;2\n") == Code.WRONG_DELIMITER


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_every_encoding_is_read(encoding: str) -> None:
    assert decode_text("Größe,b\n1,2\n".encode(encoding), encoding) == "Größe,b\n1,2\n"


def test_what_is_shown_is_short_and_printable() -> None:
    assert printable("x" * 40) == "x" * 40
    assert printable("x" * 41) == "x" * 37 + "..."
    assert printable("a\x1b[2Jb\u202e") == "a\\x1b[2Jb\\u202e"
