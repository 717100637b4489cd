"""docs/data.md and the code say the same: codes and severities, limits, the schema it shows."""

from __future__ import annotations

import re
from pathlib import Path

from quidnunc.gossip.tabular import schema
from quidnunc.gossip.tabular.findings import Code, severity_of
from quidnunc.gossip.tabular.header import DELIMITERS
from quidnunc.gossip.tabular.options import KNOWN
from quidnunc.gossip.tabular.table import LIMITS
from quidnunc.gossip.tabular.text import ENCODINGS

PAGE = (Path(__file__).resolve().parent.parent / "docs" / "data.md").read_text("utf-8")


def test_every_code_has_its_line_with_cause_and_remedy() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \| (.+) \| (.+) \|$", PAGE, re.MULTILINE)
    assert {code: severity for code, severity, _, _ in rows} == {code.value: severity_of(code).value for code in Code}
    assert len(rows) == len(Code)


def test_the_schema_it_shows_is_read() -> None:
    shown = re.search(r"```toml\n(version = 1.+?)```", PAGE, re.DOTALL)
    assert shown is not None
    found = schema.parse_schema(shown[1])
    assert [column.kind for column in found.columns] == ["number", "category", "group"]
    assert (found.target.rule.text, found.target.drop_missing) == ("> 0", True)


def test_the_limits_it_names_are_the_codes() -> None:
    assert f"{schema.SCHEMA_BYTES_MAX // 1024} KiB, {schema.COLUMNS_MAX} columns, {schema.VALUES_MAX} values" in PAGE
    assert f"{schema.FEATURES_MAX} inputs" in PAGE
    assert f"rows_min = {schema.ROWS_MIN_DEFAULT}\n" in PAGE
    sizes = f"{LIMITS.bytes_max >> 20} MiB, {LIMITS.rows_max:,} rows, {LIMITS.columns_max} columns"
    assert sizes in PAGE
    assert f"{LIMITS.cells_max:,} cells, {LIMITS.cell_chars_max} characters per cell" in PAGE
    assert f"{LIMITS.row_chars_max >> 20} Mi characters per row" in PAGE


def test_every_option_is_named() -> None:
    for word in (*KNOWN, *ENCODINGS, *(name for name in DELIMITERS.values() if name != ",")):
        assert word in PAGE
