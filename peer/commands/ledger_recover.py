"""``quidnunc ledger recover``: a home whose ledger is lost, and whose keys are not, gets it back from its neighbors."""

from __future__ import annotations

import argparse
from pathlib import Path

from quidnunc.crypto.errors import KeyFileError, LedgerCorrupt
from quidnunc.crypto.identity import Role, SecretKey, derive_seed
from quidnunc.peer import keys
from quidnunc.peer.cli import CommandParser, Context
from quidnunc.peer.commands.files import own_card, own_place, read_charter
from quidnunc.peer.commands.unlocking import add_flags, source
from quidnunc.peer.files import fsync_dir, unwritable
from quidnunc.peer.home import Home
from quidnunc.peer.home_name import quidnunc
from quidnunc.peer.ledger.store import LOST, ORIGIN, Store
from quidnunc.peer.output import Line, Outcome, Styled, UsageError

_BESIDE = ("", "-wal", "-shm")


def register(parser: CommandParser) -> None:
    """The arguments of ``ledger recover``."""
    add_flags(parser)
    parser.set_defaults(command=recover)


def recover(args: argparse.Namespace, context: Context) -> Outcome:
    """Put an empty ledger in place of one that is gone or damaged, which begins only with what neighbors give back.

    The peer must not run. Nothing is deleted: what is there is kept under another name. Asks before.
    """
    home = context.home
    member = own_card(home)
    own_place(home, read_charter(home.charter)[1].charter)
    secret = keys.load(home.operational_key, "operational", source(args, context).present)
    if SecretKey(derive_seed(secret, Role.LOG, 0)).public != member.log:
        raise KeyFileError(f"{home.operational_key}: not the key of the log on {home.card}")
    with home.lock():
        why = _wrong(home)
        talk = [f"{why}; a backup, if there is one, has more: quidnunc --home DIR restore FILE"]
        if not context.agreed("recover", "begin again with what the neighbors know of this ledger?", talk):
            return Outcome({"recovering": False}, ["nothing was changed"])
        aside = _put_aside(home)
        Store.create(home.ledger, member.log_id, member.log, lost=True).close()
    data = {"recovering": True, "why": why, "kept": None if aside is None else str(aside)}
    lines: list[Line] = [
        Styled(f"the ledger of {member.name} is to come back from its neighbors", "good"),
        *([] if aside is None else [f"  the damaged one is kept as {aside}"]),
        f"  next: {quidnunc(home)} run",
        "  it signs nothing before a quorum of neighbors has answered and every entry they know of is back;",
        "  private parts, and what no neighbor ever heard of, are lost; the privacy that was spent stays spent",
    ]
    return Outcome(data, lines)


def _wrong(home: Home) -> str:
    """What is wrong with the ledger; raises UsageError if nothing is."""
    if not home.ledger.exists():
        return f"{home.ledger} is missing"
    try:
        with Store.open(home.ledger) as store:
            size, lost = store.size, store.get_meta(ORIGIN) == LOST
    except LedgerCorrupt as error:
        return error.message
    if lost and not size:
        raise UsageError(f"{home.ledger}: waits for its entries already", hint=f"start the peer: {quidnunc(home)} run")
    raise UsageError(
        f"{home.ledger}: opens, and its {size} entries are those that were signed",
        hint="an older copy takes back what it lacks when the peer starts",
    )


def _put_aside(home: Home) -> Path | None:
    """Rename what is there, the database last, so that a call that was cut short can be made again."""
    if not home.ledger.exists():
        return None
    number = 1
    while (aside := home.ledger.with_name(f"{home.ledger.name}.lost-{number}")).exists():
        number += 1
    try:
        for suffix in reversed(_BESIDE):
            path = home.ledger.with_name(home.ledger.name + suffix)
            if path.exists():
                path.rename(aside.with_name(aside.name + suffix))
        fsync_dir(home.ledger.parent)
    except OSError as error:
        raise unwritable(aside, error) from error
    return aside
