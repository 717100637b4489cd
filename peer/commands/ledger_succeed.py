"""``quidnunc ledger succeed``: end this log and begin another under the same root key, on the same privacy account."""

from __future__ import annotations

import argparse
import functools
import os
from pathlib import Path

from quidnunc.crypto.errors import ConfigError
from quidnunc.crypto.keyfile import LockedKeyFile
from quidnunc.gossip.retirement import RetireReason
from quidnunc.peer import config, keys
from quidnunc.peer.cli import CommandParser, Context
from quidnunc.peer.commands.files import own_card, require_home
from quidnunc.peer.commands.init import write_home
from quidnunc.peer.commands.ledger_home import require_ledger
from quidnunc.peer.commands.ledger_retire import end_log, spent_data
from quidnunc.peer.commands.signing import root_key
from quidnunc.peer.commands.unlocking import add_flags, source
from quidnunc.peer.config_text import with_values
from quidnunc.peer.files import PRIVATE_FILE, atomic_write, unwritable
from quidnunc.peer.home import Home
from quidnunc.peer.home_name import quidnunc
from quidnunc.peer.ledger.ending import require_open
from quidnunc.peer.ledger.store import Store
from quidnunc.peer.output import Line, Outcome, Styled
from quidnunc.peer.shared_account import KEY


def register(parser: CommandParser) -> None:
    """The arguments of ``ledger succeed``."""
    parser.add_argument("--into", type=Path, required=True, metavar="DIR", help="the new home, which is not there yet")
    words = [reason.label for reason in RetireReason]
    parser.add_argument("--reason", choices=words, required=True, help="why this log ends; goes into the ledger")
    parser.add_argument("--key", type=Path, metavar="FILE", help="the root key (default: this home's)")
    add_flags(parser)
    parser.set_defaults(command=succeed)


def succeed(args: argparse.Namespace, context: Context) -> Outcome:
    """A new home with new keys and an empty log, which this log names as it ends; the peer must not run. Asks before.

    The two homes name each other in ``privacy.shared_homes``: what was spent here counts there, to the last release.
    """
    home, heir = context.home, Home.at(args.into)
    require_home(home)
    require_ledger(home)
    member = own_card(home)
    if heir.exists():
        raise ConfigError(
            f"{heir.root}: a peer lives here already",
            hint="name another directory, or name that one's card: quidnunc ledger retire --successor",
        )
    _require_room(heir.root)
    with Store.open(home.ledger, readonly=True) as store:
        require_open(store)
    phrase = functools.cache(source(args, context).present)  # a descriptor gives it once
    root = root_key(args.key or home.root_key, member, phrase)
    secret = keys.load(home.operational_key, "operational", phrase)
    settings, text = _new_config(home, heir), _old_config(home, heir)
    question = f"end this log of {member.name} for good and go on with a new one in {heir.root}?"
    if not context.agreed("succeed", question):
        return Outcome({"succeeded": False}, ["nothing was changed"])
    locked = isinstance(keys.read(home.operational_key, "operational"), LockedKeyFile)
    new_phrase = phrase() if locked else None
    with home.lock():
        # In this order a call that is cut short leaves a log that goes on, never one that has ended without an heir.
        named = write_home(
            heir, member.name, root, settings, new_phrase, member.size_bucket, member.addresses, keep_root=False
        )
        atomic_write(home.config, text.encode(), PRIVATE_FILE, replace=True)
    seq, spent_u = end_log(home, secret, root, args.reason, named)
    data = {
        "succeeded": True,
        "entry": seq,
        "reason": args.reason,
        "successor": named.log_id.hex(),
        "home": str(heir.root),
        "card": str(heir.card),
        **spent_data(spent_u),
    }
    others = config.load(home.config).privacy.shared_homes[:-1]
    lines: list[Line] = [
        Styled(f"log {named.log_id.hex()[:16]} goes on for {member.name}; this one ends with entry {seq}", "good"),
        f"  its home is {heir.root}; what was spent here counts there as long as this home stays where it is",
        *(f"  add {heir.root} to {KEY} of {other}" for other in others),
        "  destroy older backups of this home: a peer that is restored from one would sign a second history",
        "next:",
        f"  {quidnunc(home)} ledger farewell        tells the neighbors that this log has ended",
        "  a log is of one federation: the other members make new ones too (quidnunc ledger succeed --reason moved),",
        f"  and with {heir.card} their cards found the next: quidnunc federation create CARD ... --from-model FILE",
    ]
    return Outcome(data, lines)


def _require_room(root: Path) -> None:
    """Keys and a ledger between other files would be a home that somebody tidies away."""
    try:
        taken = os.path.lexists(root) and (not root.is_dir() or any(root.iterdir()))
    except OSError as error:
        raise unwritable(root, error) from error
    if taken:
        raise ConfigError(f"{root}: is there already, and is no empty directory", hint="name another one with --into")


def _new_config(home: Home, heir: Home) -> str:
    """The configuration of the new home: that of the old one, which it names."""
    found = config.load(home.config)
    shared = (str(home.root), *found.privacy.shared_homes)
    text = config.render(config.with_shared_homes(found, shared))
    config.parse(text, str(heir.config))
    return text


def _old_config(home: Home, heir: Home) -> str:
    """The configuration of the old home with the new one named; raises ConfigError where the file is not that plain."""
    found = config.load(home.config)
    shared = (*found.privacy.shared_homes, str(heir.root))
    text = with_values(home.config.read_text(encoding="utf-8"), {KEY: shared})
    if config.parse(text, str(home.config)) != config.with_shared_homes(found, shared):
        raise ConfigError(
            f"{home.config}: {KEY} does not stand on one line", hint="write it on one line, and try again"
        )
    return text
