"""What is wrong with a table, said in stable words: the codes, a finding, and a collector of one per column and code.

``docs/data.md`` has a line for every code, and a test holds the two together.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from quidnunc.crypto.errors import ConfigError

VALUE_CHARS_SHOWN = 40
"""Characters of a cell that a finding shows."""


class Severity(StrEnum):
    """``error``: the table is refused. ``warning``: used, but know this. ``hint``: perhaps nothing."""

    ERROR = "error"
    WARNING = "warning"
    HINT = "hint"


class Code(StrEnum):
    """The kinds of findings. The words stand in JSON answers and never change."""

    NOT_TEXT = "not_text"
    WRONG_ENCODING = "wrong_encoding"
    EMPTY_FILE = "empty_file"
    TOO_LARGE = "too_large"
    BAD_QUOTES = "bad_quotes"
    WRONG_DELIMITER = "wrong_delimiter"
    NO_HEADER = "no_header"
    UNNAMED_COLUMN = "unnamed_column"
    DUPLICATE_COLUMN = "duplicate_column"
    RAGGED_ROW = "ragged_row"
    UNSUPPORTED_TYPE = "unsupported_type"
    UNKNOWN_COLUMN = "unknown_column"
    MISSING_COLUMN = "missing_column"
    NOT_A_NUMBER = "not_a_number"
    WRONG_DECIMAL = "wrong_decimal"
    THOUSANDS_SEPARATOR = "thousands_separator"
    MISSING_TOKEN = "missing_token"
    OUT_OF_RANGE = "out_of_range"
    UNSEEN_CATEGORY = "unseen_category"
    MISSING_TARGET = "missing_target"
    MISSING_GROUP = "missing_group"
    TOO_FEW_ROWS = "too_few_rows"
    CONSTANT_TARGET = "constant_target"
    EXTRA_COLUMN = "extra_column"
    INFERRED_SCHEMA = "inferred_schema"
    MEASURED_MEDIAN = "measured_median"
    MANY_DROPPED = "many_dropped"
    EMPTY_SPLIT = "empty_split"
    LEAKAGE = "leakage"
    CONSTANT_COLUMN = "constant_column"
    NARROW_VALUES = "narrow_values"


_WARNINGS = frozenset(
    {
        Code.EXTRA_COLUMN,
        Code.INFERRED_SCHEMA,
        Code.MEASURED_MEDIAN,
        Code.MANY_DROPPED,
        Code.EMPTY_SPLIT,
        Code.LEAKAGE,
    }
)


_HINTS = frozenset({Code.CONSTANT_COLUMN, Code.NARROW_VALUES})


def severity_of(code: Code) -> Severity:
    """How much a code weighs."""
    if code in _HINTS:
        return Severity.HINT
    return Severity.WARNING if code in _WARNINGS else Severity.ERROR


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong, with the place of its first occurrence.

    ``row`` is the 1-based line of the file as an editor shows it (0: no single line), ``value`` the cell, shortened
    and printable, ``bound`` what it must be, ``remedy`` what to do, ``count`` in how many rows (0: not in rows).
    """

    code: Code
    what: str
    remedy: str
    row: int = 0
    column: str = ""
    value: str = ""
    bound: str = ""
    count: int = 0

    @property
    def severity(self) -> Severity:
        return severity_of(self.code)

    @property
    def message(self) -> str:
        """One line: where, what, how often, for example ``row 17, column age: 212 is outside 20 to 80 (3 rows)``."""
        places = [f"row {self.row}"] if self.row else []
        places += [f"column {printable(self.column)}"] if self.column else []
        where = f"{', '.join(places)}: " if places else ""
        often = f" ({self.count} rows)" if self.count > 1 else ""
        return f"{where}{self.what}{often}"


class DataFault(ConfigError):
    """A table was refused for ``finding``, the first of ``count`` errors."""

    def __init__(self, finding: Finding, count: int = 1, source: str = "") -> None:
        place = f"{source}: " if source else ""
        more = f"; and {count - 1} more" if count > 1 else ""
        super().__init__(f"{place}{finding.message}{more}", hint=finding.remedy)
        self.finding = finding


def printable(text: str) -> str:
    """``text`` shortened to VALUE_CHARS_SHOWN characters, with what a terminal cannot show written out."""
    short = text if len(text) <= VALUE_CHARS_SHOWN else f"{text[: VALUE_CHARS_SHOWN - 3]}..."
    if short.isprintable():
        return short
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in short)


def errors_of(findings: tuple[Finding, ...]) -> tuple[Finding, ...]:
    """Those that refuse the table, in order."""
    return tuple(each for each in findings if each.severity == Severity.ERROR)
