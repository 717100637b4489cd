"""What a verb of ``quidnunc sim`` is given and gives back.

The simulator does not import the daemon, so the command line's own types are described here by what is used of them.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TextIO


class Out(Protocol):
    """Where a command speaks; see ``Output`` of the command line."""

    json: bool
    quiet: bool
    stderr: TextIO

    def talk(self, text: str) -> None:
        """A remark on stderr."""
        ...

    def warn(self, text: str) -> None:
        """Something that deserves attention."""
        ...


class Context(Protocol):
    """What every command may use besides its arguments."""

    @property
    def out(self) -> Out:
        """Where to speak."""
        ...


class Verbs(Protocol):
    """Adds a second word to ``quidnunc sim``."""

    def __call__(self, name: str, **options: Any) -> argparse.ArgumentParser:
        """The parser of a new verb."""
        ...


@dataclass(frozen=True, slots=True)
class Answer:
    """What a verb found: ``data`` for ``--json``, ``lines`` for people. The command line reads it as an Outcome."""

    data: Any = None
    lines: Sequence[str] = ()
    code: int = 0
    message: str = ""
    hint: str = ""


Command = Callable[[argparse.Namespace, Context], Answer]
