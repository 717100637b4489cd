"""``quidnunc data check``: would this table train? What every column holds, and all that is wrong, with a remedy.

Nothing is sent, and nothing but ``--write-schema`` is written.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from quidnunc.crypto.errors import ConfigError, StoreUnwritable
from quidnunc.peer.cli import CommandParser, Context
from quidnunc.peer.commands.dialect_flags import add_dialect, dialect_options
from quidnunc.peer.commands.files import PUBLIC_FILE, read_charter, require_home, same_file
from quidnunc.peer.config import load
from quidnunc.peer.files import atomic_write, expanded
from quidnunc.peer.output import Outcome, UsageError

if TYPE_CHECKING:
    from quidnunc.gossip.tabular.schema import Schema


def register(parser: CommandParser) -> None:
    """The second word and its arguments."""
    below = parser.verbs("action")("check", help="read a table under a schema; exit 0 it would train, 20 it has errors")
    add = below.add_argument
    add("file", type=Path, nargs="?", metavar="FILE", help="CSV or Parquet; default: this home's data.path")
    add("--schema", type=Path, metavar="S", help="default: the charter's, with FILE one inferred from it")
    add("--target", default="", metavar="COLUMN", help="what to predict, where the schema is inferred")
    add_dialect(below)
    add("--write-schema", type=Path, metavar="OUT", help="write the schema there, for you to correct")
    below.set_defaults(command=check)


@dataclass(frozen=True, slots=True)
class _Source:
    """What to check: the file, the schema's text and name (empty: infer one), the options of its site."""

    path: Path
    schema: str
    schema_source: str
    options: dict[str, str | int | float | bool]


def check(args: argparse.Namespace, context: Context) -> Outcome:
    """Check a table; every finding is named once per column."""
    # numpy: only this command's work needs it.
    from quidnunc.gossip.tabular.findings import DataFault
    from quidnunc.gossip.tabular.options import parse_options
    from quidnunc.gossip.tabular.report import report
    from quidnunc.gossip.tabular.schema import parse_schema
    from quidnunc.peer.commands.data_view import checked, refused
    from quidnunc.peer.csv_task import examine_file

    source = _source(args, context)
    if args.write_schema is not None and same_file(args.write_schema, source.path):
        raise UsageError(f"--write-schema {args.write_schema} is the table itself", hint="name another file")
    if args.target and source.schema:
        raise UsageError("--target is for an inferred schema", hint=f"the target stands in {source.schema_source}")
    options = parse_options(source.options)
    schema = parse_schema(source.schema, source.schema_source) if source.schema else None
    try:
        examined = examine_file(source.path, schema, options, args.target)
    except DataFault as fault:
        return refused(source.path, fault.finding)
    except ConfigError as error:
        named = error.message.startswith((str(source.path), "'"))
        raise error if named else ConfigError(f"{source.path}: {error.message}", hint=error.hint) from None
    if args.write_schema is not None and examined.errors:
        context.out.talk(f"{args.write_schema}: not written, because the table has errors")
    elif args.write_schema is not None:
        _write(args.write_schema, examined.schema, context)
    return checked(source.path, source.schema_source or "inferred", report(examined), context.out)


def _source(args: argparse.Namespace, context: Context) -> _Source:
    flags = dialect_options(args)
    text, name = "", ""
    path: Path | None = args.file
    options: dict[str, str | int | float | bool] = {}
    if path is None:
        require_home(context.home)
        data = load(context.home.config).data
        if not data.path:
            raise ConfigError(
                f"{context.home.config}: data.path is empty", hint="name a file, or set path under [data]"
            )
        path, options = Path(data.path), dict(data.options)
        if context.home.charter.exists():
            task = read_charter(context.home.charter)[1].charter.task
            if task.reference != "csv":
                raise ConfigError(
                    f"the charter's task is {task.reference}, which reads no table by schema",
                    hint="name a file to check it by itself",
                )
            options |= task.options
            text, name = task.data_schema, "the charter's schema"
    if args.schema is not None:
        from quidnunc.peer.table_file import load_schema_text

        text, name = load_schema_text(args.schema), str(args.schema)
    return _Source(path, text, name if text else "", {**options, **flags})


def _write(path: Path, schema: Schema, context: Context) -> None:
    from quidnunc.gossip.tabular.render import render_schema

    target = expanded(path).absolute()
    try:
        atomic_write(target, render_schema(schema).encode(), PUBLIC_FILE, replace=context.yes)
    except FileExistsError:
        raise StoreUnwritable(
            f"{path}: there is a file already", hint="name another, or replace it with --yes"
        ) from None
    context.out.talk(f"wrote {path}: correct its ranges and values from public sources before anybody signs it")
