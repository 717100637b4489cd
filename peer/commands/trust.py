"""Whose keys an offline check believes: those named on the command line, else those that this home knows."""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path

from quidnunc.crypto.checkpoint import origin_of, witness_verifier
from quidnunc.crypto.errors import ConfigError, Malformed
from quidnunc.crypto.fork import KeySpan, KnownKeys
from quidnunc.crypto.note import COSIGNATURE, ED25519, Verifier, parse_vkey
from quidnunc.crypto.policy import CLOCK_SKEW_S, Policy, Witness, flat_policy, quorum_of
from quidnunc.crypto.policy_file import MAX_POLICY_BYTES, parse_policy
from quidnunc.gossip.federation.member import Member
from quidnunc.gossip.keybook import Keybook
from quidnunc.peer.cli import CommandParser, Context
from quidnunc.peer.commands.files import read_file
from quidnunc.peer.commands.ledger_home import CharterElsewhere, alone, members, opened
from quidnunc.peer.ledger.members_keys import members_keys
from quidnunc.peer.output import UsageError

_MAX_KEY_FILE_BYTES = 4096
_WITNESSES_MAX = 64


def add_keys(parser: CommandParser) -> None:
    """The flag ``--key``."""
    parser.add_argument(
        "--key",
        action="append",
        default=[],
        metavar="VKEY",
        help="believe this key, NAME+ID+BASE64, or the one in this file (repeat for more; default: those of this home)",
    )


def named_keys(args: argparse.Namespace) -> list[Verifier]:
    """The keys given with ``--key``; one that is neither a key nor a file of one raises UsageError or ConfigError."""
    return [_key(text) for text in args.key]


def known_members(context: Context) -> tuple[Member, ...]:
    """The members that this home knows: its owner only without its charter, none without a home and a ledger."""
    try:
        return members(context) if context.home.exists() or context.home.ledger.exists() else ()
    except CharterElsewhere:
        return alone(context)


def known_book(context: Context) -> Keybook:
    """The keys of the members that this home knows, as its ledger has seen them change."""
    known = known_members(context)
    if not known or not context.home.ledger.exists():
        return Keybook(known)
    with opened(context) as store:
        return members_keys(store, known)


def log_key(book: Keybook, member: Member, size: int) -> Verifier:
    """The key that signs a member's checkpoints of ``size`` entries."""
    return Verifier(origin_of(member.log_id), book.of(member.log_id).at(size) or member.log)


def known_keys(named: Sequence[Verifier], known: Keybook) -> KnownKeys:
    """The keys by which a proof of equivocation is judged: those that were named, else those of ``known``."""
    if not named:
        return known.known()
    logs: dict[str, list[KeySpan]] = {}
    witnesses: dict[str, list[bytes]] = {}
    for key in named:
        if key.type == COSIGNATURE:
            witnesses.setdefault(key.name, []).append(key.public)
        else:
            logs.setdefault(key.name, []).append(KeySpan(key.public))
    return KnownKeys(logs, witnesses)


def trust(
    named: Sequence[Verifier],
    file: Path | None,
    book: Keybook,
    origin: str,
    size: int,
    elect: Callable[[bytes], Collection[bytes] | None] = lambda _: None,
) -> Policy:
    """What to hold a checkpoint of ``origin`` against: the policy file, else the charter's members as witnesses.

    ``elect`` says by log id which members may witness a log (None: all of them).

    ``size`` entries are under it: the log key that is valid then signs. A log key that was named stands for the logs
    of the policy.
    """
    known = book.members
    if any(key.type != ED25519 for key in named):
        raise UsageError("--key must be the key of a log", hint="name witnesses in a file for --policy")
    if file is not None:
        policy = _read_policy(file)
        logs = tuple(named) or policy.logs or tuple(log_key(book, each, size) for each in known)
        return policy._replace(logs=logs)
    if named:
        return Policy(tuple(named))
    owner = next((each for each in known if origin_of(each.log_id) == origin), None)
    if owner is None:
        return Policy(tuple(log_key(book, each, size) for each in known))
    elected = elect(owner.log_id)
    able = known if elected is None else [each for each in known if each.log_id in elected]
    return flat_policy(log_key(book, owner, size), *_charter_witnesses(owner, able))


def latest_time() -> int:
    """The latest second that a cosignature may name now, clocks being as they are."""
    return int(time.time()) + CLOCK_SKEW_S


def _charter_witnesses(owner: Member, known: Iterable[Member]) -> tuple[list[Witness], int]:
    """All other members, by position, and the quorum among them; more than can sign one note are too many."""
    others = [each for each in known if each.log_id != owner.log_id][:_WITNESSES_MAX]
    counts = Counter(each.name for each in others)
    witnesses = [
        Witness(
            each.name if counts[each.name] == 1 else f"{each.name} {each.log_id.hex()[:8]}",
            witness_verifier(each.log_id, each.witness),
        )
        for each in others
    ]
    return witnesses, quorum_of(len(witnesses)) if witnesses else 0


def _read_policy(path: Path) -> Policy:
    try:
        return parse_policy(read_file(path, MAX_POLICY_BYTES))
    except Malformed as error:
        raise ConfigError(f"{path}: {error.message}", hint="the format is c2sp.org/tlog-policy") from None


def _key(text: str) -> Verifier:
    path = Path(text)
    from_file = "+" not in text
    try:
        content = read_file(path, _MAX_KEY_FILE_BYTES).decode("utf-8").strip() if from_file else text
        return parse_vkey(content)
    except (Malformed, UnicodeDecodeError):
        where = f"file {path}" if from_file else "argument"
        raise UsageError(
            f"--key: the {where} holds no verifier key",
            hint="it is one line, NAME+ID+BASE64, as quidnunc ledger prove prints it",
        ) from None
