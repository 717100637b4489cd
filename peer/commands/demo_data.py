"""``quidnunc demo --data``: a directory of tables, one of each member, becomes the peers of a federation."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quidnunc.crypto.errors import ConfigError, QuidnuncError
from quidnunc.gossip.federation.genesis import checked_name
from quidnunc.peer.commands.data_schema import parsed, read_schema
from quidnunc.peer.files import expanded
from quidnunc.peer.output import ExitCode, Line, Outcome, Styled
from quidnunc.peer.rehearsal import CHARTER, SCHEMA
from quidnunc.peer.task_loader import CSV

if TYPE_CHECKING:
    from quidnunc.gossip.tabular.examine import Examined
    from quidnunc.gossip.tabular.findings import Finding
    from quidnunc.gossip.tabular.table import Dialect, Table

TABLES_MIN, TABLES_MAX = 2, 16
_RESERVED = (CHARTER, SCHEMA)
_INFERRED = (
    "no schema: ranges and values were inferred from all tables together, which real members could not do, and which "
    "epsilon does not cover"
)


class TableRefused(QuidnuncError):
    """A member's table has errors, at least one of them."""

    exit_code = ExitCode.CHECK_FAILED

    def __init__(self, file: Path, findings: tuple[Finding, ...]) -> None:
        first = findings[0]
        many = f"{len(findings)} errors, the first: " if len(findings) > 1 else ""
        super().__init__(f"{file}: {many}{first.message} [{first.code}]", hint=first.remedy)
        self.file = file
        self.findings = findings

    def outcome(self) -> Outcome:
        """The same, with every finding as data."""
        from quidnunc.gossip.tabular.report import finding_value

        data = {"file": str(self.file), "findings": [finding_value(each) for each in self.findings]}
        more = self.findings[1:]
        lines: list[Line] = [Styled(f"error {each.code}: {each.message}; {each.remedy}", "bad") for each in more]
        return Outcome(data, lines, self.exit_code, self.message, self.hint)


@dataclass(frozen=True, slots=True)
class Silo:
    """One member's table: how many rows it has, how many serve, and what for.

    ``guess`` is the share of the larger class among the test rows: what a constant guess reaches.
    """

    name: str
    path: str
    rows_read: int
    rows_used: int
    rows_train: int
    rows_holdout: int
    rows_test: int
    guess: float

    def facts(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "data": self.path,
            "rows_read": self.rows_read,
            "rows_used": self.rows_used,
            "rows_train": self.rows_train,
            "rows_test": self.rows_test,
            "guess_accuracy": self.guess,
        }


@dataclass(frozen=True, slots=True)
class Survey:
    """All members' tables, the schema that they are read by, and what deserves attention about them.

    ``options`` are the task options that say how all tables are written.
    """

    silos: tuple[Silo, ...]
    schema: str
    inferred: bool
    warnings: tuple[str, ...]
    options: Mapping[str, str] = field(default_factory=dict)


def survey(directory: Path, schema_file: Path | None, options: Mapping[str, str] | None = None) -> Survey:
    """Read every table of ``directory`` by one schema: ``schema_file``, else ``schema.toml`` there, else inferred.

    ``options`` say how all of them are written. Raises ConfigError for a directory, options or schema that do not
    serve, TableRefused for the first table with errors.
    """
    from quidnunc.gossip.tabular.examine import examine
    from quidnunc.gossip.tabular.findings import Severity
    from quidnunc.gossip.tabular.infer import infer_schema
    from quidnunc.gossip.tabular.options import parse_options
    from quidnunc.gossip.tabular.render import render_schema

    said = dict(options or {})
    dialect = parse_options(said).dialect
    directory = expanded(directory).absolute()
    files = _files(directory)
    beside = directory / SCHEMA
    chosen = schema_file or (beside if beside.exists() else None)
    text = "" if chosen is None else read_schema(chosen, CSV)
    tables = {name: _table(path, dialect) for name, path in files.items()}
    if chosen is None:
        text = render_schema(infer_schema(list(tables.values()), dialect, files=[path.name for path in files.values()]))
    schema = parsed(text, SCHEMA if chosen is None else str(chosen))
    silos = []
    remarks: dict[tuple[str, str], list[str]] = {}
    for name, table in tables.items():
        examined = examine(table, schema, dialect)
        if examined.errors:
            raise TableRefused(files[name], examined.errors)
        silos.append(_silo(name, files[name], examined))
        for each in examined.findings:
            if each.severity == Severity.WARNING:
                remarks.setdefault((each.column, each.what), []).append(name)
    warnings = [_INFERRED] if chosen is None else []
    warnings += [_remark(column, what, names, len(tables)) for (column, what), names in remarks.items()]
    return Survey(tuple(silos), text, chosen is None, tuple(warnings), said)


def _files(directory: Path) -> dict[str, Path]:
    """The tables of a directory by the name that their member gets, in the order of the names."""
    try:
        paths = [path for path in directory.iterdir() if path.suffix.lower() == ".csv" and path.name[0] != "."]
    except OSError as error:
        why = (error.strerror or type(error).__name__).lower()
        raise ConfigError(f"--data {directory}: cannot be read: {why}", hint="name a directory of CSV files") from None
    if not TABLES_MIN <= len(paths) <= TABLES_MAX:
        raise ConfigError(
            f"--data {directory}: {len(paths)} CSV files, must be {TABLES_MIN} to {TABLES_MAX}",
            hint="put one table per member there, named after it, for example cleveland.csv",
        )
    found: dict[str, Path] = {}
    for path in sorted(paths):
        name = unicodedata.normalize("NFC", path.stem)
        try:
            checked_name(name)
        except ConfigError as error:
            raise ConfigError(f"{path}: names a member: {error.message}", hint="rename the file") from None
        taken = {each.casefold() for each in (*found, *_RESERVED)}
        if name.casefold() in taken:
            raise ConfigError(f"{path}: the name {name!r} is taken", hint="names must differ in more than case")
        found[name] = path
    return found


def _table(path: Path, dialect: Dialect) -> Table:
    from quidnunc.gossip.tabular.findings import DataFault
    from quidnunc.peer.table_file import load_table

    try:
        return load_table(path, dialect)
    except DataFault as fault:
        raise TableRefused(path, (fault.finding,)) from None


def _silo(name: str, path: Path, examined: Examined) -> Silo:
    from quidnunc.gossip.tabular.split import HOLDOUT, TEST, TRAIN

    tested = examined.part(TEST)
    if not len(tested):
        raise ConfigError(
            f"{path}: no row is left to test on, so that nothing could be compared",
            hint="raise test under [split] in the schema",
        )
    positive = float(examined.positive[tested].mean())
    return Silo(
        name,
        str(path),
        examined.rows,
        int(examined.used.sum()),
        len(examined.part(TRAIN)),
        len(examined.part(HOLDOUT)),
        len(tested),
        max(positive, 1 - positive),
    )


def _remark(column: str, what: str, names: list[str], total: int) -> str:
    """A warning about a column, said once for all tables that it holds for."""
    who = "all tables" if len(names) == total else ", ".join(names)
    return f"{who}: {f'column {column}: ' if column else ''}{what}"
