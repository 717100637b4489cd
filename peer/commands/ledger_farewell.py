"""``quidnunc ledger farewell``: tell the neighbors, over the network, that this log has ended."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from quidnunc.peer import keys
from quidnunc.peer.cli import CommandParser, Context
from quidnunc.peer.commands.files import require_home
from quidnunc.peer.commands.ledger_home import require_ledger
from quidnunc.peer.commands.unlocking import add_flags, source
from quidnunc.peer.config import load
from quidnunc.peer.ledger.ending import retirement
from quidnunc.peer.ledger.store import Store
from quidnunc.peer.output import ExitCode, Line, Outcome, Styled, UsageError

if TYPE_CHECKING:
    from quidnunc.gossip.federation.charter import Charter
    from quidnunc.gossip.federation.member import Member

PATIENCE_S = 30.0
REDIAL_MAX_S = 1.0
"""Neighbors that know of the end look for this peer no more: it has to go to them at once."""


def register(parser: CommandParser) -> None:
    """The arguments of ``ledger farewell``."""
    add_flags(parser)
    parser.set_defaults(command=farewell)


def farewell(args: argparse.Namespace, context: Context) -> Outcome:
    """Show every neighbor that can be reached the last entry; those who were told pass it on. Again is no harm."""
    import trio

    from quidnunc.peer.daemon import make_overlay
    from quidnunc.peer.farewell import Farewell
    from quidnunc.peer.membership import Keys, load_charter

    home = context.home
    require_home(home)
    require_ledger(home)
    role_keys = Keys.derive(keys.load(home.operational_key, "operational", source(args, context).present))
    charter, member, _ = load_charter(home.charter, role_keys)
    with home.lock(), Store.open(home.ledger, readonly=True) as store:
        if retirement(store) is None:
            raise UsageError(
                f"{home.ledger}: this log goes on: there is no end to tell of",
                hint="end it first with: quidnunc ledger retire --reason ended",
            )
        overlay = make_overlay(charter, member, role_keys, load(home.config), redial_max_s=REDIAL_MAX_S)
        talk = Farewell(charter, member.log_id, overlay, store)
        trio.run(talk.run, context.timeout_s or PATIENCE_S)
    return _outcome(charter, member, talk.told, talk.cosigned)


def _outcome(charter: Charter, member: Member, told: set[bytes], cosigned: set[bytes]) -> Outcome:
    neighbors = charter.neighbors(member.log_id)
    rows = [
        {"name": each.name, "told": each.transport in told, "cosigned": each.transport in cosigned}
        for each in neighbors
    ]
    missed = [each.name for each in neighbors if each.transport not in told]
    data = {"neighbors": rows}
    lines: list[Line] = [
        f"  {row['name']}: {'told' if row['told'] else 'not reached'}{', cosigned the end' if row['cosigned'] else ''}"
        for row in rows
    ]
    if not missed:
        return Outcome(data, [Styled("every neighbor knows that this log has ended", "good"), *lines])
    return Outcome(
        data,
        lines,
        ExitCode.DEGRADED,
        f"not reached: {', '.join(missed)}",
        "those that were told pass it on; or try again when they are up",
    )
