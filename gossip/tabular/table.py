"""Delimited text to a table of cells: RFC 4180 with any delimiter, capped, every fault of form named once.

A fault of form (encoding, quotes, header, ragged rows) is refused at once by DataFault: what the cells mean cannot be
judged before it is mended.
"""

from __future__ import annotations

import csv
import io
import itertools
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass

from quidnunc.gossip.tabular.findings import Code, DataFault, Finding
from quidnunc.gossip.tabular.header import Ragged, check_header

_SEP = re.compile(r"\s*sep=.?", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Dialect:
    """How a site writes its tables. ``missing`` are cells that mean missing; an empty one always does."""

    delimiter: str = ","
    decimal: str = "."
    encoding: str = "utf-8"
    missing: tuple[str, ...] = ()


PLAIN = Dialect()


@dataclass(frozen=True, slots=True)
class TableLimits:
    """Caps on one table. ``bytes_max`` is for whoever reads the file."""

    bytes_max: int = 256 * 1024 * 1024
    rows_max: int = 1_000_000
    columns_max: int = 2048
    cells_max: int = 50_000_000
    cell_chars_max: int = 1024
    row_chars_max: int = 4 * 1024 * 1024


LIMITS = TableLimits()


@dataclass(frozen=True, slots=True)
class Table:
    """Stripped cells by column, in Unicode form NFC and the order of the file.

    ``lines`` holds the line on which each row begins, ``header`` that of the names (0 where a file has none).
    """

    names: tuple[str, ...]
    columns: tuple[list[str], ...]
    lines: list[int]
    header: int = 1

    @property
    def rows(self) -> int:
        return len(self.lines)

    def column(self, name: str) -> list[str]:
        """The cells of the column called ``name``; KeyError when there is none."""
        if name not in self.names:
            raise KeyError(name)
        return self.columns[self.names.index(name)]


def read_table(text: str, dialect: Dialect = PLAIN, limits: TableLimits = LIMITS) -> Table:
    """Read delimited text whose first row names the columns. Raises DataFault for the first kind of fault of form.

    Rows without any cell filled are skipped.
    """
    records = _records(text, dialect, limits)
    first = next(records, None)
    if first is not None and _SEP.fullmatch(first[1][0]):
        # Some spreadsheets write a line "sep=;" for each other; the site's own setting counts.
        first = next(records, None)
    if first is None:
        raise DataFault(Finding(Code.EMPTY_FILE, "the file is empty", "export the table again"))
    line, header = first
    names = tuple(_plain(cell) for cell in header)
    if len(names) > limits.columns_max:
        raise _too_large(f"{len(names)} columns", f"{limits.columns_max} columns", line)
    second = next(records, None)
    check_header(names, line, dialect.delimiter, () if second is None else second[1])
    columns: tuple[list[str], ...] = tuple([] for _ in names)
    lines: list[int] = []
    seen: dict[str, str] = {}
    ragged = Ragged(len(names))
    for line, record in itertools.chain([] if second is None else [second], records):
        if len(record) != len(names):
            ragged.add(line, record)
            continue
        if len(lines) >= min(limits.rows_max, limits.cells_max // len(names)):
            bound = min(limits.rows_max, limits.cells_max // len(names))
            raise _too_large(f"more than {bound} rows of {len(names)} columns", f"{bound} rows", line)
        lines.append(line)
        for cells, cell in zip(columns, record, strict=True):
            plain = _plain(cell)
            # Most cells repeat: one string for all equal ones keeps a large table small.
            cells.append(seen.setdefault(plain, plain))
    fault = ragged.finding(len(lines), first[0], names[0])
    if fault is not None:
        raise DataFault(fault)
    if not lines:
        raise DataFault(Finding(Code.EMPTY_FILE, "the file has a header and no rows", "export the table again"))
    return Table(names, columns, lines, first[0])


def _plain(cell: str) -> str:
    cell = cell.strip()
    return cell if cell.isascii() else unicodedata.normalize("NFC", cell)


class _Lines:
    """The lines of a text, refused where those of one row grow longer than ``chars_max``.

    The parser holds a row in pieces before anybody can count them, each many times as large as its text.
    """

    def __init__(self, text: str, chars_max: int) -> None:
        self._file = io.StringIO(text, newline="")
        self._chars_max = chars_max
        self._chars = 0
        self.row = 1

    def begin(self, line: int) -> None:
        """A new row begins on this line."""
        self.row, self._chars = line, 0

    def __iter__(self) -> Iterator[str]:
        for line in self._file:
            self._chars += len(line)
            if self._chars > self._chars_max:
                raise _too_large(
                    "a row is too long, or a quote is not closed", f"{self._chars_max} characters", self.row
                )
            yield line


def _records(text: str, dialect: Dialect, limits: TableLimits) -> Iterator[tuple[int, list[str]]]:
    """Rows with any cell filled, each with the line it begins on."""
    source = _Lines(text, limits.row_chars_max)
    reader = csv.reader(source, delimiter=dialect.delimiter, strict=True)
    while True:
        line = reader.line_num + 1
        source.begin(line)
        try:
            record = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            if "field limit" in str(error):
                what = "a cell is too long, or a quote is not closed"
                raise _too_large(what, f"{limits.cell_chars_max} characters", line) from None
            what = "a quoted cell is not closed, or goes on after its closing quote"
            remedy = 'double every quote inside a quoted cell ("") and close it'
            raise DataFault(Finding(Code.BAD_QUOTES, what, remedy, line)) from None
        if any(len(cell) > limits.cell_chars_max for cell in record):
            raise _too_large("a cell is too long", f"{limits.cell_chars_max} characters", line)
        if any(cell and not cell.isspace() for cell in record):
            yield line, record


def _too_large(what: str, bound: str, line: int) -> DataFault:
    return DataFault(
        Finding(Code.TOO_LARGE, f"{what}, limit is {bound}", "split or shorten the table", line, bound=bound)
    )
