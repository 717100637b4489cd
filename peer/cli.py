"""The command ``quidnunc``: finds the verb, loads only that verb's module, and turns every ending into an exit code.

A command group is one line in :data:`GROUPS` and one module with two functions' worth of interface::

    def register(parser: CommandParser) -> None      # arguments; parser.set_defaults(command=function)
    def function(args, context: Context) -> Outcome  # what it found

Nothing here imports torch, libp2p or numpy; a module that needs them imports them itself.
"""

from __future__ import annotations

import argparse
import contextlib
import getpass
import importlib
import os
import select
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, TextIO, cast

from quidnunc.crypto.errors import ConfigError, KeyFileError, QuidnuncError
from quidnunc.gossip import spelling
from quidnunc.peer.home import Home
from quidnunc.peer.home_name import default_home
from quidnunc.peer.output import ExitCode, Outcome, Output, StdoutUnwritable, UsageError, wants_color

COMMANDS = "quidnunc.peer.commands"


class Group(NamedTuple):
    """One verb: its name, what it is for, and the module that knows."""

    name: str
    summary: str
    module: str


GROUPS = (
    Group("demo", "real peers on this machine learn together, from one command", f"{COMMANDS}.demo"),
    Group("init", "make a new peer's home: keys, configuration, member card", f"{COMMANDS}.init"),
    Group("run", "be this home's peer until stopped", f"{COMMANDS}.run"),
    Group("status", "what the running daemon says of itself", f"{COMMANDS}.status"),
    Group("peers", "what it says of its neighbors", f"{COMMANDS}.peers"),
    Group("pause", "stop the running daemon's training; it goes on merging", f"{COMMANDS}.pause"),
    Group("resume", "have it train again", f"{COMMANDS}.resume"),
    Group("id", "who this peer is: log id, PeerID, fingerprint, paths", f"{COMMANDS}.identity"),
    Group("key", "lock, unlock and show this home's key files", f"{COMMANDS}.key"),
    Group("federation", "create, sign, show, verify and install a charter", f"{COMMANDS}.federation"),
    Group("data", "check a table of this peer's own against a schema", f"{COMMANDS}.data"),
    Group("ledger", "read and verify the provenance ledger", f"{COMMANDS}.ledger"),
    Group("budget", "what the privacy of this peer's records has cost so far", f"{COMMANDS}.budget"),
    Group("privacy", "attack the own training, to see what it lets out", f"{COMMANDS}.privacy"),
    Group("sim", "simulate many peers on this machine: topologies and scenarios", "quidnunc.sim.cli"),
    Group("replay", "live a daemon's journal again, to the same ledger head", f"{COMMANDS}.replay"),
    Group("backup", "copy this peer's home, keys and ledger to one file", f"{COMMANDS}.backup"),
    Group("restore", "make a home again from such a file", f"{COMMANDS}.restore"),
    Group("version", "versions of the program and of its formats", f"{COMMANDS}.version"),
)


@dataclass(frozen=True)
class Context:
    """What every command may use besides its own arguments. ``timeout_s`` is None unless ``--timeout`` was given."""

    home: Home
    out: Output
    yes: bool = False
    no_input: bool = False
    timeout_s: float | None = None

    @property
    def interactive(self) -> bool:
        """Whether a person can be asked."""
        return not (self.no_input or self.out.json) and sys.stdin is not None and sys.stdin.isatty()

    def ask(self, question: str) -> str:
        """A person's answer; only to be called when :attr:`interactive`."""
        self.out.stderr.write(f"{question} ")
        self.out.stderr.flush()
        return sys.stdin.readline().strip()

    def agreed(self, what: str, question: str, talk: Iterable[str] = ()) -> bool:
        """Whether ``what`` may be done: ``--yes``, or a person says so, after ``talk``. UsageError if nobody can."""
        if self.yes:
            return True
        if not self.interactive:
            raise UsageError(f"{what} asks first, and nobody can answer", hint="add --yes")
        for line in talk:
            self.out.talk(line)
        return self.ask(f"{question} [y/N]").lower() in ("y", "yes")

    def ask_secret(self, question: str) -> str:
        """A person's answer that the terminal does not show; only to be called when :attr:`interactive`."""
        try:
            with warnings.catch_warnings():
                # Without this, a terminal that cannot hide what is typed would show it with a warning.
                warnings.simplefilter("error", getpass.GetPassWarning)
                return getpass.getpass(f"{question} ", self.out.stderr)
        except getpass.GetPassWarning:
            raise KeyFileError("this terminal cannot hide what is typed", hint="use --passphrase-file FILE") from None
        except (EOFError, UnicodeDecodeError):
            raise KeyFileError("no passphrase was typed", hint="nothing was written") from None


Command = Callable[[argparse.Namespace, Context], Outcome]


class CommandParser(argparse.ArgumentParser):
    """An argument parser that raises UsageError, knows the global flags everywhere, and never guesses a flag."""

    def __init__(self, *, top: bool = False, **options: Any) -> None:
        super().__init__(allow_abbrev=False, **options)
        _add_global_flags(self, top=top)

    def error(self, message: str) -> NoReturn:
        """Raise UsageError with the usage line as its hint."""
        usage = " ".join(self.format_usage().removeprefix("usage: ").split())
        raise UsageError(f"{message[:1].lower()}{message[1:]}", hint=f"usage: {usage}")

    def verbs(self, what: str) -> Callable[..., CommandParser]:
        """Begin a choice of second words, for example ``federation create``; call the result to add one."""
        chooser = self.add_subparsers(dest=what, metavar=what.upper(), required=True, parser_class=CommandParser)
        return cast("Callable[..., CommandParser]", chooser.add_parser)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code; never raises."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    _fill_streams()
    for stream in (sys.stdout, sys.stderr):
        # A terminal or pipe that cannot show a character gets it written out instead of a crash.
        with contextlib.suppress(AttributeError, ValueError):
            cast("Any", stream).reconfigure(errors="backslashreplace")
    options = arguments[: arguments.index("--")] if "--" in arguments else arguments
    out = Output(json="--json" in options)
    try:
        code = _run(arguments, out)
        # What argparse printed lies in the buffer still.
        out.flush()
    except StdoutUnwritable as error:
        _discard(sys.stdout)
        return out.fail_unheard(error)
    except BrokenPipeError:
        _reader_left()
        return int(ExitCode.OK)
    finally:
        try:
            sys.stderr.flush()
        except OSError:
            _discard(sys.stderr)
    return code


def _run(arguments: list[str], out: Output) -> int:
    """One command line; raises what writing to stdout raises, and nothing else."""
    home = None
    try:
        try:
            args = _parse(arguments)
            home = Home.at(args.home or default_home())
            _apply(args, out)
            context = Context(home, out, yes=args.yes, no_input=args.no_input, timeout_s=args.timeout)
            return out.finish(cast("Command", args.command)(args, context))
        except BaseExceptionGroup as group:
            raise _leaf(group) from group
    except StdoutUnwritable:
        raise
    except QuidnuncError as error:
        out.detail("".join(traceback.format_exception(error)).rstrip())
        return out.fail(error)
    except KeyboardInterrupt:
        return out.fail_as(ExitCode.INTERRUPTED, "interrupted", "interrupted", "")
    except PermissionError as error:
        return out.fail(_forbidden(error))
    except BrokenPipeError as error:
        return int(ExitCode.OK) if _reader_left() else _unexpected(error, out, home)
    except SystemExit as leaving:
        return leaving.code if isinstance(leaving.code, int) else int(ExitCode.OK)
    except Exception as error:  # noqa: BLE001  the outermost frame of a command: a bug ends here, and is kept
        return _unexpected(error, out, home)


def _fill_streams() -> None:
    """Where a standard stream was closed before the start, discard what goes there and read nothing from there.

    Left closed, its descriptor would go to the next file that is opened: a ledger would be somebody's stdout.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is not None:
            continue
        with contextlib.suppress(OSError):
            os.close(number)
        # The lowest free number is the one just closed: those below it are open.
        os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
        mode = "r" if name == "stdin" else "w"
        setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))  # noqa: SIM115  for the whole process


def _discard(stream: TextIO) -> None:
    """Let what is written to ``stream`` from here on go nowhere, the interpreter's own flush at exit included."""
    with contextlib.suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _parse(arguments: list[str]) -> argparse.Namespace:
    verb = _verb(arguments)
    parser = CommandParser(
        top=True,
        prog="quidnunc",
        description="Organizations train one model together, with no coordinator.",
        epilog="quidnunc VERB --help tells more. Exit codes and --json are stable; see the documentation.",
    )
    if verb is None and "--version" in arguments:
        verb = "version"
        arguments = [*(each for each in arguments if each != "--version"), verb]
    known = [group.name for group in GROUPS]
    if verb is not None and verb not in known:
        raise UsageError(
            f"no such command: {verb[:40]!r}", hint=spelling.hint(verb, known, f"there are: {', '.join(known)}")
        )
    chooser = parser.add_subparsers(dest="verb", metavar="VERB", parser_class=CommandParser)
    for group in GROUPS:
        below = chooser.add_parser(group.name, help=group.summary, description=f"{group.summary}.")
        if group.name == verb:
            importlib.import_module(group.module).register(below)
    args = parser.parse_args(arguments)
    if args.verb is None:
        raise UsageError("no command given", hint=f"quidnunc --help; there are: {', '.join(known)}")
    return args


def _verb(arguments: list[str]) -> str | None:
    """The first word that is neither a flag nor a flag's value."""
    words = iter(arguments)
    for word in words:
        if word in ("--home", "--timeout"):
            next(words, None)
        elif not word.startswith("-"):
            return word
    return None


def _add_global_flags(parser: argparse.ArgumentParser, *, top: bool) -> None:
    """Add the flags that are understood before and after the verb; only the first parser sets their defaults."""

    def default(value: Any) -> Any:
        return value if top else argparse.SUPPRESS

    group = parser.add_argument_group("global flags")
    add = group.add_argument
    add("--home", metavar="DIR", default=default(None), help="one peer's home: configuration, keys, state")
    add("--json", action="store_true", default=default(False), help="one JSON object on stdout")
    add("-q", "--quiet", action="store_true", default=default(False), help="results and errors only")
    add("-v", "--verbose", action="count", default=default(0), help="say more")
    add("--no-color", action="store_true", default=default(False), help="no colors (also: NO_COLOR)")
    add("--no-input", action="store_true", default=default(False), help="never ask")
    add("--yes", action="store_true", default=default(False), help="answer yes to every question")
    add("--timeout", metavar="S", type=_seconds, default=default(None), help="seconds to wait for a daemon")
    if top:
        add("--version", action="store_true", help="print the version")


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value <= 86_400:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds above 0 and up to 86400")
    return value


def _apply(args: argparse.Namespace, out: Output) -> None:
    out.json, out.quiet, out.verbose = args.json, args.quiet, args.verbose
    out.color = not args.json and wants_color(out.stdout, disabled=args.no_color)


def _leaf(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """What really happened, out of the groups that nurseries wrap it in: our own errors first."""

    def leaves(error: BaseException) -> Iterator[BaseException]:
        if isinstance(error, BaseExceptionGroup):
            for each in error.exceptions:
                yield from leaves(each)
        else:
            yield error

    found = list(leaves(group))
    return next(
        (error for kind in (QuidnuncError, KeyboardInterrupt) for error in found if isinstance(error, kind)),
        found[0],
    )


def _reader_left() -> bool:
    """Whether somebody closed our output, as ``| head`` does; then there is nobody to tell, now or at exit."""
    left = False
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):
            poll = select.poll()
            poll.register(stream.fileno(), 0)
            if poll.poll(0):
                _discard(stream)
                left = True
    return left


def _forbidden(error: PermissionError) -> ConfigError:
    """What a file or directory means, mostly one on the way to a home, that whoever runs this may not enter or read."""
    reason = (error.strerror or "permission denied").lower()
    hint = "give the user that runs quidnunc this path and the directories above it (chown), or run it as their owner"
    return ConfigError(f"{error.filename or 'a file'}: cannot be reached: {reason}", hint=hint)


def _unexpected(error: Exception, out: Output, home: Home | None) -> int:
    """Keep the traceback of a bug in a file, or show it with ``-v``; a person is never handed a bare one."""
    text = "".join(traceback.format_exception(error))
    if out.verbose:
        for line in text.rstrip().split("\n"):
            out.detail(line)
        hint = "this is a bug: please report the lines above"
    else:
        kept = _keep(text, home)
        hint = f"this is a bug: please report {kept}" if kept else "this is a bug: run it again with -v"
    return out.fail_as(ExitCode.UNEXPECTED, "unexpected", f"{type(error).__name__}: {error}", hint)


def _keep(text: str, home: Home | None) -> Path | None:
    try:
        directory = str(home.root) if home is not None and home.root.is_dir() else None
        # mkstemp makes it readable by the owner only: a traceback may quote data.
        descriptor, path = tempfile.mkstemp(prefix="quidnunc-error-", suffix=".txt", dir=directory)
        with os.fdopen(descriptor, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)
    except (OSError, ValueError):
        return None
    return Path(path)


if __name__ == "__main__":
    sys.exit(main())
