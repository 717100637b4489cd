"""A charter that is not where it should be: whether this peer never had one, or has lost it."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from quidnunc.crypto.errors import CharterError, QuidnuncError
from quidnunc.peer.home import Home
from quidnunc.peer.home_name import quidnunc
from quidnunc.peer.ledger.store import Store


def missing_charter(path: Path) -> CharterError:
    """What to say where there is no file at ``path``, the place of a home's charter (reads the ledger beside it)."""
    entries = 0
    with suppress(QuidnuncError):
        home = Home.at(path.parent)
        if path == home.charter and home.ledger.exists():
            with Store.open(home.ledger, readonly=True) as store:
                entries = store.size
    if entries:
        return CharterError(
            f"{path}: the charter is gone, and this peer has run under it ({entries} ledger entries)",
            hint="every member has the same file: take theirs, or that in a backup (tar xf FILE charter.note), then "
            f"{quidnunc(Home.at(path.parent))} run --charter FILE",
        )
    return CharterError(
        f"{path}: there is no charter yet",
        hint="quidnunc federation create CARD..., federation sign FILE, then run --charter FILE",
    )
