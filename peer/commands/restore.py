"""``quidnunc restore FILE``: a backup becomes a home again, in an empty directory and nowhere else."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from quidnunc.peer.cli import CommandParser, Context
from quidnunc.peer.home_name import quidnunc
from quidnunc.peer.output import Line, Outcome, Styled


def register(parser: CommandParser) -> None:
    """The file to read."""
    parser.add_argument("file", type=Path, metavar="FILE", help="what quidnunc backup wrote")
    parser.set_defaults(command=restore)


def restore(args: argparse.Namespace, context: Context) -> Outcome:
    """Check every file of a backup, put them in place, and say what the next start does."""
    # numpy comes with the ledger's store: only this command needs it.
    from quidnunc.peer.backup import restore as backup

    home = context.home
    restored = backup.restore(args.file.expanduser().absolute(), home)
    manifest, source = restored.manifest, restored.config.data.path
    context.out.warn(
        f"only one home may be {manifest.name}: if the one that was backed up still runs anywhere, or is started "
        "again, two histories are signed with one key, and every neighbor freezes this peer for good"
    )
    if source and not os.path.exists(source):
        context.out.warn(f"data.path in config.toml is {source}, which is not here; training data is in no backup")
    data = {
        "home": str(home.root),
        "name": manifest.name,
        "log_id": manifest.log_id,
        "made": manifest.made,
        "program": manifest.program,
        "entries": manifest.entries,
        "root": manifest.root,
        "files": len(manifest.files),
        "charter": restored.charter,
    }
    lines: list[Line] = [
        Styled(f"restored {manifest.name} to {home.root}, as of {manifest.made}", "strong"),
        f"  {len(manifest.files)} files, each with the SHA-256 it was backed up with; the ledger has "
        f"{manifest.entries} entries and verifies",
        *_next_start(restored.charter, manifest.entries),
        "next, when you are sure that no other home of this peer runs:",
        f"  {quidnunc(home)} run",
    ]
    return Outcome(data, lines)


def _next_start(charter: bool, entries: int) -> list[str]:
    if not charter:
        return ["  it has no charter yet: its next start needs one (federation sign, or run --charter FILE)"]
    return [
        f"  at its next start it asks its neighbors for the newest entries of its own log before it signs entry "
        f"{entries}: what it",
        "  signed after this backup was made counts, and so does the privacy that was spent for it",
    ]
