"""One privacy account for records that several homes of one machine train on.

An account is a ledger's, and a ledger a home's. Homes on the same records name each other in ``privacy.shared_homes``:
each then counts what the others' ledgers have spent as if its own had, and none starts while another one runs, so that
no spend is missed. Naming has to be mutual, else the other home would start beside this one. It carries on: what a
named home names is on the same records too, and counts although only that home names it.
"""

from __future__ import annotations

from collections import Counter, deque

from quidnunc.crypto.errors import ConfigError, LedgerCorrupt
from quidnunc.gossip.jobs import Release, Spent
from quidnunc.peer.config import Config, load
from quidnunc.peer.home import Home
from quidnunc.peer.ledger.spends import spends
from quidnunc.peer.ledger.store import ORIGIN, Store

KEY = "privacy.shared_homes"


def spent_elsewhere(home: Home, config: Config, *, looking: bool = False) -> Spent:
    """What the homes that ``config`` leads to have spent. Call it under the lock of ``home``, or ``looking`` only.

    Raises ConfigError for one that is not there, does not name in turn who names it, or runs, unless this is only
    ``looking``; LedgerCorrupt for a ledger that cannot be read: what cannot be counted is not taken for nothing.
    """
    found: Counter[Release] = Counter()
    for other in _group(home, config):
        _require_stopped(other, looking)
        found.update(_spends(other))
    return tuple(sorted(found.items()))


def _group(home: Home, config: Config) -> list[Home]:
    """All homes that lead to ``home`` by names, nearest first; each names, and is named by, the one it was found by."""
    seen = {_real(home)}
    found: list[Home] = []
    waiting = deque([(home, config)])
    while waiting:
        one, own = waiting.popleft()
        for other in _named(one, own):
            theirs = _mutual(one, other)
            if _real(other) not in seen:
                seen.add(_real(other))
                found.append(other)
                waiting.append((other, theirs))
    return found


def _named(home: Home, config: Config) -> list[Home]:
    """The homes that ``config``, that of ``home``, names; raises ConfigError where it names one twice, or itself."""
    seen = {_real(home)}
    found = [Home.at(path) for path in config.privacy.shared_homes]
    for other in found:
        if _real(other) in seen:
            raise ConfigError(
                f"{KEY} of {home.config}: {other.root} is this home, or stands there twice",
                hint="name each other home once",
            )
        seen.add(_real(other))
    return found


def _mutual(home: Home, other: Home) -> Config:
    """The configuration of ``other``, which ``home`` names; raises ConfigError unless it names ``home`` in turn."""
    if not other.config.exists() or not other.ledger.exists():
        raise ConfigError(
            f"{KEY} of {home.config}: {other.root}: no home with a ledger, so that what it spent cannot be counted",
            hint="name the directory of a peer, and leave it out only if it never trained on these records",
        )
    theirs = load(other.config)
    if _real(home) not in {_real(Home.at(path)) for path in theirs.privacy.shared_homes}:
        raise ConfigError(
            f"{KEY}: {other.root} does not name {home.root} in turn, and would not count what is spent there",
            hint=f"add {home.root} to {KEY} in {other.config}",
        )
    return theirs


def _require_stopped(other: Home, looking: bool) -> None:
    holder = other.locked_by()
    if holder is not None and not looking:
        raise ConfigError(
            f"{KEY}: process {holder or 'unknown'} runs {other.root} on the same records",
            hint="stop it first: homes that share an account run one at a time",
        )


def _spends(other: Home) -> Counter[Release]:
    found: Counter[Release] = Counter()
    with Store.open(other.ledger, readonly=True) as store:
        if not store.size and store.get_meta(ORIGIN) is not None:
            raise ConfigError(
                f"{KEY}: the ledger of {other.root} is not back yet, so that what it spent cannot be counted",
                hint="run that home first: its neighbors give its entries back",
            )
        try:
            found.update(spend.record.kind for spend in spends(store))
        except LedgerCorrupt as error:
            raise LedgerCorrupt(error.seq, f"{other.ledger}: {error.why}") from error
    return found


def _real(home: Home) -> str:
    return str(home.root.resolve())
