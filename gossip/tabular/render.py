"""A schema as the text of schema.toml. ``parse_schema(render_schema(s)) == s``, but for where it came from."""

from __future__ import annotations

import re

from quidnunc.gossip.tabular.schema import REAL_MAX, VERSION, Column, Kind, Missing, Schema

_BARE = re.compile(r"[A-Za-z0-9_-]+")
_INFERRED = (
    "# Inferred from data: every range and list of values below tells something about the rows it came from, and",
    "# epsilon does not cover that. Replace them by public ones before anybody signs, and check the positive rule.",
)


def render_schema(schema: Schema) -> str:
    """The text of ``schema``, with a warning on top where it was inferred."""
    target = schema.target
    lines = ["# What all members agree their tables mean. Check a file with: quidnunc data check FILE --schema THIS"]
    lines += _INFERRED if schema.inferred else ()
    lines += [f"version = {VERSION}", "", "[target]", f"name = {_quoted(target.column.name)}"]
    lines += [f"positive = {_quoted(target.rule.text)}"]
    lines += ['missing = "drop"'] if target.drop_missing else []
    if target.column.kind == Kind.NUMBER and target.column.high < REAL_MAX:
        lines.append(f"range = [{_real(target.column.low)}, {_real(target.column.high)}]")
    lines += [f"values = {_list(target.column.values)}"] if target.column.values else []
    lines += _common(target.column)
    for column in schema.columns:
        lines += ["", f"[columns.{_key(column.name)}]", f"kind = {_quoted(column.kind)}", *_facts(column)]
    lines += ["", "[split]", f"seed = {schema.seed}", f"holdout = {_real(schema.holdout)}"]
    lines += [f"test = {_real(schema.test)}", "", "[limits]", f"rows_min = {schema.rows_min}"]
    return "\n".join(lines) + "\n"


def _facts(column: Column) -> list[str]:
    lines = _common(column)
    if column.kind == Kind.NUMBER:
        lines.append(f"range = [{_real(column.low)}, {_real(column.high)}]")
        lines += ['outside = "clip"'] if column.clip else []
    if column.kind == Kind.CATEGORY:
        lines.append(f"values = {_list(column.values)}")
    lines += [f"missing = {_quoted(column.missing)}"] if column.missing != Missing.DROP else []
    lines += [f"median = {_real(column.median)}"] if column.median is not None else []
    return lines


def _common(column: Column) -> list[str]:
    lines = [f"meaning = {_quoted(column.meaning)}"] if column.meaning else []
    lines += [f"unit = {_quoted(column.unit)}"] if column.unit else []
    lines += [f"missing_values = {_list(column.missing_values)}"] if column.missing_values else []
    return lines


def _real(value: float) -> str:
    return str(int(value)) if value == int(value) and abs(value) < 1e15 else repr(value)


def _list(values: tuple[str, ...]) -> str:
    return "[" + ", ".join(_quoted(value) for value in values) + "]"


def _key(name: str) -> str:
    return name if _BARE.fullmatch(name) else _quoted(name)


def _quoted(text: str) -> str:
    """A basic string; every text in a schema is printable."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
