"""The data schema of a charter on the command line: read from a file, checked, and shown before it is signed."""

from __future__ import annotations

import hashlib
import unicodedata
from pathlib import Path

from quidnunc.crypto.errors import CharterError, ConfigError
from quidnunc.gossip.federation.terms import DATA_SCHEMA_BYTES, TaskSpec, plain_document
from quidnunc.peer.commands.files import read_file
from quidnunc.peer.output import Line, UsageError

TABULAR = "csv"
"""The built-in task that reads tables by a schema."""

_REMEDY = "write one from a table: quidnunc data check FILE --write-schema schema.toml; then name it with --schema"


def read_schema(path: Path | None, task: str) -> str:
    """The text of a schema file as it goes into the charter of ``task``; empty where there is none.

    Line ends become LF, the text Unicode NFC. Raises UsageError for a task that must have one or can have none,
    ConfigError naming the file and what is wrong in it.
    """
    if path is None:
        if task == TABULAR:
            raise UsageError(f"task {task} needs a data schema, which every member signs", hint=_REMEDY)
        return ""
    if task != TABULAR and ":" not in task:
        raise UsageError(
            f"task {task} reads no data schema, --schema names {path}",
            hint=f"leave --schema out, or choose --task {TABULAR}",
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
    return text


def check_schema(task: TaskSpec) -> None:
    """Raise ConfigError when the schema of a charter that somebody else drafted could not be used."""


def schema_lines(task: TaskSpec) -> list[Line]:
    """What signing the schema binds a member to, in short; nothing for a task without one."""
    text = task.data_schema
    if not text:
        return []
    digest = hashlib.sha256(text.encode()).hexdigest()
    return [
        f"data       schema of {len(text.encode())} bytes, SHA-256 {digest[:16]}, signed as it stands; read all of it "
        "with: quidnunc federation show FILE --schema",
    ]
