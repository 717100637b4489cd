"""``quidnunc key``: how this home's key files are locked.

::

    show [KEY...]       kind, public key, locked how; needs no passphrase
    lock [KEY...]       lock with a passphrase
    change [KEY...]     another passphrase, or another cost
    unlock [KEY...]     take the lock off
    rotate, revoke      another log key, and an earlier one's word taken back, by the root key (key_rotate.py)

KEY is ``root``, ``operational`` or the path of a key file; without any, both of this home. The key itself stays
the same. A running daemon is not disturbed: it read its key when it started.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, NamedTuple

from quidnunc.crypto.errors import KeyFileError
from quidnunc.crypto.keyfile import MAX_MEM_KIB, MAX_OPS, MIN_MEM_KIB, MIN_OPS, Cost, KeyFile, LockedKeyFile
from quidnunc.peer import keys
from quidnunc.peer.cli import CommandParser, Context
from quidnunc.peer.commands import key_rotate
from quidnunc.peer.commands.files import require_home
from quidnunc.peer.commands.unlocking import add_flags, new_source, source
from quidnunc.peer.output import Line, Outcome, Styled, UsageError

_MIB = 1024


class Target(NamedTuple):
    """A key file that a command is about, as it lies there."""

    path: Path
    found: KeyFile | LockedKeyFile


def register(parser: CommandParser) -> None:
    """The second words and their arguments."""
    add = parser.verbs("action")

    key_rotate.register(add)

    below = _add_keys(add("show", help="kind, public key and lock of each key; needs no passphrase"))
    below.set_defaults(command=show)

    below = _add_keys(add("lock", help="lock keys with a passphrase"))
    add_flags(below)
    _add_cost(below)
    below.set_defaults(command=lock)

    below = _add_keys(add("change", help="another passphrase or another cost"))
    add_flags(below)
    add_flags(below, new=True)
    _add_cost(below)
    below.set_defaults(command=change)

    below = _add_keys(add("unlock", help="take the lock off: whoever can read the file then has the key"))
    add_flags(below)
    below.set_defaults(command=unlock)


def show(args: argparse.Namespace, context: Context) -> Outcome:
    """One line per key; a root key that was moved offline is no error."""
    rows: list[dict[str, Any]] = []
    for path, kind in _named(args.keys, context):
        if not args.keys and not path.exists():
            rows.append({"path": str(path), "kind": kind, "present": False})
        else:
            rows.append(_facts(Target(path, keys.read(path, kind))))
    return Outcome({"keys": rows}, [line for row in rows for line in _lines(row)])


def lock(args: argparse.Namespace, context: Context) -> Outcome:
    """Lock what is not locked."""
    cost = _cost(args)
    targets = _targets(args, context, locked=False)
    phrase = source(args, context).new()
    return _rewrite([(target, _secret(target, None)) for target in targets], phrase, cost)


def change(args: argparse.Namespace, context: Context) -> Outcome:
    """Lock what is locked anew; nothing is written unless the present passphrase opens every key named."""
    if args.passphrase_fd is not None and args.passphrase_fd == args.new_passphrase_fd:
        raise UsageError(f"file descriptor {args.passphrase_fd} is named for both passphrases")
    cost = _cost(args)
    targets = _targets(args, context, locked=True)
    phrase = source(args, context).present()
    opened = [(target, _secret(target, phrase)) for target in targets]
    return _rewrite(opened, new_source(args, context).new(), cost)


def unlock(args: argparse.Namespace, context: Context) -> Outcome:
    """Write the keys as they are; nothing is written unless the passphrase opens every key named."""
    targets = _targets(args, context, locked=True)
    phrase = source(args, context).present()
    return _rewrite([(target, _secret(target, phrase)) for target in targets], None, None)


def _add_keys(parser: CommandParser) -> CommandParser:
    parser.add_argument(
        "keys", nargs="*", metavar="KEY", help="root, operational or a key file (default: both of this home)"
    )
    return parser


def _add_cost(parser: CommandParser) -> None:
    usual = Cost()
    parser.add_argument(
        "--memory",
        type=int,
        default=usual.mem_kib // _MIB,
        metavar="MIB",
        help=f"memory that one guess takes (default: {usual.mem_kib // _MIB} MiB)",
    )
    parser.add_argument(
        "--passes", type=int, default=usual.ops, metavar="N", help=f"times it is gone over (default: {usual.ops})"
    )


def _cost(args: argparse.Namespace) -> Cost:
    least, most = MIN_MEM_KIB // _MIB, MAX_MEM_KIB // _MIB
    if not least <= args.memory <= most:
        raise UsageError(f"--memory is {args.memory}, must be {least} to {most} MiB")
    if not MIN_OPS <= args.passes <= MAX_OPS:
        raise UsageError(f"--passes is {args.passes}, must be {MIN_OPS} to {MAX_OPS}")
    return Cost(args.passes, args.memory * _MIB)


def _named(names: list[str], context: Context) -> list[tuple[Path, str | None]]:
    """The key files meant, each with the kind that it must be of."""
    home = context.home
    own: dict[str, Path] = {"root": home.root_key, "operational": home.operational_key}
    if not names or any(name in own for name in names):
        require_home(home)
    if not names:
        return [(path, kind) for kind, path in own.items()]
    return [(own[name], name) if name in own else (Path(name).absolute(), None) for name in dict.fromkeys(names)]


def _targets(args: argparse.Namespace, context: Context, *, locked: bool) -> list[Target]:
    """The keys that a command is about. One named must be locked or not, as asked; of both, those that are."""
    found = [
        Target(path, keys.read(path, kind)) for path, kind in _named(args.keys, context) if args.keys or path.exists()
    ]
    fitting = [target for target in found if isinstance(target.found, LockedKeyFile) == locked]
    if not fitting or (args.keys and len(fitting) < len(found)):
        wrong = next((target.path for target in found if target not in fitting), context.home.keys)
        raise KeyFileError(
            f"{wrong}: {'not locked' if locked else 'locked already'}",
            hint="lock it with: quidnunc key lock" if locked else "set another passphrase with: quidnunc key change",
        )
    return fitting


def _secret(target: Target, phrase: bytes | None) -> bytes:
    return keys.Opener(target.path, target.found, phrase)()


def _rewrite(opened: list[tuple[Target, bytes]], phrase: bytes | None, cost: Cost | None) -> Outcome:
    """Write every key anew. All the work is done before the first file is touched; then each is replaced whole."""
    made = [(target.path, keys.encode(target.found.kind, secret, phrase, cost)) for target, secret in opened]
    for path, data in made:
        keys.replace(path, data)
    rows = [_facts(Target(path, keys.read(path))) for path, _ in made]
    return Outcome({"keys": rows}, [line for row in rows for line in _lines(row)])


def _facts(target: Target) -> dict[str, Any]:
    found = target.found
    facts = {"path": str(target.path), "kind": found.kind, "present": True, "public": found.public.hex()}
    if isinstance(found, KeyFile):
        return {**facts, "locked": False, "kdf": "none"}
    return {**facts, "locked": True, "kdf": "argon2id13", "passes": found.cost.ops, "memory_kib": found.cost.mem_kib}


def _lines(row: dict[str, Any]) -> list[Line]:
    if not row["present"]:
        return [f"{row['kind']:12} not here   {row['path']}"]
    if row["locked"]:
        how: Line = Styled(
            f"  locked with a passphrase: argon2id, {row['passes']} passes over {row['memory_kib'] // _MIB} MiB", "good"
        )
    else:
        how = Styled("  not locked: whoever can read the file has the key", "warn")
    return [f"{row['kind']:12} {row['public']}   {row['path']}", how]
