"""``quidnunc version``: of the program and of every format that outlives it."""

from __future__ import annotations

import argparse
import platform

from quidnunc.crypto.entry import HEADER_VERSION
from quidnunc.crypto.identity import DOMAIN
from quidnunc.gossip.federation import charter
from quidnunc.gossip.journal import frames as journal
from quidnunc.peer import config
from quidnunc.peer.cli import CommandParser, Context
from quidnunc.peer.output import Outcome
from quidnunc.peer.release import program_version


def register(parser: CommandParser) -> None:
    """No arguments of its own."""
    parser.set_defaults(command=version)


def version(args: argparse.Namespace, context: Context) -> Outcome:
    """Versions of program, protocol, ledger entries, charter, configuration, journal and Python."""
    data = {
        "app": program_version(),
        "protocol": DOMAIN.rstrip("/"),
        "ledger_format": HEADER_VERSION,
        "charter_format": charter.VERSION,
        "config_format": config.VERSION,
        "journal_format": journal.VERSION,
        "python": platform.python_version(),
    }
    lines = [
        f"quidnunc {data['app']}",
        f"protocol {data['protocol']}, ledger format {HEADER_VERSION}, charter format {charter.VERSION}, "
        f"config format {config.VERSION}, journal format {journal.VERSION}, Python {data['python']}",
    ]
    return Outcome(data, lines)
