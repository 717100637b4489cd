"""What the ``ledger`` commands share: this home's ledger, its entries by reference, and whom this home knows."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from quidnunc.crypto.entry import Entry
from quidnunc.crypto.errors import NO_OLD_COPY, CharterError, ConfigError
from quidnunc.gossip.federation.member import Member
from quidnunc.peer.cli import Context
from quidnunc.peer.commands.files import own_card, read_charter, require_home
from quidnunc.peer.ledger.store import Store
from quidnunc.peer.output import ExitCode, UsageError

_MIN_PREFIX = 8
_HEX = re.compile(r"[0-9a-f]{8,64}")


@contextmanager
def opened(context: Context) -> Iterator[Store]:
    """The ledger of this home, read-only."""
    require_home(context.home)
    if not context.home.ledger.exists():
        raise LedgerMissing(
            f"{context.home.ledger}: there is no ledger",
            hint=NO_OLD_COPY,
        )
    with Store.open(context.home.ledger, readonly=True) as store:
        yield store


class LedgerMissing(ConfigError):
    """A home without its ledger."""

    exit_code = ExitCode.INCOMPLETE


def member_names(context: Context) -> dict[bytes, str]:
    """Members by log id, as far as this home knows: from its charter, else its own card."""
    try:
        return {member.log_id: member.name for member in members(context)}
    except (CharterError, ConfigError) as error:
        context.out.warn(f"names are not shown: {error.message}")
        return {}


def members(context: Context) -> tuple[Member, ...]:
    """Everybody whom this home knows: the members of its charter, else itself; raises as reading them does."""
    if context.home.charter.exists():
        return read_charter(context.home.charter)[1].charter.members
    return (own_card(context.home),)


def find_entry(store: Store, ref: str) -> Entry:
    """The entry that ``ref`` names: a number, or the first 8 or more hex digits of its hash."""
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
    if len(found) != 1:
        listed = ", ".join(entry.leaf.hex()[:16] for entry in found[:8])
        raise UsageError(
            f"{len(found)} entries have a hash that begins with {prefix}",
            hint=listed or "quidnunc ledger log -n 0",
        )
    return found[0]
