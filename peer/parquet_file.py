"""The bytes of a Parquet file to a table, where the extra ``tabular`` is installed. Capped before it is unpacked."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from typing import Any

from quidnunc.crypto.errors import ConfigError
from quidnunc.gossip.tabular.findings import Code, DataFault, Finding, printable
from quidnunc.gossip.tabular.header import check_names
from quidnunc.gossip.tabular.table import Table, TableLimits

PARQUET_MAGIC = b"PAR1"


def read_parquet(data: bytes, limits: TableLimits) -> Table:
    """The table in a Parquet file, its cells spelled as a CSV file would have them.

    Raises DataFault for what is in the file, ConfigError where pyarrow is not installed.
    """
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        there = "which is not installed" if isinstance(error, ModuleNotFoundError) else f"which is broken: {error}"
        raise ConfigError(
            f"a Parquet file needs the package pyarrow, {there}",
            hint="pip install 'quidnunc[tabular]', or export the table as CSV",
        ) from None
    try:
        source = pyarrow.BufferReader(data)
        file = parquet.ParquetFile(source)
        _check_size(file.metadata, limits)
        fields = list(file.schema_arrow)
        names = tuple(_cell(field.name) for field in fields)
        check_names(names, 0)
        for name, field in zip(names, fields, strict=True):
            _check_type(name, field.type)
        # One text for all rows takes a few bytes in the file; as a dictionary it takes no more in memory.
        texts = [field.name for field in fields if _is_text(field.type)]
        read = parquet.ParquetFile(source, read_dictionary=texts).read()
        columns = tuple(_cells(name, column, limits) for name, column in zip(names, read.columns, strict=True))
    except MemoryError:
        raise DataFault(Finding(Code.TOO_LARGE, "unpacked, the file does not fit into memory", "split it")) from None
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


def _check_type(name: str, kind: Any) -> None:
    from pyarrow import types

    kind = kind.value_type if types.is_dictionary(kind) else kind
    texts = (types.is_string, types.is_large_string, types.is_date, types.is_timestamp, types.is_decimal)
    numbers = (types.is_integer, types.is_floating, types.is_boolean, types.is_null)
    if not any(test(kind) for test in (*texts, *numbers)):
        what = f"is of type {printable(str(kind))}, must be numbers, texts, truth values or dates"
        raise DataFault(Finding(Code.UNSUPPORTED_TYPE, what, "convert the column, or leave it out", column=name))


def _is_text(kind: Any) -> bool:
    from pyarrow import types

    return bool(types.is_string(kind) or types.is_large_string(kind))


def _cells(name: str, column: Any, limits: TableLimits) -> list[str]:
    """The cells of a column, one string for all equal ones."""
    from pyarrow import types

    cells: list[str] = []
    for chunk in column.chunks:
        if types.is_dictionary(chunk.type):
            words = _spelled(name, chunk.dictionary, limits)
            cells += ["" if index is None else words[index] for index in chunk.indices.to_pylist()]
        else:
            cells += _spelled(name, chunk, limits)
    return cells


def _spelled(name: str, array: Any, limits: TableLimits) -> list[str]:
    from pyarrow import compute

    # Bytes of UTF-8, at most four to a character: what is far too long need not become a string first.
    longest = compute.max(compute.binary_length(array)).as_py() if _is_text(array.type) else 0
    cells = [] if (longest or 0) > 4 * limits.cell_chars_max else _distinct(_python(array))
    if len(cells) < len(array) or any(len(cell) > limits.cell_chars_max for cell in cells):
        bound = f"{limits.cell_chars_max} characters"
        raise DataFault(Finding(Code.TOO_LARGE, f"a cell is too long, limit is {bound}", "shorten it", column=name))
    return cells


def _python(array: Any) -> list[object]:
    import pyarrow

    try:
        found: list[object] = array.to_pylist()
    except (ValueError, OverflowError, LookupError):
        # Times that are finer or further away than Python's, or of a zone that this machine does not know.
        found = array.cast(pyarrow.string()).to_pylist()
    return found


def _distinct(values: Iterable[object]) -> list[str]:
    seen: dict[str, str] = {}
    cells = (_cell(value) for value in values)
    return [seen.setdefault(cell, cell) for cell in cells]


def _cell(value: object) -> str:
    if value is None or value != value:
        return ""
    if isinstance(value, bool):
        return "1" if value else "0"
    return unicodedata.normalize("NFC", str(value).strip())
