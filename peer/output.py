"""What the command line says and how it ends: exit codes, the JSON envelope, errors, text that is safe to print.

Data goes to stdout, talk to stderr. With ``--json`` stdout holds exactly one object::

    {"v": 1, "ok": bool, "code": int, "data": ..., "warnings": [str, ...], "error": null | {"id", "message",
    "hint"}}

Within ``v`` keys are only ever added. Names, file contents and messages of others pass through :func:`escape`
before they reach a terminal, always and in one place.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, NamedTuple, TextIO

from quidnunc.crypto.errors import (
    BlobLost,
    BudgetExhausted,
    CharterError,
    CharterUnsigned,
    ConfigError,
    JournalCorrupt,
    KeyFileError,
    LedgerBehind,
    LedgerCorrupt,
    LedgerForked,
    LogRetired,
    QuidnuncError,
    Reason,
    RemoteProtocolError,
    SchemaMismatch,
    StoreLocked,
    StoreNewer,
    StoreUnwritable,
)
from quidnunc.gossip.markup import escape

ENVELOPE_VERSION = 1

_PATIENCE_S = 2.0


class ExitCode(IntEnum):
    """How a command ended; a stable contract that scripts may branch on."""

    OK = 0
    UNEXPECTED = 1
    USAGE = 2
    NOT_REACHABLE = 3
    LOCKED = 4
    DEGRADED = 10
    PENDING = 11
    STALLED = 12
    CHECK_FAILED = 20
    VERIFY_FAILED = 30
    FORK_PROVEN = 31
    INCOMPLETE = 32
    NOT_PERMITTED = 40
    NO_QUORUM = 41
    INCOMPATIBLE = 42
    BUDGET_EXHAUSTED = 50
    SCHEMA_MISMATCH = 51
    CONFIG_INVALID = 64
    DATA_CORRUPT = 65
    CANNOT_WRITE = 73
    KEY_LOCKED = 77
    STATE_NEWER = 78
    INTERRUPTED = 130
    TERMINATED = 143


_CODES: tuple[tuple[type[QuidnuncError], ExitCode], ...] = (
    (LedgerCorrupt, ExitCode.DATA_CORRUPT),
    (BlobLost, ExitCode.DATA_CORRUPT),
    (LedgerBehind, ExitCode.DATA_CORRUPT),
    (JournalCorrupt, ExitCode.DATA_CORRUPT),
    (LedgerForked, ExitCode.FORK_PROVEN),
    (LogRetired, ExitCode.NOT_PERMITTED),
    (KeyFileError, ExitCode.KEY_LOCKED),
    (CharterUnsigned, ExitCode.NO_QUORUM),
    (CharterError, ExitCode.CONFIG_INVALID),
    (ConfigError, ExitCode.CONFIG_INVALID),
    (SchemaMismatch, ExitCode.SCHEMA_MISMATCH),
    (BudgetExhausted, ExitCode.BUDGET_EXHAUSTED),
    (StoreLocked, ExitCode.LOCKED),
    (StoreUnwritable, ExitCode.CANNOT_WRITE),
    (StoreNewer, ExitCode.STATE_NEWER),
    (RemoteProtocolError, ExitCode.VERIFY_FAILED),
)


class UsageError(QuidnuncError):
    """The command line itself is wrong."""

    exit_code = ExitCode.USAGE


class StdoutUnwritable(QuidnuncError):
    """What was found could not be told: standard output takes no more, as on a full disk."""

    exit_code = ExitCode.CANNOT_WRITE


def exit_code_of(error: QuidnuncError) -> ExitCode:
    """The exit code of an error: its class attribute ``exit_code`` if it has one, else by the table above."""
    own = getattr(error, "exit_code", None)
    if own is not None:
        return ExitCode(own)
    if isinstance(error, RemoteProtocolError) and error.reason is Reason.VERSION:
        return ExitCode.INCOMPATIBLE
    return next((code for kind, code in _CODES if isinstance(error, kind)), ExitCode.UNEXPECTED)


def error_id_of(error: QuidnuncError) -> str:
    """A stable word for an error: the refusal's reason, or the class name in snake case."""
    if isinstance(error, RemoteProtocolError):
        return error.reason.label
    return re.sub(r"(?<!^)(?=[A-Z])", "_", type(error).__name__).lower()


class Styled(NamedTuple):
    """A line with a meaning: ``good``, ``bad``, ``warn`` or ``strong``; shown in color where colors are wanted."""

    text: str
    style: str


Line = str | Styled

_COLORS = {"good": "32", "bad": "31", "warn": "33", "strong": "1"}


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a command found: ``data`` for ``--json``, ``lines`` for people, and how it ends.

    A command that ends well in itself but reports a failure (a ledger that does not verify) gives both
    ``data`` and a ``code`` with ``message`` and ``hint``.
    """

    data: Any = None
    lines: Sequence[Line] = ()
    code: ExitCode = ExitCode.OK
    message: str = ""
    hint: str = ""


@dataclass
class Output:
    """Where a command speaks. ``quiet`` silences talk, never results or errors."""

    json: bool = False
    quiet: bool = False
    verbose: int = 0
    color: bool = False
    stdout: TextIO = field(default_factory=lambda: sys.stdout)
    stderr: TextIO = field(default_factory=lambda: sys.stderr)
    warnings: list[str] = field(default_factory=list)

    def talk(self, text: str) -> None:
        """A remark to the person at the terminal (stderr)."""
        if not self.quiet:
            self._print(self.stderr, text)

    def detail(self, text: str) -> None:
        """A remark for ``-v`` only (stderr)."""
        if self.verbose:
            self._print(self.stderr, text)

    def warn(self, text: str) -> None:
        """Something that deserves attention but stops nothing: kept for the envelope, and said on stderr."""
        self.warnings.append(text)
        self._print(self.stderr, Styled(f"warning: {text}", "warn"))

    def progress(self, verb: str, things: str) -> Callable[[int, int], None]:
        """A callback (done, total) that keeps one line up to date on a terminal, once it takes over two seconds."""
        begun = time.monotonic()
        shows = not (self.quiet or self.json) and self.stderr.isatty()

        def show(done: int, total: int) -> None:
            if shows and time.monotonic() - begun > _PATIENCE_S:
                end = "\r" if done < total else "\n"
                print(f"{verb} {done} of {total} {things}", end=end, file=self.stderr, flush=True)

        return show

    def record(self, value: Any) -> None:
        """One line of a JSON stream (stdout), flushed. Raises StdoutUnwritable, as all that writes to stdout does."""
        with _telling():
            print(_json(value), file=self.stdout, flush=True)

    def raw(self, data: bytes) -> None:
        """The bytes of a file, on stdout and nothing else there."""
        with _telling():
            self.stdout.flush()
            self.stdout.buffer.write(data)
            self.stdout.buffer.flush()

    def line(self, line: Line) -> None:
        """One line of a running display (stdout), flushed."""
        self._print(self.stdout, line)
        self.flush()

    def flush(self) -> None:
        """Hand over what was printed to stdout so far."""
        with _telling():
            self.stdout.flush()

    def finish(self, outcome: Outcome) -> int:
        """Print what a command found and return its exit code."""
        error = None
        if outcome.message:
            error = _error(ExitCode(outcome.code).name.lower(), outcome.message, outcome.hint)
        if self.json:
            self._envelope(outcome.code, outcome.data, error)
        else:
            for line in outcome.lines:
                self._print(self.stdout, line)
            self._say_error(error)
        self.flush()
        return int(outcome.code)

    def fail(self, error: QuidnuncError) -> int:
        """Print an error and return its exit code."""
        return self.fail_as(exit_code_of(error), error_id_of(error), error.message, error.hint)

    def fail_as(self, code: ExitCode, identifier: str, message: str, hint: str) -> int:
        """Print an error that is no :class:`QuidnuncError` and return its exit code."""
        detail = _error(identifier, message, hint)
        if self.json:
            self._envelope(code, None, detail)
        self._say_error(detail)
        return int(code)

    def fail_unheard(self, error: StdoutUnwritable) -> int:
        """Say on stderr alone that stdout cannot be written, and return the exit code."""
        self._say_error(_error(error_id_of(error), error.message, error.hint))
        return int(exit_code_of(error))

    def _envelope(self, code: ExitCode, data: Any, error: dict[str, str] | None) -> None:
        ok = code == ExitCode.OK
        self.record(
            {
                "v": ENVELOPE_VERSION,
                "ok": ok,
                "code": int(code),
                "data": data,
                "warnings": self.warnings,
                "error": error,
            }
        )

    def _say_error(self, error: dict[str, str] | None) -> None:
        if error is not None:
            self._print(self.stderr, Styled(f"error: {error['message']}", "bad"))
            if error["hint"]:
                self._print(self.stderr, f"hint: {error['hint']}")

    def _print(self, stream: TextIO, line: Line) -> None:
        text, style = (line.text, line.style) if isinstance(line, Styled) else (line, "")
        text = escape(text)
        if style and self.color:
            text = f"\x1b[{_COLORS[style]}m{text}\x1b[0m"
        if stream is not self.stderr:
            with _telling():
                print(text, file=stream)
            return
        # Talk that cannot be written (a log on a full disk) must not change how the command ends.
        with contextlib.suppress(OSError):
            print(text, file=stream)


@contextlib.contextmanager
def _telling() -> Iterator[None]:
    """Around what writes to stdout: a reader that left is another matter, and stays a BrokenPipeError."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        why = (error.strerror or type(error).__name__).lower()
        raise StdoutUnwritable(f"standard output: cannot be written: {why}") from error


def wants_color(stream: TextIO, *, disabled: bool) -> bool:
    """Whether to color what goes to ``stream``: a terminal, without ``--no-color`` or ``NO_COLOR``."""
    if disabled or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return False
    return stream.isatty()


def _error(identifier: str, message: str, hint: str) -> dict[str, str]:
    return {"id": identifier, "message": message, "hint": hint}


def _json(value: Any) -> str:
    # ASCII only: what others wrote cannot steer a terminal from inside a JSON text either.
    return json.dumps(value, ensure_ascii=True, allow_nan=False, default=_jsonable)


def _jsonable(value: object) -> str:
    if isinstance(value, bytes):
        return value.hex()
    raise TypeError(f"{type(value).__name__} in a JSON answer")
