"""``quidnunc replay``: live the journal of a daemon again, and say whether that leads to the same ledger."""

from __future__ import annotations

import argparse
import contextlib
import os
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from quidnunc.crypto.errors import ConfigError, JournalCorrupt, Malformed
from quidnunc.crypto.merkle import leaf_hash
from quidnunc.gossip.events import Effect
from quidnunc.gossip.journal.frames import Reader
from quidnunc.gossip.journal.records import Entered, Step, read_record
from quidnunc.gossip.journal.replay import Ledger, Replay, Replayed, kind_of
from quidnunc.peer.cli import CommandParser, Context
from quidnunc.peer.commands.ledger_home import opened
from quidnunc.peer.output import ExitCode, Outcome
from quidnunc.peer.release import program_version

DISCLOSES = (
    "A journal holds what neighbors sent (headers of messages; of bodies size and hash), private parts of ledger "
    "entries, losses, accuracies and what this peer thinks of others. It holds no training data, no model and no keys. "
    "A daemon keeps one at state/journal with journal_mib in [debug] of config.toml."
)


def register(parser: CommandParser) -> None:
    """A journal, and how far to go."""
    parser.description = f"Live a daemon's journal again, to the same ledger head. {DISCLOSES}"
    parser.epilog = "With --home DIR the entries are compared with the ledger there as well. -v tells of every event."
    parser.add_argument("journal", type=Path, metavar="JOURNAL", help="state/journal of a home, or a copy of it")
    parser.add_argument("--until", type=_count, metavar="N", help="stop after event N")
    parser.set_defaults(command=replay)


def _count(text: str) -> int:
    if not text.isdecimal() or len(text) > 18:
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is not a number of events")
    return int(text)


def replay(args: argparse.Namespace, context: Context) -> Outcome:
    """Replay, and report the first difference."""
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(_opened(args.journal))
        ledger: Ledger | None = None
        store = stack.enter_context(opened(context)) if args.home is not None else None
        if store is not None:
            ledger = dict(enumerate(leaf_hash(entry.header) for entry in store.entries())).get
        reader = Reader(file.read)
        found = Replay(ledger=ledger, told=_teller(context)).run(_records(reader), args.until)
        if store is not None and found.lives and store.log_id != found.log_id:
            whose, own = store.log_id.hex()[:16], found.log_id.hex()[:16]
            raise ConfigError(f"{context.home.root}: the ledger is of log {whose}, the journal of {own}")
        size = store.size if store is not None else None
    return _outcome(found, reader, size)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        hint = "a daemon keeps one with journal_mib in [debug] of config.toml"
        raise ConfigError(f"{path}: cannot be read: {(error.strerror or '').lower()}", hint=hint) from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise ConfigError(f"{path}: not a regular file", hint="name state/journal of a home, or a copy of it")
    with os.fdopen(descriptor, "rb") as file:
        yield file


def _records(reader: Reader) -> Iterator[Entered]:
    for data in reader:
        try:
            yield read_record(data)
        except Malformed as error:
            raise JournalCorrupt(reader.count, error.message) from None


def _teller(context: Context) -> Callable[[int, Step, list[Effect]], None] | None:
    if not context.out.verbose:
        return None

    def tell(number: int, step: Step, effects: list[Effect]) -> None:
        when = time.strftime("%H:%M:%S", time.gmtime(step.now))
        done = ", ".join(type(effect).__name__ for effect in effects) or "nothing"
        context.out.detail(f"{number:>7} {when} {kind_of(step.event)}: {done}")

    return tell


def _outcome(found: Replayed, reader: Reader, ledger_size: int | None) -> Outcome:
    data: dict[str, Any] = {
        "log_id": found.log_id,
        "federation": found.federation,
        "versions": sorted(set(found.versions)),
        "lives": found.lives,
        "events": found.events,
        "entries": found.entries,
        "size": found.size,
        "head": found.head,
        "root": found.root,
        "compared": None if ledger_size is None else found.compared,
        "ledger_size": ledger_size,
        "lost": found.lost,
        "outside": found.outside,
        "torn": reader.torn,
        "ended": found.ended,
        "raised": [{"event": event, "error": error} for event, error in found.raised.items()],
        "divergence": None,
    }
    if found.divergence is not None:
        return _diverged(found, data)
    lines = [
        f"{found.events} events in {found.lives} {'life' if found.lives == 1 else 'lives'}, {found.entries} entries "
        "made again, each the same",
        f"head {found.head.hex()} of {found.size} entries",
    ]
    if ledger_size is not None:
        lines.append(f"{found.compared} of them are in the ledger, which holds {ledger_size}, each the same")
    lines += [f"event {event} ended the daemon again: {error}" for event, error in found.raised.items()]
    if found.lost:
        lines.append(f"{found.lost} were not kept: the daemon was killed before, or went on with an older ledger")
    if found.outside:
        lines.append(f"{found.outside} entries were made while no journal was kept")
    if found.ended:
        lines.append(f"the journal ends before its daemon did: {found.ended}")
    if reader.torn:
        lines.append("the journal ends within a record: its daemon was killed, or runs")
    return Outcome(data, lines)


def _diverged(found: Replayed, data: dict[str, Any]) -> Outcome:
    first = found.divergence
    assert first is not None
    data["divergence"] = {"event": first.event, "kind": first.kind, "t": round(first.now, 3), "what": first.what}
    made, here = sorted(set(found.versions)), program_version()
    hint = (
        "" if made == [here] else f"the journal is of version {', '.join(made) or 'none'}, this is {here}: use that one"
    )
    lines = [f"{found.events} events in {found.lives} lives, {found.entries} entries"]
    message = f"event {first.event}, {first.kind}: {first.what}"
    return Outcome(data, lines, ExitCode.CHECK_FAILED, message, hint)
