"""Files to tables: delimited text, and Parquet where the extra ``tabular`` is installed. Capped before it is built."""

from __future__ import annotations

import unicodedata
from pathlib import Path
from typing import Any

from quidnunc.crypto.errors import ConfigError
from quidnunc.gossip.tabular.findings import Code, DataFault, Finding, printable
from quidnunc.gossip.tabular.header import check_names
from quidnunc.gossip.tabular.schema import SCHEMA_BYTES_MAX
from quidnunc.gossip.tabular.table import (
    LIMITS,
    PLAIN,
    Dialect,
    Table,
    TableLimits,
    read_table,
)
from quidnunc.gossip.tabular.text import decode_text
from quidnunc.peer.home import read_capped

PARQUET_MAGIC = b"PAR1"
NO_SCHEMA = "write one from a table: quidnunc data check FILE --write-schema schema.toml"


def load_table(path: Path, dialect: Dialect = PLAIN, limits: TableLimits = LIMITS) -> Table:
    """The table in a file; what kind it is, its first bytes say.

    Parquet spells its numbers itself: ``dialect`` then counts only for missing tokens; see :func:`dialect_of`. Raises
    DataFault for what is in the file, ConfigError when it cannot be read at all.
    """
    data = _read(path, limits.bytes_max)
    if data.startswith(PARQUET_MAGIC):
        return _parquet(data, limits)
    return read_table(decode_text(data, dialect.encoding), dialect, limits)


def dialect_of(table: Table, dialect: Dialect) -> Dialect:
    """How the cells of a loaded table are written: those of Parquet have a decimal point, whatever the site says."""
    return dialect if table.header else Dialect(missing=dialect.missing)


def load_schema_text(path: Path) -> str:
    """The text of a schema file. Raises ConfigError, also for a file without a schema in it."""
    data = _read(path, SCHEMA_BYTES_MAX)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 at byte {error.start}", hint="save it as UTF-8") from None
    if all(not line.strip() or line.lstrip().startswith("#") for line in text.splitlines()):
        raise ConfigError(f"{path}: no schema in it", hint=NO_SCHEMA)
    return text


def _read(path: Path, limit: int) -> bytes:
    try:
        return read_capped(path.expanduser(), limit)
    except OSError as error:
        why = (error.strerror or type(error).__name__).lower()
        raise ConfigError(f"{path}: cannot be read: {why}", hint="check the path and who may read it") from None
    except ValueError:
        raise ConfigError(f"{str(path)[:80]!a}: not a path") from None


def _parquet(data: bytes, limits: TableLimits) -> Table:
    try:
        import pyarrow
        from pyarrow import parquet
    except ModuleNotFoundError:
        raise ConfigError(
            "a Parquet file needs the package pyarrow, which is not installed",
            hint="pip install 'quidnunc[tabular]', or export the table as CSV",
        ) from None
    try:
        file = parquet.ParquetFile(pyarrow.BufferReader(data))
        _check_size(file.metadata, limits)
        read = file.read()
        names = tuple(_cell(name) for name in read.column_names)
        check_names(names, 0)
        columns = tuple(_cells(name, column, limits) for name, column in zip(names, read.columns, strict=True))
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        why = printable(str(error).partition("\n")[0])
        raise DataFault(Finding(Code.NOT_TEXT, f"not a readable Parquet file: {why}", "write it again")) from None
    if not read.num_rows:
        raise DataFault(Finding(Code.EMPTY_FILE, "the file has no rows", "export the table again"))
    return Table(names, columns, list(range(1, read.num_rows + 1)), header=0)


def _check_size(metadata: Any, limits: TableLimits) -> None:
    size = sum(metadata.row_group(index).total_byte_size for index in range(metadata.num_row_groups))
    rows, columns = metadata.num_rows, metadata.num_columns
    facts = (
        ("rows", rows, limits.rows_max),
        ("columns", columns, limits.columns_max),
        ("cells", rows * columns, limits.cells_max),
        ("bytes unpacked", size, limits.bytes_max),
    )
    for what, value, bound in facts:
        if value > bound:
            text = f"{value} {what}, limit is {bound}"
            raise DataFault(Finding(Code.TOO_LARGE, text, "split the table", bound=f"{bound} {what}"))


def _cells(name: str, column: Any, limits: TableLimits) -> list[str]:
    """The cells of a column as a CSV file would have them."""
    from pyarrow import types

    kind = column.type.value_type if types.is_dictionary(column.type) else column.type
    texts = (types.is_string, types.is_large_string, types.is_date, types.is_timestamp, types.is_decimal)
    numbers = (types.is_integer, types.is_floating, types.is_boolean, types.is_null)
    if not any(test(kind) for test in (*texts, *numbers)):
        what = f"is of type {printable(str(kind))}, must be numbers, texts, truth values or dates"
        raise DataFault(Finding(Code.UNSUPPORTED_TYPE, what, "convert the column, or leave it out", column=name))
    cells = [_cell(value) for value in column.to_pylist()]
    if any(len(cell) > limits.cell_chars_max for cell in cells):
        bound = f"{limits.cell_chars_max} characters"
        raise DataFault(Finding(Code.TOO_LARGE, f"a cell is too long, limit is {bound}", "shorten it", column=name))
    return cells


def _cell(value: object) -> str:
    if value is None or value != value:
        return ""
    if isinstance(value, bool):
        return "1" if value else "0"
    return unicodedata.normalize("NFC", str(value).strip())
