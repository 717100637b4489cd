"""The compute process, ``python -m quidnunc.peer.trainer``: torch and user code, kept out of the daemon.

It reads one :class:`~quidnunc.peer.pipe.Setup` and then jobs from stdin, answers each on stdout, and sends a
heartbeat while it works. A job is a pure function of its fields and the blobs, so the parent may kill this
process at any moment and give the job to the next one.

The two pipes are moved to descriptors of their own before anything else runs: what user code prints goes to
stderr, and what it reads from stdin is empty. The process ends when its stdin does, however busy it is, and
on Linux also when the parent dies without closing it.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import io
import os
import queue
import resource
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol, TypeVar

from quidnunc.crypto.errors import ConfigError, LocalProtocolError, Malformed, QuidnuncError, StoreUnwritable
from quidnunc.gossip.jobs import Job, Result, is_exhaustion
from quidnunc.gossip.rules.spans import crew, disband
from quidnunc.peer import advancing
from quidnunc.peer.advancing import Advancer
from quidnunc.peer.blobs import FileBlobs
from quidnunc.peer.pipe import (
    NOTE_CHARS_MAX,
    NOTES_MAX,
    TO_CHILD,
    TO_PARENT,
    Heartbeat,
    Noted,
    Ready,
    Setup,
    SetupFailed,
    failed,
    plain,
    read_frame,
    write_frame,
)
from quidnunc.peer.release import program_version, torch_version
from quidnunc.peer.task_loader import load_task

_T = TypeVar("_T")

_PR_SET_PDEATHSIG = 1


class OutOfMemory(ConfigError):
    """User code, or torch for it, asked for more memory than there is."""


class Computer(Protocol):
    """What answers jobs: :class:`quidnunc.gossip.learning.compute.Compute`.

    An integer attribute ``progress`` that grows with every local step tells a long job from one that hangs; ``notes``
    are the task's remarks on the local data, once it is built.
    """

    def handle(self, job: Job) -> Result:
        """Answer one job."""


def build_compute(setup: Setup) -> Computer:
    """The real thing: loads the task, and with it torch. Raises ConfigError."""
    os.environ["OMP_NUM_THREADS"] = str(setup.threads)
    function = load_task(setup.task)
    import torch

    from quidnunc.crypto.noise import NoiseStream
    from quidnunc.gossip.learning.compute import Compute

    torch.set_num_threads(setup.threads)
    return Compute(
        function,
        setup.site(),
        setup.plan(),
        FileBlobs(Path(setup.blobs), max_bytes=setup.blob_bytes_max),
        NoiseStream(setup.noise_key, b"compute"),
        attack=setup.attack,
        pairs=setup.pairs,
    )


def main(build: Callable[[Setup], Computer] = build_compute) -> int:
    """Serve jobs until stdin ends; the exit status. ``build`` is replaced in tests."""
    reader, writer = take_pipes()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's business
    die_with_parent()
    first = read_frame(reader)
    if first is None:
        return 0
    setup = TO_CHILD.decode(first)
    if not isinstance(setup, Setup) or len(setup.noise_key) != 32:
        raise LocalProtocolError("the first frame to a compute process is a Setup with a noise key of 32 bytes")
    if setup.memory_bytes:
        limit_memory(setup.memory_bytes)
    return _Server(reader, writer, setup, build).serve()


class _Server:
    """Jobs in, results out; threads beside the one that computes, so that it is never waited for."""

    def __init__(self, reader: int, writer: int, setup: Setup, build: Callable[[Setup], Computer]) -> None:
        self._reader = reader
        self._writer = writer
        self._setup = setup
        self._build = build
        self._computer: Computer | None = None
        self._jobs: queue.SimpleQueue[Job] = queue.SimpleQueue()
        self._answered = 0
        self._noted: tuple[str, ...] = ()
        self._busy = threading.Event()
        self._write_lock = threading.Lock()

    def serve(self) -> int:
        self._busy.set()
        threading.Thread(target=self._beat, daemon=True).start()
        threading.Thread(target=self._read, daemon=True).start()
        if self._setup.side >= 0:
            side = os.dup(self._setup.side)  # programs that user code starts do not inherit the copy
            os.close(self._setup.side)
            threading.Thread(target=self._advance, args=(side,), daemon=True).start()
        try:
            self._computer = guarded(lambda: self._build(self._setup))
        except QuidnuncError as error:
            self._send(SetupFailed(plain(error.message), plain(error.hint), isinstance(error, StoreUnwritable)))
            return 1
        self._busy.clear()
        self._send(Ready(program_version(), torch_version()))
        os.register_at_fork(after_in_child=disband)
        with ThreadPoolExecutor(self._setup.threads) as pool, crew(pool):
            while True:
                job = self._jobs.get()
                self._busy.set()
                answer = self._answer(self._computer, job)
                self._busy.clear()
                self._answered += 1
                self._tell_notes()
                self._write(answer)

    def _tell_notes(self) -> None:
        said = getattr(self._computer, "notes", ())
        notes = tuple(plain(str(note))[:NOTE_CHARS_MAX] for note in said[:NOTES_MAX])
        if notes != self._noted:
            self._noted = notes
            self._send(Noted(notes))

    @staticmethod
    def _answer(computer: Computer, job: Job) -> bytes:
        try:
            return TO_PARENT.encode(guarded(lambda: computer.handle(job)))
        except QuidnuncError as error:
            failure = dataclasses.replace(
                failed(job, error.message),
                unwritable=isinstance(error, StoreUnwritable),
                exhausted=isinstance(error, OutOfMemory),
            )
            return TO_PARENT.encode(failure)

    def _read(self) -> None:
        """Queue jobs; end the process with the pipe, since nobody is left to be answered."""
        with contextlib.suppress(Malformed):
            while (data := read_frame(self._reader)) is not None:
                self._jobs.put(TO_CHILD.decode(data))
        os._exit(0)

    def _advance(self, side: int) -> None:
        advancer = Advancer(self._setup)
        advancing.serve(side, lambda job: self._answer(advancer, job))

    def _beat(self) -> None:
        pause = threading.Event()
        while True:
            self._busy.wait()
            pause.wait(self._setup.beat_s)
            if self._busy.is_set():
                steps = getattr(self._computer, "progress", 0)
                self._send(Heartbeat(self._answered + steps))

    def _send(self, message: object) -> None:
        self._write(TO_PARENT.encode(message))

    def _write(self, data: bytes) -> None:
        try:
            with self._write_lock:
                write_frame(self._writer, data)
        except BrokenPipeError:
            os._exit(0)


def guarded(call: Callable[[], _T]) -> _T:
    """Call into user code: whatever it raises becomes a QuidnuncError, and its traceback goes to stderr."""
    try:
        return call()
    except QuidnuncError:
        raise
    except (Exception, SystemExit) as error:
        traceback.print_exc()
        frames = traceback.extract_tb(error.__traceback__)
        kind = OutOfMemory if is_exhaustion(error) else ConfigError
        place = f" ({os.path.basename(frames[-1].filename)}:{frames[-1].lineno} in {frames[-1].name})"
        raise kind(f"{type(error).__name__}: {error}{place}") from error


def take_pipes() -> tuple[int, int]:
    """Move stdin and stdout out of the way of user code. Programs it starts do not inherit the copies."""
    reader, writer = os.dup(0), os.dup(1)
    empty = os.open(os.devnull, os.O_RDONLY)
    os.dup2(empty, 0)
    os.close(empty)
    os.dup2(2, 1)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)
    return reader, writer


def die_with_parent() -> None:
    """Linux: be killed when the thread that started us ends, even if user code lets no other thread run."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def limit_memory(limit: int) -> None:
    """Private memory, not address space: torch reserves far more of the latter than it ever touches."""
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    if hard != resource.RLIM_INFINITY:
        limit = min(limit, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


if __name__ == "__main__":
    sys.exit(main())
