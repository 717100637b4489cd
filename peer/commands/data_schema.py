"""The data schema of a charter on the command line: read from a file, checked, and shown before it is signed."""

from __future__ import annotations

import hashlib
import unicodedata
from pathlib import Path
from typing import TYPE_CHECKING

from quidnunc.crypto.errors import CharterError, ConfigError
from quidnunc.gossip.federation.terms import DATA_SCHEMA_BYTES, TaskSpec, plain_document
from quidnunc.peer.commands.files import read_file
from quidnunc.peer.output import Line, Styled, UsageError
from quidnunc.peer.task_loader import CSV

if TYPE_CHECKING:
    from quidnunc.gossip.tabular.schema import Column, Schema


COLUMNS_SHOWN = 40

_REMEDY = "write one from a table: quidnunc data check FILE --write-schema schema.toml; then name it with --schema"


def read_schema(path: Path | None, task: str) -> str:
    """The text of a schema file as it goes into the charter of ``task``; empty where there is none.

    Line ends become LF, the text Unicode NFC. Raises UsageError for a task that must have one or can have none,
    ConfigError naming the file and what is wrong in it.
    """
    if path is None:
        if task == CSV:
            raise UsageError(f"task {task} needs a data schema, which every member signs", hint=_REMEDY)
        return ""
    if task != CSV and ":" not in task:
        raise UsageError(
            f"task {task} reads no data schema, --schema names {path}",
            hint=f"leave --schema out, or choose --task {CSV}",
        )
    data = read_file(path, DATA_SCHEMA_BYTES)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 at byte {error.start}", hint="save it as UTF-8") from None
    text = unicodedata.normalize("NFC", text.replace("\r\n", "\n"))
    try:
        plain_document("the schema", text, DATA_SCHEMA_BYTES)
    except CharterError as error:
        raise ConfigError(f"{path}: {error.message}", hint=error.hint) from None
    if not text.strip():
        raise ConfigError(f"{path}: no schema in it", hint=_REMEDY)
    if task == CSV:
        parsed(text, str(path))
    return text


def parsed(text: str, source: str) -> Schema:
    """The text of a schema of the task csv, read; ``source`` is the file named in errors. Raises ConfigError."""
    from quidnunc.gossip.tabular.schema import parse_schema

    return parse_schema(text, source)


def check_schema(task: TaskSpec) -> None:
    """Raise ConfigError when the schema of a charter that somebody else drafted could not be used."""
    if task.reference == CSV:
        parsed(task.data_schema, "the charter's schema")


def schema_lines(task: TaskSpec) -> list[Line]:
    """What signing the schema binds a member to, in short; nothing for a task without one."""
    text = task.data_schema
    if not text:
        return []
    digest = hashlib.sha256(text.encode()).hexdigest()
    lines: list[Line] = [
        f"data       schema of {len(text.encode())} bytes, SHA-256 {digest[:16]}, signed as it stands; read all of it "
        "with: quidnunc federation show FILE --schema"
    ]
    if task.reference != CSV:
        return lines
    try:
        schema = parsed(text, "the charter's schema")
    except ConfigError as error:
        return [*lines, Styled(f"           which this program cannot use: {error.message}", "bad")]
    target = schema.target
    lines.append(
        f"  predicts {target.column.name} {target.rule.text}; {schema.test:.0%} of the rows test, "
        f"{schema.holdout:.0%} judge neighbors; seed {schema.seed}"
    )
    lines += [f"  {_column_line(column)}" for column in schema.columns[:COLUMNS_SHOWN]]
    if len(schema.columns) > COLUMNS_SHOWN:
        lines.append(f"  and {len(schema.columns) - COLUMNS_SHOWN} more columns")
    return lines


def _column_line(column: Column) -> str:
    name, unit = column.name[:24], f" {column.unit}" if column.unit else ""
    if not column.is_input:
        return f"{name:24}  {column.kind}"
    if column.values:
        shown = ", ".join(column.values)
        what = f"one of {shown if len(shown) <= 60 else shown[:57] + '...'}"
    else:
        what = f"{column.low:g} to {column.high:g}{unit}{', cut' if column.clip else ''}"
    unknown = f", {', '.join(column.missing_values)[:40]} is missing" if column.missing_values else ""
    filled = {"drop": "", "median": ", missing: median", "indicator": ", missing: marked"}[column.missing]
    if column.median is not None:
        filled += f" {column.median:g}"
    return f"{name:24}  {what}{unknown}{filled}"
