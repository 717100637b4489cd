"""``quidnunc ledger evidence``: does a proof of equivocation hold, for somebody who knows nothing but public keys?"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from quidnunc.crypto.checkpoint import origin_of
from quidnunc.crypto.errors import Malformed, Reason, RemoteProtocolError
from quidnunc.crypto.fork import Fork, verify_fork
from quidnunc.crypto.fork_proof import MAX_FORK_BYTES, ForkKind
from quidnunc.crypto.suspicion import Suspicion, parse_suspicion
from quidnunc.peer.cli import CommandParser, Context
from quidnunc.peer.commands.charter_view import when
from quidnunc.peer.commands.files import read_file
from quidnunc.peer.commands.trust import add_keys, known_keys, known_members, named_keys
from quidnunc.peer.output import ExitCode, Line, Outcome, Styled

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


def verify(args: argparse.Namespace, context: Context) -> Outcome:
    """The conviction, or why there is none. A suspicion is shown as what it is."""
    data = read_file(args.file, MAX_FORK_BYTES)
    named = named_keys(args)
    known = known_members(context)
    names = {origin_of(each.log_id): each.name for each in known}
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
    return Outcome(shown, [], ExitCode.VERIFY_FAILED, f"{path}: proves nothing: {error.message}", hint)


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
