"""A first schema from data, for a person to correct: its ranges come from the rows, which epsilon does not cover."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from quidnunc.crypto.errors import ConfigError
from quidnunc.gossip.tabular.findings import Code, DataFault, printable
from quidnunc.gossip.tabular.header import looks_like_values, values_on_top
from quidnunc.gossip.tabular.rule import Rule, parse_rule, plain_word
from quidnunc.gossip.tabular.schema import (
    COLUMNS_MAX,
    NAME_CHARS_MAX,
    REAL_MAX,
    VALUES_MAX,
    Column,
    Kind,
    Missing,
    Schema,
    Target,
    closest,
)
from quidnunc.gossip.tabular.table import PLAIN, Dialect, Table
from quidnunc.gossip.tabular.values import MISSING_LIKE, number_of

FEW_VALUES = 10
"""Up to so many distinct whole numbers are taken for a category."""
TEXT_VALUES_MAX = 50
"""More distinct texts than this are taken for names or remarks, and ignored."""

_MOSTLY = 0.9
_VALUES_SHOWN = 6
_TARGET_NAMES = ("target", "label", "class", "outcome", "diagnosis", "y")


def infer_schema(
    tables: Sequence[Table], dialect: Dialect = PLAIN, target: str = "", files: Sequence[str] = ()
) -> Schema:
    """A schema that fits all of ``tables`` together; ``files`` are their names, for errors.

    The target is ``target``, else a column with a usual name (target, label, ...), else the last; its positive rule is
    a guess. Raises ConfigError when tables differ in their columns, or when no rule can be guessed, DataFault when
    the names of the columns are values.
    """
    names = tables[0].names
    _check_alike(tables, files or [f"table {index + 1}" for index in range(len(tables))])
    if looks_like_values(names):
        raise DataFault(values_on_top(names, tables[0].header))
    if not 2 <= len(names) <= COLUMNS_MAX:
        raise ConfigError(
            f"the table has {len(names)} columns, must have 2 to {COLUMNS_MAX}",
            hint="keep those that may tell the target",
        )
    for name in names:
        if not _presentable(name):
            raise ConfigError(
                f"the column name {name[:40]!a} cannot stand in a schema", hint=f"at most {NAME_CHARS_MAX} characters"
            )
    chosen = _target_name(names, target)
    guesses = {name: _Guess(name, tables, dialect) for name in names}
    columns = tuple(guesses[name].column() for name in names if name != chosen)
    if not any(column.is_input for column in columns):
        raise ConfigError("no column can serve as an input", hint="write a schema by hand; see docs/data.md")
    return Schema(_target(guesses[chosen]), columns, inferred=True)


def _check_alike(tables: Sequence[Table], files: Sequence[str]) -> None:
    """Raises ConfigError about the column that stands most alone: the one that fewest have, or fewest lack."""
    holders: dict[str, list[str]] = {}
    for table, file in zip(tables, files, strict=True):
        for name in table.names:
            holders.setdefault(name, []).append(file)
    odd = {name: with_it for name, with_it in holders.items() if len(with_it) < len(tables)}
    if not odd:
        return
    name = min(odd, key=lambda each: (min(len(odd[each]), len(tables) - len(odd[each])), len(odd[each])))
    some, known = odd[name], tuple(each for each in holders if each not in odd or len(odd[each]) > len(odd[name]))
    alone = 2 * len(some) <= len(tables)
    named = some if alone else [file for file in files if file not in some]
    meant = closest(name, known) if alone else ""
    shown = f"{', '.join(named[:_VALUES_SHOWN])}{', ...' if len(named) > _VALUES_SHOWN else ''}"
    raise ConfigError(
        f"column {name[:40]!a} is {'only' if alone else 'not'} in {shown}, of {len(tables)} tables",
        hint=f"did you mean {meant!a}? rename it" if meant else "write a schema that all can read",
    )


class _Guess:
    """What the cells of one column look like, over all tables."""

    def __init__(self, name: str, tables: Sequence[Table], dialect: Dialect) -> None:
        self.name = name
        counts = Counter(cell for table in tables for cell in table.column(name))
        tokens = {"", *dialect.missing}
        self.missing = sum(counts.pop(token, 0) for token in tokens)
        self.counts: Counter[str] = Counter()
        for cell, count in counts.items():
            self.counts[plain_word(cell)] += count
        self.given = sum(counts.values())
        parsed = {cell: number_of(cell, dialect.decimal) for cell in counts}
        self.numbers = sorted({value for value in parsed.values() if not isinstance(value, Code)})
        # A number in the wrong spelling is still meant as one: the check will say what is wrong with it.
        meant = (Code.WRONG_DECIMAL, Code.THOUSANDS_SEPARATOR)
        numeric = sum(counts[cell] for cell, value in parsed.items() if not isinstance(value, Code) or value in meant)
        marks = sum(count for cell, count in counts.items() if cell.lower() in MISSING_LIKE)
        self.numeric = self.given > 0 and numeric >= _MOSTLY * (self.given - marks) and numeric > 0

    def column(self) -> Column:
        """As an input, if it can be one."""
        missing = Missing.INDICATOR if self.missing else Missing.DROP
        values = self._values()
        if self.numeric and not (0 < len(values) <= FEW_VALUES and self._whole()):
            low, high = _round_range(self.numbers)
            if max(abs(low), abs(high)) > REAL_MAX:
                return Column(self.name, Kind.IGNORE)
            return Column(self.name, Kind.NUMBER, low=low, high=high, missing=missing)
        few = 2 <= len(values) <= min(TEXT_VALUES_MAX, VALUES_MAX) and (self.numeric or len(values) <= self.given / 2)
        if few and all(map(_presentable, values)):
            return Column(self.name, Kind.CATEGORY, values=values, missing=missing)
        return Column(self.name, Kind.IGNORE)

    def rule(self) -> Rule:
        """A guess at the positive rule. Raises ConfigError."""
        values = self._values()
        if len(values) == 2 and all(map(_presentable, values)):
            # 1 of (0, 1), yes of (no, yes): mostly the later one; a person has to look.
            return parse_rule(f'= "{values[1]}"' if values[1][0] in "\"'" else f"= {values[1]}")
        if self.numeric and len(values) > 2 and self.numbers and self.numbers[0] == 0 and len(values) <= FEW_VALUES:
            return parse_rule("> 0")
        shown = ", ".join(printable(value) for value in values[:_VALUES_SHOWN])
        shown += "..." if len(values) > _VALUES_SHOWN else ""
        raise ConfigError(
            f"no positive rule can be guessed for the target {self.name[:40]!a} with "
            f"{len(values)} value{'' if len(values) == 1 else 's'}: {shown or 'none'}",
            hint="a target has one spelling for yes and one for no; name another column with --target, or write a "
            "schema with [target] positive",
        )

    def _values(self) -> tuple[str, ...]:
        if self.numeric:
            return tuple(f"{value:.15g}" for value in self.numbers)
        return tuple(sorted(self.counts))

    def _whole(self) -> bool:
        return all(value == int(value) for value in self.numbers)


def _presentable(text: str) -> bool:
    return 1 <= len(text) <= NAME_CHARS_MAX and text.isprintable()


def _target_name(names: tuple[str, ...], wanted: str) -> str:
    if wanted and wanted not in names:
        close = closest(wanted, names)
        hint = f"did you mean {close}?" if close else f"the file has: {', '.join(names)[:200]}"
        raise ConfigError(f"no column {wanted[:40]!a} to be the target", hint=hint)
    lowered = {name.lower(): name for name in reversed(names)}
    usual = next((lowered[name] for name in _TARGET_NAMES if name in lowered), names[-1])
    return wanted or usual


def _target(guess: _Guess) -> Target:
    rule = guess.rule()
    if rule.numeric:
        return Target(Column(guess.name, Kind.NUMBER, low=guess.numbers[0], high=guess.numbers[-1]), rule)
    column = guess.column()
    return Target(Column(guess.name, Kind.CATEGORY, values=column.values if column.values else ()), rule)


def _round_range(numbers: Sequence[float]) -> tuple[float, float]:
    """The range of numbers, widened to round ones: 28 to 77 becomes 20 to 80."""
    if not numbers:
        return 0.0, 1.0
    low, high = numbers[0], numbers[-1]
    step = 10.0 ** math.floor(math.log10(max(high - low, abs(high) * 1e-6, 1e-9)))
    ends = math.floor(low / step) * step, math.ceil(high / step) * step
    below, above = (float(f"{end:.12g}") for end in ends)
    below, above = min(below, low), max(above, high)
    return (below, above) if below < above else (below, below + step)
