"""A directory of tables, one CSV file per site, under one schema."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from quidnunc.crypto.errors import ConfigError
from quidnunc.gossip.tabular.encode import Part, encode
from quidnunc.gossip.tabular.examine import examine
from quidnunc.gossip.tabular.findings import DataFault
from quidnunc.gossip.tabular.infer import infer_schema
from quidnunc.gossip.tabular.schema import SCHEMA_BYTES_MAX, parse_schema
from quidnunc.gossip.tabular.table import LIMITS, Table, read_table
from quidnunc.gossip.tabular.text import decode_text
from quidnunc.sim.files import read_regular

SITES_MAX = 1024


@dataclass(frozen=True, slots=True, eq=False)
class SiteTable:
    """One site's rows: to learn from (held-out ones among them: nothing here judges neighbors), and for testing."""

    name: str
    train: Part
    test: Part


def read_tables(folder: Path, schema: Path | None = None, target: str = "") -> list[SiteTable]:
    """The tables ``*.csv`` of ``folder`` by name, under the schema file, or under one inferred from all of them.

    Raises ConfigError naming the file (DataFault for what is in it).
    """
    if not folder.is_dir():
        raise ConfigError(f"{folder}: not a directory", hint="set data.path to a directory of CSV files, one per peer")
    files = sorted(folder.glob("*.csv"))
    if not 2 <= len(files) <= SITES_MAX:
        raise ConfigError(f"{folder}: {len(files)} files *.csv, must be 2 to {SITES_MAX}", hint="one table per peer")
    tables = [_table(file) for file in files]
    if schema is None:
        agreed = infer_schema(tables, target=target)
    else:
        agreed = parse_schema(_text(schema, SCHEMA_BYTES_MAX).decode("utf-8-sig", "replace"), str(schema))
    sites = []
    for file, table in zip(files, tables, strict=True):
        encoded = encode(examine(table, agreed), str(file))
        inputs = np.concatenate([encoded.train[0], encoded.holdout[0]])
        labels = np.concatenate([encoded.train[1], encoded.holdout[1]])
        if not len(labels):
            raise ConfigError(f"{file}: no rows to learn from", hint="leave the table out, or give it more rows")
        sites.append(SiteTable(file.stem, (inputs, labels), encoded.test))
    return sites


def _table(file: Path) -> Table:
    try:
        return read_table(decode_text(_text(file, LIMITS.bytes_max)))
    except DataFault as fault:
        raise ConfigError(f"{file}: {fault.message}", hint=fault.hint) from None


def _text(file: Path, limit: int) -> bytes:
    try:
        data = read_regular(file, limit + 1)
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or type(error).__name__
        raise ConfigError(f"{file}: cannot be read: {why.lower()}", hint="check data.path and data.schema") from None
    if len(data) > limit:
        raise ConfigError(f"{file}: more than {limit:,} bytes", hint="use a smaller table")
    return data
