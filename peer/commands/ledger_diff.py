"""``quidnunc ledger diff``: two copies of one log, the logs of two members, or two points of one log.

Copies of one log that differ anywhere differ from one entry on, as every header names the one before; if both were
signed, that is a proof of equivocation. Logs of two members are compared where each speaks of the other's updates.
"""

from __future__ import annotations

import argparse
import shlex
from collections import Counter
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

from quidnunc.crypto.entry import Entry
from quidnunc.crypto.errors import LedgerCorrupt, RemoteProtocolError
from quidnunc.crypto.fork_build import fork_of_tokens
from quidnunc.crypto.fork_proof import encode_fork
from quidnunc.crypto.merkle import verify_consistency
from quidnunc.crypto.token import make_token
from quidnunc.gossip.jobs import Unit
from quidnunc.gossip.provenance import Decision, Merge, PrivacySpend, ReputationChange, UpdatePublished, UpdateReceived
from quidnunc.peer.cli import CommandParser, Context
from quidnunc.peer.commands.entry_view import entry_data, entry_line, record_of, type_label, who
from quidnunc.peer.commands.files import is_stdout, write_public
from quidnunc.peer.commands.ledger_home import ledger_place, member_names, opened
from quidnunc.peer.commands.unit_words import epsilons
from quidnunc.peer.ledger.store import Store
from quidnunc.peer.output import ExitCode, Line, Outcome, Styled, UsageError

CONFLICTS_MAX = 20
"""Conflicting claims that are shown one by one; the others are counted."""


class Claim(NamedTuple):
    """What one log says of an update: its entry's hash and the update's number, delta and resulting state."""

    leaf: bytes
    number: int
    delta: bytes
    replica: bytes


def register(parser: CommandParser) -> None:
    """The arguments of ``ledger diff``."""
    add = parser.add_argument
    add("paths", nargs="*", type=Path, metavar="PATH", help="a home, bundle or ledger.db; one: against this home's")
    add("--since", type=int, metavar="N", help="with at most one ledger: what came after its first N entries")
    add("--until", type=int, metavar="N", help="and up to N entries (default: all there are)")
    add("--proof-out", type=Path, metavar="FILE", help="where to write a proof of equivocation if there is one")
    parser.set_defaults(command=diff)


def diff(args: argparse.Namespace, context: Context) -> Outcome:
    """What differs; 31 with a proof if one key signed two histories, 30 where two logs contradict each other."""
    if is_stdout(args.proof_out, context.out, "--proof-out"):
        raise UsageError("--proof-out - : what differs goes to stdout", hint="name a file with --proof-out")
    if len(args.paths) > 2:
        raise UsageError(f"{len(args.paths)} ledgers, at most two can be compared")
    homes = [ledger_place(path, context.home) for path in args.paths]
    points = args.since is not None or args.until is not None
    if points and len(homes) > 1:
        raise UsageError("--since and --until compare two points of one ledger, and two ledgers were named")
    if not points and len(homes) < 2:
        if not homes:
            raise UsageError("nothing to compare with", hint="name a ledger, or two points with --since and --until")
        homes.insert(0, context.home)
    named = Context(homes[0], context.out) if homes else context
    names = member_names(named)
    with ExitStack() as stack:
        stores = [stack.enter_context(opened(Context(home, context.out))) for home in homes or [context.home]]
        if points:
            return _points(stores[0], args.since or 0, args.until, names)
        if stores[0].log_id == stores[1].log_id:
            return _copies(stores[0], stores[1], names, args.proof_out)
        return _members(stores[0], stores[1], names)


def _copies(ours: Store, theirs: Store, names: Mapping[bytes, str], out: Path | None) -> Outcome:
    """Where two copies of one log part, by bisection: equal hashes at one place mean equal entries up to it."""
    sizes = ours.size, theirs.size
    low, high = 0, min(sizes)
    while low < high:
        middle = (low + high) // 2
        if ours.entry(middle).leaf == theirs.entry(middle).leaf:
            low = middle + 1
        else:
            high = middle
    data: dict[str, Any] = {
        "log_id": ours.log_id.hex(),
        "sizes": list(sizes),
        "common": low,
        "diverged": low < min(sizes),
        "first": None,
        "only": [size - low for size in sizes],
        "proof": None,
    }
    lines: list[Line] = [
        f"two copies of log {ours.log_id.hex()[:16]} ({who(ours.log_id, names)}), the first {low} alike"
    ]
    if not data["diverged"]:
        longer = "the same" if sizes[0] == sizes[1] else f"{'first' if sizes[0] > sizes[1] else 'second'} is longer"
        lines.append(f"  {sizes[0]} and {sizes[1]} entries, {longer}: one is the beginning of the other")
        return Outcome(data, lines)
    pair = ours.entry(low), theirs.entry(low)
    data["first"] = [entry_data(entry, names) for entry in pair]
    lines.append(Styled(f"  they part at entry {low}:", "bad"))
    lines += [f"  {name}  {entry_line(entry, names)}" for name, entry in zip(("first ", "second"), pair, strict=True)]
    proof = _proof(low, (ours, theirs), pair)
    if proof is None:
        why = f"the copies part at entry {low}, and not both were signed there"
        return Outcome(
            data, lines, ExitCode.VERIFY_FAILED, why, "check each with: quidnunc ledger verify --ledger PATH"
        )
    if out is not None:
        write_public(out, proof)
        lines.append(f"  the proof is in {out}; check it with: quidnunc ledger evidence verify {shlex.quote(str(out))}")
    data["proof"] = proof.hex()
    why = f"the key of {who(ours.log_id, names)} signed two histories that part at entry {low}"
    return Outcome(
        data, lines, ExitCode.FORK_PROVEN, why, "" if out else "write the proof to a file with --proof-out FILE"
    )


def _proof(seq: int, stores: tuple[Store, Store], pair: tuple[Entry, Entry]) -> bytes | None:
    """A proof of equivocation out of two checkpoints over entry ``seq``; None where one is missing."""
    tokens = []
    for store, entry in zip(stores, pair, strict=True):
        note = store.checkpoint()
        if note is None:
            return None
        try:
            # Only the header, its path and the note go into the proof.
            bare = entry._replace(payload=b"", salt=bytes(16))
            tokens.append(make_token(bare, store.tree().inclusion(seq, store.size), note))
        except RemoteProtocolError:
            return None
    found = fork_of_tokens(tokens[0], tokens[1])
    return None if found is None else encode_fork(found)


def _members(ours: Store, theirs: Store, names: Mapping[bytes, str]) -> Outcome:
    """What each of two members says of the other's updates, against what the other says itself."""
    ways, conflicts = [], []
    for reader, author in ((ours, theirs), (theirs, ours)):
        way, found = _claims(reader, author, names)
        ways.append(way)
        conflicts += found
    data = {"logs": [ours.log_id.hex(), theirs.log_id.hex()], "ways": ways, "conflicts": conflicts}
    lines: list[Line] = []
    for way in ways:
        lines.append(
            f"{way['receiver']} of {way['author']}: {way['accepted']} updates accepted, {way['refused']} refused, "
            f"{way['missing']} of {way['published']} not received"
        )
    for each in conflicts[:CONFLICTS_MAX]:
        lines.append(Styled(f"  CONFLICT at entry {each['entry']} of {each['receiver']}: {each['why']}", "bad"))
    if len(conflicts) > CONFLICTS_MAX:
        lines.append(f"  and {len(conflicts) - CONFLICTS_MAX} more; all with --json")
    if conflicts:
        why = f"{len(conflicts)} claims about the same update contradict each other"
        return Outcome(data, lines, ExitCode.VERIFY_FAILED, why, "verify both ledgers; a damaged one explains much")
    return Outcome(data, [*lines, Styled("no claims contradict each other", "good")])


def _claims(reader: Store, author: Store, names: Mapping[bytes, str]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    published: dict[int, Claim] = {}
    for header, entry in author.headers():
        record = record_of(header.type, entry.payload)
        if isinstance(record, UpdatePublished):
            published[header.seq] = Claim(entry.leaf, record.number, record.delta, record.replica_after)
    seen: set[int] = set()
    counts: Counter[bool] = Counter()
    conflicts = []
    for header, entry in reader.headers():
        record = record_of(header.type, entry.payload)
        if not isinstance(record, UpdateReceived) or record.sender != author.log_id:
            continue
        seen.add(record.seq)
        counts[record.decision == Decision.ACCEPT] += 1
        why = _conflict(record, published.get(record.seq), author.size)
        if why:
            conflicts.append(
                {"receiver": who(reader.log_id, names), "entry": header.seq, "seq": record.seq, "why": why}
            )
    way = {
        "receiver": who(reader.log_id, names),
        "author": who(author.log_id, names),
        "published": len(published),
        "accepted": counts[True],
        "refused": counts[False],
        "missing": len(published.keys() - seen),
    }
    return way, conflicts


def _conflict(record: UpdateReceived, own: Claim | None, size: int) -> str:
    """Why a receiver's word on an update cannot stand beside its author's, "" if it can."""
    if record.seq >= size:
        return ""  # the author's copy may be older
    if own is None:
        return f"it names entry {record.seq}, which is no update in the author's log"
    told = Claim(record.leaf, record.number, record.delta, record.replica)
    wrong = [name for name, a, b in zip(Claim._fields, told, own, strict=True) if a != b]
    return f"entry {record.seq} has another {' and '.join(wrong)} in the author's log" if wrong else ""


def _points(store: Store, old: int, until: int | None, names: Mapping[bytes, str]) -> Outcome:
    """What came between two sizes of one log, and the proof that the one continues the other (RFC 9162, 2.1.4)."""
    new = store.size if until is None else until
    if not 0 <= old <= new <= store.size:
        raise UsageError(f"points {old} and {new}: must be 0 <= --since <= --until <= {store.size}, the ledger's size")
    tree = store.tree()
    path = tree.consistency(old, new) if old else []
    roots = tree.root(old), tree.root(new)
    if old:
        try:
            verify_consistency(old, new, roots[0], roots[1], path)
        except RemoteProtocolError as error:
            raise LedgerCorrupt(old, f"its stored tree contradicts itself: {error.message}") from error
    counts: Counter[str] = Counter()
    models, standings = 0, []
    spent_u: dict[Unit, int] = {}
    for header, entry in store.headers(old, new):
        counts[type_label(header.type)] += 1
        match record_of(header.type, entry.payload):
            case UpdatePublished() | Merge():
                models += 1
            case ReputationChange() as change:
                standings.append(
                    {"entry": header.seq, "name": who(change.who, names), "from": change.old, "to": change.new}
                )
            case PrivacySpend() as spend:
                spent_u[spend.unit] = spend.cumulative_u
    data = {
        "log_id": store.log_id.hex(),
        "since": old,
        "until": new,
        "roots": [root.hex() for root in roots],
        "signed": [size == 0 or store.checkpoint_at(size) is not None for size in (old, new)],
        "consistency": [each.hex() for each in path],
        "types": dict(sorted(counts.items())),
        "models": models,
        "standings": standings,
        **epsilons(spent_u),
    }
    lines: list[Line] = [
        Styled(f"entries {old} to {new} of log {store.log_id.hex()[:16]} ({who(store.log_id, names)})", "strong"),
        *(f"  {count:>9}  {name}" for name, count in sorted(counts.items())),
        *(f"  entry {each['entry']}: the standing of {each['name']} changed" for each in standings),
        f"  root before {roots[0].hex()}",
        f"  root after  {roots[1].hex()}",
        f"  the later log continues the earlier one: a proof of {len(path)} hashes holds",
    ]
    return Outcome(data, lines)
