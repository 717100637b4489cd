"""The built-in task ``csv``: a table of this site's under the schema that all members signed.

Warnings (inferred ranges, a measured median, a suspicious column) go to the log of the process that builds the task,
which is the daemon's stderr, and with the hints into the task's notes, which ``quidnunc status`` counts;
``quidnunc data check`` repeats them at leisure.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

from quidnunc.crypto.errors import ConfigError
from quidnunc.gossip.markup import escape
from quidnunc.gossip.tabular.encode import encode
from quidnunc.gossip.tabular.examine import Examined, examine
from quidnunc.gossip.tabular.findings import DataFault, Severity
from quidnunc.gossip.tabular.infer import infer_schema
from quidnunc.gossip.tabular.options import Options, parse_options
from quidnunc.gossip.tabular.schema import Schema, parse_schema
from quidnunc.gossip.tabular.task import blank_task, table_task
from quidnunc.gossip.task import Site, Task
from quidnunc.peer.table_file import dialect_of, load_table

SCHEMA_SOURCE = "the charter's schema"

_log = logging.getLogger(__name__)
_WRITE_SCHEMA = "write one with: quidnunc data check FILE --write-schema schema.toml"


def csv_task(site: Site) -> Task:
    """The task on the table at ``site.path`` under ``site.schema``; without a schema, one inferred from the table.

    ``site.options`` are those of :mod:`quidnunc.gossip.tabular.options`. Raises ConfigError (DataFault for the table's
    own faults), naming the first error and how many there are.
    """
    options = parse_options(site.options)
    schema = parse_schema(site.schema, SCHEMA_SOURCE) if site.schema else None
    if site.blank and schema is not None:
        return blank_task(schema, options)
    if not site.path:
        lacks = "a schema, or a table to infer one from" if schema is None else "a table: data.path is empty"
        hint = _WRITE_SCHEMA if schema is None else 'name it in config.toml: path = "..." under [data]'
        raise ConfigError(f"the task csv needs {lacks}", hint=hint)
    try:
        examined = examine_file(Path(site.path), schema, options)
    except DataFault as fault:
        raise DataFault(fault.finding, source=site.path) from None
    encoded = encode(examined, site.path)
    for finding in examined.findings:
        if finding.severity == Severity.WARNING:
            _log.warning("%s: %s; %s", escape(site.path), finding.message, finding.remedy)
    # Warnings first: of the notes only the first is shown in full.
    noted = sorted(examined.findings, key=lambda finding: finding.severity != Severity.WARNING)
    notes = tuple(escape(finding.message) for finding in noted)
    return replace(table_task(encoded, options), notes=notes)


def examine_file(path: Path, schema: Schema | None, options: Options, target: str = "") -> Examined:
    """Check the table in a file under ``schema``, or under one inferred from it for the column ``target``.

    Raises DataFault or ConfigError.
    """
    table = load_table(path, options.dialect)
    dialect = dialect_of(table, options.dialect)
    return examine(table, schema or infer_schema([table], dialect, target), dialect)
