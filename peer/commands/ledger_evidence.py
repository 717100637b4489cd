"""``quidnunc ledger evidence``: does a proof of equivocation hold, for somebody who knows nothing but public keys?"""

from __future__ import annotations

import argparse
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from quidnunc.crypto.checkpoint import origin_of
from quidnunc.crypto.entry import EntryType
from quidnunc.crypto.errors import LedgerCorrupt, Malformed, Reason, RemoteProtocolError
from quidnunc.crypto.fork import Fork, verify_fork
from quidnunc.crypto.fork_proof import MAX_FORK_BYTES, ForkKind
from quidnunc.crypto.suspicion import Suspicion, parse_suspicion
from quidnunc.gossip.keybook import Keybook
from quidnunc.gossip.provenance import EquivocationProof, parse_record
from quidnunc.peer.cli import CommandParser, Context
from quidnunc.peer.commands.charter_view import when
from quidnunc.peer.commands.files import is_stdout, read_file, write_public
from quidnunc.peer.commands.ledger_home import opened, readable
from quidnunc.peer.commands.trust import add_keys, known_book, known_keys, known_members, named_keys
from quidnunc.peer.output import ExitCode, Line, Outcome, Styled, UsageError, exit_code_of

_KINDS: Mapping[ForkKind, str] = {
    ForkKind.SIZE: "two roots at one size",
    ForkKind.ENTRY: "two entries with one number",
    ForkKind.PREFIX: "a history that does not begin with the older one",
    ForkKind.CHAIN: "an entry that no log can hold",
    ForkKind.TWICE: "one statement made twice",
    ForkKind.WITNESS: "a witness that cosigned two histories",
}


def register(parser: CommandParser) -> None:
    """The third word and its arguments."""
    add = parser.verbs("verb")
    below = add("verify", help="check a proof; exit 31 it holds, 30 it does not, 32 a key is missing or it is no proof")
    below.add_argument("file", type=Path, metavar="FILE")
    add_keys(below)
    below.set_defaults(command=verify)
    below = add("list", help="the proofs that this ledger holds, one a line")
    readable(below, listing)
    below = add("export", help="write a proof as a file that anybody can verify")
    below.add_argument("proof", metavar="HASH", help="the proof's hash, or at least 8 characters of it")
    below.add_argument("--out", type=Path, metavar="FILE", help="where to (default: <hash>.proof here; -: stdout)")
    readable(below, export)


def _held(context: Context) -> list[tuple[int, EquivocationProof, bytes]]:
    """(seq, record, proof) of every log that the ledger at hand has frozen."""
    with opened(context) as store:
        found = []
        for seq, (header, entry) in enumerate(store.headers()):
            if header.type != EntryType.EQUIVOCATION_PROOF:
                continue
            record = parse_record(EntryType.EQUIVOCATION_PROOF, entry.payload)
            assert isinstance(record, EquivocationProof)
            data = store.proof(record.proof)
            if data is None:
                raise LedgerCorrupt(seq, f"the proof {record.proof.hex()[:16]} that it names is missing")
            found.append((seq, record, data))
    return found


def listing(args: argparse.Namespace, context: Context) -> Outcome:
    """What the ledger at hand has frozen, and by which proofs."""
    names = {each.log_id: each.name for each in known_members(context)}
    rows: list[dict[str, Any]] = [
        {
            "seq": seq,
            "who": record.who.hex(),
            "name": names.get(record.who, ""),
            "kind": record.kind,
            "meaning": _KINDS[ForkKind(record.kind)] if record.kind in set(ForkKind) else "of a kind unknown here",
            "proof": record.proof.hex(),
            "bytes": len(data),
        }
        for seq, record, data in _held(context)
    ]
    lines: list[Line] = [
        f"{row['proof'][:16]}  kind {row['kind']:<2} {row['name'] or row['who'][:16]}: {row['meaning']} "
        f"(entry {row['seq']}, {row['bytes']} bytes)"
        for row in rows
    ]
    return Outcome({"proofs": rows}, lines or ["no log is frozen: no proof is held"])


def export(args: argparse.Namespace, context: Context) -> Outcome:
    """A held proof as a file; ``evidence verify`` accepts it anywhere, without this home."""
    stream = is_stdout(args.out, context.out)
    wanted = args.proof.lower()
    if not re.fullmatch("[0-9a-f]{8,64}", wanted):
        raise UsageError(f"{args.proof!r} is no hash of a proof", hint="see: quidnunc ledger evidence list")
    found = [each for each in _held(context) if each[1].proof.hex().startswith(wanted)]
    if len(found) != 1:
        why = "no proof held here" if not found else f"{len(found)} proofs held here"
        raise UsageError(f"{why} begins with {wanted}", hint="see: quidnunc ledger evidence list")
    _, record, data = found[0]
    if stream:
        context.out.raw(data)
        return Outcome()
    path = args.out or Path(f"{record.proof.hex()[:16]}.proof")
    write_public(path, data)
    shown = {"file": str(path), "proof": record.proof.hex(), "bytes": len(data)}
    check = f"quidnunc ledger evidence verify {shlex.quote(str(path))}"
    return Outcome(shown, [f"wrote {path}, {len(data)} bytes", f"  check with: {check}"])


def verify(args: argparse.Namespace, context: Context) -> Outcome:
    """The conviction, or why there is none. A suspicion is shown as what it is."""
    data = read_file(args.file, MAX_FORK_BYTES)
    named = named_keys(args)
    known = Keybook(()) if named else known_book(context)
    names = {origin_of(each.log_id): each.name for each in known_members(context)}
    try:
        suspicion = _suspicion(data)
        if suspicion is not None:
            return _suspected(args.file, suspicion, names)
        found = verify_fork(data, known_keys(named, known))
    except RemoteProtocolError as error:
        return _unproven(args.file, error)
    shown = _data(found, names)
    message = f"{shown['who']} is convicted: {found.why}"
    hint = "keep the file: it proves this to anybody who knows the key"
    return Outcome(shown, _lines(shown), ExitCode.FORK_PROVEN, message, hint)


def _suspicion(data: bytes) -> Suspicion | None:
    """The suspicion in a file, None where it holds something else; one of a later version raises."""
    try:
        return parse_suspicion(data)
    except Malformed:
        return None


def _suspected(path: Path, suspicion: Suspicion, names: Mapping[str, str]) -> Outcome:
    origin = origin_of(suspicion.log_id)
    shown = {
        "proven": False,
        "suspicion": suspicion.kind.label,
        "kind": suspicion.kind.value,
        "origin": origin,
        "name": names.get(origin, ""),
        "deadline": when(suspicion.deadline_ms),
        "challenge": suspicion.challenge.hex(),
    }
    lines: list[Line] = [
        Styled(f"suspicion, kind {suspicion.kind.value} ({suspicion.kind.label})", "warn"),
        f"  log         {origin}",
        f"  owed since  {shown['deadline']}",
        f"  request     {shown['challenge']}",
    ]
    why = f"{path}: a suspicion proves nothing: nobody can show that a question was not answered"
    return Outcome(shown, lines, ExitCode.INCOMPLETE, why, "ask the log again; a proof is of kind A, B, C or D")


def _unproven(path: Path, error: RemoteProtocolError) -> Outcome:
    shown = {"proven": False, "reason": error.reason.label}
    if error.reason is Reason.STRANGER:
        hint = "name the keys it needs with --key VKEY, or use the --home of a member"
        return Outcome(shown, [], ExitCode.INCOMPLETE, f"{path}: not checked: {error.message}", hint)
    hint = "nobody is convicted by this file"
    if error.reason is Reason.VERSION:
        hint = "use a newer version of this program"
    return Outcome(shown, [], exit_code_of(error), f"{path}: proves nothing: {error.message}", hint)


def _data(found: Fork, names: Mapping[str, str]) -> dict[str, Any]:
    name = names.get(found.culprit, "")
    role = "witness" if found.kind is ForkKind.WITNESS else "log"
    return {
        "proven": True,
        "kind": found.kind.value,
        "meaning": _KINDS[found.kind],
        "role": role,
        "culprit": found.culprit,
        "name": name,
        "who": f"the {role} {name or found.culprit}",
        "origin": found.origin,
        "keys": [key.hex() for key in found.keys],
        "sizes": list(found.sizes),
        "seq": found.seq,
        "why": found.why,
    }


def _lines(shown: Mapping[str, Any]) -> list[Line]:
    owner = f" ({shown['name']})" if shown["name"] else ""
    lines: list[Line] = [
        Styled(f"PROVEN, kind {shown['kind']}: {shown['meaning']}", "bad"),
        f"  {shown['role']:<11} {shown['culprit']}{owner}",
        f"  why         {shown['why']}",
        *(f"  key         {key}" for key in shown["keys"]),
        f"  signed at   {', '.join(str(size) for size in shown['sizes'])} entries",
    ]
    if shown["role"] == "witness":
        lines.append(f"  of the log  {shown['origin']}")
    return [*lines, "  the proof is about the key: it does not say whether its holder cheated or lost it"]
