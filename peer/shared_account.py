"""One privacy account for records that several homes of one machine train on.

An account is a ledger's, and a ledger a home's. Homes on the same records name each other in ``privacy.shared_homes``:
each then counts what the others' ledgers have spent as if its own had, and none starts while another one runs, so that
no spend is missed. Naming has to be mutual, else the other home would start beside this one.
"""

from __future__ import annotations

from collections import Counter

from quidnunc.crypto.errors import ConfigError, LedgerCorrupt
from quidnunc.gossip.jobs import Release, Spent
from quidnunc.peer.config import Config, load
from quidnunc.peer.home import Home
from quidnunc.peer.ledger.spends import spends
from quidnunc.peer.ledger.store import ORIGIN, Store

KEY = "privacy.shared_homes"


def spent_elsewhere(home: Home, config: Config, *, looking: bool = False) -> Spent:
    """What the homes that ``config`` names have spent. Call it under the lock of ``home``, or ``looking`` only.

    Raises ConfigError for one that is not there, does not name ``home`` in turn, or runs, unless this is only
    ``looking``; LedgerCorrupt for a ledger that cannot be read: what cannot be counted is not taken for nothing.
    """
    found: Counter[Release] = Counter()
    seen = {_real(home)}
    for path in config.privacy.shared_homes:
        other = Home.at(path)
        if _real(other) in seen:
            raise ConfigError(f"{KEY}: {path} is this home, or stands there twice", hint="name each other home once")
        seen.add(_real(other))
        _check(home, other, looking)
        found.update(_spends(other))
    return tuple(sorted(found.items()))


def _check(home: Home, other: Home, looking: bool) -> None:
    if not other.config.exists() or not other.ledger.exists():
        raise ConfigError(
            f"{KEY}: {other.root}: no home with a ledger, so that what it spent cannot be counted",
            hint="name the directory of a peer, and leave it out only if it never trained on these records",
        )
    named = {_real(Home.at(path)) for path in load(other.config).privacy.shared_homes}
    if _real(home) not in named:
        raise ConfigError(
            f"{KEY}: {other.root} does not name {home.root} in turn, and would not count what is spent here",
            hint=f"add this home to {KEY} in {other.config}",
        )
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
