"""What the ``ledger`` commands share: the ledger at hand, its entries by reference, and whom it may be of.

The ledger is this home's, or what ``--ledger`` names: another home, a bundle (see :mod:`quidnunc.peer.ledger.bundle`)
or a copy of a ``ledger.db``. Whatever it is, it is read and never written.
"""

from __future__ import annotations

import argparse
import functools
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from quidnunc.crypto.entry import Entry, parse_header
from quidnunc.crypto.errors import NO_OLD_COPY, CharterError, ConfigError, Malformed, QuidnuncError
from quidnunc.gossip.federation.member import Member
from quidnunc.gossip.provenance import CharterAdopt
from quidnunc.peer.cli import Command, CommandParser, Context
from quidnunc.peer.commands.entry_links import made_state
from quidnunc.peer.commands.entry_view import record_of
from quidnunc.peer.commands.files import present_card, read_charter, require_home
from quidnunc.peer.home import Home
from quidnunc.peer.ledger.store import Store
from quidnunc.peer.output import ExitCode, Outcome, UsageError

_FIRST = 8
_MIN_PREFIX = 8
_HEX = re.compile(r"[0-9a-f]{8,64}")


@dataclass(frozen=True, slots=True)
class LedgerFile(Home):
    """A bare ledger database; the charter and the card beside it are those of the home at ``root``."""

    file: Path

    @property
    def ledger(self) -> Path:
        return self.file


def readable(parser: CommandParser, command: Command) -> None:
    """Make ``command`` the parser's, able to read another ledger than this home's."""
    parser.add_argument(
        "--ledger",
        type=Path,
        metavar="PATH",
        help="read this ledger: another home, an exported bundle, or a copy of a ledger.db (default: this home's)",
    )
    parser.set_defaults(command=_elsewhere(command))


def _elsewhere(command: Command) -> Callable[[argparse.Namespace, Context], Outcome]:
    @functools.wraps(command)
    def run(args: argparse.Namespace, context: Context) -> Outcome:
        if args.ledger is not None:
            context = replace(context, home=ledger_place(args.ledger, context.home))
        return command(args, context)

    return run


def ledger_place(path: Path, home: Home) -> Home:
    """Where the ledger at ``path`` lies: in a home or a bundle, or by itself beside what ``home`` knows."""
    path = path.expanduser().absolute()
    return Home.at(path) if path.is_dir() else LedgerFile(home.root, path)


def main_and_others(paths: Sequence[Path], context: Context) -> tuple[Context, list[Home]]:
    """This home and the other ledgers named; without a home the first one named takes its place."""
    others = [ledger_place(path, context.home) for path in paths]
    if others and not (context.home.exists() or context.home.ledger.exists()):
        context = replace(context, home=others.pop(0))
    return context, others


@contextmanager
def opened(context: Context) -> Iterator[Store]:
    """The ledger at hand, read-only."""
    require_ledger(context.home)
    with Store.open(context.home.ledger, readonly=True) as store:
        yield store


def require_ledger(home: Home) -> None:
    """Raise ConfigError unless there is a ledger, in a home or without one."""
    if home.ledger.exists():
        return
    require_place(home)
    raise LedgerMissing(f"{home.ledger}: there is no ledger", hint=NO_OLD_COPY)


def require_place(home: Home) -> None:
    """Raise ConfigError unless a ledger lies here, or a home that should have one."""
    if home.ledger.exists():
        return
    if isinstance(home, LedgerFile):
        raise ConfigError(f"{home.file}: no ledger here", hint="name a home, a bundle, or a copy of a ledger.db")
    require_home(home)


class LedgerMissing(ConfigError):
    """A home without its ledger."""

    exit_code = ExitCode.INCOMPLETE


def owner_of(context: Context, store: Store) -> Member | None:
    """Whose ledger this should be: the one on the card beside it, or of a bare copy the member with its log id."""
    if not isinstance(context.home, LedgerFile):
        return present_card(context.home)
    with suppress(CharterElsewhere):
        return next((each for each in members(context) if each.log_id == store.log_id), None)
    return None


def member_names(context: Context) -> dict[bytes, str]:
    """Members by log id, as far as is known here: from the charter, else the card."""
    try:
        # By log id a name is right whichever charter it stands in.
        path = context.home.charter
        known = read_charter(path)[1].charter.members if path.exists() else alone(context)
        return {member.log_id: member.name for member in known}
    except (CharterError, ConfigError) as error:
        context.out.warn(f"names are not shown: {error.message}")
        return {}


def members(context: Context) -> tuple[Member, ...]:
    """Everybody who is known here: the members of the charter, else of the card; raises as reading them does.

    A charter that is not the one that the ledger at hand adopted says nothing of its members: CharterElsewhere.
    """
    path = context.home.charter
    charter = read_charter(path)[1].charter if path.exists() else None
    wanted = _adopted(context.home)
    if charter is None and wanted is None:
        return alone(context)
    if charter is None or wanted not in (None, charter.federation_id):
        found = "not there" if charter is None else f"of federation {charter.federation_id.hex()[:16]}"
        raise CharterElsewhere(
            f"{path}: {found}, and this ledger is of federation {(wanted or b'').hex()[:16]}",
            hint="every member has the same charter file: take theirs, or that in a backup (tar xf FILE charter.note)",
        )
    return charter.members


def alone(context: Context) -> tuple[Member, ...]:
    """Whom the card at hand names."""
    require_place(context.home)
    return (present_card(context.home),)


class CharterElsewhere(CharterError):
    """A ledger without the charter that it was written under."""


def _adopted(home: Home) -> bytes | None:
    """The federation whose charter the ledger at hand adopted, as far as it can be read; a daemon writes that first."""
    with suppress(QuidnuncError):
        if home.ledger.exists():
            with Store.open(home.ledger, readonly=True) as store:
                for header, entry in store.headers(0, _FIRST):
                    record = record_of(header.type, entry.payload)
                    if isinstance(record, CharterAdopt):
                        return record.charter
    return None


def electorate(context: Context, log_id: bytes) -> frozenset[bytes] | None:
    """Log ids of those who may witness the log ``log_id``; None where no charter says who, and all that are known may.

    A charter that cannot be read says nothing here: whoever reads the members from it tells of that.
    """
    if not context.home.charter.exists():
        return None
    try:
        charter = read_charter(context.home.charter)[1].charter
    except (CharterError, ConfigError):
        return None
    if charter.member(log_id) is None:
        return None
    return frozenset(each.log_id for each in charter.witnesses(log_id))


def _makers(store: Store, prefix: str) -> Iterator[Entry]:
    """For every model whose hash begins with ``prefix`` the first entry that made it."""
    seen: set[bytes] = set()
    for entry in store.entries():
        try:
            state = made_state(record_of(parse_header(entry.header).type, entry.payload))
        except Malformed:
            continue
        if state is not None and state not in seen and state.hex().startswith(prefix):
            seen.add(state)
            yield entry


def find_entry(store: Store, ref: str) -> Entry:
    """The entry that ``ref`` names: a number, or the first 8 or more hex digits of its hash or of its model."""
    if ref.isascii() and ref.isdecimal() and len(ref) < _MIN_PREFIX:
        seq = int(ref)
        if seq >= store.size:
            raise UsageError(f"no entry {seq}: the ledger has {store.size}", hint="quidnunc ledger log")
        return store.entry(seq)
    prefix = ref.lower()
    if not _HEX.fullmatch(prefix):
        raise UsageError(
            f"{ref[:70]!r} is neither a sequence number nor {_MIN_PREFIX} to 64 hex digits of an entry's hash"
        )
    found = [entry for entry in store.entries() if entry.leaf.hex().startswith(prefix)]
    if not found:
        found = list(_makers(store, prefix))
    if len(found) != 1:
        listed = ", ".join(entry.leaf.hex()[:16] for entry in found[:8])
        raise UsageError(
            f"{len(found)} entries have a hash that begins with {prefix}",
            hint=listed or "quidnunc ledger log -n 0",
        )
    return found[0]
