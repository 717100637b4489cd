"""The four flags that say how a table is written, as ``[data.options]`` in a home's config.toml does."""

from __future__ import annotations

import argparse

from quidnunc.peer.cli import CommandParser

NAMES = ("delimiter", "decimal", "encoding", "missing")


def add_dialect(parser: CommandParser) -> None:
    """Add the flags; what is not given counts as not said."""
    add = parser.add_argument
    add("--delimiter", metavar="C", help="between cells: , ; tab or | (default: ,)")
    add("--decimal", metavar="C", help="decimal sign: . or , (default: .)")
    add("--encoding", metavar="E", help="utf-8, utf-16, latin-1 or cp1252 (default: utf-8)")
    add("--missing", metavar="WORDS", help="cells that mean missing, apart by spaces; an empty one always does")


def dialect_options(args: argparse.Namespace) -> dict[str, str]:
    """The options of the task ``csv`` that were given, by name."""
    return {name: getattr(args, name) for name in NAMES if getattr(args, name) is not None}
