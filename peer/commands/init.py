"""``quidnunc init``: a new peer's home, with keys, configuration and the card that the other founders need."""

from __future__ import annotations

import argparse
import os
import secrets
import stat
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from quidnunc.crypto.entry import log_id_of
from quidnunc.crypto.errors import ConfigError
from quidnunc.crypto.identity import Role, SecretKey, derive_seed
from quidnunc.gossip.federation.card import make_card
from quidnunc.gossip.federation.genesis import NONCE_BYTES, checked_name, make_genesis
from quidnunc.gossip.federation.member import Member
from quidnunc.peer import keys
from quidnunc.peer.cli import CommandParser, Context
from quidnunc.peer.commands import unlocking
from quidnunc.peer.commands.files import PUBLIC_FILE, present_card
from quidnunc.peer.config import Data, Network, render_default_config
from quidnunc.peer.files import PRIVATE_FILE, atomic_write, expanded
from quidnunc.peer.home import Home
from quidnunc.peer.home_name import quidnunc
from quidnunc.peer.ledger.store import Store
from quidnunc.peer.naming import fingerprint, peer_id
from quidnunc.peer.network.address import parse_address
from quidnunc.peer.new_file import require_free, write_new
from quidnunc.peer.output import Line, Outcome, Styled, UsageError
from quidnunc.peer.reach import card_addresses, is_dialable

_NO_ADDRESS = (
    "warning: the card has no address that others can dial: this peer can only dial others; unless that is meant, "
    "make the home in another directory with --listen /ip4/ADDRESS/tcp/PORT or --announce"
)
_COUNTED = (".csv", ".tsv", ".txt")
_CHUNK_BYTES = 1024 * 1024


def register(parser: CommandParser) -> None:
    """The arguments of ``init``."""
    add = parser.add_argument
    add("--name", help="what the other members call this organization, for example 'Hospital A'")
    add("--listen", action="append", default=[], metavar="MULTIADDR", help="where to listen (repeat for more)")
    add(
        "--announce",
        action="append",
        default=[],
        metavar="MULTIADDR",
        help="where others reach it, if elsewhere",
    )
    add(
        "--examples",
        type=int,
        metavar="N",
        help="training examples, told to the others rounded down to a power of 2; 0: not told "
        "(default: the lines of a CSV file named by --data)",
    )
    add("--data", type=Path, metavar="PATH", help="local data for a task that reads some; the path is never sent")
    add(
        "--root-key",
        type=Path,
        metavar="FILE",
        help="an organization's root key that is there already (default: a new one)",
    )
    add(
        "--config-only",
        action="store_true",
        help="write the config.toml that a home has lost anew, from its card and these flags; keys and ledger stay",
    )
    unlocking.add_flags(parser)
    add("--no-passphrase", action="store_true", help="leave the key files unlocked, and do not ask")
    parser.set_defaults(command=init)


def init(args: argparse.Namespace, context: Context) -> Outcome:
    """Make the home; refuses one that is there."""
    home = context.home
    if args.config_only:
        return _config_only(args, context)
    if home.exists():
        hint = f"name another directory with --home; show this one with: {quidnunc(home)} id"
        if not home.config.exists():
            hint = f"its config.toml is gone; write one anew with: {quidnunc(home)} init --config-only"
        raise ConfigError(f"{home.root}: a peer lives here already", hint=hint)
    if args.examples is not None and args.examples < 0:
        raise UsageError(f"--examples is {args.examples}, must be 0 or more")
    table, rows = data_at(args.data)
    examples = rows if args.examples is None else args.examples
    _check_addresses("--listen", args.listen, listen=True)
    _check_addresses("--announce", args.announce, listen=False)
    name = _name(args, context)
    network = Network(listen=tuple(args.listen) or Network().listen, announce=tuple(args.announce))
    text = render_default_config(name, network=network, data=Data(path=table))
    root = SecretKey(_root_seed(args, context))
    addresses = args.announce or [each for each in args.listen if is_dialable(each)]
    phrase = _passphrase(args, context)
    size_bucket = max(0, examples.bit_length() - 1)
    member = write_home(home, name, root, text, phrase, size_bucket, tuple(addresses), keep_root=True)
    return _outcome(home, member, table, rows, locked=phrase is not None)


def write_home(
    home: Home,
    name: str,
    root: SecretKey,
    config: str,
    passphrase: bytes | None,
    size_bucket: int,
    addresses: tuple[str, ...],
    *,
    keep_root: bool,
) -> Member:
    """Make a home with a new log under the ``root`` key, which stays in it or not; nothing is left when that fails.

    Raises ConfigError for files that are there, StoreUnwritable, CharterError for a name or address that is none.
    """
    secret = secrets.token_bytes(32)
    member = _member(name, root, secret, size_bucket, addresses)
    files = [
        (home.card, make_card(member, root), PUBLIC_FILE),
        (home.config, config.encode(), PRIVATE_FILE),
        (home.operational_key, keys.encode("operational", secret, passphrase), PRIVATE_FILE),
    ]
    if keep_root:
        files.insert(0, (home.root_key, keys.encode("root", root.seed, passphrase), PRIVATE_FILE))
    with _all_or_nothing(home):
        home.create()
        # Made here and nowhere else: a peer that lost its ledger and began a new one would fork its own log.
        Store.create(home.ledger, member.log_id, member.log).close()
        for path, data, mode in files:
            atomic_write(path, data, mode, replace=False)
    return member


def _config_only(args: argparse.Namespace, context: Context) -> Outcome:
    """A new ``config.toml`` for a home that lost it, as ``init`` would have written it for the peer on its card."""
    home = context.home
    if args.examples is not None or args.root_key is not None:
        raise UsageError("--config-only changes no card and no key", hint="leave --examples and --root-key out")
    member = present_card(home)
    require_free(home.config)
    table, _ = data_at(args.data)
    _check_addresses("--listen", args.listen, listen=True)
    _check_addresses("--announce", args.announce, listen=False)
    listen = tuple(args.listen) or tuple(each for each in member.addresses if _can_listen(each))
    network = Network(listen=listen or Network().listen, announce=tuple(args.announce))
    text = render_default_config(args.name or member.name, network=network, data=Data(path=table))
    write_new(home.config, text.encode(), PRIVATE_FILE)
    context.out.warn(
        "all that stood in the lost file and was not named now is at its default: look at privacy.epsilon_cap, "
        "privacy.shared_homes, network, data and limits before the peer runs"
    )
    data = {"name": args.name or member.name, "config": str(home.config), "listen": list(network.listen), "data": table}
    lines: list[Line] = [
        f"wrote {home.config} for {data['name']}",
        f"  listens on {', '.join(network.listen)}",
        f"check it with: {quidnunc(home)} run --check",
    ]
    return Outcome(data, lines)


def _can_listen(address: str) -> bool:
    try:
        parse_address(address, listen=True)
    except ConfigError:
        return False
    return True


def data_at(path: Path | None) -> tuple[str, int]:
    """The absolute path of local data, and its rows if it is a CSV file (every line but the first), else 0.

    Lines are counted, nothing is parsed: the size told to others is a power of 2. Raises ConfigError for a path
    that cannot be read.
    """
    if path is None:
        return "", 0
    where = Path(os.path.abspath(expanded(path)))
    try:
        str(where).encode()
        kind = where.stat().st_mode
        if stat.S_ISDIR(kind):
            os.listdir(where)
            return str(where), 0
        if not stat.S_ISREG(kind):
            raise ConfigError(f"--data {where}: not a file or directory", hint="name the file that holds the table")
        return str(where), _rows(where)
    except UnicodeEncodeError:
        raise ConfigError(f"--data {str(where)!a}: the path is not UTF-8", hint="rename it") from None
    except OSError as error:
        raise ConfigError(
            f"--data {where}: cannot be read: {(error.strerror or type(error).__name__).lower()}",
            hint="check the path and who may read it",
        ) from None


def _rows(path: Path) -> int:
    with path.open("rb") as file:
        if path.suffix.lower() not in _COUNTED:
            return 0
        lines, last = 0, b"\n"
        while chunk := file.read(_CHUNK_BYTES):
            lines += chunk.count(b"\n")
            last = chunk[-1:]
    return max(0, lines + (last != b"\n") - 1)


def _check_addresses(flag: str, addresses: list[str], *, listen: bool) -> None:
    for each in addresses:
        try:
            parse_address(each, listen=listen)
        except ConfigError as error:
            raise ConfigError(f"{flag}: {error.message}", hint=error.hint) from None


def _name(args: argparse.Namespace, context: Context) -> str:
    name = args.name
    if name is None and context.interactive:
        name = context.ask("name of this organization:")
    if not name:
        raise UsageError("no name given", hint=f'{quidnunc(context.home)} init --name "Hospital A"')
    return checked_name(unicodedata.normalize("NFC", name))


def _root_seed(args: argparse.Namespace, context: Context) -> bytes:
    """The organization's root key: a fresh one, or the one that goes on under a new log."""
    if args.root_key is None:
        return secrets.token_bytes(32)
    return keys.load(args.root_key, "root", unlocking.source(args, context).present)


def _passphrase(args: argparse.Namespace, context: Context) -> bytes | None:
    """What the new keys are locked with, or None."""
    if args.no_passphrase:
        return None
    phrase = unlocking.source(args, context).offered()
    if phrase is None and not context.interactive:
        context.out.talk("note: the new keys are not locked; lock them with: quidnunc key lock")
    return phrase


def _member(name: str, root: SecretKey, secret: bytes, size_bucket: int, addresses: tuple[str, ...]) -> Member:
    log, witness, transport = (SecretKey(derive_seed(secret, role, 0)) for role in Role)
    genesis = make_genesis(root.public, log, secrets.token_bytes(NONCE_BYTES), name)
    return Member(
        name=name,
        log_id=log_id_of(genesis),
        root=root.public,
        log=log.public,
        witness=witness.public,
        transport=transport.public,
        genesis=genesis,
        size_bucket=size_bucket,
        addresses=addresses,
    )


@contextmanager
def _all_or_nothing(home: Home) -> Iterator[None]:
    """Remove what was written when the rest cannot be: half a home would refuse a second ``init``."""
    files = (home.ledger, home.root_key, home.card, home.config, home.operational_key)
    present = [path for path in files if path.exists()]
    if present:
        raise ConfigError(f"{present[0]}: there already", hint="name another directory with --home")
    missing = [path for path in (*reversed(home.root.parents), *home.directories) if not path.exists()]
    try:
        yield
    except BaseException:
        for path in (*files, *home.state.glob(f"{home.ledger.name}-*")):
            with suppress(OSError):
                path.unlink()
        for path in reversed(missing):
            with suppress(OSError):
                path.rmdir()
        raise


def _outcome(home: Home, member: Member, path: str, rows: int, *, locked: bool) -> Outcome:
    data = {
        "name": member.name,
        "log_id": member.log_id.hex(),
        "peer_id": peer_id(member.transport),
        "fingerprint": fingerprint(member.log_id),
        "home": str(home.root),
        "config": str(home.config),
        "card": str(home.card),
        "root_key": str(home.root_key),
        "operational_key": str(home.operational_key),
        "locked": locked,
        "addresses": list(member.addresses),
        "size_bucket": member.size_bucket,
        "data": path,
        "rows": rows,
    }
    size = f"at least {2**member.size_bucket} training examples" if member.size_bucket else "not told"
    lines: list[Line] = [
        Styled(f"{member.name} has an identity", "strong"),
        f"  log id       {member.log_id.hex()}",
        f"  PeerID       {data['peer_id']}",
        f"  fingerprint  {data['fingerprint']}   (compare it by telephone)",
        f"  home         {home.root}",
        f"  keys         {'locked with the passphrase' if locked else 'not locked; quidnunc key lock does it'}",
        f"  root key     {home.root_key}",
        "               signs the charter; move it offline (and back it up) once the federation is founded",
        f"  card         {home.card}",
        *([f"  data         {path}{f' ({rows} rows, by its lines)' if rows else ''}"] if path else []),
        *([f"  size         {size}: this the card tells the others; change it with --examples"] if path else []),
        "next: hand the card to whoever drafts the charter; on the drafter's machine:",
        "  quidnunc federation create CARD CARD ...",
        *([] if card_addresses(member) else [Styled(_NO_ADDRESS, "warn")]),
    ]
    return Outcome(data, lines)
