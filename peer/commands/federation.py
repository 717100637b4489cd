"""``quidnunc federation``: found a federation by passing one file round.

::

    create CARD...      draft a charter from the founders' cards, and sign it if one is ours (commands/draft.py)
    sign FILE           add this home's root signature; the last to sign has it installed
    verify FILE         is it valid, and signed by everybody?
    install FILE        make it this home's charter
    show [FILE]         what is in it
"""

from __future__ import annotations

import argparse
from pathlib import Path

from quidnunc.crypto.errors import CharterError, StoreUnwritable
from quidnunc.gossip.federation.founding import Opened, merge_notes, open_charter, require_signed, sign_charter
from quidnunc.peer.cli import CommandParser, Context
from quidnunc.peer.commands import draft, unlocking
from quidnunc.peer.commands.charter_view import charter_data, charter_lines, signature_line
from quidnunc.peer.commands.files import (
    check_federation,
    install_charter,
    own_place,
    read_charter,
    read_charter_note,
    replace_public,
    same_file,
    write_public,
)
from quidnunc.peer.commands.signing import agreed_to, next_steps, root_key, show_terms
from quidnunc.peer.files import expanded
from quidnunc.peer.home_name import quidnunc
from quidnunc.peer.new_file import require_free
from quidnunc.peer.output import ExitCode, Line, Outcome, Styled


def register(parser: CommandParser) -> None:
    """The second words and their arguments."""
    add = parser.verbs("action")
    draft.register(add("create", help="draft a charter from member cards"))

    below = add("sign", help="add this home's root signature to a charter")
    below.add_argument("file", type=Path, metavar="FILE")
    below.add_argument(
        "--merge", type=Path, nargs="+", default=[], metavar="OTHER", help="take signatures from these too"
    )
    below.add_argument("--key", type=Path, metavar="FILE", help="the root key, if it is not in the home")
    below.add_argument("--out", type=Path, metavar="FILE", help="write to this new file instead of into FILE")
    below.add_argument(
        "--install",
        action="store_true",
        help="fail if it is complete and cannot be installed, which is done anyway where this home has no other",
    )
    unlocking.add_flags(below)
    below.set_defaults(command=sign)

    below = add("verify", help="is it valid and fully signed? exit 0 yes, 41 not by all, 30 not valid")
    below.add_argument("file", type=Path, nargs="?", metavar="FILE", help="default: this home's charter")
    below.add_argument("--install", action="store_true", help="then make it this home's charter, if all have signed")
    below.set_defaults(command=verify)

    below = add("install", help="make a fully signed charter this home's")
    below.add_argument("file", type=Path, metavar="FILE")
    below.add_argument(
        "--model", type=Path, metavar="PARAMS", help="the params it begins with (default: FILE.params beside it)"
    )
    below.set_defaults(command=install)

    below = add("show", help="what is in a charter")
    below.add_argument("file", type=Path, nargs="?", metavar="FILE", help="default: this home's charter")
    below.add_argument("--schema", action="store_true", help="only the data schema, as it is signed")
    below.set_defaults(command=show)


def sign(args: argparse.Namespace, context: Context) -> Outcome:
    """Sign a charter that lists this home as its card does; say who is still missing."""
    data, opened = read_charter(args.file)
    member = own_place(context.home, opened.charter)
    if args.merge:
        data = merge_notes(data, [read_charter(path)[0] for path in args.merge])
    if args.install:
        check_federation(context.home, opened.charter)
    target = args.file if args.out is None or same_file(args.out, args.file) else args.out
    if target != args.file:
        require_free(expanded(target))
    show_terms(opened.charter, context)
    if not agreed_to(opened.charter, context):
        raise CharterError("not signed", hint="nothing was written")
    root = root_key(args.key or context.home.root_key, member, unlocking.source(args, context).present)
    data = sign_charter(data, root)
    (replace_public if target == args.file else write_public)(target, data)
    opened = open_charter(data)
    lines: list[Line] = [f"signed {target} as {member.name}", signature_line(opened)]
    installed = not opened.missing and _install_after_signing(data, opened, target, args, context)
    if installed:
        lines.append(_installed(opened, context))
    facts = {
        "file": str(target),
        "federation_id": opened.charter.federation_id.hex(),
        "signed": [m.name for m in opened.charter.members if m.log_id in opened.signed],
        "missing": [m.name for m in opened.missing],
        "installed": installed,
    }
    return Outcome(facts, [*lines, *next_steps(target, opened, context.home, installed=installed)])


def verify(args: argparse.Namespace, context: Context) -> Outcome:
    """One verdict per layer; only a charter that is valid and signed by everybody ends with 0."""
    path = args.file or context.home.charter
    data = read_charter_note(path)
    try:
        opened = open_charter(data)
    except CharterError as error:
        facts = {"file": str(path), "valid": False, "complete": False, "missing": []}
        lines: list[Line] = [Styled("  charter      INVALID", "bad")]
        return Outcome(facts, lines, ExitCode.VERIFY_FAILED, f"{path}: {error.message}", error.hint)
    charter = opened.charter
    total = len(charter.members)
    lines = [
        Styled(f"federation {charter.federation_id.hex()}", "strong"),
        "  encoding     OK    canonical, the federation id is its hash",
        f"  members      OK    {total} with genesis, proof of possession and distinct keys",
        f"  graph        OK    {len(charter.edges)} links, connected",
        f"  privacy      {'OK    the noise suffices for the stated epsilon' if charter.privacy.private else 'NONE'}",
    ]
    verdict = f"{len(opened.signed)} of {total} root keys"
    facts = {"file": str(path), "valid": True, "complete": not opened.missing, **charter_data(opened)}
    try:
        require_signed(opened)
    except CharterError as error:
        lines.append(Styled(f"  signatures   OPEN  {verdict}", "warn"))
        return Outcome(facts, lines, ExitCode.NO_QUORUM, error.message, error.hint)
    lines.append(Styled(f"  signatures   OK    {verdict}", "good"))
    if args.install:
        install_charter(context.home, data, opened, path)
        lines.append(_installed(opened, context))
    return Outcome(facts, lines)


def install(args: argparse.Namespace, context: Context) -> Outcome:
    """Put a fully signed charter that lists this home into it."""
    data, opened = read_charter(args.file)
    install_charter(context.home, data, opened, args.file, args.model)
    facts = {"federation_id": opened.charter.federation_id.hex(), "charter": str(context.home.charter)}
    return Outcome(facts, [_installed(opened, context), "next, on this machine:", f"  {quidnunc(context.home)} run"])


def show(args: argparse.Namespace, context: Context) -> Outcome:
    """Everything in a charter, signed or not; or the text of its data schema, fit to be written to a file."""
    path = args.file or context.home.charter
    _, opened = read_charter(path)
    if args.schema:
        text = opened.charter.task.data_schema
        if not text:
            raise CharterError(
                f"{path}: task {opened.charter.task.reference} has no data schema",
                hint="see the whole charter: quidnunc federation show",
            )
        return Outcome({"data_schema": text}, text.removesuffix("\n").split("\n"))
    return Outcome(charter_data(opened), charter_lines(opened))


def _install_after_signing(
    data: bytes, opened: Opened, target: Path, args: argparse.Namespace, context: Context
) -> bool:
    """Install a charter that our signature completed; where that cannot be, the signature still stands."""
    try:
        install_charter(context.home, data, opened, target)
    except (CharterError, StoreUnwritable) as error:
        if args.install:
            raise
        context.out.warn(f"signed, but not installed: {error.message}")
        return False
    return True


def _installed(opened: Opened, context: Context) -> Line:
    where = context.home.charter
    return Styled(f"installed {where}: federation {opened.charter.federation_id.hex()[:16]}", "good")
