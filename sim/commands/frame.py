"""What a verb of ``quidnunc sim`` is given and gives back.

The simulator does not import the daemon, so the command line's own types are described here by what is used of them.
"""

from __future__ import annotations

import argparse
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NoReturn, Protocol, TextIO


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


@contextmanager
def ended_in_order() -> Iterator[None]:
    """Within the block SIGTERM, as batch systems send it, ends a run as Ctrl-C does, so that its directory says so."""
    before = signal.signal(signal.SIGTERM, _leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _leave(number: int, frame: object) -> NoReturn:
    raise SystemExit(128 + number)
