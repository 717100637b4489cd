"""``quidnunc key rotate`` and ``revoke``: another log key under the same charter, by the organization's root key."""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, TypeVar

from quidnunc.crypto.errors import KeyFileError, RemoteProtocolError
from quidnunc.crypto.identity import Role, SecretKey, derive_seed
from quidnunc.crypto.log import Log
from quidnunc.crypto.log_keys import LogKeys
from quidnunc.gossip.federation.member import Member
from quidnunc.gossip.key_change import KEY_CHANGES_MAX, KeyRevoke, KeyRotate, follow, revoke, rotate
from quidnunc.gossip.provenance import payload_of
from quidnunc.peer import keys
from quidnunc.peer.cli import CommandParser, Context
from quidnunc.peer.commands.files import own_card, require_home
from quidnunc.peer.commands.ledger_home import require_ledger
from quidnunc.peer.commands.signing import agreed, root_key
from quidnunc.peer.commands.unlocking import add_flags, source
from quidnunc.peer.ledger.ending import require_open
from quidnunc.peer.ledger.key_track import CHANGES
from quidnunc.peer.ledger.store import Store
from quidnunc.peer.output import Outcome, Styled, UsageError

Change = TypeVar("Change", KeyRotate, KeyRevoke)

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
    if not agreed(f"replace the log key of {signing.member.name}?", context):
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
    if min(args.epoch, args.since) < 0:
        raise UsageError("--epoch and --since count from 0")
    if not agreed(f"revoke log key {args.epoch} of {signing.member.name} from {args.since} entries on?", context):
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
    home = context.home
    with home.lock(), Store.open(home.ledger) as store:
        require_open(store)
        now = store.keys
        key = signing.log_key(now.epoch)
        if key.public != now.spans[-1].public:
            raise KeyFileError(f"{home.operational_key}: not the key of this ledger")
        log, changes = Log(store.log_id), 0
        for entry in store.entries():
            changes += log.replay(entry).type in CHANGES
        if changes >= KEY_CHANGES_MAX:
            raise UsageError(
                f"{home.ledger}: its keys have changed {changes} times, others take in {KEY_CHANGES_MAX}",
                hint="end this log, and begin another: quidnunc ledger retire",
            )
        record = make(log, now)
        seq, t_ms = log.size, int(time.time() * 1000)
        entry = log.append(
            record.TYPE, payload_of(record), salt=os.urandom(16), t_ms=t_ms, key_epoch=now.epoch_at(seq + 1)
        )
        store.commit([entry], log.checkpoint(key))
    return seq, record
