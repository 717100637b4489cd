"""``quidnunc key rotate`` and ``revoke``: another log key under the same charter, by the organization's root key."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, TypeVar

from quidnunc.crypto.entry import Entry, Header
from quidnunc.crypto.errors import RemoteProtocolError
from quidnunc.crypto.identity import Role, SecretKey, derive_seed
from quidnunc.crypto.log import Log
from quidnunc.crypto.log_keys import LogKeys
from quidnunc.gossip.federation.member import Member
from quidnunc.gossip.key_change import KEY_CHANGES_MAX, KeyRevoke, KeyRotate, follow, revoke, rotate
from quidnunc.peer import keys
from quidnunc.peer.cli import CommandParser, Context
from quidnunc.peer.commands.files import own_card, require_home
from quidnunc.peer.commands.ledger_home import require_ledger
from quidnunc.peer.commands.signing import root_key
from quidnunc.peer.commands.stopped import stopped_log
from quidnunc.peer.commands.unlocking import add_flags, source
from quidnunc.peer.ledger.ending import require_open
from quidnunc.peer.ledger.key_track import CHANGES
from quidnunc.peer.ledger.store import Store
from quidnunc.peer.output import Outcome, Styled, UsageError

Change = TypeVar("Change", KeyRotate, KeyRevoke)

_UINT_MAX = 2**64 - 1
_NEXT = "  start the peer: it shows its neighbors the entry, and they take the new key from it"


def register(add: Callable[..., CommandParser]) -> None:
    """The arguments of both words."""
    below = _common(add("rotate", help="sign this log with the next log key from here on, by the root key"))
    below.set_defaults(command=rotate_key)
    below = _common(add("revoke", help="say from where on an earlier log key counts no more, by the root key"))
    below.add_argument("--epoch", type=int, required=True, metavar="E", help="the epoch of that key, from 0")
    below.add_argument("--since", type=int, required=True, metavar="N", help="the last size of the log that it signed")
    below.set_defaults(command=revoke_key)


def _common(parser: CommandParser) -> CommandParser:
    parser.add_argument("--key", type=Path, metavar="FILE", help="the root key (default: this home's)")
    add_flags(parser)
    return parser


class _Signing(NamedTuple):
    """What an entry by the root key takes."""

    member: Member
    root: SecretKey
    secret: bytes

    def log_key(self, epoch: int) -> SecretKey:
        return SecretKey(derive_seed(self.secret, Role.LOG, epoch))


def rotate_key(args: argparse.Namespace, context: Context) -> Outcome:
    """Write the entry that brings in the key of the next epoch; the peer must not run. Asks before."""
    signing = _open(args, context)
    if not context.agreed("the root key signs: this", f"replace the log key of {signing.member.name}?"):
        return Outcome({"rotated": False}, ["nothing was changed"])

    def make(log: Log, now: LogKeys) -> KeyRotate:
        epoch = now.epoch + 1
        return rotate(signing.root, log.log_id, log.size, epoch, signing.log_key(epoch))

    seq, record = _commit(context, signing, make)
    data = {"rotated": True, "entry": seq, "epoch": record.epoch, "public": record.public.hex()}
    told = f"log key {record.epoch}, {record.public.hex()[:16]}, signs this log behind entry {seq}"
    return Outcome(data, [Styled(told, "good"), _NEXT])


def revoke_key(args: argparse.Namespace, context: Context) -> Outcome:
    """Write the entry that takes an earlier key's word back; the peer must not run. Asks before."""
    signing = _open(args, context)
    if not (0 <= args.epoch <= _UINT_MAX and 0 <= args.since <= _UINT_MAX):
        raise UsageError(f"--epoch {args.epoch} and --since {args.since} count from 0 to {_UINT_MAX}")
    question = f"revoke log key {args.epoch} of {signing.member.name} from {args.since} entries on?"
    if not context.agreed("the root key signs: this", question):
        return Outcome({"revoked": False}, ["nothing was changed"])

    def make(log: Log, now: LogKeys) -> KeyRevoke:
        record = revoke(signing.root, log.log_id, log.size, args.epoch, args.since)
        try:
            follow(now, record, log.log_id, log.size, signing.root.public)
        except RemoteProtocolError as error:
            raise UsageError(error.message, hint="the epochs and what they signed: quidnunc ledger status") from None
        return record

    seq, record = _commit(context, signing, make)
    data = {"revoked": True, "entry": seq, "epoch": record.epoch, "since": record.since}
    told = f"what log key {record.epoch} signed beyond {record.since} entries counts no more, says entry {seq}"
    return Outcome(data, [Styled(told, "good"), _NEXT])


def _open(args: argparse.Namespace, context: Context) -> _Signing:
    home = context.home
    require_home(home)
    require_ledger(home)
    with Store.open(home.ledger, readonly=True) as store:
        require_open(store)
        if not store.size:
            raise UsageError(f"{home.ledger}: nothing was signed yet", hint="make a new home instead")
    member = own_card(home)
    phrase = source(args, context).present
    root = root_key(args.key or home.root_key, member, phrase)
    return _Signing(member, root, keys.load(home.operational_key, "operational", phrase))


def _commit(context: Context, signing: _Signing, make: Callable[[Log, LogKeys], Change]) -> tuple[int, Change]:
    """Append what ``make`` makes of the log and its keys, under a checkpoint by the key that is valid now."""
    changes: list[int] = []

    def count(header: Header, entry: Entry) -> None:
        if header.type in CHANGES:
            changes.append(header.seq)

    with stopped_log(context.home, signing.secret, count) as stopped:
        if len(changes) >= KEY_CHANGES_MAX:
            raise UsageError(
                f"{context.home.ledger}: its keys have changed {len(changes)} times, others take in {KEY_CHANGES_MAX}",
                hint="end this log, and begin another: quidnunc ledger retire",
            )
        record = make(stopped.log, stopped.store.keys)
        return stopped.commit(record), record
