"""One column of cells to numbers or category indices, with what is wrong in it said once per kind of fault."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from quidnunc.gossip.tabular.findings import Code, Finding, printable
from quidnunc.gossip.tabular.remedies import number_meant
from quidnunc.gossip.tabular.rule import plain_word
from quidnunc.gossip.tabular.schema import Column, Kind, closest
from quidnunc.gossip.tabular.table import Dialect

MISSING_LIKE = frozenset(
    {
        *("na", "n/a", "nan", "null", "none", "nil", "nd", "?", "-", "--", ".", "unknown", "missing", "<na>", "nat"),
        *("#n/a", "#div/0!", "#ref!", "#value!", "#name?", "#num!", "#null!"),
    }
)
"""Cells, in lower case, that many programs write for a missing value, and spreadsheets for one that they lack."""

# In some countries groups have two digits before the last: 1,23,456.
_GROUPS = {
    mark: re.compile(
        rf"[+-]?\d{{1,3}}([{re.escape(others)}])(?:\d{{2,3}}\1)*\d{{3}}(?:{re.escape(mark)}\d+)?", re.ASCII
    )
    for mark, others in ((".", ",'_ \u00a0\u2009\u202f\u2019"), (",", ".'_ \u00a0\u2009\u202f\u2019"))
}
_NUMBERS = {
    mark: re.compile(rf"[+-]?(?:\d+{re.escape(mark)}?\d*|{re.escape(mark)}\d+)(?:[eE][+-]?\d{{1,3}})?", re.ASCII)
    for mark in ".,"
}
_OTHER = {".": ",", ",": "."}
_FACTORS = ((10.0, "10"), (100.0, "100"), (1000.0, "1000"), (18.016, "18 (glucose)"), (38.67, "38.7 (cholesterol)"))


@dataclass(frozen=True, eq=False)
class Values:
    """A column read: ``data`` is float64 [n] with nan, or int64 [n] with -1, where ``missing`` or faulty.

    ``outside`` counts numbers outside of the range, cut or not; ``findings`` are its errors.
    """

    data: NDArray[np.float64] | NDArray[np.int64]
    missing: NDArray[np.bool_]
    outside: int
    findings: tuple[Finding, ...]


def number_of(cell: str, decimal: str) -> float | Code:
    """The finite number that ``cell`` spells with this decimal sign, or why it does not."""
    if _NUMBERS[decimal].fullmatch(cell):
        value = float(cell.replace(",", "."))
        return value if math.isfinite(value) else Code.NOT_A_NUMBER
    if _GROUPS[decimal].fullmatch(cell) or _GROUPS[_OTHER[decimal]].fullmatch(cell):
        return Code.THOUSANDS_SEPARATOR
    if _NUMBERS[_OTHER[decimal]].fullmatch(cell):
        return Code.WRONG_DECIMAL
    return Code.MISSING_TOKEN if cell.lower() in MISSING_LIKE else Code.NOT_A_NUMBER


def is_missing(column: Column, dialect: Dialect) -> Callable[[str], bool]:
    """Whether a cell of ``column`` means missing: empty, one of the site's tokens or of the column's own values."""
    exact = {"", *dialect.missing, *column.missing_values, *map(plain_word, column.missing_values)}
    numbers: set[float] = set()
    if column.kind == Kind.NUMBER:
        found = (number_of(word, ".") for word in column.missing_values)
        numbers = {value for value in found if not isinstance(value, Code)}

    def missing(cell: str) -> bool:
        if cell in exact or plain_word(cell) in exact:
            return True
        return bool(numbers) and number_of(cell, dialect.decimal) in numbers

    return missing


class _Tally:
    """Per code: how often, and the first line and value."""

    def __init__(self) -> None:
        self.faults: dict[Code, tuple[int, int, str]] = {}

    def add(self, code: Code, line: int, cell: str) -> None:
        count, first, value = self.faults.get(code, (0, line, cell))
        self.faults[code] = (count + 1, first, value)

    def merge(self, code: Code, into: Code) -> None:
        """Count ``code`` as ``into``, if both occur."""
        if code in self.faults and into in self.faults:
            one, other = self.faults.pop(code), self.faults[into]
            first = min(one[1:], other[1:])
            self.faults[into] = (one[0] + other[0], *first)


def read_numbers(cells: Sequence[str], lines: Sequence[int], column: Column, dialect: Dialect) -> Values:
    """Read a number column."""
    missing_cell = is_missing(column, dialect)
    known: dict[str, float | Code | None] = {}
    data = np.full(len(cells), np.nan)
    missing = np.zeros(len(cells), dtype=np.bool_)
    tally = _Tally()
    for index, cell in enumerate(cells):
        if cell not in known:
            known[cell] = None if missing_cell(cell) else number_of(cell, dialect.decimal)
        value = known[cell]
        if value is None:
            missing[index] = True
        elif isinstance(value, Code):
            tally.add(value, lines[index], cell)
        else:
            data[index] = value
    # 27,4 beside 1,125: with a decimal comma anywhere in the column, the comma is no thousands separator.
    tally.merge(Code.THOUSANDS_SEPARATOR, Code.WRONG_DECIMAL)
    findings = [_number_finding(code, fault, column, dialect) for code, fault in tally.faults.items()]
    beyond = np.flatnonzero((data < column.low) | (data > column.high))
    if len(beyond) and not column.clip:
        findings.append(_out_of_range(data, beyond, lines, cells, column))
    return Values(
        np.clip(data, column.low, column.high) if column.clip else data, missing, len(beyond), tuple(findings)
    )


def read_categories(cells: Sequence[str], lines: Sequence[int], column: Column, dialect: Dialect) -> Values:
    """Read a category column: the index of each cell among ``column.values``."""
    missing_cell = is_missing(column, dialect)
    index_of = {plain_word(value): index for index, value in enumerate(column.values)}
    index_of |= {value: index for index, value in enumerate(column.values)}
    known: dict[str, int | None] = {}
    data = np.full(len(cells), -1, dtype=np.int64)
    missing = np.zeros(len(cells), dtype=np.bool_)
    tally = _Tally()
    for index, cell in enumerate(cells):
        if cell not in known:
            known[cell] = None if missing_cell(cell) else index_of.get(cell, index_of.get(plain_word(cell), -1))
        value = known[cell]
        if value is None:
            missing[index] = True
        elif value >= 0:
            data[index] = value
        else:
            tally.add(Code.MISSING_TOKEN if cell.lower() in MISSING_LIKE else Code.UNSEEN_CATEGORY, lines[index], cell)
    findings = [*_hidden(column, dialect), *(_category_finding(*fault, column) for fault in tally.faults.items())]
    return Values(data, missing, 0, tuple(findings))


def _number_finding(code: Code, fault: tuple[int, int, str], column: Column, dialect: Dialect) -> Finding:
    count, line, cell = fault
    shown = printable(cell)
    other = _OTHER[dialect.decimal]
    match code:
        case Code.WRONG_DECIMAL:
            what = f"'{shown}' has the decimal sign '{other}', must be '{dialect.decimal}'"
            remedy = f'set decimal = "{other}" under [data.options] in config.toml (--decimal {other})'
        case Code.THOUSANDS_SEPARATOR:
            what = f"'{shown}' has thousands separators, must be digits with the decimal sign '{dialect.decimal}'"
            remedy = "export numbers without thousands separators"
        case Code.MISSING_TOKEN:
            what, remedy = _token_words(shown)
        case _:
            words, remedy = number_meant(cell)
            what = f"'{shown}' {words}"
    return Finding(code, what, remedy, line, column.name, shown, "a number", count)


def _category_finding(code: Code, fault: tuple[int, int, str], column: Column) -> Finding:
    count, line, cell = fault
    shown = printable(cell)
    listed = ", ".join(column.values)
    bound = listed if len(listed) <= 200 else f"{listed[:200]}..."
    if code == Code.MISSING_TOKEN:
        what, remedy = _token_words(shown)
    else:
        close = closest(cell, column.values)
        what = f"'{shown}' is not one of the values {bound}"
        remedy = f"did you mean '{close}'?" if close else "correct the cell, or agree on a schema that lists the value"
    return Finding(code, what, remedy, line, column.name, shown, bound, count)


def _hidden(column: Column, dialect: Dialect) -> list[Finding]:
    """A value that all members agreed on, and that this site's own settings would make disappear."""
    both = next((value for value in column.values if value in dialect.missing), "")
    if not both:
        return []
    what = f"'{printable(both)}' is one of the values in the schema, and means missing in this site's options"
    remedy = "take it out of missing under [data.options] in config.toml (--missing)"
    return [Finding(Code.MISSING_TOKEN, what, remedy, 0, column.name, printable(both))]


def _token_words(shown: str) -> tuple[str, str]:
    remedy = f'set missing = "{shown}" under [data.options] in config.toml (--missing), or leave the cell empty'
    return f"'{shown}' looks like a missing value, and is not declared as one", remedy


def _out_of_range(
    data: NDArray[np.float64], beyond: NDArray[np.int64], lines: Sequence[int], cells: Sequence[str], column: Column
) -> Finding:
    first = int(beyond[0])
    bound = f"{column.low:.12g} to {column.high:.12g}{f' {column.unit}' if column.unit else ''}"
    shown = printable(cells[first])
    remedy = 'correct the cell, or state outside = "clip" or missing_values in the schema'
    slip = _unit_slip(data, beyond, column)
    if slip:
        remedy = f"{slip}; {remedy}"
    what = f"{shown} is outside of {bound}"
    return Finding(Code.OUT_OF_RANGE, what, remedy, lines[first], column.name, shown, bound, len(beyond))


def _unit_slip(data: NDArray[np.float64], beyond: NDArray[np.int64], column: Column) -> str:
    """A guess at another unit, where a single factor brings most of a column into its range."""
    given = data[~np.isnan(data)]
    if len(beyond) < max(3, 0.5 * len(given)):
        return ""
    for factor, name in _FACTORS:
        for scaled, verb in ((given * factor, "multiplied"), (given / factor, "divided")):
            if bool(np.all((scaled >= column.low) & (scaled <= column.high))):
                return f"all fit when {verb} by {name}: another unit?"
    return ""
