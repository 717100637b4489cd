"""What signing a charter takes, and who does what next: shared by ``federation create``, ``sign`` and ``install``."""

from __future__ import annotations

import shlex
from pathlib import Path

from quidnunc.crypto.errors import KeyFileError
from quidnunc.crypto.identity import SecretKey
from quidnunc.gossip.federation.charter import Charter
from quidnunc.gossip.federation.founding import Opened
from quidnunc.gossip.federation.member import Member
from quidnunc.peer import keys
from quidnunc.peer.cli import Context
from quidnunc.peer.commands.charter_view import terms_lines
from quidnunc.peer.commands.data_schema import check_schema
from quidnunc.peer.commands.promise import check_promise
from quidnunc.peer.home import Home
from quidnunc.peer.home_name import quidnunc
from quidnunc.peer.output import Line, Styled


def root_key(path: Path, member: Member, passphrase: keys.Passphrase) -> SecretKey:
    """The root key of ``member``, unlocked if need be; raises KeyFileError when it is another's."""
    root = SecretKey(keys.load(path, "root", passphrase))
    if root.public != member.root:
        raise KeyFileError(
            f"{path}: holds root key {root.public.hex()[:16]}, the card of {member.name} names "
            f"{member.root.hex()[:16]}",
            hint="name the right file with --key",
        )
    return root


def show_terms(charter: Charter, context: Context) -> None:
    """Say what is about to be signed; raises CharterError for a data schema that is none, or too little noise."""
    check_schema(charter.task)
    check_promise(charter.privacy)
    for line in terms_lines(charter):
        context.out.talk(line.text if isinstance(line, Styled) else line)


def agreed_to(charter: Charter, context: Context) -> bool:
    """Whether the root key may sign ``charter``: ``--yes``, or a person says so. UsageError if nobody can."""
    question = f"sign charter {charter.federation_id.hex()[:16]} with the root key?"
    return context.agreed("the root key signs: this", question)


def next_steps(target: Path, opened: Opened, home: Home, *, installed: bool) -> list[Line]:
    """Who does what next with the charter in ``target``, on which machine."""
    if opened.missing:
        first = opened.missing[0].name
        return [
            f"next: hand {target} to {first}; on the machine of {first}:",
            f"  quidnunc federation sign {shlex.quote(target.name)}",
        ]
    lines: list[Line] = []
    if installed:
        lines += ["next, on this machine:", f"  {quidnunc(home)} run"]
    else:
        lines += [
            "next, on this machine, unless that was done:",
            f"  {quidnunc(home)} federation install {shlex.quote(str(target))}",
        ]
    return [
        *lines,
        f"and hand {target} to every other member, to start with it; on each of their machines:",
        f"  quidnunc run --charter {shlex.quote(target.name)}",
    ]
