"""A command on a terminal of its own, as a person sits before it: answers are typed when they are asked for."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import select
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType

PATIENCE_S = 120.0
COMMAND = (sys.executable, "-P", "-m", "quidnunc.peer")
QUIET = {"NO_COLOR": "1", "TERM": "dumb", "PYTHONPATH": os.pathsep.join(sys.path)}

Answers = Mapping[str, str]
"""What to type, without the line end, when what is shown ends with the key."""


class Terminal:
    """A process whose controlling terminal is ours; ``shown`` is all that it displayed so far."""

    def __init__(
        self, command: Sequence[str], *, env: Mapping[str, str] | None = None, cwd: str | os.PathLike[str] | None = None
    ) -> None:
        self.shown = ""
        self._master, slave = pty.openpty()
        # A slave that stays open here keeps what was written last readable after the process has ended.
        self._slave = slave

        def take_terminal() -> None:
            os.setsid()
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)

        self.process = subprocess.Popen(
            command,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env={**os.environ, **QUIET, **(env or {})},
            cwd=cwd,
            preexec_fn=take_terminal,
        )

    def __enter__(self) -> Terminal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        os.close(self._slave)
        os.close(self._master)

    def until(self, done: Callable[[str], bool], what: str) -> None:
        """Read until ``done`` holds of all that was shown; fails the test when it never does."""
        deadline = time.monotonic() + PATIENCE_S
        while not done(self.shown):
            assert time.monotonic() < deadline, f"never {what}; shown:\n{self.shown}"
            if not self._read() and self.process.poll() is not None:
                self._read()
                assert done(self.shown), f"ended with {self.process.returncode} before {what}; shown:\n{self.shown}"

    def sees(self, text: str) -> None:
        """Wait until ``text`` was shown."""
        self.until(lambda shown: text in shown, f"shows {text!r}")

    def types(self, line: str) -> None:
        """Type a line."""
        os.write(self._master, line.encode() + b"\n")

    def ends(self, answers: Answers | None = None) -> int:
        """Answer what is asked until the process ends; its exit code."""
        deadline = time.monotonic() + PATIENCE_S
        answered = 0
        while self.process.poll() is None:
            assert time.monotonic() < deadline, f"never ends; shown:\n{self.shown}"
            self._read()
            for question, answer in (answers or {}).items():
                if self.shown[answered:].rstrip().endswith(question):
                    answered = len(self.shown)
                    self.types(answer)
        while self._read():
            pass
        return self.process.returncode

    def _read(self) -> bool:
        """Take what is there, waiting a moment for it; whether there was something."""
        if not select.select([self._master], [], [], 0.1)[0]:
            return False
        self.shown += os.read(self._master, 65_536).decode("utf-8", "replace").replace("\r\n", "\n")
        return True
