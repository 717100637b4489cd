"""Passphrases on the command line: in this order a systemd credential, a file, a descriptor, or a person is asked."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

from quidnunc.crypto.errors import KeyFileError
from quidnunc.crypto.passphrase import passphrase_bytes
from quidnunc.peer import passphrase
from quidnunc.peer.cli import CommandParser, Context

WAYS = (
    f"give the passphrase by systemd credential {passphrase.CREDENTIAL}, --passphrase-file FILE or --passphrase-fd N, "
    "or on a terminal without --no-input"
)
NEW_WAYS = "give it by --new-passphrase-file FILE or --new-passphrase-fd N, or on a terminal without --no-input"


@dataclass(frozen=True, slots=True)
class Source:
    """Where this command line says that a passphrase is; looked for when it is needed, and not kept."""

    context: Context
    file: Path | None
    descriptor: int | None
    credential: bool = True

    def given(self) -> bytes | None:
        """The passphrase from where nobody need be asked, or None if none was named."""
        found = passphrase.from_credential() if self.credential else None
        if found is None and self.file is not None:
            return passphrase.from_file(self.file)
        if found is None and self.descriptor is not None:
            return passphrase.from_descriptor(self.descriptor)
        return found

    def present(self) -> bytes:
        """The passphrase of a locked key; raises KeyFileError naming the ways when there is none."""
        found = self.given()
        if found is not None:
            return found
        if not self.context.interactive:
            raise KeyFileError("the key file is locked, and no passphrase was given", hint=WAYS)
        return _typed(self.context, "passphrase:")

    def new(self, question: str = "new passphrase:") -> bytes:
        """A passphrase to lock with, typed twice if it is typed; raises KeyFileError when there is none."""
        found = self.given()
        if found is not None:
            return found
        if not self.context.interactive:
            raise KeyFileError("no new passphrase was given", hint=WAYS if self.credential else NEW_WAYS)
        return _repeated(self.context, self.context.ask_secret(question))

    def offered(self) -> bytes | None:
        """A passphrase for new keys, or None if a person who was asked typed none, or nobody could be asked."""
        found = self.given()
        if found is not None or not self.context.interactive:
            return found
        question = "passphrase for the new keys (empty: leave them unlocked):"
        if not (first := self.context.ask_secret(question)):
            return None
        return _repeated(self.context, first)


def add_flags(parser: CommandParser, *, new: bool = False) -> None:
    """Add the two flags that name where the passphrase is; with ``new``, the two for the one to be set."""
    name, what = ("new-passphrase", "the new passphrase") if new else ("passphrase", "the passphrase of the key")
    group = parser.add_mutually_exclusive_group()
    group.add_argument(f"--{name}-file", type=Path, metavar="FILE", help=f"{what} is in this file (0600)")
    group.add_argument(f"--{name}-fd", type=_descriptor, metavar="N", help=f"{what} comes through this open descriptor")


def source(args: argparse.Namespace, context: Context) -> Source:
    """Where the flags of :func:`add_flags` say the passphrase is."""
    return Source(context, args.passphrase_file, args.passphrase_fd)


def new_source(args: argparse.Namespace, context: Context) -> Source:
    """Where the flags of ``add_flags(new=True)`` say the new one is. A credential is of the key as it lies there."""
    return Source(context, args.new_passphrase_file, args.new_passphrase_fd, credential=False)


def _typed(context: Context, question: str) -> bytes:
    return passphrase_bytes(context.ask_secret(question).encode("utf-8", "surrogateescape"))


def _repeated(context: Context, first: str) -> bytes:
    """``first`` as bytes, if it is typed the same once more."""
    phrase = passphrase_bytes(first.encode("utf-8", "surrogateescape"))
    if _typed(context, "the same passphrase again:") != phrase:
        raise KeyFileError("the two passphrases differ", hint="nothing was written; try again")
    return phrase


def _descriptor(text: str) -> int:
    if not text.isascii() or not text.isdecimal() or len(text) > 9:
        raise argparse.ArgumentTypeError("the number of an open file descriptor is needed")
    return int(text)
