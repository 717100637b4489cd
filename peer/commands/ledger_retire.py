"""``quidnunc ledger retire``: the last entry of this log, signed by the organization's root key."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

from quidnunc.crypto.entry import Entry, Header
from quidnunc.crypto.errors import CharterError
from quidnunc.crypto.identity import SecretKey
from quidnunc.gossip.federation.member import Member
from quidnunc.gossip.jobs import Unit
from quidnunc.gossip.provenance import PrivacySpend
from quidnunc.gossip.retirement import RetireReason, retire
from quidnunc.peer import keys
from quidnunc.peer.cli import CommandParser, Context
from quidnunc.peer.commands.entry_view import record_of
from quidnunc.peer.commands.files import own_card, read_card, require_home
from quidnunc.peer.commands.ledger_home import require_ledger
from quidnunc.peer.commands.signing import root_key
from quidnunc.peer.commands.stopped import stopped_log
from quidnunc.peer.commands.unit_words import SUFFIX, epsilons
from quidnunc.peer.commands.unlocking import add_flags, source
from quidnunc.peer.home import Home
from quidnunc.peer.ledger.ending import require_open
from quidnunc.peer.ledger.store import Store
from quidnunc.peer.output import Line, Outcome, Styled, UsageError


def register(parser: CommandParser) -> None:
    """The arguments of ``ledger retire``."""
    words = [reason.label for reason in RetireReason]
    parser.add_argument("--reason", choices=words, required=True, help="goes into the ledger")
    parser.add_argument(
        "--successor", type=Path, metavar="CARD", help="the card of the log that goes on, same root key"
    )
    parser.add_argument("--key", type=Path, metavar="FILE", help="the root key (default: this home's)")
    add_flags(parser)
    parser.set_defaults(command=retire_log)


def retire_log(args: argparse.Namespace, context: Context) -> Outcome:
    """End this log for good: nothing can be added to it, and no peer starts from it. Asks before."""
    home = context.home
    require_home(home)
    require_ledger(home)
    member = own_card(home)
    heir = None if args.successor is None else _heir(args.successor, member)
    phrase = source(args, context).present
    with Store.open(home.ledger, readonly=True) as store:
        require_open(store)
    root = root_key(args.key or home.root_key, member, phrase)
    secret = keys.load(home.operational_key, "operational", phrase)
    goes_on = "nothing goes on" if heir is None else f"log {heir.log_id.hex()[:16]} goes on"
    if not context.agreed("retire", f"end log {member.log_id.hex()[:16]} of {member.name} for good, {goes_on}?"):
        return Outcome({"retired": False}, ["nothing was retired"])
    seq, spent_u = end_log(home, secret, root, args.reason, heir)
    data = {
        "retired": True,
        "entry": seq,
        "reason": args.reason,
        "successor": None if heir is None else heir.log_id.hex(),
        **spent_data(spent_u),
    }
    return Outcome(data, _lines(seq, heir, spent_u))


def end_log(
    home: Home, secret: bytes, root: SecretKey, reason: str, heir: Member | None
) -> tuple[int, dict[Unit, int]]:
    """Write the last entry of a stopped peer's log; its number, and the epsilon spent by unit, in millionths."""
    spent_u: dict[Unit, int] = {}

    def count(header: Header, entry: Entry) -> None:
        if header.type == PrivacySpend.TYPE and not entry.erased:
            record = record_of(header.type, entry.payload)
            if isinstance(record, PrivacySpend):
                spent_u[record.unit] = record.cumulative_u

    with stopped_log(home, secret, count) as stopped:
        why = next(each for each in RetireReason if each.label == reason)
        successor = None if heir is None else heir.log_id
        return stopped.commit(retire(root, stopped.store.log_id, stopped.log.size, why, successor)), spent_u


def spent_data(spent_u: Mapping[Unit, int]) -> dict[str, float]:
    """What a log has spent, JSON-ready."""
    return epsilons(spent_u)


def _lines(seq: int, heir: Member | None, spent_u: dict[Unit, int]) -> list[Line]:
    lines: list[Line] = [
        Styled(f"this log ends with entry {seq}", "good"),
        "  what stays: every entry, checkpoint and proof; all commands that read go on",
        "  nobody was told yet: do that with quidnunc ledger farewell",
        "  destroy older backups of this home: a peer that is restored from one would sign a second history",
    ]
    if heir is not None:
        lines.append(f"  log {heir.log_id.hex()[:16]} goes on: a new charter has to take its card in")
    for unit, micro in sorted(spent_u.items()):
        whom = SUFFIX[unit] or " of these data"
        lines.append(
            f"  epsilon {micro / 1e6:.3f}{whom} stays spent: let successor and this home name each other in "
            "privacy.shared_homes, or lower privacy.epsilon_cap of the successor by it"
        )
    return lines


def _heir(path: Path, member: Member) -> Member:
    """Who goes on: the same organization with another log; raises CharterError for anybody else."""
    heir = read_card(path)
    if heir.root != member.root:
        raise CharterError(
            f"{path}: its root key is {heir.root.hex()[:16]}, that of {member.name} is {member.root.hex()[:16]}",
            hint="make the successor's home with: quidnunc --home DIR init --root-key FILE",
        )
    if heir.log_id == member.log_id:
        raise UsageError(f"{path}: is the card of the log that is to be retired")
    return heir
