"""A table against a schema: every column read, every row placed, everything wrong found."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quidnunc.gossip.tabular.findings import Code, DataFault, Finding, errors_of, printable
from quidnunc.gossip.tabular.header import PLACES_SHOWN, looks_like_values, values_on_top
from quidnunc.gossip.tabular.leakage import leaks
from quidnunc.gossip.tabular.repeats import Repeats, find_repeats
from quidnunc.gossip.tabular.rule import plain_word
from quidnunc.gossip.tabular.schema import Column, Kind, Missing, Schema, Target, closest
from quidnunc.gossip.tabular.split import PARTS, TRAIN, row_keys, split_rows
from quidnunc.gossip.tabular.table import PLAIN, Dialect, Table
from quidnunc.gossip.tabular.values import Values, is_missing, number_of, read_categories, read_numbers

_MANY_DROPPED = 0.5
_NARROW = 0.02
_NARROW_ROWS = 20
_SPELLED_AT_ONCE = 1024


@dataclass(frozen=True, eq=False)
class Examined:
    """What a table holds under a schema.

    ``values`` are the input columns by name; ``positive`` [n] says which rows are of the positive class, ``used`` [n]
    which serve at all, ``parts`` [n] what for (split.TRAIN, HOLDOUT, TEST). ``findings`` come in the order of columns,
    and with an error among them the arrays are not to be trained on, and nothing is looked for that repeats.
    """

    schema: Schema
    rows: int
    values: Mapping[str, Values]
    positive: NDArray[np.bool_]
    used: NDArray[np.bool_]
    parts: NDArray[np.int8]
    findings: tuple[Finding, ...]
    repeats: Repeats

    @property
    def errors(self) -> tuple[Finding, ...]:
        return errors_of(self.findings)

    def part(self, which: int) -> NDArray[np.int64]:
        """The used rows of one part."""
        return np.flatnonzero(self.used & (self.parts == which))

    def require(self, source: str = "") -> None:
        """Raise DataFault when there is an error."""
        if self.errors:
            raise DataFault(self.errors[0], len(self.errors), source)


def examine(table: Table, schema: Schema, dialect: Dialect = PLAIN) -> Examined:
    """Check every cell of ``table`` that ``schema`` speaks of. Never raises for what the table holds."""
    findings = list(_check_columns(table, schema))
    values: dict[str, Values] = {}
    for column in schema.inputs:
        if column.name in table.names:
            read = read_numbers if column.kind == Kind.NUMBER else read_categories
            values[column.name] = read(table.column(column.name), table.lines, column, dialect)
            findings += values[column.name].findings
    findings = _with_both_signs(findings, table, schema, dialect)
    used = np.ones(table.rows, dtype=np.bool_)
    for column in schema.inputs:
        if column.name in values and column.missing == Missing.DROP:
            used &= ~values[column.name].missing
    positive = np.zeros(table.rows, dtype=np.bool_)
    if schema.target.column.name in table.names:
        positive, labelled, found = _read_target(table, schema.target, dialect)
        used &= labelled
        findings += found
    parts, found = _place(table, schema, values, positive, dialect)
    findings += found
    examined = Examined(schema, table.rows, values, positive, used, parts, tuple(findings), Repeats())
    repeats = examined.repeats
    if not examined.errors:
        findings += _judge(examined, table)
        arrays = [positive, *(read.data for read in values.values())]
        groups = None if schema.group is None else table.column(schema.group.name)
        repeats = find_repeats(arrays, used, table.lines, groups)
    if schema.inferred:
        what = (
            "ranges and values were inferred from the data: they are not covered by epsilon, and other members' differ"
        )
        remedy = (
            "write them down (data check --write-schema), correct them from public sources, and have all members sign"
        )
        findings.append(Finding(Code.INFERRED_SCHEMA, what, remedy))
    return Examined(schema, table.rows, values, positive, used, parts, tuple(findings), repeats)


def _check_columns(table: Table, schema: Schema) -> list[Finding]:
    """Columns that one side has and the other has not; a misspelt name is one fault, not two."""
    known = [schema.target.column.name, *(column.name for column in schema.columns)]
    needed = [name for name in known if not _ignored(schema, name)]
    lacking = [name for name in needed if name not in table.names]
    extra = [name for name in table.names if name not in known]
    if lacking == needed and not any(closest(name, tuple(needed)) for name in extra):
        return [_of_another_table(table, needed)]
    findings = []
    for name in list(extra):
        meant = closest(name, tuple(lacking))
        if meant:
            lacking.remove(meant)
            extra.remove(name)
            what = "is not in the schema"
            remedy = f"did you mean '{printable(meant)}'? rename it in the file"
            findings.append(Finding(Code.UNKNOWN_COLUMN, what, remedy, table.header, name, bound=meant))
    there = ", ".join(table.names)
    for name in lacking:
        what = "is in the schema and not in the file"
        remedy = f"the file has: {there if len(there) <= 200 else there[:200] + '...'}"
        findings.append(Finding(Code.MISSING_COLUMN, what, remedy, table.header, name))
    for name in extra:
        remedy = f'delete it, or say so in the schema: [columns."{printable(name)}"] kind = "ignore"'
        findings.append(Finding(Code.EXTRA_COLUMN, "is not in the schema, and is not read", remedy, table.header, name))
    return findings


def _of_another_table(table: Table, needed: list[str]) -> Finding:
    """The finding that header and schema have nothing in common, which is one fault and not one per column."""
    if looks_like_values(table.names):
        return values_on_top(table.names, table.header)
    shown = ", ".join(printable(name) for name in table.names[:PLACES_SHOWN])
    wanted = ", ".join(printable(name) for name in needed[:PLACES_SHOWN])
    what = f"no column of the schema is in the header, which has {shown}"
    what += " ..." if len(table.names) > PLACES_SHOWN else ""
    remedy = f"put a row of names on top, or choose the schema of this table: this one has {wanted}"
    remedy += " ..." if len(needed) > PLACES_SHOWN else ""
    return Finding(Code.NO_HEADER, what, remedy, table.header, value=printable(table.names[0]))


def _with_both_signs(findings: list[Finding], table: Table, schema: Schema, dialect: Dialect) -> list[Finding]:
    """``findings`` with another remedy for wrong decimal signs, where the stated sign occurs in the table as well.

    To state the other sign would only turn the error around.
    """
    if all(each.code != Code.WRONG_DECIMAL for each in findings):
        return findings
    for column in schema.inputs:
        if column.kind != Kind.NUMBER or column.name not in table.names:
            continue
        for cell, line in zip(table.column(column.name), table.lines, strict=True):
            if dialect.decimal in cell and not isinstance(number_of(cell, dialect.decimal), Code):
                place = f"row {line}, column {printable(column.name)} has '{printable(cell)}'"
                remedy = f"write all numbers with one decimal sign: {place}"
                return [replace(each, remedy=remedy) if each.code == Code.WRONG_DECIMAL else each for each in findings]
    return findings


def _ignored(schema: Schema, name: str) -> bool:
    return any(column.name == name and column.kind == Kind.IGNORE for column in schema.columns)


def _read_target(
    table: Table, target: Target, dialect: Dialect
) -> tuple[NDArray[np.bool_], NDArray[np.bool_], list[Finding]]:
    """Which rows are positive, which have a target at all, and what is wrong."""
    column, rule = target.column, target.rule
    cells = table.column(column.name)
    if rule.numeric:
        read = read_numbers(cells, table.lines, column, dialect)
        positive = np.array([rule.above(value) for value in read.data.tolist()], dtype=np.bool_)
        missing = read.missing
    elif column.values:
        read = read_categories(cells, table.lines, column, dialect)
        among = np.array([value in rule.words for value in column.values])
        positive, missing = among[read.data] & (read.data >= 0), read.missing
    else:
        read = None
        absent = is_missing(column, dialect)
        words = {*rule.words, *map(plain_word, rule.words)}
        missing = np.array([absent(cell) for cell in cells], dtype=np.bool_)
        positive = np.array([cell in words or plain_word(cell) in words for cell in cells], dtype=np.bool_) & ~missing
    findings = [_of_target(each) for each in read.findings] if read is not None else []
    if missing.any() and not target.drop_missing:
        first = table.lines[int(np.flatnonzero(missing)[0])]
        remedy = 'fill it in, or state missing = "drop" under [target] in the schema'
        what = "the target is missing"
        findings.append(Finding(Code.MISSING_TARGET, what, remedy, first, column.name, count=int(missing.sum())))
    return positive, ~missing, findings


def _of_target(finding: Finding) -> Finding:
    """``finding`` with a remedy that the table [target] has: it is of no kind, is not cut and not ignored."""
    match finding.code:
        case Code.OUT_OF_RANGE:
            remedy = "correct the cell, or agree on a schema with another range under [target]"
        case Code.NOT_A_NUMBER if "kind = " in finding.remedy:
            remedy = 'write it as a number, or agree on a schema with a rule for words: positive = "= yes"'
        case _:
            return finding
    return replace(finding, remedy=remedy)


def _place(
    table: Table, schema: Schema, values: Mapping[str, Values], positive: NDArray[np.bool_], dialect: Dialect
) -> tuple[NDArray[np.int8], list[Finding]]:
    """The part of every row, by its group where the schema names one, else by what it says, however it is spelled."""
    group = schema.group
    findings = []
    if group is not None and group.name in table.names:
        keys = [plain_word(cell) for cell in table.column(group.name)]
        absent = is_missing(group, dialect)
        without = [index for index, key in enumerate(keys) if absent(key)]
        if without:
            remedy = "fill it in: rows of one group are kept in one part, and this one belongs to none"
            first = table.lines[without[0]]
            findings.append(
                Finding(Code.MISSING_GROUP, "the group is missing", remedy, first, group.name, count=len(without))
            )
    else:
        arrays = [positive, *(read.data + 0 for read in values.values())]  # + 0: no negative zero
        keys = row_keys([_spelled(array) for array in arrays])
    return split_rows(keys, schema.seed, schema.holdout, schema.test), findings


def _spelled(array: NDArray[Any]) -> Iterator[str]:
    """The entries as texts, some at a time: all at once they would take ten times the room of the array."""
    for start in range(0, len(array), _SPELLED_AT_ONCE):
        yield from map(repr, array[start : start + _SPELLED_AT_ONCE].tolist())


def _judge(examined: Examined, table: Table) -> list[Finding]:
    """What can be said of a table whose cells are all right: enough rows, both classes, suspicious columns."""
    schema, used = examined.schema, int(examined.used.sum())
    target = schema.target.column.name
    dropped = examined.rows - used
    if used >= schema.rows_min and not len(examined.part(TRAIN)):
        group = f" of column {printable(schema.group.name)}" if schema.group is not None else ""
        what = f"none of the {used} rows is left for training: all stand in few groups{group}, or the parts are large"
        remedy = 'name another column with kind = "group" (one value per patient, say), or lower test and holdout'
        return [Finding(Code.TOO_FEW_ROWS, what, remedy, bound=str(schema.rows_min))]
    if used < schema.rows_min:
        reason = f" ({dropped} of {examined.rows} have missing cells)" if dropped else ""
        what = f"{used} rows can be used, must be at least {schema.rows_min}{reason}"
        remedy = "add rows" + ('; or state missing = "indicator" for the columns that lack most' if dropped else "")
        return [Finding(Code.TOO_FEW_ROWS, what, remedy, bound=str(schema.rows_min))]
    positives = int(examined.positive[examined.used].sum())
    if positives in (0, used):
        which = "positive" if positives else "negative"
        there = ", ".join(dict.fromkeys(printable(cell) for cell in table.column(target)[:1000]))
        what = f"all {used} rows are {which} under the rule {schema.target.rule.text}"
        remedy = f"compare the rule with the values in the file: {there[:120]}"
        return [Finding(Code.CONSTANT_TARGET, what, remedy, column=target, bound=schema.target.rule.text)]
    findings = []
    if dropped > _MANY_DROPPED * examined.rows:
        what = f"{dropped} of {examined.rows} rows are not used, because a cell is missing"
        findings.append(
            Finding(Code.MANY_DROPPED, what, 'state missing = "indicator" or "median" for columns that lack most')
        )
    empty = [name for part, name in enumerate(PARTS) if not len(examined.part(part))]
    for name in empty:
        if getattr(schema, name) > 0:
            what = f"the {name} part has no rows"
            findings.append(Finding(Code.EMPTY_SPLIT, what, f"add rows, or raise {name} under [split] in the schema"))
    for column in schema.inputs:
        values = examined.values[column.name]
        findings += _measured(column)
        findings += leaks(column, values, examined.positive, examined.used)
        findings += _constant(column, values) or _narrow(column, values)
    return findings


def _measured(column: Column) -> list[Finding]:
    if column.missing != Missing.MEDIAN or column.median is not None:
        return []
    what = "missing cells are filled with the median measured on the training rows, which epsilon does not cover"
    remedy = "state a public one in the schema: median = ..."
    return [Finding(Code.MEASURED_MEDIAN, what, remedy, column=column.name)]


def _constant(column: Column, values: Values) -> list[Finding]:
    """A hint at a column that tells nothing at this site."""
    given = values.data[~values.missing]
    if len(given) < _NARROW_ROWS or np.ptp(given) != 0:
        return []
    value = column.values[int(given[0])] if column.values else f"{given[0]:.6g}"
    what = f"all values are {printable(value)}: the column tells nothing here"
    remedy = 'nothing, if it varies at other members; else kind = "ignore" in the schema'
    return [Finding(Code.CONSTANT_COLUMN, what, remedy, column=column.name, value=printable(value))]


def _narrow(column: Column, values: Values) -> list[Finding]:
    """A hint at another unit: values that all lie in a fiftieth of the range."""
    if column.kind != Kind.NUMBER:
        return []
    given = values.data[~np.isnan(values.data)]
    if len(given) < _NARROW_ROWS or np.ptp(given) > _NARROW * (column.high - column.low):
        return []
    bound = f"{column.low:.6g} to {column.high:.6g}"
    what = f"all values lie between {given.min():.6g} and {given.max():.6g}, the range is {bound}: another unit?"
    return [Finding(Code.NARROW_VALUES, what, "compare the unit with the schema's", column=column.name, bound=bound)]
