"""What all members agree a table means: columns with units and public ranges, the target, how rows are split.

::

    version = 1
    [target]
    name = "num"                      # this column is predicted ...
    positive = "> 0"                  # ... and these of its values are the positive class
    range = [0, 4]                    # or values = [...]; missing = "drop" leaves out rows without a target
    [columns.age]
    kind = "number"                   # scaled to [0, 1] by its range
    unit = "years"
    range = [20, 80]
    missing = "median"                # drop (default), median or indicator
    median = 54                       # public; without it the median is measured, outside of epsilon
    missing_values = [0]              # these values mean missing as well
    outside = "clip"                  # error (default): refuse a value outside of the range; clip: cut it
    [columns.sex]
    kind = "category"                 # one input per value, or a single one for two values
    values = ["F", "M"]
    [columns.patient]
    kind = "group"                    # rows of one group are never split; or kind = "ignore"
    [split]
    seed = 7
    holdout = 0.15
    test = 0.2
    [limits]
    rows_min = 20

The order of the columns is the order of the inputs. Members sign the text with the charter: all read rows alike.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from enum import StrEnum

from quidnunc.crypto.errors import ConfigError
from quidnunc.gossip.spelling import nearest
from quidnunc.gossip.tabular.keys import Keys
from quidnunc.gossip.tabular.rule import RULE_CHARS_MAX, RULE_HINT, Rule, parse_rule, plain_word

VERSION = 1
SCHEMA_BYTES_MAX = 64 * 1024
COLUMNS_MAX = 1024
VALUES_MAX = 256
NAME_CHARS_MAX = 128
FEATURES_MAX = 4096
ROWS_MIN_DEFAULT = 20
REAL_MAX = 1e15


class Kind(StrEnum):
    """What a column is for."""

    NUMBER = "number"
    CATEGORY = "category"
    GROUP = "group"
    IGNORE = "ignore"


class Missing(StrEnum):
    """What becomes of a row whose cell is missing: left out, filled with the median, or marked by a further input."""

    DROP = "drop"
    MEDIAN = "median"
    INDICATOR = "indicator"


@dataclass(frozen=True, slots=True)
class Column:
    """One column. ``low`` to ``high`` bound a number, ``values`` are a category's, in order."""

    name: str
    kind: Kind
    meaning: str = ""
    unit: str = ""
    low: float = 0.0
    high: float = 1.0
    values: tuple[str, ...] = ()
    missing: Missing = Missing.DROP
    median: float | None = None
    missing_values: tuple[str, ...] = ()
    clip: bool = False

    @property
    def is_input(self) -> bool:
        """Whether the model sees it."""
        return self.kind in (Kind.NUMBER, Kind.CATEGORY)

    @property
    def features(self) -> tuple[str, ...]:
        """Names of the inputs that this column becomes."""
        if not self.is_input:
            return ()
        mark = (f"{self.name} missing",) if self.missing == Missing.INDICATOR else ()
        if self.kind == Kind.NUMBER:
            return (self.name, *mark)
        shown = self.values[1:] if len(self.values) == 2 else self.values
        return (*(f"{self.name}={value}" for value in shown), *mark)


@dataclass(frozen=True, slots=True)
class Target:
    """The column to predict, and when it is positive. ``drop_missing`` leaves out rows without one."""

    column: Column
    rule: Rule
    drop_missing: bool = False


@dataclass(frozen=True, slots=True)
class Schema:
    """A whole schema. ``inferred`` is true where its ranges were measured on the data instead of agreed in public."""

    target: Target
    columns: tuple[Column, ...]
    seed: int = 0
    holdout: float = 0.15
    test: float = 0.2
    rows_min: int = ROWS_MIN_DEFAULT
    inferred: bool = False

    @property
    def inputs(self) -> tuple[Column, ...]:
        """The columns that the model sees, in order."""
        return tuple(column for column in self.columns if column.is_input)

    @property
    def features(self) -> tuple[str, ...]:
        """Names of all inputs, in order."""
        return tuple(name for column in self.columns for name in column.features)

    @property
    def group(self) -> Column | None:
        """The grouping column, if there is one."""
        return next((column for column in self.columns if column.kind == Kind.GROUP), None)


def parse_schema(text: str, source: str = "schema.toml") -> Schema:
    """Read a schema; ``source`` is the file named in errors. Raises ConfigError naming line, key, value and bound.

    Text is taken in Unicode form NFC, as that of tables is.
    """
    size = len(text.encode("utf-8", "surrogatepass"))
    if size > SCHEMA_BYTES_MAX:
        raise ConfigError(f"{source}: {size} bytes, limit is {SCHEMA_BYTES_MAX}")
    top = Keys.parse(unicodedata.normalize("NFC", text), source)
    if top.integer("version", 0, 2**31, 0) != VERSION:
        raise top.fail(
            "version", f"this program reads version = {VERSION}", f"put version = {VERSION} on the first line"
        )
    target = _target(top.table("target", required=True))
    columns = _columns(top, target)
    split = top.table("split")
    limits = top.table("limits")
    holdout = split.real("holdout", 0.0, 0.9)
    test = split.real("test", 0.0, 0.9)
    schema = Schema(
        target=target,
        columns=columns,
        seed=split.integer("seed", 0, 2**32 - 1, 0),
        holdout=0.15 if holdout is None else holdout,
        test=0.2 if test is None else test,
        rows_min=limits.integer("rows_min", 1, 1_000_000, ROWS_MIN_DEFAULT),
    )
    for keys in (split, limits, top):
        keys.done()
    if schema.holdout + schema.test > 0.9:
        raise split.fail("test", f"with holdout = {schema.holdout:g} leaves less than a tenth for training")
    return schema


def _target(keys: Keys) -> Target:
    name = keys.text("name", chars_max=NAME_CHARS_MAX)
    text = keys.text("positive", chars_max=RULE_CHARS_MAX, hint=RULE_HINT)
    try:
        rule = parse_rule(text)
    except ConfigError as error:
        raise keys.fail("positive", "not a rule", error.hint) from None
    meaning, unit = keys.text("meaning", "", 400), keys.text("unit", "", 40)
    missing = keys.choice("missing", ("error", "drop"), "error")
    marks = keys.words("missing_values", count_max=VALUES_MAX, chars_max=NAME_CHARS_MAX)
    interval = keys.interval("range", REAL_MAX, required=False)
    values = keys.words("values", count_max=VALUES_MAX, chars_max=NAME_CHARS_MAX)
    if rule.numeric and values:
        raise keys.fail("values", f"do not go with the order {rule.text!r}", "state range = [low, high] instead")
    if not rule.numeric and interval:
        raise keys.fail("range", f"does not go with the rule {rule.text!r}", "state values = [...] instead")
    strange = [word for word in rule.words if values and word not in values]
    if strange:
        raise keys.fail("positive", f"{strange[0]!r} is not among the values", f"values are {', '.join(values)[:200]}")
    if values and set(values) <= set(rule.words):
        raise keys.fail("positive", "takes every value, so that nothing is negative")
    low, high = interval or (-REAL_MAX, REAL_MAX)
    if interval and rule.above(low) == rule.above(high):  # an order that agrees on both ends agrees between them
        which = "positive, so that nothing is negative" if rule.above(low) else "negative, so that nothing is positive"
        raise keys.fail(
            "positive", f"all of the range {low:g} to {high:g} is {which}", "correct the rule, or the range beside it"
        )
    kind = Kind.NUMBER if rule.numeric else Kind.CATEGORY
    keys.done()
    column = Column(name, kind, meaning, unit, low, high, values, missing_values=marks)
    return Target(column, rule, missing == "drop")


def _columns(top: Keys, target: Target) -> tuple[Column, ...]:
    keys = top.table("columns", required=True)
    names = keys.names()
    if not 1 <= len(names) <= COLUMNS_MAX:
        raise top.fail("columns", f"has {len(names)} columns, must have 1 to {COLUMNS_MAX}")
    columns = tuple(_column(keys, name) for name in names)
    if target.column.name in names:
        raise keys.fail(target.column.name, "is the target, and cannot be an input", "remove it here")
    if sum(column.kind == Kind.GROUP for column in columns) > 1:
        raise top.fail("columns", "has more than one column of kind 'group'")
    features = sum(len(column.features) for column in columns)
    if not 1 <= features <= FEATURES_MAX:
        raise top.fail("columns", f"become {features} inputs, must become 1 to {FEATURES_MAX}")
    return columns


def _column(columns: Keys, name: str) -> Column:
    if not 1 <= len(name) <= NAME_CHARS_MAX or not name.isprintable() or name != name.strip():
        raise columns.fail(
            "", f"has the column name {name[:40]!a}, must be printable, 1 to {NAME_CHARS_MAX} characters"
        )
    keys = columns.table(name)
    if "kind" not in keys:
        raise keys.fail("", "kind is missing", f"one of: {', '.join(Kind)}")
    kind = Kind(keys.choice("kind", tuple(Kind), Kind.IGNORE))
    meaning = keys.text("meaning", "", 400)
    if kind == Kind.NUMBER:
        column = _number(keys, name, meaning)
    elif kind == Kind.CATEGORY:
        column = _category(keys, name, meaning)
    else:
        marks = keys.words("missing_values", count_max=VALUES_MAX, chars_max=NAME_CHARS_MAX)
        column = Column(name, kind, meaning, missing_values=marks)
    keys.done()
    return column


def _number(keys: Keys, name: str, meaning: str) -> Column:
    hint = "a number is scaled by a public range: range = [low, high]"
    interval = keys.interval("range", REAL_MAX, required=True, hint=hint)
    assert interval is not None
    low, high = interval
    missing = Missing(keys.choice("missing", tuple(Missing), Missing.DROP))
    median = keys.real("median", low, high)
    if median is not None and missing != Missing.MEDIAN:
        raise keys.fail("median", f"is not used with missing = '{missing}'", 'state missing = "median", or remove it')
    return Column(
        name,
        Kind.NUMBER,
        meaning,
        keys.text("unit", "", 40),
        low,
        high,
        missing=missing,
        median=median,
        missing_values=keys.words("missing_values", count_max=VALUES_MAX, chars_max=NAME_CHARS_MAX),
        clip=keys.choice("outside", ("error", "clip"), "error") == "clip",
    )


def _category(keys: Keys, name: str, meaning: str) -> Column:
    values = keys.words("values", count_max=VALUES_MAX, chars_max=NAME_CHARS_MAX, required=True)
    if len(values) < 2:
        raise keys.fail("values", "must have at least 2 values", 'a column of one value tells nothing: kind = "ignore"')
    plain = [plain_word(value) for value in values]
    alike = next((index for index, word in enumerate(plain) if plain.index(word) < index), 0)
    if alike:
        first = values[plain.index(plain[alike])]
        raise keys.fail("values", f"{first!r} and {values[alike]!r} are the same value in a table", "list one of them")
    marks = keys.words("missing_values", count_max=VALUES_MAX, chars_max=NAME_CHARS_MAX)
    both = [value for value in values if value in marks]
    if both:
        raise keys.fail("missing_values", f"{both[0]!r} is also among the values")
    missing = Missing(keys.choice("missing", (Missing.DROP, Missing.INDICATOR), Missing.DROP))
    return Column(name, Kind.CATEGORY, meaning, values=values, missing=missing, missing_values=marks)


def closest(name: str, names: tuple[str, ...]) -> str:
    """The one of ``names`` that ``name`` may be a misspelling of, or nothing; capitals do not count."""
    lowered = {each.lower(): each for each in names}
    # "age (years)", "age [y]": the name with its unit behind it.
    alone = re.split(r"[(\[\n/]", name.lower())[0].strip()
    if alone in lowered:
        return lowered[alone]
    return lowered.get(nearest(name.lower(), lowered), "")
