"""Delimited text to a table of cells: RFC 4180 with any delimiter, capped, every fault of form named once.

A fault of form (encoding, quotes, header, ragged rows) is refused at once by DataFault: what the cells mean cannot be
judged before it is mended.
"""

from __future__ import annotations

import csv
import io
import re
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from quidnunc.gossip.tabular.findings import Code, DataFault, Finding, printable

ENCODINGS = ("utf-8", "utf-16", "latin-1", "cp1252")
DELIMITERS: Mapping[str, str] = {",": ",", ";": ";", "\t": "tab", "|": "|"}
"""Delimiters that are known, and how they are called."""

_SEP = re.compile(r"\s*sep=.?", re.IGNORECASE)
_BINARY: tuple[tuple[bytes, str, str], ...] = (
    (b"PK\x03\x04", "a zip archive or an Excel workbook", "save the sheet as CSV (UTF-8)"),
    (b"\xd0\xcf\x11\xe0", "an old Excel workbook", "save the sheet as CSV (UTF-8)"),
    (b"\x1f\x8b", "compressed with gzip", "unpack it first"),
    (b"%PDF", "a PDF document", "export the table as CSV"),
    (b"PAR1", "a Parquet file", "name it where Parquet is read"),
)


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


def decode_text(data: bytes, encoding: str = "utf-8") -> str:
    """The text of a file, without its byte order mark. Raises DataFault (not_text, wrong_encoding, empty_file)."""
    if not data.strip():
        raise DataFault(Finding(Code.EMPTY_FILE, "the file is empty", "export the table again"))
    for magic, kind, remedy in _BINARY:
        if data.startswith(magic):
            raise DataFault(Finding(Code.NOT_TEXT, f"the file is {kind}, must be delimited text", remedy))
    marked = data.startswith((b"\xff\xfe", b"\xfe\xff"))
    if encoding != "utf-16" and (marked or _looks_utf16(data)):
        what = f"the file is UTF-16 text, must be {encoding}"
        raise DataFault(Finding(Code.WRONG_ENCODING, what, _encoding_remedy("utf-16")))
    try:
        text = data.decode("utf-8-sig" if encoding == "utf-8" else encoding)
    except UnicodeDecodeError as error:
        row = data.count(b"\n", 0, error.start) + 1
        byte = f"0x{data[error.start]:02x}"
        guess = "cp1252" if encoding == "utf-8" else "utf-8"
        what = f"byte {byte} is not {encoding}"
        raise DataFault(Finding(Code.WRONG_ENCODING, what, _encoding_remedy(guess), row, "", byte, encoding)) from None
    if "\0" in text:
        row = text.count("\n", 0, text.index("\0")) + 1
        what = "holds a zero byte, must be delimited text"
        raise DataFault(Finding(Code.NOT_TEXT, what, "export the table as CSV (UTF-8)", row))
    return text


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
    _check_header(names, line, dialect, limits)
    columns: tuple[list[str], ...] = tuple([] for _ in names)
    lines: list[int] = []
    seen: dict[str, str] = {}
    ragged: tuple[int, int] | None = None
    faults = 0
    for line, record in records:
        if len(record) != len(names):
            ragged = ragged or (line, len(record))
            faults += 1
            continue
        if len(lines) >= min(limits.rows_max, limits.cells_max // len(names)):
            bound = min(limits.rows_max, limits.cells_max // len(names))
            raise _too_large(f"more than {bound} rows of {len(names)} columns", f"{bound} rows", line)
        lines.append(line)
        for cells, cell in zip(columns, record, strict=True):
            plain = _plain(cell)
            # Most cells repeat: one string for all equal ones keeps a large table small.
            cells.append(seen.setdefault(plain, plain))
    if ragged is not None:
        raise DataFault(_ragged(ragged, faults, len(names)))
    if not lines:
        raise DataFault(Finding(Code.EMPTY_FILE, "the file has a header and no rows", "export the table again"))
    return Table(names, columns, lines, first[0])


def _plain(cell: str) -> str:
    cell = cell.strip()
    return cell if cell.isascii() else unicodedata.normalize("NFC", cell)


def check_names(names: tuple[str, ...], line: int = 1) -> None:
    """Raise DataFault when a column has no name or the name of another."""
    for index, name in enumerate(names, start=1):
        if not name:
            what = f"the header leaves column {index} of {len(names)} without a name"
            raise DataFault(Finding(Code.UNNAMED_COLUMN, what, "name it, or delete the column", line))
    doubles = [name for name in dict.fromkeys(names) if names.count(name) > 1]
    if doubles:
        places = " and ".join(str(index) for index, name in enumerate(names, start=1) if name == doubles[0])
        what = f"the header has this name more than once (columns {places})"
        raise DataFault(Finding(Code.DUPLICATE_COLUMN, what, "rename one of them", line, doubles[0]))


def _records(text: str, dialect: Dialect, limits: TableLimits) -> Iterator[tuple[int, list[str]]]:
    """Rows with any cell filled, each with the line it begins on."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=dialect.delimiter, strict=True)
    while True:
        line = reader.line_num + 1
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


def _check_header(names: tuple[str, ...], line: int, dialect: Dialect, limits: TableLimits) -> None:
    if len(names) > limits.columns_max:
        raise _too_large(f"{len(names)} columns", f"{limits.columns_max} columns", line)
    if len(names) == 1:
        counts = {mark: names[0].count(mark) for mark in DELIMITERS if mark != dialect.delimiter}
        best = max(counts, key=lambda mark: counts[mark])
        if counts[best]:
            what = f"the header is one cell with {counts[best]} {_called(best)} in it, not cells apart by "
            what += _called(dialect.delimiter)
            remedy = f'set delimiter = "{DELIMITERS[best]}" under [data.options] in config.toml, or --delimiter'
            raise DataFault(
                Finding(Code.WRONG_DELIMITER, what, remedy, line, "", printable(names[0]), dialect.delimiter)
            )
    check_names(names, line)


def _ragged(first: tuple[int, int], count: int, width: int) -> Finding:
    line, found = first
    remedy = "quote cells that hold the delimiter" if found > width else "fill the row up with empty cells"
    what = f"{found} cells, the header has {width}"
    return Finding(Code.RAGGED_ROW, what, remedy, line, "", str(found), f"{width} cells", count)


def _too_large(what: str, bound: str, line: int) -> DataFault:
    return DataFault(
        Finding(Code.TOO_LARGE, f"{what}, limit is {bound}", "split or shorten the table", line, bound=bound)
    )


def _called(mark: str) -> str:
    return "tab" if mark == "\t" else f"'{mark}'"


def _encoding_remedy(encoding: str) -> str:
    return f'save it as UTF-8, or set encoding = "{encoding}" under [data.options] in config.toml (--encoding)'


def _looks_utf16(data: bytes) -> bool:
    """Latin text in UTF-16 without a mark: every second byte is zero."""
    head = data[:512]
    pairs = len(head) // 2
    return pairs >= 4 and max(head[0::2].count(0), head[1::2].count(0)) >= 0.9 * pairs
