"""Files to tables: delimited text, and Parquet where the extra ``tabular`` is installed. Capped before it is built."""

from __future__ import annotations

from pathlib import Path

from quidnunc.crypto.errors import ConfigError
from quidnunc.gossip.tabular.findings import Code, DataFault, Finding
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
from quidnunc.peer.files import expanded, read_capped
from quidnunc.peer.parquet_file import PARQUET_MAGIC, read_parquet

NO_SCHEMA = "write one from a table: quidnunc data check FILE --write-schema schema.toml"


def load_table(path: Path, dialect: Dialect = PLAIN, limits: TableLimits = LIMITS) -> Table:
    """The table in a file; what kind it is, its first bytes say.

    Parquet spells its numbers itself: ``dialect`` then counts only for missing tokens; see :func:`dialect_of`. Raises
    DataFault for what is in the file, ConfigError when it cannot be read at all.
    """
    try:
        data = _read(path, limits.bytes_max)
    except _TooLarge as error:
        what, bound = str(error), f"{limits.bytes_max} bytes"
        raise DataFault(Finding(Code.TOO_LARGE, what, "split or shorten the table", bound=bound)) from None
    if data.startswith(PARQUET_MAGIC):
        return read_parquet(data, limits)
    return read_table(decode_text(data, dialect.encoding), dialect, limits)


def dialect_of(table: Table, dialect: Dialect) -> Dialect:
    """How the cells of a loaded table are written: those of Parquet have a decimal point, whatever the site says."""
    return dialect if table.header else Dialect(missing=dialect.missing)


def load_schema_text(path: Path) -> str:
    """The text of a schema file. Raises ConfigError, also for a file without a schema in it."""
    try:
        data = _read(path, SCHEMA_BYTES_MAX)
    except _TooLarge as error:
        raise ConfigError(f"{path}: {error}", hint="shorten its remarks and meanings; is it a schema?") from None
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 at byte {error.start}", hint="save it as UTF-8") from None
    if all(not line.strip() or line.lstrip().startswith("#") for line in text.splitlines()):
        raise ConfigError(f"{path}: no schema in it", hint=NO_SCHEMA)
    return text


class _TooLarge(Exception):
    """A file has more bytes than may be read."""


def _read(path: Path, limit: int) -> bytes:
    """The bytes of a file that nobody wrote to meanwhile: half of a table may well be a table."""
    try:
        place = expanded(path)
        before = _version(place)
        if before[1] > limit:
            raise _TooLarge(f"{before[1]} bytes, limit is {limit}")
        data = read_capped(place, limit)
        if _version(place) != before:
            raise ConfigError(f"{path}: changed while it was read", hint="try again when its export has ended")
        return data
    except OSError as error:
        why = (error.strerror or type(error).__name__).lower()
        raise ConfigError(f"{path}: cannot be read: {why}", hint="check the path and who may read it") from None
    except ValueError:
        raise ConfigError(f"{str(path)[:80]!a}: not a path") from None


def _version(path: Path) -> tuple[int, int, int]:
    found = path.stat()
    return found.st_ino, found.st_size, found.st_mtime_ns
