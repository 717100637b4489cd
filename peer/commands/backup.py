"""``quidnunc backup FILE``: one consistent copy of this home in one file, whether its daemon runs or not."""

from __future__ import annotations

import argparse
import shlex
import time
from pathlib import Path

from quidnunc.peer.cli import CommandParser, Context
from quidnunc.peer.commands.charter_view import when
from quidnunc.peer.commands.files import own_card
from quidnunc.peer.output import Line, Outcome, Styled


def register(parser: CommandParser) -> None:
    """The file to write."""
    parser.add_argument("file", type=Path, metavar="FILE", help="the file to write; none is replaced")
    parser.set_defaults(command=backup)


def backup(args: argparse.Namespace, context: Context) -> Outcome:
    """Configuration, card, charter, keys as they are, ledger, and the params that a start needs."""
    # numpy comes with the fold of a ledger: only this command needs it.
    from quidnunc.peer.backup.make import make

    home = context.home
    member = own_card(home)
    path = args.file.expanduser().absolute()
    made = make(home, member, path, when(time.time_ns() // 1_000_000))
    manifest = made.manifest
    if made.open_keys:
        names = " and ".join(made.open_keys)
        context.out.warn(
            f"{path} holds {names} without a passphrase: whoever reads it can speak for {member.name}; "
            "keep it as you keep the keys (quidnunc key lock locks them before the next backup)"
        )
    if made.missing:
        context.out.warn(
            f"{made.missing} of the params that the ledger leads to are not in this home; "
            "neighbors are asked for them at the next start"
        )
    size = path.stat().st_size
    data = {
        "file": str(path),
        "bytes": size,
        "made": manifest.made,
        "name": manifest.name,
        "log_id": manifest.log_id,
        "entries": manifest.entries,
        "root": manifest.root,
        "files": len(manifest.files),
        "unlocked_keys": list(made.open_keys),
        "params_missing": made.missing,
    }
    lines: list[Line] = [
        Styled(f"wrote {path}: {manifest.name}, {manifest.entries} ledger entries, as of {manifest.made}", "strong"),
        f"  {len(manifest.files)} files, {size} bytes, every one with its SHA-256; local training data is not in it",
        "  back into an empty home with:",
        f"  quidnunc --home DIR restore {shlex.quote(str(path))}",
    ]
    return Outcome(data, lines)
