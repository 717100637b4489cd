"""The daemon's end of the compute process: one job at a time, whatever user code does to the other end.

The process is started anew after a crash, a kill, an exit, an exhausted memory limit, or when nothing has
moved for ``stall_s``; the job it had is answered by JobFailed. Restarts wait 0.5 s, then twice as long each
time up to 60 s, and start over once a job has been answered. Nothing here imports torch.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import logging
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from types import TracebackType

import trio

from quidnunc.crypto.errors import ConfigError, LocalProtocolError, Malformed, StoreUnwritable
from quidnunc.gossip.jobs import Job, JobFailed, Result
from quidnunc.peer.oom import oom_kills
from quidnunc.peer.pipe import (
    TO_CHILD,
    TO_PARENT,
    FrameReader,
    Heartbeat,
    Noted,
    Ready,
    Setup,
    SetupFailed,
    failed,
    frame,
)

log = logging.getLogger("quidnunc.peer")

COMMAND = (sys.executable, "-P", "-X", "faulthandler", "-m", "quidnunc.peer.trainer")
"""``-P``: the current directory comes last on the module path, where the trainer puts it."""

BACKOFF_FIRST_S = 0.5
BACKOFF_MAX_S = 60.0
STOP_GRACE_S = 5.0
START_ATTEMPTS = 3

_POLL_S = 1.0
_REAP_S = 0.01


class Death(StrEnum):
    """What went wrong with a job: the process hung, was killed, ran out of memory, ended; or user code raised."""

    HUNG = "hung"
    KILLED = "killed"
    MEMORY = "memory"
    ENDED = "ended"
    RAISED = "raised"


@dataclass(frozen=True, slots=True)
class Trouble:
    """The last thing that went wrong, how many of its kind there were, and when, on the caller's clock."""

    death: Death
    text: str
    count: int
    at: float


class _Died(Exception):
    """The process ended or was given up; the text says why."""

    def __init__(self, text: str, death: Death = Death.ENDED) -> None:
        super().__init__(text)
        self.death = death


class ComputeProcess:
    """A compute process that is always there again.

    ``setup.noise_key`` is filled in at every start with 32 fresh bytes of the operating system, so that a
    restarted process never repeats noise. A ``noise_seed`` (tests only, it voids every epsilon) derives them
    instead, another key for every start. ``stall_s`` and ``start_s`` are seconds without progress in a job
    and while loading the task. ``notes`` are what the task remarks on the local data, from the first job on.
    """

    def __init__(
        self,
        setup: Setup,
        *,
        stall_s: float = 120.0,
        start_s: float = 120.0,
        noise_seed: bytes | None = None,
        command: Sequence[str] = COMMAND,
    ) -> None:
        self._setup = dataclasses.replace(setup, beat_s=min(setup.beat_s, stall_s / 4, start_s / 4))
        self._stall_s = stall_s
        self._start_s = start_s
        self._noise_seed = noise_seed
        self._command = tuple(command)
        self._turn = trio.Lock()
        self._child: _Child | None = None
        self._starts = 0
        self.last_exit = ""
        self.notes: tuple[str, ...] = ()
        self._deaths: Counter[Death] = Counter()
        self._last: Trouble | None = None
        self._delay = 0.0
        self._not_before = -float("inf")

    @property
    def restarts(self) -> int:
        """How many times a process was started after the first one."""
        return max(0, self._starts - 1)

    @property
    def pid(self) -> int | None:
        """The process id while a process runs, else None."""
        return self._child.pid if self._child is not None and not self._child.exited() else None

    @property
    def died(self) -> int:
        """How many processes hung, ended or were killed so far."""
        return sum(count for death, count in self._deaths.items() if death != Death.RAISED)

    def trouble(self, now: float) -> Trouble | None:
        """The last thing that went wrong, if anything did; ``now`` is the present on the caller's clock."""
        if self._last is None:
            return None
        return dataclasses.replace(self._last, at=now - (trio.current_time() - self._last.at))

    def _note(self, death: Death, text: str) -> None:
        self._deaths[death] += 1
        self._last = Trouble(death, text, self._deaths[death], trio.current_time())

    async def __aenter__(self) -> ComputeProcess:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        """Start the process, which :meth:`run` also does; one that dies is given START_ATTEMPTS.

        Raises ConfigError when the task cannot be loaded, StoreUnwritable when the disk fails.
        """
        async with self._turn:
            for attempt in range(1, START_ATTEMPTS + 1):
                try:
                    await self._ensure()
                except _Died as error:
                    self._note(error.death, f"the compute process {error}")
                    if attempt == START_ATTEMPTS:
                        raise ConfigError(
                            f"task {self._setup.task!r}: the compute process {error} before it was ready",
                            hint="its own last words are on stderr; see also training.memory_mib",
                        ) from None
                else:
                    return

    async def run(self, job: Job) -> Result:
        """Compute ``job``, waiting for jobs before it; JobFailed for everything that can go wrong.

        Cancelling it kills the process: a job is a pure function and can be given to the next one. Raises
        StoreUnwritable when the disk has failed the process: nothing can be computed, nor a ledger be written.
        """
        async with self._turn:
            try:
                child = await self._ensure()
                return await self._exchange(child, job)
            except ConfigError as error:
                return failed(job, error.message)
            except _Died as error:
                self.last_exit = str(error)
                self._note(error.death, f"the compute process {error}")
                return failed(job, f"the compute process {error}")

    async def stop(self) -> None:
        """End the process: ask by closing its stdin, and kill what is left after STOP_GRACE_S."""
        child, self._child = self._child, None
        if child is not None:
            with trio.CancelScope(shield=True):
                await child.stop()

    async def _exchange(self, child: _Child, job: Job) -> Result:
        try:
            message = await child.ask(TO_CHILD.encode(job), self._stall_s, "training.stall_s")
            self.notes = child.notes
            if not isinstance(message, Result):
                raise _Died("spoke out of turn")
        except LocalProtocolError:
            raise
        except BaseException:
            await self._give_up(child)
            raise
        self._delay = 0.0
        if isinstance(message, JobFailed) and not message.missing:
            self._note(Death.MEMORY if message.exhausted else Death.RAISED, message.why)
        if isinstance(message, JobFailed) and message.exhausted:
            await self._give_up(child)  # what is left of its heap would only fail sooner
        if isinstance(message, JobFailed) and message.unwritable:
            raise StoreUnwritable(message.why, hint="free some space, or check the disk")
        return message

    async def _ensure(self) -> _Child:
        """The living process, started if need be and if it is time."""
        if self._child is not None and self._child.exited():
            # It died between two jobs: no job fails, but an operator must be able to see it.
            self.last_exit = self._child.last_words()
            self._note(self._child.death(), f"the idle compute process {self.last_exit}")
            log.warning("the idle compute process %s", self.last_exit)
            await self._give_up(self._child)
        if self._child is not None:
            return self._child
        await trio.sleep_until(self._not_before)
        self._starts += 1
        child = _Child(self._command)
        try:
            setup = dataclasses.replace(self._setup, noise_key=self._noise_key())
            message = await child.ask(TO_CHILD.encode(setup), self._start_s, "start_s")
            if isinstance(message, SetupFailed):
                kind = StoreUnwritable if message.unwritable else ConfigError
                raise kind(message.message, hint=message.hint)
            if not isinstance(message, Ready):
                raise _Died("spoke out of turn")
        except BaseException:
            await self._give_up(child)
            raise
        self._child = child
        return child

    async def _give_up(self, child: _Child) -> None:
        self._child = None
        await child.kill()
        self._delay = min(BACKOFF_MAX_S, max(BACKOFF_FIRST_S, 2 * self._delay))
        self._not_before = trio.current_time() + self._delay

    def _noise_key(self) -> bytes:
        if self._noise_seed is None:
            return os.urandom(32)
        return hashlib.sha256(self._noise_seed + self._starts.to_bytes(8, "big")).digest()


class _Child:
    """One running process and its two pipes."""

    def __init__(self, command: Sequence[str]) -> None:
        # Not trio's open_process: that forks in a worker thread, and the parent-death signal the child asks
        # for comes when the *thread* that forked it ends, which trio's do after ten idle seconds.
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0, start_new_session=True
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._stdin = trio.lowlevel.FdStream(os.dup(self._process.stdin.fileno()))
        self._stdout = trio.lowlevel.FdStream(os.dup(self._process.stdout.fileno()))
        self._process.stdin.close()
        self._process.stdout.close()
        self._reader = FrameReader(self._stdout)
        self.pid = self._process.pid
        self.notes: tuple[str, ...] = ()
        self._oom_kills = oom_kills()

    def exited(self) -> bool:
        return self._process.poll() is not None

    async def ask(self, data: bytes, limit_s: float, limit_name: str) -> object:
        """Send a frame and wait for the answer, as long as there is progress. Raises _Died."""
        deadline = trio.current_time() + limit_s
        try:
            with trio.move_on_at(deadline):
                await self._stdin.send_all(frame(data))
            progress = -1
            while True:
                with trio.move_on_at(min(deadline, trio.current_time() + _POLL_S)) as scope:
                    answer = await self._reader.read()
                if scope.cancelled_caught:
                    # A process that user code forked may hold the pipe open after ours has died.
                    if self.exited():
                        raise _Died(self.last_words(), self.death())
                    if trio.current_time() >= deadline:
                        raise _Died(f"made no progress for {limit_s:g} s ({limit_name})", Death.HUNG)
                    continue
                if answer is None:
                    raise _Died(await self._farewell(), self.death())
                message: object = TO_PARENT.decode(answer)
                if isinstance(message, Noted):
                    self.notes = message.notes
                    continue
                if not isinstance(message, Heartbeat):
                    return message
                if message.progress > progress:
                    progress = message.progress
                    deadline = trio.current_time() + limit_s
        except trio.BrokenResourceError:
            raise _Died(await self._farewell(), self.death()) from None
        except Malformed as error:
            raise _Died(f"wrote garbage: {error.message}") from error

    async def stop(self) -> None:
        await self._stdin.aclose()
        await self._wait(STOP_GRACE_S)
        await self.kill()

    async def kill(self) -> None:
        """Kill it with everything it started, and wait for its end even when cancelled."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        with trio.CancelScope(shield=True):
            await trio.aclose_forcefully(self._stdin)
            await trio.aclose_forcefully(self._stdout)
            await self._wait(STOP_GRACE_S)

    async def _wait(self, seconds: float) -> None:
        with trio.move_on_after(seconds):
            while not self.exited():
                await trio.sleep(_REAP_S)

    async def _farewell(self) -> str:
        """How it ended, once its pipe has: a process that lives on without its pipe is of no use either."""
        await self._wait(1.0)
        return self.last_words() if self.exited() else "closed its pipe"

    def death(self) -> Death:
        """How it ended, as one word."""
        code = self._process.poll()
        if code is None or code >= 0:
            return Death.ENDED
        starved = code == -signal.SIGKILL and oom_kills() > self._oom_kills
        return Death.MEMORY if starved else Death.KILLED

    def last_words(self) -> str:
        code = self._process.returncode
        if code >= 0:
            return f"exited with status {code}"
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = f"signal {-code}"
        return f"was killed by {name}" + (", perhaps for want of memory" if code == -signal.SIGKILL else "")
