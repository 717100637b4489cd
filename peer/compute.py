"""The daemon's end of the compute process: one job at a time, whatever user code does to the other end.

Replicas are advanced on a lane of their own: that is cheap, and must not wait behind a training that takes an hour.

The process is started anew after a crash, a kill, an exit, an exhausted memory limit, or when nothing has
moved for ``stall_s``; the job it had is answered by JobFailed. Restarts wait 0.5 s, then twice as long each
time up to 60 s, and start over once a job has been answered. Nothing here imports torch.
"""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import os
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType

import trio

from quidnunc.crypto.errors import ConfigError, LocalProtocolError, StoreUnwritable
from quidnunc.gossip.jobs import AdoptJob, AdvanceJob, Job, JobFailed, Result
from quidnunc.peer.child import Child, Death, Died, Lane
from quidnunc.peer.pipe import (
    TO_CHILD,
    Ready,
    Setup,
    SetupFailed,
    failed,
)

log = logging.getLogger("quidnunc.peer")

COMMAND = (sys.executable, "-P", "-X", "faulthandler", "-m", "quidnunc.peer.trainer")
"""``-P``: the current directory comes last on the module path, where the trainer puts it."""

BACKOFF_FIRST_S = 0.5
BACKOFF_MAX_S = 60.0
START_ATTEMPTS = 3


@dataclass(frozen=True, slots=True)
class Trouble:
    """The last thing that went wrong, how many of its kind there were, and when, on the caller's clock."""

    death: Death
    text: str
    count: int
    at: float


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
        self._starting = trio.Lock()
        self._child: Child | None = None
        self._starts = 0
        self.last_exit = ""
        self.notes: tuple[str, ...] = ()
        self.ready = Ready()
        """What the newest process says of itself."""
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
                except Died as error:
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
            except Died as error:
                return failed(job, f"the compute process {error}")

    async def advance(self, job: AdvanceJob | AdoptJob) -> Result:
        """As :meth:`run`, for what waits for no other job: only for a process that starts. One call at a time.

        A process that dies under it has other reasons, and the next one is asked: JobFailed after START_ATTEMPTS.
        """
        why = ""
        for _ in range(START_ATTEMPTS):
            try:
                child = await self._ensure()
                message = await self._ask(child, child.side, job)
                self._note_failure(message)
                return _writable(message)
            except ConfigError as error:
                return failed(job, error.message)
            except Died as error:
                why = f"the compute process {error}"
        return failed(job, why)

    async def stop(self) -> None:
        """End the process: ask by closing its stdin, and kill what is left after STOP_GRACE_S."""
        child, self._child = self._child, None
        if child is not None:
            with trio.CancelScope(shield=True):
                await child.stop()

    async def _exchange(self, child: Child, job: Job) -> Result:
        message = await self._ask(child, child.main, job)
        self.notes = child.notes
        self._delay = 0.0
        self._note_failure(message)
        if isinstance(message, JobFailed) and message.exhausted:
            await self._give_up(child)  # what is left of its heap would only fail sooner
        return _writable(message)

    def _note_failure(self, message: Result) -> None:
        if isinstance(message, JobFailed) and not message.missing:
            self._note(Death.MEMORY if message.exhausted else Death.RAISED, message.why)

    async def _ask(self, child: Child, lane: Lane, job: Job) -> Result:
        """Have ``child`` do ``job``; it is given up unless it answers. Raises Died."""
        try:
            message = await child.ask(lane, TO_CHILD.encode(job), self._stall_s, "training.stall_s")
            if not isinstance(message, Result):
                raise Died("spoke out of turn")
        except LocalProtocolError:
            raise
        except BaseException as error:
            await self._give_up(child, error)
            raise
        return message

    async def _ensure(self) -> Child:
        """The living process, started if need be and if it is time."""
        async with self._starting:
            if self._child is not None and self._child.exited():
                # It died between two jobs: no job fails, but an operator must be able to see it.
                self.last_exit = self._child.last_words()
                self._note(self._child.death(), f"the idle compute process {self.last_exit}")
                log.warning("the idle compute process %s", self.last_exit)
                await self._give_up(self._child)
            if self._child is None:
                await trio.sleep_until(self._not_before)
                self._child = await self._start()
            return self._child

    async def _start(self) -> Child:
        self._starts += 1
        child = Child(self._command)
        try:
            setup = dataclasses.replace(self._setup, noise_key=self._noise_key(), side=child.side_fd)
            message = await child.ask(child.main, TO_CHILD.encode(setup), self._start_s, "start_s")
            if isinstance(message, SetupFailed):
                kind = StoreUnwritable if message.unwritable else ConfigError
                raise kind(message.message, hint=message.hint)
            if not isinstance(message, Ready):
                raise Died("spoke out of turn")
            self.ready = message
        except BaseException as error:
            await self._give_up(child, error)
            raise
        return child

    async def _give_up(self, child: Child, why: BaseException | None = None) -> None:
        """Kill ``child`` and let the next start wait. Whoever of two lanes finds it dead first says so."""
        if self._child is child:
            self._child = None
        if not child.given_up:
            child.given_up = True
            if isinstance(why, Died):
                self.last_exit = str(why)
                self._note(why.death, f"the compute process {why}")
            self._delay = min(BACKOFF_MAX_S, max(BACKOFF_FIRST_S, 2 * self._delay))
            self._not_before = trio.current_time() + self._delay
        await child.kill()

    def _noise_key(self) -> bytes:
        if self._noise_seed is None:
            return os.urandom(32)
        return hashlib.sha256(self._noise_seed + self._starts.to_bytes(8, "big")).digest()


def _writable(message: Result) -> Result:
    """``message``, unless it says that the disk has failed the process: then StoreUnwritable."""
    if isinstance(message, JobFailed) and message.unwritable:
        raise StoreUnwritable(message.why, hint="free some space, or check the disk")
    return message
