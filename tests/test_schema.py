"""schema.toml: what it may say, every mistake named with its line, and a text for every schema."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import replace

import pytest
from four_sites import SCHEMA
from hypothesis import given
from hypothesis import strategies as st

from quidnunc.crypto.errors import ConfigError
from quidnunc.gossip.tabular.render import render_schema
from quidnunc.gossip.tabular.rule import parse_rule
from quidnunc.gossip.tabular.schema import (
    COLUMNS_MAX,
    FEATURES_MAX,
    SCHEMA_BYTES_MAX,
    VALUES_MAX,
    Column,
    Kind,
    Missing,
    Schema,
    Target,
    parse_schema,
)


def test_a_schema_is_read() -> None:
    found = parse_schema(SCHEMA)
    assert found.target == Target(
        Column("readmitted", Kind.CATEGORY, low=-1e15, high=1e15, values=("no", "yes")), parse_rule("= yes")
    )
    assert [column.name for column in found.inputs] == ["age", "pressure", "sugar", "sex", "ward"]
    assert found.group == Column("patient", Kind.GROUP)
    assert found.columns[2] == Column(
        *("pressure", Kind.NUMBER, "", "mm Hg", 60, 240), missing=Missing.INDICATOR, missing_values=("0",)
    )
    assert found.features == (
        *("age", "pressure", "pressure missing", "sugar", "sex=M"),
        *("ward=1", "ward=2", "ward=3", "ward missing"),
    )
    assert (found.seed, found.holdout, found.test, found.rows_min, found.inferred) == (3, 0.15, 0.2, 30, False)


@pytest.mark.parametrize(
    ("rule", "which"),
    [
        ("> 4", "negative, so that nothing is positive"),
        ("< 0", "negative, so that nothing is positive"),
        (">= 0", "positive, so that nothing is negative"),
        ("<= 9", "positive, so that nothing is negative"),
    ],
)
def test_a_rule_that_all_of_the_range_meets_or_misses_is_refused_before_anybody_signs(rule: str, which: str) -> None:
    target = '[target]\nname = "num"\npositive = "{}"\nrange = [0, 4]\n'
    rest = '[columns.age]\nkind = "number"\nrange = [20, 90]\n'
    assert parse_schema(f"version = 1\n{target.format('> 0')}{rest}").target.rule.bound == 0
    with pytest.raises(
        ConfigError, match=rf":4: target.positive = '{rule}': all of the range 0 to 4 is {which}"
    ) as raised:
        parse_schema(f"version = 1\n{target.format(rule)}{rest}")
    assert raised.value.hint == "correct the rule, or the range beside it"


@pytest.mark.parametrize(
    ("old", "new", "message", "hint"),
    [
        ("version = 1\n", "", "version: this program reads version = 1", "put version = 1 on the first line"),
        ("version = 1", "version = 2", r":1: version = 2: this program reads version = 1", "first line"),
        ("version = 1", "version = ", "not TOML: ", ""),
        ("[target]", "[targt]", ":2: targt: no such key", "did you mean target?"),
        ('name = "readmitted"\n', "", ":2: target: name is missing", ""),
        ('name = "readmitted"', "name = 3", r":3: target.name = 3: must be printable text of 1 to 128", ""),
        ('"= yes"', '"= yes or no"', "'yes or no' is not among the values", "values are no, yes"),
        ('"= yes"', '"=> 0"', ":4: target.positive = '=> 0': not a rule", 'did you mean positive = ">= 0"?'),
        ('"= yes"', "1", ":4: target.positive = 1: must be printable text", 'positive = "= yes"'),
        ('"= yes"', '"maybe"', r":4: target.positive = 'maybe': not a rule", 'write it like positive = "> 0"'),
        ('"= yes"', '"> 0"', "target.values = .*: do not go with the order '> 0'", "range = [low, high]"),
        ('"= yes"', '"in [yes, no]"', "takes every value, so that nothing is negative", ""),
        ("range = [18, 100]", "rang = [18, 100]", ":11: columns.age.rang = .*: no such key", "did you mean range?"),
        (
            "range = [18, 100]",
            "range = [100, 18]",
            r":11: columns.age.range = \[100, 18\]: must be two numbers",
            "20, 80",
        ),
        ("range = [18, 100]", "range = [18, inf]", r"columns.age.range .*: must be two numbers", "[20, 80]"),
        ("range = [18, 100]", "range = [-1e308, 1e308]", r"must lie within \+-1e\+15", "can really have"),
        ("range = [18, 100]", "range = [-1e200, 1e300]", r"must lie within \+-1e\+15", "can really have"),
        ("range = [18, 100]", "range = [0, 1.1e15]", r"must lie within \+-1e\+15", ""),
        ("range = [18, 100]", "range = [18, 18.00000001]", "must be wider than 1e-09 of its ends", "told apart"),
        ("range = [18, 100]", "range = [18,5, 100,5]", r"= \[18, 5, 100, 5\]: must be two numbers", "point: 18.5"),
        ("range = [18, 100]", "range = [true, 100]", r"= \[true, 100\]: must be two numbers", ""),
        (
            "range = [18, 100]",
            f"range = [18, {'1' * 5000}]",
            r":11: a number of 5000 digits, must have .* 4300",
            "shorten",
        ),
        ("seed = 3", f"seed = {'1' * 4300}", r":34: split.seed = \(a very long number\): must be a whole number", ""),
        ('"number"', "\u201cnumber\u201d", "not TOML", "line 9 has curly quotes"),
        ("version = 1", "version: 1", "not TOML", "--write-schema"),
        ("[target]", f"a = {'[' * 3000}{']' * 3000}\n[target]", "nested too deeply", "docs/data.md"),
        ('["F", "M"]', "[true, false]", r"columns.sex.values = \[true, false\]: must be printable text", "in quotes"),
        ('["F", "M"]', "[2024-01-31, 2]", r"= \[2024-01-31, 2\]: must be printable text", "in quotes"),
        ("[1, 2, 3]", '["1", "1.0", "2"]', "'1' and '1.0' are the same value in a table", "list one"),
        (
            "range = [18, 100]",
            "range = [18, 100]\nmising = 'drop'",
            r":12: columns.age.mising = 'drop': no such key",
            "did you mean missing?",
        ),
        (
            "range = [18, 100]",
            "range = [18, 100]\nmedian = 50",
            ":12: columns.age.median = 50: is not used with missing = 'drop'",
            "median",
        ),
        ("median = 110", "median = 500", ":23: columns.sugar.median = 500: must be a number, 40 to 400", ""),
        ("median = 110", "median = true", "columns.sugar.median = true: must be a number, 40 to 400", ""),
        (
            'kind = "group"',
            'kind = "grup"',
            ":7: columns.patient.kind = 'grup': must be 'number', ",
            "did you mean group?",
        ),
        ('kind = "ignore"', 'kind = "group"', "has more than one column of kind 'group'", ""),
        ('kind = "group"\n', "", ":6: columns.patient: kind is missing", "one of: number, category, group, ignore"),
        ('["F", "M"]', '["F"]', ":26: columns.sex.values = .*: must have at least 2 values", 'kind = "ignore"'),
        ('["F", "M"]', '["F", "F"]', "has 'F' more than once", ""),
        ('["F", "M"]', '["F", "M "]', "must not begin or end with a space", ""),
        ('["F", "M"]', '["F", "M"]\nmissing = "median"', "must be 'drop' or 'indicator'", ""),
        ('["F", "M"]', '["F", "M"]\nmissing_values = ["M"]', "'M' is also among the values", ""),
        ('["F", "M"]', '["F", "M\\u0007"]', "must be printable text", ""),
        (
            "[columns.remark]",
            "[columns.readmitted]",
            "columns.readmitted: is the target, and cannot be an input",
            "remove it",
        ),
        ("seed = 3", "seed = -1", r":34: split.seed = -1: must be a whole number, 0 to 4294967295", ""),
        ("seed = 3", "holdout = 0.5\ntest = 0.5", "with holdout = 0.5 leaves less than a tenth for training", ""),
        ("rows_min = 30", "rows_min = 0", "limits.rows_min = 0: must be a whole number, 1 to 1000000", ""),
        ("rows_min = 30", "rowsmin = 30", "limits.rowsmin = 30: no such key", "did you mean rows_min?"),
        ("[limits]", "[limts]", "limts: no such key", "did you mean limits?"),
        ("[columns.age]", '[columns."a\\u202e"]', r"has the column name 'a\\u202e', must be printable", ""),
    ],
)
def test_every_mistake_is_named(old: str, new: str, message: str, hint: str) -> None:
    assert old in SCHEMA
    with pytest.raises(ConfigError) as raised:
        parse_schema(SCHEMA.replace(old, new, 1), "s.toml")
    assert raised.value.message.startswith("s.toml:")
    assert re.search(message, raised.value.message), raised.value.message
    assert hint in raised.value.hint


def numbered(count: int, kind: str) -> str:
    return "".join(f"[columns.c{index}]\n{kind}\n" for index in range(count))


HEAD = 'version = 1\n[target]\nname = "t"\npositive = "> 0"\n'
NUMBER = 'kind="number"\nrange=[0,1]'


def category(count: int) -> str:
    return f'kind="category"\nvalues=[{",".join(map(str, range(count)))}]'


@pytest.mark.parametrize(
    ("limit", "past", "message"),
    [
        (numbered(COLUMNS_MAX, NUMBER), numbered(COLUMNS_MAX + 1, NUMBER), "has 1025 columns, must have 1 to 1024"),
        (numbered(1, category(VALUES_MAX)), numbered(1, category(VALUES_MAX + 1)), "must be a list of 1 to 256 values"),
        (
            numbered(FEATURES_MAX // 256, category(256)),
            numbered(FEATURES_MAX // 256, category(256)) + f"[columns.one]\n{NUMBER}\n",
            "become 4097 inputs, must become 1 to 4096",
        ),
        (
            (body := numbered(1, NUMBER)) + "#" * (SCHEMA_BYTES_MAX - len(HEAD + body)),
            body + "#" * (SCHEMA_BYTES_MAX - len(HEAD + body) + 1),
            "65537 bytes, limit is 65536",
        ),
    ],
    ids=["columns", "values", "inputs", "bytes"],
)
def test_limits_hold_at_the_limit_and_not_one_past_it(limit: str, past: str, message: str) -> None:
    assert parse_schema(HEAD + limit).features
    with pytest.raises(ConfigError, match=message):
        parse_schema(HEAD + past)


def refusal(text: str) -> str:
    """What is said against a schema, or nothing."""
    try:
        parse_schema(text)
    except ConfigError as error:
        return error.message
    return ""


@given(st.text(max_size=200))
def test_any_text_is_read_or_refused(text: str) -> None:
    for whole in (text, HEAD + text, SCHEMA + text, SCHEMA.replace("readmitted", text)):
        assert refusal(whole) == "" or refusal(whole).startswith("schema.toml")


@given(st.integers(0, len(SCHEMA) - 1), st.text(max_size=3), st.integers(0, 4))
def test_a_damaged_schema_is_read_or_refused(place: int, inserted: str, removed: int) -> None:
    damaged = SCHEMA[:place] + inserted + SCHEMA[place + removed :]
    assert refusal(damaged) == "" or refusal(damaged).startswith("schema.toml")


@pytest.mark.parametrize("value", ["1" * 5000, "[" * 500, "2026-01-01", "{a=1}", "[[1]]", "0x" + "f" * 400])
def test_hostile_values_are_refused(value: str) -> None:
    for key in ("seed", "holdout"):
        with pytest.raises(ConfigError):
            parse_schema(SCHEMA.replace("seed = 3", f"{key} = {value}"))
    with pytest.raises(ConfigError):
        parse_schema(SCHEMA.replace('["F", "M"]', value))


LETTERS = st.characters(categories=("L", "N", "P", "S"))
WORD = st.text(LETTERS, min_size=1, max_size=12).map(lambda word: unicodedata.normalize("NFC", word))
REAL = st.floats(-1e9, 1e9, allow_nan=False)


@st.composite
def columns(draw: st.DrawFn, name: str) -> Column:
    words = draw(st.lists(WORD, min_size=2, max_size=5, unique=True))
    marks = tuple(draw(st.lists(WORD.filter(lambda word: word not in words), max_size=2, unique=True)))
    kind = draw(st.sampled_from(Kind))
    if kind == Kind.CATEGORY:
        missing = draw(st.sampled_from([Missing.DROP, Missing.INDICATOR]))
        return Column(name, kind, values=tuple(words), missing=missing, missing_values=marks)
    if kind != Kind.NUMBER:
        return Column(name, kind if kind != Kind.GROUP else Kind.IGNORE, missing_values=marks)
    low, high = sorted(draw(st.tuples(REAL, REAL).filter(lambda pair: pair[0] != pair[1])))
    missing = draw(st.sampled_from(Missing))
    median = draw(st.none() | st.floats(low, high)) if missing == Missing.MEDIAN else None
    clip = draw(st.booleans())
    return Column(name, kind, draw(WORD), draw(WORD), low, high, (), missing, median, marks, clip)


@st.composite
def schemas(draw: st.DrawFn) -> Schema:
    names = draw(st.lists(WORD, min_size=3, max_size=6, unique=True))
    target = Column(names[0], Kind.NUMBER, low=-1e15, high=1e15)
    body = [draw(columns(name)) for name in names[1:-1]]
    body.append(Column(names[-1], Kind.NUMBER, low=0.0, high=1.0))
    shares = draw(st.floats(0, 0.4)), draw(st.floats(0, 0.4))
    return Schema(Target(target, parse_rule("> 0"), draw(st.booleans())), tuple(body), draw(st.integers(0, 9)), *shares)


@given(schemas())
def test_a_schema_is_what_its_text_says(schema: Schema) -> None:
    assert parse_schema(render_schema(schema)) == schema
    assert "Inferred from data" in render_schema(replace(schema, inferred=True))


@pytest.mark.parametrize(
    ("text", "positive", "negative"),
    [("> 0", 0.5, 0), (">= 1", 1, 0.9), ("< 7", 6.9, 7), ("<=-7.5e0", -7.5, -7), (">.5", 1, 0.5)],
)
def test_orders(text: str, positive: float, negative: float) -> None:
    rule = parse_rule(text)
    assert rule.numeric
    assert rule.above(positive)
    assert not rule.above(negative)
    assert not rule.above(float("nan"))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("= yes", ("yes",)),
        ("='a b'", ("a b",)),
        ("in [2, 3]", ("2", "3")),
        ('in["a","b c"]', ("a", "b c")),
        ("==", ("=",)),
    ],
)
def test_words(text: str, words: tuple[str, ...]) -> None:
    assert parse_rule(text).words == words


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("=> 0", '">= 0"'),
        ("=>0", '">= 0"'),
        ("=< -1.5", '"<= -1.5"'),
        ("> = 3", '">= 3"'),
        ("\u2265 3", '">= 3"'),
        ("== yes", '"= yes"'),
        ("> 0,5", '"> 0.5"'),
        ("num > 0", '"> 0"'),
        ("status = ill", '"= ill"'),
        ("!= no", "not what is not"),
        ("<> 0", "not what is not"),
    ],
)
def test_a_slip_in_a_rule_is_answered_with_what_was_meant(text: str, meant: str) -> None:
    with pytest.raises(ConfigError, match="not a rule") as raised:
        parse_rule(text)
    assert meant in raised.value.hint


def test_a_value_may_begin_with_a_sign() -> None:
    assert parse_rule("= <40").words == parse_rule('="<40"').words == ("<40",)


@pytest.mark.parametrize("text", ["", "=", "> ", "> x", "> nan", "> 1e999", "in []", "in [a,,b]", "in a", "0", "!= 3"])
def test_no_rules(text: str) -> None:
    with pytest.raises(ConfigError, match="not a rule"):
        parse_rule(text)
