"""``quidnunc ledger trace``: whose training stands in a model, as far as the ledgers at hand can tell."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from quidnunc.crypto.errors import ConfigError, LedgerCorrupt, RemoteProtocolError
from quidnunc.gossip.federation.charter import Charter
from quidnunc.gossip.federation.member import Member
from quidnunc.gossip.keybook import Keybook
from quidnunc.gossip.lineage import Lineage, Place, Trace
from quidnunc.gossip.provenance import Decision, Merge, UpdatePublished, UpdateReceived
from quidnunc.gossip.signed_update import SignedUpdate, open_update
from quidnunc.peer.cli import CommandParser, Context
from quidnunc.peer.commands.entry_view import record_of
from quidnunc.peer.commands.files import read_charter
from quidnunc.peer.commands.ledger_home import main_and_others, require_ledger
from quidnunc.peer.home import Home
from quidnunc.peer.ledger.members_keys import members_keys
from quidnunc.peer.ledger.store import Store
from quidnunc.peer.output import ExitCode, Line, Outcome, Styled, UsageError

_PREFIX = re.compile(r"[0-9a-f]{8,64}")
_SHOWN = 8
NOTE = "coefficients are algebraic shares of a linear average, not causal credit"


class LedgerUnusable(ConfigError):
    """A ledger that was named and cannot be believed."""

    exit_code = ExitCode.VERIFY_FAILED


def register(parser: CommandParser) -> None:
    """The arguments of ``ledger trace``."""
    add = parser.add_argument
    add("model", nargs="?", metavar="MODEL", help="8 or more hex digits of a model's hash (default: the newest here)")
    add(
        "--ledger",
        action="append",
        default=[],
        type=Path,
        metavar="PATH",
        help="another member's home, bundle, or copy of a ledger.db (repeat for more); "
        "without a home, the first one is traced",
    )
    add("--no-claims", action="store_true", help="only what is held, and nobody's word for the rest")
    add("--norms", action="store_true", help="also weigh updates by their length, where the vectors are still held")
    parser.set_defaults(command=trace)


def trace(args: argparse.Namespace, context: Context) -> Outcome:
    """One row per organization; 32 when part of the history is neither held nor claimed."""
    context, others = main_and_others(args.ledger, context)
    require_ledger(context.home)
    charter = read_charter(context.home.charter)[1].charter
    names = {member.log_id: member.name for member in charter.members}
    lineage = Lineage(charter.task.genesis, claims=not args.no_claims)
    with open_ledger(context.home.ledger, charter) as store:
        own = store.log_id
        newest = _add_own(lineage, store, charter)
    for each in others:
        _add_other(lineage, each.ledger, charter, context)
    target = _target(lineage, args.model, Place(own, newest))
    found = lineage.trace(target, _norms([context.home, *others], charter) if args.norms else None)
    data = _data(lineage, found, names)
    lines = _lines(lineage, found, names, lengths=args.norms)
    if found.unexplained:
        part = sum(found.unexplained.values())
        missing = f"{part:.1%}" if part > 0.001 else "less than 0.1%"
        return Outcome(
            data,
            lines,
            ExitCode.INCOMPLETE,
            f"{missing} of the model comes from states whose making is not held here",
            "name the ledgers of these members with --ledger",
        )
    return Outcome(data, lines)


def _norms(homes: Sequence[Home], charter: Charter) -> Callable[[UpdatePublished], float | None]:
    # numpy: only this needs it.
    from quidnunc.peer.ledger.atom_norms import atom_norms

    return atom_norms([home.blobs for home in homes], charter.task.dim)


def open_ledger(path: Path, charter: Charter) -> Store:
    """The ledger at ``path``, read-only, if it is a member's and its key is the member's; raises LedgerUnusable."""
    store = Store.open(path, readonly=True)
    member = charter.member(store.log_id)
    if member is None or member.log != store.public:
        store.close()
        raise LedgerUnusable(
            f"{path}: log {store.log_id.hex()[:16]} is not that of a member of {charter.federation_id.hex()[:16]}"
        )
    return store


def made_here(store: Store) -> Iterator[tuple[int, UpdatePublished | Merge]]:
    """(seq, record) of every update and merge in a ledger."""
    for header_seq, record in _records(store):
        if isinstance(record, UpdatePublished | Merge):
            yield header_seq, record


def _records(store: Store) -> Iterator[tuple[int, object]]:
    for header, entry in store.headers():
        yield header.seq, record_of(header.type, entry.payload)


def _add_own(lineage: Lineage, store: Store, charter: Charter) -> int:
    """Everything this ledger made or took in; the seq of the newest state made here."""
    newest, book = -1, members_keys(store, charter.members)
    for seq, record in _records(store):
        if isinstance(record, UpdatePublished | Merge):
            lineage.add(store.log_id, seq, record)
            newest = seq
        elif isinstance(record, UpdateReceived) and record.decision == Decision.ACCEPT:
            member = charter.member(record.sender)
            token = store.token_by_number(record.sender, record.number)
            if member is None or token is None:
                continue
            signed = _signed(token, member, seq, book)
            lineage.add(member.log_id, signed.token.header.seq, signed.update)
    return newest


def _signed(token: bytes, member: Member, seq: int, book: Keybook) -> SignedUpdate:
    try:
        return open_update(token, log_id=member.log_id, public=book.of(member.log_id))
    except RemoteProtocolError as error:
        raise LedgerCorrupt(seq, f"the token it names does not verify: {error.message}") from error


def _add_other(lineage: Lineage, ledger: Path, charter: Charter, context: Context) -> None:
    with open_ledger(ledger, charter) as store:
        report = store.verify(context.out.progress(f"checked of {ledger}", "entries"))
        if not report.ok:
            first = next(problem for layer in report.layers for problem in layer.problems)
            raise LedgerUnusable(f"{ledger}: does not verify: entry {first.seq}: {first.why} ({first.code})")
        for seq, record in made_here(store):
            lineage.add(store.log_id, seq, record)


def _target(lineage: Lineage, prefix: str | None, newest: Place) -> Place:
    if prefix is None:
        if newest.seq < 0:
            raise UsageError("this ledger has made no model yet", hint="it begins with: quidnunc run")
        return newest
    if not _PREFIX.fullmatch(prefix.lower()):
        raise UsageError(f"{prefix[:70]!r} is not 8 to 64 hex digits of a model's hash")
    found = lineage.find(prefix.lower())
    if len(found) != 1:
        listed = ", ".join(state.hex()[:16] for state in list(found)[:_SHOWN])
        raise UsageError(
            f"{len(found)} models in these ledgers have a hash that begins with {prefix.lower()}",
            hint=listed or "quidnunc ledger log --type merge",
        )
    return next(iter(found.values()))


def _data(lineage: Lineage, found: Trace, names: Mapping[bytes, str]) -> dict[str, Any]:
    event = lineage.event(found.target)
    return {
        "model": (event.result if isinstance(event, Merge) else event.replica_after).hex(),
        "made_by": names.get(found.target.log_id, found.target.log_id.hex()),
        "entry": found.target.seq,
        "round": event.round,
        "shares": [
            {
                "name": names.get(share.log_id, ""),
                "log_id": share.log_id.hex(),
                "share": share.share,
                "mass": share.mass,
                "updates": share.updates,
                "claimed": share.claimed,
                "norm_weighted": share.norm_weighted,
                "norms": share.norms,
            }
            for share in found.shares
        ],
        "reach": sorted(names.get(log_id, log_id.hex()) for log_id in found.reach),
        "genesis": found.genesis,
        "claimed": {names.get(log_id, log_id.hex()): part for log_id, part in sorted(found.claimed.items())},
        "beyond": found.beyond,
        "unexplained": {names.get(log_id, log_id.hex()): part for log_id, part in sorted(found.unexplained.items())},
        "updates": found.updates,
        "merges": found.merges,
        "approximate_merges": found.approximate,
        "note": NOTE,
    }


def _lines(lineage: Lineage, found: Trace, names: Mapping[bytes, str], *, lengths: bool) -> list[Line]:
    data = _data(lineage, found, names)
    lines: list[Line] = [
        Styled(
            f"model {data['model'][:16]} (round {data['round']}, {data['made_by']})  "
            f"ancestors: {found.updates} updates, {found.merges} merges",
            "strong",
        ),
        f"  {'organization':<24} {'share':>7} {'mass':>9} {'updates':>8} {'claimed':>9}",
    ]
    for share in found.shares:
        name = names.get(share.log_id, share.log_id.hex()[:16])
        said = f"{share.claimed:.3f}" if share.claimed else "-"
        lines.append(f"  {name:<24} {share.share:>7.1%} {share.mass:>9.3f} {share.updates:>8} {said:>9}")
    if found.beyond:
        lines.append(f"  {'organizations not named':<24} {'':>7} {found.beyond:>9.3f} {'':>8} {found.beyond:>9.3f}")
    lines.append(f"  reached: {', '.join(data['reach']) or 'nobody'} (any path counts, however small the share)")
    for row in data["shares"] if lengths else []:
        told = f"{row['norm_weighted']:.6g}, by" if row["norms"] else "not known,"
        lines.append(f"  length-weighted {row['name']:<20} {told} {row['norms']} of {row['updates']} updates")
    for name, part in data["claimed"].items():
        lines.append(
            Styled(f"  {'claimed':<24} {part:>7.1%} of the model: by {name}'s word, whose ledger is not held", "warn")
        )
    for name, part in data["unexplained"].items():
        lines.append(
            Styled(
                f"  {'unexplained':<24} {part:>7.1%} of the model: states of {name} made by what is not held", "warn"
            )
        )
    if found.approximate:
        lines.append(f"  {found.approximate} merges on the way were medians: their weights are approximate")
    lines.append(f"  {NOTE}")
    return lines
