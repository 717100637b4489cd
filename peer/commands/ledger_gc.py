"""``quidnunc ledger gc``: find, and on demand delete, blobs that nothing will ask for any more."""

from __future__ import annotations

import argparse
import contextlib
from pathlib import Path
from typing import Any

from quidnunc.crypto.errors import StoreLocked
from quidnunc.peer.cli import CommandParser, Context
from quidnunc.peer.commands.files import read_charter, require_home
from quidnunc.peer.commands.ledger_home import opened
from quidnunc.peer.files import unwritable
from quidnunc.peer.ledger.reachable import KEPT_ROUNDS, reachable
from quidnunc.peer.output import ExitCode, Line, Outcome, Styled, UsageError

SHOWN = 20
"""Blobs that are listed by name; all are with ``--json``."""


def register(parser: CommandParser) -> None:
    """The arguments of ``ledger gc``."""
    parser.add_argument("--delete", action="store_true", help="delete them (default: only say what would go)")
    parser.add_argument(
        "--keep-rounds",
        type=int,
        default=KEPT_ROUNDS,
        metavar="N",
        help=f"keep what the last N own updates have to do with (default and least: {KEPT_ROUNDS})",
    )
    parser.set_defaults(command=gc)


def gc(args: argparse.Namespace, context: Context) -> Outcome:
    """What lies among the blobs and is of no use; with ``--delete`` it is gone, and the peer must not run."""
    if args.keep_rounds < KEPT_ROUNDS:
        raise UsageError(f"--keep-rounds {args.keep_rounds}: must be {KEPT_ROUNDS} or more, repairs reach back so far")
    require_home(context.home)
    if not args.delete:
        return _report(args, context, delete=False)
    if not context.agreed("--delete", "delete blobs that nothing will ask for any more?"):
        return Outcome({"deleted": False}, ["nothing was deleted"], ExitCode.OK)
    try:
        with context.home.lock():
            return _report(args, context, delete=True)
    except StoreLocked as error:
        raise StoreLocked(error.message, hint="stop the peer first: it deletes its own as it goes along") from None


def _report(args: argparse.Namespace, context: Context, *, delete: bool) -> Outcome:
    genesis = read_charter(context.home.charter)[1].charter.task.genesis
    with opened(context) as store:
        kept = {name.hex() for name in reachable(store.entries(), genesis, args.keep_rounds)}
    held, gone, leftovers = _sorted(context.home.blobs, kept)
    data: dict[str, Any] = {
        "kept": len(held),
        "kept_bytes": sum(size for _, size in held),
        "unreachable": [{"hash": path.parent.name + path.name, "bytes": size} for path, size in gone],
        "leftovers": [{"file": path.name, "bytes": size} for path, size in leftovers],
        "bytes": sum(size for _, size in (*gone, *leftovers)),
        "missing": sorted(kept - {path.parent.name + path.name for path, _ in held}),
        "deleted": delete,
    }
    if delete:
        for path, _ in (*gone, *leftovers):
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                raise unwritable(path, error) from error
    verb = "deleted" if delete else "could go (quidnunc ledger gc --delete)"
    lines: list[Line] = [
        f"{len(held)} blobs of {data['kept_bytes']:,} bytes are in use",
        f"{len(gone)} blobs and {len(leftovers)} leftovers of {data['bytes']:,} bytes {verb}",
        *(f"  {path.parent.name}{path.name}  {size:>12,}" for path, size in gone[:SHOWN]),
    ]
    if len(gone) > SHOWN:
        lines.append(f"  and {len(gone) - SHOWN} more; all with --json")
    lines += [Styled(f"  {path.name}  {size:,}: damaged, or half written", "warn") for path, size in leftovers[:SHOWN]]
    return Outcome(data, lines)


_Sized = list[tuple[Path, int]]


def _sorted(root: Path, kept: set[str]) -> tuple[_Sized, _Sized, _Sized]:
    """Blobs in use, blobs that are not, and files that are no blobs but lie where only blobs should."""
    held, gone, leftovers = _Sized(), _Sized(), _Sized()
    directories = sorted(root.iterdir()) if root.is_dir() else []
    for directory in directories:
        if not directory.is_dir() or directory.is_symlink():
            continue
        for path in sorted(directory.iterdir()):
            with contextlib.suppress(FileNotFoundError):  # a daemon goes on while we look
                entry = path, path.lstat().st_size
                name = directory.name + path.name
                if name in kept:
                    held.append(entry)
                elif len(name) == 64 and set(name) <= set("0123456789abcdef"):
                    gone.append(entry)
                elif directory.name == "tmp" or path.name.endswith(".bad"):
                    leftovers.append(entry)
    return held, gone, leftovers
