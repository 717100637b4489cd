"""``quidnunc run --check``: everything that a start would refuse, found without starting."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from collections.abc import Callable
from pathlib import Path

from quidnunc.crypto.errors import CharterError, ConfigError, KeyFileError, LedgerCorrupt, QuidnuncError
from quidnunc.crypto.identity import SecretKey
from quidnunc.crypto.keyfile import KeyFile
from quidnunc.gossip.federation.charter import Charter
from quidnunc.gossip.federation.member import Member
from quidnunc.gossip.federation.terms import MICRO
from quidnunc.peer import keys
from quidnunc.peer.commands.files import own_card
from quidnunc.peer.config import Config
from quidnunc.peer.files import unwritable
from quidnunc.peer.home import Home
from quidnunc.peer.ledger.database import DatabaseCorrupt
from quidnunc.peer.ledger.ending import require_open
from quidnunc.peer.ledger.store import Store
from quidnunc.peer.network.address import Endpoint, parse_address
from quidnunc.peer.shared_account import spent_elsewhere
from quidnunc.peer.task_loader import CSV


def check_home(home: Home, config: Config, charter: Charter, member: Member, tell: Callable[[str], None]) -> int:
    """Whether ``home`` is that of ``member`` and fit to run under ``charter``; the number of its ledger entries.

    ``member`` is whose log key the home's operational key gives. Raises KeyFileError, CharterError, ConfigError or
    LedgerCorrupt for the first thing that is wrong, after the others were told. With other keys than its own nothing
    else in a home can be judged.
    """
    check_keys(home, member)
    entries: list[int] = []
    checks: tuple[Callable[[], object], ...] = (
        lambda: entries.append(check_ledger(home, member)),
        lambda: check_network(home, config),
        lambda: check_data(config, charter),
        lambda: spent_elsewhere(home, config),
    )
    faults: list[QuidnuncError] = []
    for check in checks:
        try:
            check()
        except QuidnuncError as error:
            faults.append(error)
    for other in faults[1:]:
        tell(f"also: {other.message}" + (f" ({other.hint})" if other.hint else ""))
    if faults:
        raise faults[0]
    return entries[0]


def loose_cap(charter: Charter, config: Config) -> list[str]:
    """A warning where this site's own ceiling is above what its members agreed on: it changes nothing."""
    own, agreed = config.privacy.epsilon_cap, charter.privacy
    if not own or not agreed.private or own <= agreed.epsilon_u / MICRO:
        return []
    return [
        f"privacy.epsilon_cap is {own:g} and has no effect: the charter ends at epsilon {agreed.epsilon_u / MICRO:g}"
    ]


def check_keys(home: Home, member: Member) -> None:
    """The keys are those of the card in this home, which is the one that ``member`` has in the charter."""
    card = own_card(home)
    if card.log_id != member.log_id:
        raise KeyFileError(
            f"{home.operational_key}: the key of {member.name}, this home is that of {card.name} by its card",
            hint="put back this home's own key; a key in two homes signs two histories",
        )
    if card != member:
        raise CharterError(
            f"charter lists other keys, addresses or sizes for {member.name} than its card {home.card}",
            hint="put back the card that was handed to the drafter",
        )
    if not home.root_key.exists():
        return  # offline, where it belongs
    found = keys.read(home.root_key, "root")
    if isinstance(found, KeyFile) and SecretKey.from_seed(found.secret).public != card.root:
        raise KeyFileError(
            f"{home.root_key}: not the root key of {card.name}", hint="put back this home's own, or move it away"
        )


def check_network(home: Home, config: Config) -> None:
    """Every address can be meant, and those to listen on can be listened on, unless this home's daemon does."""
    network = config.network
    listen = [_address("network.listen", text, listen=True) for text in network.listen]
    for text in network.announce:
        _address("network.announce", text)
    for name, addresses in network.peers.items():
        for text in addresses:
            _address(f"network.peers, {name}", text)
    if home.locked_by() is None:
        for endpoint in listen:
            _listen(endpoint)


def check_ledger(home: Home, member: Member) -> int:
    """The number of entries of a ledger on which a start would go on."""
    if not home.ledger.exists():
        raise LedgerCorrupt(0, f"{home.ledger} is missing, and a peer that began a new one would fork its own log")
    with Store.open(home.ledger, readonly=True) as store:
        if store.log_id != member.log_id:
            raise LedgerCorrupt(0, f"belongs to log {store.log_id.hex()[:16]}, this home is {member.log_id.hex()[:16]}")
        require_open(store)
        report = store.verify()
    for path in (home.ledger, home.ledger.parent):
        if not os.access(path, os.W_OK):
            raise unwritable(path, PermissionError(errno.EACCES, os.strerror(errno.EACCES)))
    for layer in report.layers:
        for problem in layer.problems:
            why = f"{problem.why.removeprefix(f'{home.ledger}: ')} ({problem.code})"
            raise LedgerCorrupt(problem.seq, why) if problem.seq >= 0 else DatabaseCorrupt(home.ledger, why)
    return report.size


def check_data(config: Config, charter: Charter) -> None:
    """The data file can be read and, where the charter has a schema for it, fits."""
    path, task = config.data.path, charter.task
    if task.reference != CSV:
        if path and not os.access(path, os.R_OK):
            raise ConfigError(f"data.path is {path}: cannot be read", hint="check the path and who may read it")
        return
    if not path:
        raise ConfigError("data.path is empty, and the task csv needs a table", hint='path = "..." under [data]')
    # numpy: only a table needs it.
    from quidnunc.gossip.tabular.encode import encode
    from quidnunc.gossip.tabular.options import parse_options
    from quidnunc.gossip.tabular.schema import parse_schema
    from quidnunc.peer.csv_task import SCHEMA_SOURCE, examine_file

    options = parse_options({**config.data.options, **task.options})
    schema = parse_schema(task.data_schema, SCHEMA_SOURCE) if task.data_schema else None
    encode(examine_file(Path(path), schema, options), path)


def _address(key: str, text: str, *, listen: bool = False) -> Endpoint:
    try:
        return parse_address(text, listen=listen)
    except ConfigError as error:
        raise ConfigError(f"{key}: {error.message}", hint=error.hint) from None


def _listen(endpoint: Endpoint) -> None:
    family = socket.AF_INET6 if endpoint.kind == "ip6" else socket.AF_INET
    try:
        with contextlib.closing(socket.socket(family)) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((endpoint.host, endpoint.port))
            sock.listen()
    except OSError as error:
        why = (error.strerror or type(error).__name__).lower()
        raise ConfigError(
            f"network.listen: {endpoint.text} cannot be listened on: {why}",
            hint="name an address of this machine and a port that is free, above 1023 unless run as root",
        ) from None
