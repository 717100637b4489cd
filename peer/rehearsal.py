"""A federation on one machine, made with the commands a person would use: for the demo and for tests.

Every peer is a separate ``quidnunc run`` process with its own home, keys and data; only the machine is shared.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import string
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from quidnunc.crypto.errors import QuidnuncError
from quidnunc.peer.client import NotReachable, ask
from quidnunc.peer.config_text import toml_literal, with_values
from quidnunc.peer.files import atomic_write
from quidnunc.peer.home import Home

COMMAND = (sys.executable, "-m", "quidnunc.peer")
COMMAND_TIMEOUT_S = 300.0
STOP_TIMEOUT_S = 20.0
POLL_S = 0.1
LOG_TAIL_LINES = 8
CHARTER = "charter.note"
SCHEMA = "schema.toml"
DAEMONS_MIN = 2
"""With fewer daemons left there is nobody to learn with."""


class RehearsalFailed(QuidnuncError):
    """A command or a daemon of the rehearsal ended in an error."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What to rehearse. ``create`` are further arguments of ``federation create``.

    ``paths`` are the peers' local data, one each, for a task that reads some; ``schema`` is the text that says how.
    ``options`` are task options of every site, which say how its data are written.
    ``names`` are the peers' names, and those of their homes; peer-a, peer-b and so on where there are none.
    """

    peers: int
    task: str = "digits"
    alpha: float = 0.5
    seed: int = 0
    create: tuple[str, ...] = ()
    attackers: int = 0
    attack: str = "sign_flip"
    ping_interval_s: float = 2.0
    paths: tuple[str, ...] = ()
    schema: str = ""
    names: tuple[str, ...] = ()
    options: tuple[tuple[str, str], ...] = ()


@dataclass(slots=True)
class Actor:
    """One peer of a rehearsal and its daemon process, if it runs.

    ``ended`` is the exit code of a daemon that ended by itself and was given up.
    """

    index: int
    name: str
    home: Home
    attacker: bool
    process: subprocess.Popen[bytes] | None = None
    last_status: dict[str, Any] = field(default_factory=dict)
    ended: int | None = None

    @property
    def log(self) -> Path:
        return self.home.root / "daemon.log"

    def start(self, *arguments: str) -> None:
        """Start (or restart) the daemon; its log is appended to ``daemon.log``. It does not outlive this process."""
        self.ended = None
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*COMMAND, "--home", str(self.home.root), "run", "--until-eof", *arguments],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )

    def signal(self, number: int) -> None:
        """Send a signal to the daemon, if it runs."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(number)

    def wait(self, timeout_s: float = STOP_TIMEOUT_S) -> int:
        """The daemon's exit code, once it has ended; kills it after ``timeout_s``."""
        assert self.process is not None
        try:
            return self.process.wait(timeout_s)
        except BaseException as error:
            self.process.kill()
            code = self.process.wait()
            if isinstance(error, subprocess.TimeoutExpired):
                return code
            raise
        finally:
            if self.process.stdin is not None:
                self.process.stdin.close()

    def status(self) -> dict[str, Any] | None:
        """What the daemon says now, or None while nobody answers."""
        try:
            self.last_status = ask(self.home.socket(), "/v1/status", timeout_s=5.0)
        except NotReachable:
            return None
        return self.last_status

    def exit_code(self) -> int | None:
        """How the daemon ended, or None while it runs or was never started."""
        return None if self.process is None else self.process.poll()

    def check(self) -> None:
        """Raise RehearsalFailed if the daemon has ended by itself."""
        code = self.exit_code()
        if code is not None:
            last = self.tail().splitlines()
            why = f": {last[-1]}" if last else ""
            raise RehearsalFailed(f"{self.name} ended with exit code {code}{why}", hint=f"see {self.log}")

    def tail(self) -> str:
        """The last lines of its log."""
        with contextlib.suppress(OSError):
            return "\n".join(self.log.read_text(errors="replace").splitlines()[-LOG_TAIL_LINES:])
        return ""


def command(
    *arguments: str, home: Path | None = None, check: bool = True, temporary: str | None = None
) -> dict[str, Any]:
    """Run one ``quidnunc`` command with ``--json`` and return its envelope; RehearsalFailed unless it ended well.

    Interrupted, it is killed, and cannot remove its temporary files: ``temporary`` is a directory for them.
    """
    where = [] if home is None else ["--home", str(home)]
    done = subprocess.run(
        [*COMMAND, *where, "--json", *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=COMMAND_TIMEOUT_S,
        check=False,
        env=os.environ if temporary is None else {**os.environ, "TMPDIR": temporary},
    )
    try:
        envelope: dict[str, Any] = json.loads(done.stdout)
    except ValueError:
        raise RehearsalFailed(
            f"quidnunc {' '.join(arguments[:2])} ended with {done.returncode} and no JSON: "
            f"{done.stderr.decode(errors='replace')[-400:]}"
        ) from None
    if check and not envelope["ok"]:
        error = envelope["error"] or {}
        raise RehearsalFailed(
            f"quidnunc {' '.join(arguments[:2])}: {error.get('message', envelope['code'])}", hint=error.get("hint", "")
        )
    return envelope


def free_ports(count: int) -> list[int]:
    """Different TCP ports that nobody listens on at the moment."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


class Rehearsal:
    """The peers of one plan under ``root``."""

    def __init__(self, plan: Plan, root: Path) -> None:
        self.plan = plan
        self.root = root
        first_attacker = plan.peers - plan.attackers
        names = plan.names or tuple(f"peer-{letter}" for letter in string.ascii_lowercase[: plan.peers])
        self.actors = [Actor(i, name, Home.at(root / name), i >= first_attacker) for i, name in enumerate(names)]
        self.charter = root / CHARTER
        self.schema = root / SCHEMA

    # -- founding -----------------------------------------------------------------------------------------------

    def found(self) -> dict[str, Any]:
        """init everywhere, one federation create, sign by all, install; returns what ``create`` said."""
        ports = free_ports(self.plan.peers)
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(self._init, self.actors, ports))
        cards = [str(actor.home.card) for actor in self.actors]
        if self.plan.schema:
            atomic_write(self.schema, self.plan.schema.encode())
        with tempfile.TemporaryDirectory(dir=self.root, ignore_cleanup_errors=True) as temporary:
            created = command(
                *("federation", "create", *cards, "--task", self.plan.task, "--seed", str(self.plan.seed)),
                *("--site-peers", str(self.plan.peers), "--start", "all", "--out", str(self.charter)),
                # What a schema describes is built without data, whose spelling a drafter does not know.
                *("--data-path", self.plan.paths[0] if self.plan.paths and not self.plan.schema else ""),
                *(("--schema", str(self.schema)) if self.plan.schema else ()),
                *self.plan.create,
                temporary=temporary,
            )
        for actor in self.actors:
            command("federation", "sign", str(self.charter), "--yes", home=actor.home.root)
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(self._install, self.actors))
        data: dict[str, Any] = created["data"]
        return data

    def _init(self, actor: Actor, port: int) -> None:
        plan = self.plan
        data = ("--data", plan.paths[actor.index]) if plan.paths else ()
        command(
            *("init", f"--name={actor.name}", "--listen", f"/ip4/127.0.0.1/tcp/{port}", *data), home=actor.home.root
        )
        share = {"index": actor.index, "peers": plan.peers, "alpha": float(plan.alpha), "seed": plan.seed}
        changes: dict[str, Any] = {f"data.{key}": value for key, value in share.items()}
        changes["network.ping_interval_s"] = plan.ping_interval_s
        if actor.attacker:
            changes["drill.attack"] = plan.attack
        text = with_values(actor.home.config.read_text(), changes)
        said = "".join(f"{name} = {toml_literal(value)}\n" for name, value in plan.options)
        actor.home.config.write_text(text.replace("[data.options]\n", f"[data.options]\n{said}", 1))

    def _install(self, actor: Actor) -> None:
        command("federation", "install", str(self.charter), home=actor.home.root)

    # -- running ------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """All daemons run inside the block and none after it, however the block ends."""
        try:
            for actor in self.actors:
                actor.start()
            yield
        finally:
            self.stop()

    def stop(self) -> list[int]:
        """Stop every daemon that runs; returns the exit codes. Interrupted, it kills those that have not ended."""
        alive = [actor for actor in self.actors if actor.process is not None]
        try:
            for actor in alive:
                actor.signal(signal.SIGTERM)
            return [actor.wait() for actor in alive]
        except BaseException:
            for actor in alive:
                actor.signal(signal.SIGKILL)
                actor.wait()
            raise

    def statuses(self, lost: Callable[[Actor], None] | None = None) -> list[dict[str, Any] | None]:
        """What every daemon that is left says now.

        When one has ended by itself, it is given up and ``lost`` called with it; raises RehearsalFailed instead
        without ``lost``, or when fewer than DAEMONS_MIN are left.
        """
        for actor in self._left():
            code = actor.exit_code()
            if code is None:
                continue
            if lost is None or len(self._left()) <= DAEMONS_MIN:
                actor.check()
            actor.ended = code
            if lost is not None:
                lost(actor)
        return [actor.status() for actor in self._left()]

    def until(
        self,
        done: Callable[[list[dict[str, Any]]], bool],
        timeout_s: float,
        what: str,
        lost: Callable[[Actor], None] | None = None,
    ) -> list[dict[str, Any]]:
        """Poll until ``done(statuses)`` holds for complete statuses of the daemons that are left.

        Returns the last status of every daemon, also of one that was ``lost`` (see :meth:`statuses`);
        RehearsalFailed after ``timeout_s``.
        """
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            found = self.statuses(lost)
            complete = [each for each in found if each is not None]
            if len(complete) == len(found) and done(complete):
                return [actor.last_status for actor in self.actors]
            time.sleep(POLL_S)
        logs = "\n".join(f"{actor.name}: {actor.tail()}" for actor in self.actors)
        raise RehearsalFailed(f"not {what} within {timeout_s:g} s; last lines:\n{logs}")

    def _left(self) -> list[Actor]:
        return [actor for actor in self.actors if actor.ended is None]

    # -- afterwards ---------------------------------------------------------------------------------------------

    def alone(self) -> subprocess.Popen[bytes]:
        """Start computing what each peer reaches alone; JSON on its stdout."""
        return subprocess.Popen(
            [sys.executable, "-m", "quidnunc.peer.alone", *(str(a.home.root) for a in self.actors)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )

    def verdicts(self) -> list[dict[str, Any]]:
        """``ledger verify`` of every home: the envelopes."""
        with ThreadPoolExecutor(2) as pool:
            return list(pool.map(lambda a: command("ledger", "verify", home=a.home.root, check=False), self.actors))
