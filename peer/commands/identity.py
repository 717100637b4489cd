"""``quidnunc id``: who this peer is, and where its things lie."""

from __future__ import annotations

import argparse

from quidnunc.peer.cli import CommandParser, Context
from quidnunc.peer.commands.files import own_card
from quidnunc.peer.naming import fingerprint, peer_id
from quidnunc.peer.output import Outcome


def register(parser: CommandParser) -> None:
    """No arguments of its own."""
    parser.set_defaults(command=identity)


def identity(args: argparse.Namespace, context: Context) -> Outcome:
    """Name, log id, PeerID, fingerprint, keys and paths, read from the card."""
    home = context.home
    member = own_card(home)
    paths = {
        "home": home.root,
        "config": home.config,
        "card": home.card,
        "charter": home.charter,
        "root_key": home.root_key,
        "operational_key": home.operational_key,
        "ledger": home.ledger,
        "socket": home.socket(),
    }
    data = {
        "name": member.name,
        "log_id": member.log_id.hex(),
        "peer_id": peer_id(member.transport),
        "fingerprint": fingerprint(member.log_id),
        "keys": {
            "root": member.root.hex(),
            "log": member.log.hex(),
            "witness": member.witness.hex(),
            "transport": member.transport.hex(),
        },
        "addresses": list(member.addresses),
        "paths": {name: str(path) for name, path in paths.items()},
        "present": {name: path.exists() for name, path in paths.items()},
    }
    facts = {"name": member.name, "log id": data["log_id"], "PeerID": data["peer_id"]}
    shown = {**facts, "fingerprint": data["fingerprint"]}
    shown |= {name: f"{path}{'' if path.exists() else '   (not there)'}" for name, path in paths.items()}
    lines = [f"{name.replace('_', ' '):16} {text}" for name, text in shown.items()]
    return Outcome(data, lines)
