"""``quidnunc ledger erase``: remove payloads behind their commitments; the entries stay, and so does every proof."""

from __future__ import annotations

import argparse
from typing import Any

from quidnunc.crypto.entry import Entry, Header
from quidnunc.gossip.erasure import EraseReason, erased_by, why_not
from quidnunc.gossip.provenance import PayloadErased
from quidnunc.peer import keys
from quidnunc.peer.cli import CommandParser, Context
from quidnunc.peer.commands.entry_view import entry_line
from quidnunc.peer.commands.files import require_home
from quidnunc.peer.commands.ledger_home import member_names, opened
from quidnunc.peer.commands.stopped import stopped_log
from quidnunc.peer.commands.unlocking import add_flags, source
from quidnunc.peer.ledger.ending import require_open
from quidnunc.peer.output import ExitCode, Line, Outcome, Styled, UsageError

ENTRIES_MAX = 4096
"""Entries that one call erases: what one ``payload.erased`` can name."""

_STAYS = (
    "  what stays: the headers (number, time, type, sizes, commitment) and every proof",
    "  copies that others hold, in backups and in exports are not reached",
)


def register(parser: CommandParser) -> None:
    """The arguments of ``ledger erase``."""
    add = parser.add_argument
    add("seqs", nargs="+", type=int, metavar="SEQ", help="numbers of the entries")
    add("--reason", choices=[reason.name.lower() for reason in EraseReason], required=True, help="goes into the ledger")
    add_flags(parser)
    parser.set_defaults(command=erase)


def erase(args: argparse.Namespace, context: Context) -> Outcome:
    """Write into the ledger that the payloads are erased, and erase them; the peer must not run. Asks before."""
    require_home(context.home)
    wanted = sorted(set(args.seqs))
    if len(wanted) > ENTRIES_MAX:
        raise UsageError(f"{len(wanted)} entries, at most {ENTRIES_MAX} are erased at once")
    names = member_names(context)
    with opened(context) as store:
        require_open(store)
        refused = why_not(store.entries(), wanted)
        if refused:
            lines: list[Line] = [f"entry {seq} cannot be erased: {why}" for seq, why in sorted(refused.items())]
            data = {"erased": [], "refused": {str(seq): why for seq, why in sorted(refused.items())}}
            message = f"{len(refused)} of {len(wanted)} entries cannot be erased; nothing was changed"
            return Outcome(data, lines, ExitCode.NOT_PERMITTED, message, "leave them out; see docs/wire.md, section 5")
        shown = [entry_line(store.entry(seq), names) for seq in wanted]
    if not context.agreed("erase", f"erase {len(shown)} payloads for good?", shown):
        return Outcome({"erased": [], "refused": {}}, ["nothing was erased"])
    secret = _secret(args, context)
    named: dict[int, int] = {}

    def note(header: Header, entry: Entry) -> None:
        named.update(dict.fromkeys(erased_by(header.type, entry.payload), header.seq))

    with stopped_log(context.home, secret, note) as stopped:
        # A call that was cut short is finished by another, without a second entry.
        missing = tuple(each for each in wanted if each not in named)
        reason = EraseReason[args.reason.upper()]
        seq = stopped.commit(PayloadErased(missing, int(reason))) if missing else max(named[each] for each in wanted)
        stopped.store.erase(wanted)
    told = f"payloads of {len(wanted)} entries are erased; entry {seq} says so"
    done: dict[str, Any] = {"erased": wanted, "refused": {}, "entry": seq, "reason": args.reason}
    return Outcome(done, [Styled(told, "good"), *_STAYS])


def _secret(args: argparse.Namespace, context: Context) -> bytes:
    return keys.load(context.home.operational_key, "operational", source(args, context).present)
