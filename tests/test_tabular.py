"""From cells to inputs: spelling of numbers, missing cells, scaling, which row goes where, suspicious columns."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from four_sites import SCHEMA, SITES, rows, text_of
from hypothesis import given
from hypothesis import strategies as st

from quidnunc.crypto.errors import ConfigError
from quidnunc.gossip.tabular.encode import encode
from quidnunc.gossip.tabular.examine import Examined, examine
from quidnunc.gossip.tabular.findings import Code, DataFault
from quidnunc.gossip.tabular.infer import infer_schema
from quidnunc.gossip.tabular.leakage import auc
from quidnunc.gossip.tabular.options import HIDDEN_MAX, parse_options
from quidnunc.gossip.tabular.render import render_schema
from quidnunc.gossip.tabular.repeats import Repeats, first_equals
from quidnunc.gossip.tabular.report import report
from quidnunc.gossip.tabular.rule import plain_word
from quidnunc.gossip.tabular.schema import Kind, Missing, Schema, parse_schema
from quidnunc.gossip.tabular.split import HOLDOUT, TEST, TRAIN, row_keys, split_rows
from quidnunc.gossip.tabular.table import Dialect, Table, read_table
from quidnunc.gossip.tabular.values import number_of

SMALL = """\
version = 1
[target]
name = "ill"
positive = "= 1"
[columns.age]
kind = "number"
range = [20, 80]
[columns.dose]
kind = "number"
range = [0, 10]
missing = "{missing}"
outside = "clip"
missing_values = [-9]
[columns.stage]
kind = "category"
values = [1, 2, 3]
missing = "indicator"
[columns.sex]
kind = "category"
values = ["F", "M"]
missing = "indicator"
[split]
holdout = 0
test = 0
[limits]
rows_min = 1
"""


def small(body: str, missing: str = "indicator", dialect: Dialect = Dialect()) -> Examined:  # noqa: B008
    text = dialect.delimiter.join(("age", "dose", "stage", "sex", "ill")) + f"\n{body}"
    return examine(read_table(text, dialect), parse_schema(SMALL.format(missing=missing)), dialect)


# Numbers and words.


@given(st.floats(allow_nan=False, allow_infinity=False), st.sampled_from(".,"))
def test_every_number_a_program_writes_is_read(value: float, decimal: str) -> None:
    assert number_of(repr(value).replace(".", decimal), decimal) == value


@given(st.text(max_size=12), st.sampled_from(".,"))
def test_any_cell_is_a_finite_number_or_says_why_not(cell: str, decimal: str) -> None:
    found = number_of(cell, decimal)
    assert isinstance(found, Code) or math.isfinite(found)


@pytest.mark.parametrize(
    ("cell", "decimal", "code"),
    [
        ("27,4", ".", Code.WRONG_DECIMAL),
        ("27.4", ",", Code.WRONG_DECIMAL),
        ("-,5", ".", Code.WRONG_DECIMAL),
        ("1,234", ".", Code.THOUSANDS_SEPARATOR),
        ("1.234", ",", Code.THOUSANDS_SEPARATOR),
        ("1.234,5", ".", Code.THOUSANDS_SEPARATOR),
        ("1,234,567.5", ".", Code.THOUSANDS_SEPARATOR),
        ("1'234", ",", Code.THOUSANDS_SEPARATOR),
        ("1\u202f234", ".", Code.THOUSANDS_SEPARATOR),
        ("n/a", ".", Code.MISSING_TOKEN),
        ("nan", ".", Code.MISSING_TOKEN),
        ("inf", ".", Code.NOT_A_NUMBER),
        ("1_000.5", ".", Code.THOUSANDS_SEPARATOR),
        ("1 2", ".", Code.NOT_A_NUMBER),
        ("\u0661\u0662", ".", Code.NOT_A_NUMBER),
        ("1e9999", ".", Code.NOT_A_NUMBER),
        ("12%", ".", Code.NOT_A_NUMBER),
    ],
)
def test_why_a_cell_is_no_number(cell: str, decimal: str, code: Code) -> None:
    assert number_of(cell, decimal) == code


def test_whole_numbers_written_as_floats_are_the_same_word() -> None:
    assert [plain_word(word) for word in ("1.0", "1", "1.", "-2,00", "1.5", "01.0", "a.0", "")] == [
        *("1", "1", "1", "-2", "1.5", "01", "a.0", "")
    ]


# Scaling and missing cells.


def test_numbers_are_scaled_by_the_schema_and_categories_spread() -> None:
    encoded = encode(small("20,0,1.0,F,0\n80,10,2,M,1\n50,5,3,M,0\n"))
    assert encoded.features == (
        *("age", "dose", "dose missing", "stage=1", "stage=2", "stage=3", "stage missing", "sex=M", "sex missing"),
    )
    inputs, targets = encoded.train
    assert (inputs.dtype, targets.dtype) == (np.float32, np.int64)
    assert inputs.tolist() == [
        [0, 0, 0, 1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 1, 0, 0, 1, 0],
        [0.5, 0.5, 0, 0, 0, 1, 0, 1, 0],
    ]
    assert targets.tolist() == [0, 1, 0]
    assert len(encoded.holdout[0]) == len(encoded.test[0]) == 0
    assert encoded.holdout[0].shape[1] == len(encoded.features)


def test_missing_cells_are_marked() -> None:
    inputs = encode(small("20,,,,0\n20,-9.0,1,F,1\n")).train[0]
    assert inputs.tolist() == [[0, 0.5, 1, 0, 0, 0, 1, 0.5, 1], [0, 0.5, 1, 1, 0, 0, 0, 0, 0]]


def test_a_measured_median_is_that_of_the_training_rows_and_is_warned_of() -> None:
    examined = small("20,1,1,F,0\n20,2,1,F,1\n20,9,1,F,1\n20,,1,F,0\n", "median")
    assert [found.code for found in examined.findings] == [Code.MEASURED_MEDIAN]
    encoded = encode(examined)
    assert encoded.medians == {"dose": 2.0}
    assert encoded.train[0][3, 1] == pytest.approx(0.2)
    parts = replace(examined, parts=np.array([TRAIN, TEST, HOLDOUT, TRAIN], dtype=np.int8))
    assert encode(parts).medians == {"dose": 1.0}
    nothing = replace(examined, parts=np.array([TEST, TEST, TEST, TRAIN], dtype=np.int8))
    assert encode(nothing).medians == {"dose": 5.0}


def test_a_stated_median_is_used_and_not_warned_of() -> None:
    text = SMALL.format(missing="median").replace("missing_values = [-9]", "median = 4")
    table = read_table("age,dose,stage,sex,ill\n20,,1,F,0\n20,9,1,F,1\n")
    examined = examine(table, parse_schema(text))
    assert examined.findings == ()
    assert encode(examined).train[0][0, 1] == pytest.approx(0.4)


def test_rows_with_missing_cells_are_dropped_where_the_schema_says_so() -> None:
    examined = small("20,,1,F,0\n30,5,1,F,1\n,5,1,F,1\n40,6,1,F,0\n50,7,1,F,1\n", "drop")
    assert examined.used.tolist() == [False, True, False, True, True]
    assert len(encode(examined).train[0]) == 3
    few = small("20,,1,F,0\n30,,1,F,1\n,5,1,F,1\n40,6,1,F,0\n50,7,1,F,1\n", "drop")
    assert [found.code for found in few.findings] == [Code.MANY_DROPPED]


def test_clipping_cuts_and_counts() -> None:
    examined = small("20,-1,1,F,0\n30,11,1,F,1\n30,10,1,F,1\n")
    assert examined.findings == ()
    assert encode(examined).train[0][:, 1].tolist() == [0, 1, 1]
    assert report(examined).columns[1].outside == 2


def test_a_range_includes_its_ends_and_nothing_beyond() -> None:
    assert small("20,1,1,F,0\n80,1,1,F,1\n").findings == ()
    (found,) = small("20,1,1,F,0\n80.001,1,1,F,1\n").findings
    assert (found.code, found.row, found.bound) == (Code.OUT_OF_RANGE, 3, "20 to 80")


def test_a_dialect_is_read() -> None:
    dialect = Dialect(";", ",", missing=("k.A.",))
    inputs = encode(small("27,5;k.A.;1,0;M;1\n20;1,5;k.A.;F;0\n", dialect=dialect)).train[0]
    assert inputs[0].tolist() == [0.125, 0.5, 1, 1, 0, 0, 0, 1, 0]
    assert inputs[1, 1] == pytest.approx(0.15)


def test_what_has_an_error_is_not_encoded() -> None:
    with pytest.raises(DataFault, match=r"t\.csv: row 2, column age: 90 is outside of 20 to 80; and 1 more"):
        encode(small("90,1,1,F,0\n20,1,1,X,1\n"), "t.csv")


def test_narrow_values_are_hinted_at() -> None:
    body = "".join(
        f"{20 + number / 50},{number % 7},{number % 3 + 1},{'FM'[number % 5 % 2]},{number % 2}\n"
        for number in range(30)
    )
    (found,) = small(body).findings
    assert (found.code, found.column, found.severity) == (Code.NARROW_VALUES, "age", "hint")


NO_KIND = 'write it as a number, or agree on a schema with a rule for words: positive = "= yes"'


@pytest.mark.parametrize(
    ("cell", "code", "remedy"),
    [
        ("7", Code.OUT_OF_RANGE, "correct the cell, or agree on a schema with another range under [target]"),
        ("yes", Code.NOT_A_NUMBER, NO_KIND),
        ("1.1.2024", Code.NOT_A_NUMBER, NO_KIND),
        ("5 mm", Code.NOT_A_NUMBER, "write the number alone (the unit stands in the schema), or leave the cell empty"),
    ],
)
def test_a_remedy_for_the_target_names_no_key_that_a_target_lacks(cell: str, code: Code, remedy: str) -> None:
    target = '[target]\nname = "num"\npositive = "> 0"\nrange = [0, 4]\n'
    schema = parse_schema(f'version = 1\n{target}[columns.age]\nkind = "number"\nrange = [20, 90]\n')
    table = read_table("age,num\n" + "".join(f"{20 + row},{row % 2}\n" for row in range(40)) + f"70,{cell}\n")
    (found,) = examine(table, schema).errors
    assert (found.code, found.row, found.column, found.remedy) == (code, 42, "num", remedy)


def test_a_column_of_one_value_is_hinted_at() -> None:
    body = "".join(f"{20 + number},7,{number % 3 + 1},F,{number % 2}\n" for number in range(30))
    found = small(body).findings
    assert [(each.code, each.column, each.severity) for each in found] == [
        (Code.CONSTANT_COLUMN, "dose", "hint"),
        (Code.CONSTANT_COLUMN, "sex", "hint"),
    ]
    assert [each.message for each in found] == [
        "column dose: all values are 7: the column tells nothing here",
        "column sex: all values are F: the column tells nothing here",
    ]


# Rows that are there more than once.


def test_rows_that_are_alike_in_all_that_is_read_are_counted() -> None:
    """Regression: a record that stood in a table twice was protected by half of its noise, and no check said so."""
    spelled = "20,1,1,F,0\n30,1,1,F,1\n20.0,1.0,1,F,0\n20,1,1,F,1\n20,,1,F,0\n20,-9,1.0,F,0\n20,1,1,F,0\n"
    assert small(spelled).repeats == Repeats(rows=3, row=4, like=2)


def test_rows_that_are_not_used_repeat_nothing() -> None:
    assert not small("20,,1,F,0\n30,1,2,M,1\n20,,1,F,0\n40,1,2,M,0\n", "drop").repeats.any


def test_zero_has_no_sign_and_missing_is_like_missing() -> None:
    columns = [np.array([0.0, -0.0, 1.0, 0.0] * 600), np.array([np.nan, np.nan, np.nan, 2.0] * 600)]
    rows = np.arange(1, 2400)
    expected = np.where(rows % 4 == 2, 2, np.where(rows % 4 == 3, 3, 1))
    assert np.array_equal(first_equals(columns, rows), expected), "also beyond one block"


def test_groups_of_several_rows_are_counted() -> None:
    """Regression: with a column of patients named, nothing said that one of several rows is not covered as one."""
    text = "age,patient,ill\n" + "".join(f"{20 + row},p{row // 3 if row < 9 else row},{row % 2}\n" for row in range(40))
    schema = parse_schema(
        'version = 1\n[target]\nname = "ill"\npositive = "= 1"\n[columns.age]\nkind = "number"\nrange = [0, 99]\n'
        '[columns.patient]\nkind = "group"\n[split]\nholdout = 0\ntest = 0\n'
    )
    assert examine(read_table(text), schema).repeats == Repeats(groups=3, grouped_rows=9, largest=3)


# Which row goes where.

PARTS = st.floats(0, 0.45), st.floats(0, 0.45)


@given(st.lists(st.text(max_size=3), max_size=40), st.integers(0, 2**32 - 1), *PARTS)
def test_equal_keys_share_a_part_whoever_else_is_there(keys: list[str], seed: int, holdout: float, test: float) -> None:
    whole = split_rows(keys, seed, holdout, test).tolist()
    assert len(set(zip(keys, whole, strict=True))) == len(set(keys))
    half = keys[::2]
    assert split_rows(half, seed, holdout, test).tolist() == whole[::2]
    assert split_rows(keys[::-1], seed, holdout, test).tolist() == whole[::-1]


def test_shares_and_seed_decide() -> None:
    keys = [str(number) for number in range(4000)]
    parts = split_rows(keys, 7, 0.15, 0.2)
    assert np.bincount(parts, minlength=3) / 4000 == pytest.approx([0.65, 0.15, 0.2], abs=0.02)
    assert (parts == split_rows(keys, 7, 0.15, 0.2)).all()
    assert not (parts == split_rows(keys, 8, 0.15, 0.2)).all()
    assert (split_rows(keys, 7, 0, 0) == TRAIN).all()


def test_a_known_place_stays_where_it_is() -> None:
    """A change of the formula would move rows from test to train: it must not happen unnoticed."""
    assert split_rows(["a", "b", "c", "d", "e", "f", "g", "h"], 7, 0.25, 0.25).tolist() == [2, 0, 1, 2, 2, 2, 1, 2]


@pytest.mark.parametrize("site", SITES)
def test_a_group_is_never_split(site: str) -> None:
    table = read_table(text_of(rows(site)))
    examined = examine(table, parse_schema(SCHEMA))
    patients = np.array(table.column("patient"))
    groups = [set(patients[examined.part(part)]) for part in (TRAIN, HOLDOUT, TEST)]
    assert all(groups)
    assert sum(map(len, groups)) == len(set().union(*groups))


def test_without_a_group_rows_keep_their_part_when_sorted_or_added_to() -> None:
    found = rows("east")
    text = SCHEMA.replace('kind = "group"', 'kind = "ignore"')

    def places(table: list[dict[str, str]]) -> dict[str, int]:
        examined = examine(read_table(text_of(table)), parse_schema(text))
        marks = [" ".join(row.values()) for row in table]
        return dict(zip(marks, examined.parts.tolist(), strict=True))

    whole = places(found)
    assert places(found[::-1]) == whole
    assert places(found[:90]).items() <= whole.items()
    assert set(whole.values()) == {TRAIN, HOLDOUT, TEST}


def test_the_spelling_of_a_row_does_not_move_it() -> None:
    found = rows("north")
    text = SCHEMA.replace('kind = "group"', 'kind = "ignore"')
    whole = examine(read_table(text_of(found)), parse_schema(text)).parts
    for row in found:
        row["age"], row["ward"] = row["age"].replace(".0", ",00"), row["ward"].replace(".0", "")
    dialect = Dialect(";", ",")
    assert (examine(read_table(text_of(found, ";"), dialect), parse_schema(text), dialect).parts == whole).all()


def test_equal_rows_have_keys_of_their_own() -> None:
    assert len(set(row_keys([["a", "a", "b", "a"]]))) == 4
    assert set(row_keys([["a", "b"]])) < set(row_keys([["b", "a", "b"]]))


# Suspicion.


@given(st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=1, max_size=30))
def test_the_area_is_the_share_of_pairs_in_order(pairs: list[tuple[int, bool]]) -> None:
    wins = [score for score, positive in pairs if positive]
    losses = [score for score, positive in pairs if not positive]
    found = auc(np.array([float(score) for score, _ in pairs]), np.array([positive for _, positive in pairs]))
    if not wins or not losses:
        assert math.isnan(found)
    else:
        area = sum((win > loss) + 0.5 * (win == loss) for win in wins for loss in losses) / (len(wins) * len(losses))
        assert found == pytest.approx(area)


def test_a_leak_by_what_is_missing_or_by_category_is_seen() -> None:
    by_missing = "".join(
        f"{20 + n},{'' if n % 2 else n % 7},{n % 3 + 1},{'FM'[n % 5 % 2]},{n % 2}\n" for n in range(40)
    )
    (found,) = small(by_missing).findings
    assert (found.code, found.column) == (Code.LEAKAGE, "dose")
    assert "by where it is missing" in found.message
    by_value = "".join(f"{20 + n},{n % 7},{2 - n % 2},{'FM'[n % 5 % 2]},{n % 2}\n" for n in range(40))
    (found,) = small(by_value).findings
    assert (found.code, found.column) == (Code.LEAKAGE, "stage")
    few = "".join(f"{20 + n},{n % 7},{2 - n % 2},F,{n % 2}\n" for n in range(9))
    assert small(few).findings == ()


# Inference.


def tables(*sites: str) -> list[Table]:
    return [read_table(text_of(rows(site))) for site in sites]


def test_a_schema_is_inferred_over_all_tables_and_says_that_it_is() -> None:
    found = infer_schema(tables(*SITES))
    assert found.inferred
    assert (found.target.column.name, found.target.rule.text) == ("readmitted", "= yes")
    kinds = {column.name: column.kind for column in found.columns}
    assert kinds == {
        "patient": Kind.IGNORE,
        "age": Kind.NUMBER,
        "pressure": Kind.NUMBER,
        "sugar": Kind.NUMBER,
        "sex": Kind.CATEGORY,
        "ward": Kind.CATEGORY,
        "remark": Kind.IGNORE,
    }
    by_name = {column.name: column for column in found.columns}
    assert (by_name["age"].low, by_name["age"].high, by_name["age"].missing) == (20, 100, Missing.DROP)
    assert by_name["sugar"].missing == Missing.INDICATOR
    assert by_name["ward"].values == ("1", "2", "3")
    for table in tables(*SITES):
        codes = [each.code for each in examine(table, found).findings if each.severity != "hint"]
        assert codes == [Code.INFERRED_SCHEMA]
    again = parse_schema(render_schema(found))
    assert again.columns == found.columns
    assert not again.inferred


@given(st.lists(st.lists(st.text(max_size=4) | st.integers().map(str), min_size=3, max_size=3), min_size=1, max_size=8))
def test_what_is_inferred_can_be_written_and_read_again(body: list[list[str]]) -> None:
    columns = tuple([cell.strip() for cell in column] for column in zip(*body, strict=True))
    try:
        found = infer_schema([Table(("a", "b", "c"), columns, list(range(2, len(body) + 2)))])
    except ConfigError:
        return
    again = parse_schema(render_schema(found))
    assert again.features == found.features
    assert again.columns == found.columns
    assert again.target.rule.words == found.target.rule.words


def test_decimal_commas_are_inferred_as_numbers_so_that_the_check_can_name_them() -> None:
    table = read_table("a;b\n" + "".join(f"{n},5;{n % 2}\n" for n in range(40)), Dialect(";"))
    (error, *_) = examine(table, infer_schema([table], Dialect(";")), Dialect(";")).findings
    assert (error.code, error.column) == (Code.WRONG_DECIMAL, "a")


def test_the_target_is_named_usual_or_last() -> None:
    text = "Outcome,b,c\n" + "".join(f"{n % 2},{n},{n % 3}\n" for n in range(40))

    def target(wanted: str = "", names: str = "Outcome") -> Schema:
        return infer_schema([read_table(text.replace("Outcome", names))], target=wanted)

    assert target().target.column.name == "Outcome"
    assert target("c").target.rule.text == "> 0"
    assert target(names="x").target.column.name == "c"
    with pytest.raises(ConfigError, match="no positive rule can be guessed for the target 'b' with 40 values"):
        target("b")
    with pytest.raises(ConfigError, match="no column 'outcom' to be the target") as raised:
        target("outcom")
    assert raised.value.hint == "did you mean Outcome?"


def test_tables_must_agree_on_their_columns() -> None:
    one, other = read_table("a,b\n1,2\n"), read_table("a,c\n1,2\n")
    with pytest.raises(ConfigError, match="column 'b' is only in table 1, of 2 tables"):
        infer_schema([one, other])


def test_the_table_with_a_misspelt_column_is_named_with_what_was_meant() -> None:
    most, odd, short = (read_table(f"{names}\n1,2,3\n") for names in ("age,sugar,y", "age,suger,y", "age,y,z"))
    files = ["a.csv", "b.csv", "c.csv", "d.csv"]
    with pytest.raises(ConfigError, match=r"^column 'suger' is only in b\.csv, of 4 tables$") as raised:
        infer_schema([most, odd, most, most], files=files)
    assert raised.value.hint == "did you mean 'sugar'? rename it"
    with pytest.raises(ConfigError, match=r"^column 'z' is only in c\.csv, of 4 tables$") as raised:
        infer_schema([most, most, short, most], files=files)
    assert raised.value.hint == "write a schema that all can read"
    without = read_table("age,y\n1,2\n")
    with pytest.raises(ConfigError, match=r"^column 'sugar' is not in d\.csv, of 4 tables$"):
        infer_schema([most, most, most, without], files=files)


# Options.


def test_options_are_strict() -> None:
    found = parse_options({"model": "mlp", "hidden": 4, "delimiter": "tab", "decimal": ",", "missing": "NA ? NA"})
    assert (found.model, found.hidden, found.dialect) == ("mlp", 4, Dialect("\t", ",", "utf-8", ("NA", "?")))
    assert parse_options({"missing": -9}).dialect.missing == ("-9",)
    assert parse_options({"hidden": HIDDEN_MAX}).hidden == HIDDEN_MAX


@pytest.mark.parametrize(
    ("options", "message", "hint"),
    [
        ({"modell": "mlp"}, "option 'modell' is unknown to the task csv", "did you mean model?"),
        ({"xyz": 1}, "option 'xyz' is unknown", "there are: model, hidden"),
        ({"model": "cnn"}, "option model is 'cnn', must be 'logistic' or 'mlp'", ""),
        ({"hidden": 0}, "option hidden is '0', must be a whole number, 1 to 4096", ""),
        ({"hidden": HIDDEN_MAX + 1}, "option hidden is '4097'", ""),
        ({"hidden": True}, "option hidden is 'True'", ""),
        ({"delimiter": ":"}, "option delimiter is ':', must be ,, ;, tab, |", "config.toml"),
        ({"decimal": 3}, "option decimal is '3', must be '.' or ','", ""),
        ({"encoding": "ebcdic"}, "option encoding is 'ebcdic', must be 'utf-8' or 'utf-16'", ""),
        ({"missing": True}, "option missing is 'True', must be at most 32 words", ""),
        ({"missing": " ".join(map(str, range(33)))}, "must be at most 32 words", ""),
    ],
)
def test_mistakes_in_options_are_named(options: dict[str, str | int | float | bool], message: str, hint: str) -> None:
    with pytest.raises(ConfigError) as raised:
        parse_options(options)
    assert message in raised.value.message
    assert hint in raised.value.hint


def test_limits_of_a_split_are_its_edges() -> None:
    keys = [str(number) for number in range(500)]
    for less, more in pairwise((0.0, 0.1, 0.2, 0.4)):
        tested = [set(np.flatnonzero(split_rows(keys, 1, 0.1, share) == TEST)) for share in (less, more)]
        assert tested[0] < tested[1]


# Anything at all.

CELL = st.sampled_from(["", "0", "1", "2", "20", "80", "5.0", "1,5", "F", "M", "x", "?", "-9", "1e3"]) | st.text(
    max_size=4
)
HEADERS = ("age", "dose", "stage", "sex", "ill", "sx", "AGE", "extra")


@given(
    st.lists(st.sampled_from(HEADERS), min_size=1, max_size=6, unique=True),
    st.lists(st.lists(CELL, min_size=6, max_size=6), min_size=1, max_size=12),
    st.sampled_from(Missing),
    st.sampled_from(".,"),
)
def test_any_table_is_examined_and_encoded_or_refused(
    names: list[str], body: list[list[str]], missing: Missing, decimal: str
) -> None:
    columns = tuple([row[index].strip() for row in body] for index in range(len(names)))
    table = Table(tuple(names), columns, list(range(2, len(body) + 2)))
    examined = examine(table, parse_schema(SMALL.format(missing=missing)), Dialect(decimal=decimal))
    places = [(found.code, found.column) for found in examined.findings]
    assert len(set(places)) == len(places)
    assert all(found.remedy and found.message.isprintable() for found in examined.findings)
    assert report(examined).to_value()["rows_read"] == len(body)
    if examined.errors:
        with pytest.raises(DataFault):
            encode(examined)
        return
    inputs, targets = encode(examined).train
    assert np.isfinite(inputs).all()
    assert 0 <= inputs.min() <= inputs.max() <= 1
    assert set(targets.tolist()) == {0, 1}
