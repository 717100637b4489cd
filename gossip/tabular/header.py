"""The first row of a table: whether it names the columns, and what it is if it does not."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence

from quidnunc.gossip.tabular.findings import Code, DataFault, Finding, printable

DELIMITERS: Mapping[str, str] = {",": ",", ";": ";", "\t": "tab", "|": "|"}
"""Delimiters that are known, and how they are called."""

PLACES_SHOWN = 5
"""Columns of one name that an error lists."""

_NUMBER = re.compile(r"[+-]?\d+(?:[.,]\d+)?(?:[eE][+-]?\d+)?", re.ASCII)
_NAMES_ON_TOP = "put a row of names on top: the first row must name the columns"


def check_header(names: Sequence[str], line: int, delimiter: str, second: Sequence[str]) -> None:
    """Raise DataFault unless the first row names columns; ``second`` is the row after it, empty for none."""
    if names[0].startswith("#") and (len(second) != len(names) or not all(names)):
        what = f"the first row is a remark ('{printable(names[0])}'), must name the columns"
        remedy = "delete the lines above the row of names"
        raise DataFault(Finding(Code.NO_HEADER, what, remedy, line, "", printable(names[0])))
    if len(names) == 1:
        _check_one_cell(names[0], line, delimiter, second)
    if len(names) > 1 and all(len(name) > 1 and name[0] == name[-1] == "'" for name in names):
        what = f"cells are in single quotes ({printable(names[0])})"
        remedy = 'export with double quotes ("), or without any'
        raise DataFault(Finding(Code.BAD_QUOTES, what, remedy, line, "", printable(names[0])))
    if len(names) > 1:
        check_names(names, line)


def check_names(names: Sequence[str], line: int = 1) -> None:
    """Raise DataFault when a column has no name or the name of another."""
    unnamed = next((index for index, name in enumerate(names, start=1) if not name), 0)
    doubles = [name for name in dict.fromkeys(names) if names.count(name) > 1] if not unnamed else []
    if (unnamed or doubles) and looks_like_values(names):
        raise DataFault(values_on_top(names, line))
    if unnamed:
        what = f"the header leaves column {unnamed} of {len(names)} without a name"
        remedy = "name it, or delete the column"
        if unnamed == len(names):
            remedy += "; a delimiter at the end of every row makes one"
        raise DataFault(Finding(Code.UNNAMED_COLUMN, what, remedy, line))
    if doubles:
        places = [str(index) for index, name in enumerate(names, start=1) if name == doubles[0]]
        more = f" and {len(places) - PLACES_SHOWN} more" if len(places) > PLACES_SHOWN else ""
        what = f"the header has this name more than once (columns {' and '.join(places[:PLACES_SHOWN])}{more})"
        raise DataFault(Finding(Code.DUPLICATE_COLUMN, what, "rename one of them", line, doubles[0]))


def looks_like_values(names: Sequence[str]) -> bool:
    """Whether at least half of the names are numbers, other than years or codes in rising order."""
    filled = [name for name in names if name]
    numbers = [float(name.replace(",", ".")) for name in filled if _NUMBER.fullmatch(name)]
    rising = all(one < other for one, other in itertools.pairwise(numbers))
    return 2 * len(numbers) >= len(filled) and len(numbers) > 1 and not rising


def values_on_top(names: Sequence[str], line: int) -> Finding:
    """The finding that the first row is a record."""
    shown = ", ".join(f"'{printable(name)}'" for name in names[:PLACES_SHOWN])
    what = f"the first row holds values ({shown}), must name the columns"
    return Finding(Code.NO_HEADER, what, _NAMES_ON_TOP, line, "", printable(names[0]), "a name for each column")


def called(mark: str) -> str:
    """A delimiter as a message has it."""
    return "tab" if mark == "\t" else f"'{mark}'"


def _check_one_cell(name: str, line: int, delimiter: str, second: Sequence[str]) -> None:
    """Raise DataFault unless this may be a title above a table: that is told once all rows are seen."""
    counts = {mark: name.count(mark) for mark in DELIMITERS if mark != delimiter}
    best = max(counts, key=lambda mark: counts[mark])
    # A row below may hold the stated delimiter, as a decimal comma.
    alike = counts[best] and sum(cell.count(best) for cell in second) in (0, counts[best])
    if alike:
        what = f"the header is one cell with {counts[best]} {called(best)} in it, not cells apart by "
        what += called(delimiter)
        remedy = f'set delimiter = "{DELIMITERS[best]}" under [data.options] in config.toml, or --delimiter'
    elif len(second) > 1:
        return
    else:
        what = f"the header is one cell ('{printable(name)}'), must be two at least, apart by {called(delimiter)}"
        known = ", ".join(called(mark) for mark in DELIMITERS)
        remedy = f"export with one of the delimiters {known}, and name it with --delimiter"
    raise DataFault(Finding(Code.WRONG_DELIMITER, what, remedy, line, "", printable(name), delimiter))


class Ragged:
    """Rows of another width than the header: how many, and what they have in common."""

    def __init__(self, width: int) -> None:
        self._width = width
        self._first: tuple[int, list[str]] | None = None
        self._widths: set[int] = set()
        self._trailing = True
        self.count = 0

    def add(self, line: int, record: list[str]) -> None:
        """Count a row."""
        self._first = self._first or (line, record)
        self._widths.add(len(record))
        self._trailing &= len(record) > self._width and not any(cell.strip() for cell in record[self._width :])
        self.count += 1

    def finding(self, rows: int, header: int, name: str) -> Finding | None:
        """What to say, if there were any beside ``rows`` right ones; ``name`` is the first cell of the header."""
        if self._first is None:
            return None
        line, record = self._first
        found = len(record)
        if not rows and self._widths == {found} and found > self._width and self.count > 1 and not self._trailing:
            what = f"the first row ('{printable(name)}') has {self._width} cells, all others have {found}"
            remedy = "delete the lines above the row of names"
            return Finding(Code.NO_HEADER, what, remedy, header, "", str(self._width), f"{found} cells")
        what = f"{found} cells, the header has {self._width}"
        remedy = self._remedy(record)
        return Finding(Code.RAGGED_ROW, what, remedy, line, "", str(found), f"{self._width} cells", self.count)

    def _remedy(self, record: list[str]) -> str:
        if record[0].lstrip().startswith("#"):
            return "delete the remark: every row below the names is a record"
        if len(record) < self._width:
            return "fill the row up with empty cells, or delete it where it is no record"
        if self._trailing:
            return "remove the delimiter at the end of the rows"
        if any(cell[:1].isspace() and cell.lstrip().startswith('"') for cell in record):
            return "remove the spaces before quotes: a quoted cell begins right after the delimiter"
        return "quote cells that hold the delimiter, such as numbers with a decimal comma"
