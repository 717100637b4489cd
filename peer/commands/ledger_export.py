"""``quidnunc ledger export``: the ledger in a form to hand on, to read elsewhere, or to look at."""

from __future__ import annotations

import argparse
import json
import shlex
from base64 import b64encode
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from quidnunc.crypto.checkpoint import open_checkpoint, origin_of
from quidnunc.crypto.entry import Entry, parse_header
from quidnunc.crypto.errors import LedgerCorrupt, Malformed
from quidnunc.crypto.note import Verifier, format_vkey
from quidnunc.peer.cli import CommandParser, Context
from quidnunc.peer.commands.entry_view import entry_data
from quidnunc.peer.commands.files import PUBLIC_FILE, is_stdout, write_public
from quidnunc.peer.commands.ledger_home import main_and_others, member_names, opened, require_ledger
from quidnunc.peer.commands.ledger_log import private_data
from quidnunc.peer.files import PRIVATE_FILE
from quidnunc.peer.home import Home
from quidnunc.peer.ledger import bundle
from quidnunc.peer.output import ExitCode, Line, Outcome, Styled, UsageError

FORMATS: Mapping[str, str] = {
    "jsonl": "one entry a line",
    "tiles": "a directory of C2SP tlog-tiles",
    "html": "one page to look at, without any request to outside",
    "bundle": "a directory that the other ledger commands read, without keys and private parts",
}
_SUFFIXES = {"jsonl": ".jsonl", "tiles": ".tiles", "html": ".html", "bundle": ".bundle"}


def register(parser: CommandParser) -> None:
    """The arguments of ``ledger export``."""
    add = parser.add_argument
    told = "; ".join(f"{name}: {what}" for name, what in FORMATS.items())
    add("--format", choices=list(FORMATS), required=True, help=told)
    add(
        "--out",
        type=Path,
        metavar="PATH",
        help="where to (default: ledger-<log id>.<format> here; jsonl, html: - is stdout)",
    )
    add("--private", action="store_true", help="jsonl: also the private parts; such a file is for your eyes only")
    add(
        "--ledger",
        action="append",
        default=[],
        type=Path,
        metavar="PATH",
        help="html: another member's home, bundle or ledger.db (repeat for more); "
        "without a home, the first one named is exported",
    )
    parser.set_defaults(command=export)


def export(args: argparse.Namespace, context: Context) -> Outcome:
    """Write the ledger at hand in one of the FORMATS."""
    context, others = main_and_others(args.ledger, context)
    if args.private and args.format != "jsonl":
        raise UsageError(f"--private goes with --format jsonl, not with {args.format}")
    if others and args.format != "html":
        raise UsageError(
            f"--ledger names another member's ledger, and --format {args.format} holds one",
            hint="give it a home of its own: quidnunc --home PATH ledger export",
        )
    if args.format in ("tiles", "bundle") and str(args.out) == "-":
        raise UsageError(
            f"--format {args.format} makes a directory, which cannot be stdout", hint="name one with --out"
        )
    require_ledger(context.home)
    match args.format:
        case "jsonl":
            return _jsonl(args, context)
        case "tiles":
            return _tiles(args, context)
        case "bundle":
            return _bundle(args, context)
    return _html(args, context, others)


def _target(args: argparse.Namespace, log_id: bytes) -> Path:
    name = f"ledger-{log_id.hex()[:8]}{_SUFFIXES[args.format]}"
    return (args.out or Path(name)).expanduser().absolute()


def _jsonl(args: argparse.Namespace, context: Context) -> Outcome:
    """Every entry, with its bytes, so that nothing is lost on the way."""
    names = member_names(context)
    stream = is_stdout(args.out, context.out)
    with opened(context) as store:
        lines = (entry_record(entry, names, private=args.private) for entry in store.entries())
        if stream:
            for line in lines:
                context.out.record(line)
            return Outcome()
        path = _target(args, store.log_id)
        mode = PRIVATE_FILE if args.private else PUBLIC_FILE
        count, size = bundle.write_lines(path, (json.dumps(line, ensure_ascii=True) for line in lines), mode)
    told = [f"{count} entries are in {path} ({size} bytes)"]
    told.append(
        "  with private parts: do not hand it on" if args.private else "  without private parts; --private has them"
    )
    return Outcome(_shown(args, path, entries=count, bytes=size), told)


def entry_record(entry: Entry, names: Mapping[bytes, str], *, private: bool) -> dict[str, Any]:
    """One line of the JSONL format: what ``ledger show`` gives, and the stored bytes in base64."""
    found = entry_data(entry, names)
    try:
        found["prev"] = parse_header(entry.header).prev.hex()
    except Malformed:
        found["prev"] = None
    found |= {"header": _base64(entry.header), "payload_bytes": _base64(entry.payload), "salt": _base64(entry.salt)}
    if private:
        kind = found.get("type_code", 0)
        found |= {
            "private": private_data(kind, entry, names),
            "private_bytes": _base64(entry.private) or None,
            "private_salt": _base64(entry.private_salt) or None,
        }
    return found


def _tiles(args: argparse.Namespace, context: Context) -> Outcome:
    """The newest checkpoint and the tiles under it."""
    with opened(context) as store:
        note = store.checkpoint()
        if note is None and store.size:
            raise LedgerCorrupt(store.size - 1, "no checkpoint covers it")
        if note is None:
            return Outcome(None, [], ExitCode.INCOMPLETE, "the ledger is empty", "it begins with: quidnunc run")
        checkpoint = open_checkpoint(note, origin_of(store.log_id), store.keys)
        key = Verifier(checkpoint.origin, store.keys.at(checkpoint.size) or store.public)
        path = _target(args, store.log_id)
        files = bundle.write_tiles(store, note, checkpoint.size, path)
    lines: list[Line] = [
        f"{checkpoint.size} entries are in {path} ({files} files)",
        "  entries are headers there: payloads stay behind their commitments",
        f"  the log's key is {format_vkey(key)}",
    ]
    shown = _shown(args, path, entries=checkpoint.size, files=files, root=checkpoint.root.hex(), key=format_vkey(key))
    return Outcome(shown, lines)


def _bundle(args: argparse.Namespace, context: Context) -> Outcome:
    """A directory in a home's layout that holds what others may read."""
    with opened(context) as store:
        path = _target(args, store.log_id)
    bundle.write_bundle(context.home, path)
    with opened(Context(Home.at(path), context.out)) as store:
        report = store.verify(context.out.progress("checked", "entries"))
        size = report.size
    lines: list[Line] = [
        f"{size} entries are in {path}",
        "  without keys and private parts; read it with, for example",
        f"  quidnunc ledger verify --ledger {shlex.quote(str(path))}",
    ]
    if not report.ok:
        lines.append(Styled("  the ledger does not verify: see quidnunc ledger verify", "bad"))
    return Outcome(_shown(args, path, entries=size, root=report.root.hex(), verified=report.ok), lines)


def _html(args: argparse.Namespace, context: Context, others: list[Home]) -> Outcome:
    # The page is much code that no other command needs.
    from quidnunc.peer.page.gather import gather
    from quidnunc.peer.page.page import page

    stream = is_stdout(args.out, context.out)
    found = gather(context, others)
    if stream:
        context.out.raw(page(found).encode())
        return Outcome()
    path = _target(args, found.main.log_id)
    data = page(found).encode()
    write_public(path, data)
    lines: list[Line] = [
        f"{found.main.size} entries of {found.main.name} are in {path} ({len(data)} bytes)",
        "  one file; it asks nothing of any network",
    ]
    return Outcome(_shown(args, path, entries=found.main.size, bytes=len(data), ledgers=len(found.ledgers)), lines)


def _shown(args: argparse.Namespace, path: Path, **more: object) -> dict[str, Any]:
    return {"format": args.format, "path": str(path), **more}


def _base64(data: bytes) -> str:
    return b64encode(data).decode("ascii")
