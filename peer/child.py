"""One run of the compute process, as the daemon holds it: its pipes, its end and what it says of it."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
from collections.abc import Sequence
from enum import StrEnum

import trio

from quidnunc.crypto.errors import Malformed
from quidnunc.peer.oom import oom_kills
from quidnunc.peer.pipe import TO_PARENT, FrameReader, Heartbeat, Noted, frame

STOP_GRACE_S = 5.0
_POLL_S = 1.0
_REAP_S = 0.01


class Death(StrEnum):
    """What went wrong with a job: the process hung, was killed, ran out of memory, ended; or user code raised."""

    HUNG = "hung"
    KILLED = "killed"
    MEMORY = "memory"
    ENDED = "ended"
    RAISED = "raised"


class Died(Exception):
    """The process ended or was given up; the text says why."""

    def __init__(self, text: str, death: Death = Death.ENDED) -> None:
        super().__init__(text)
        self.death = death


class Lane:
    """Frames to the process and back."""

    def __init__(self, send: trio.abc.SendStream, receive: trio.abc.ReceiveStream) -> None:
        self.send = send
        self.receive = receive
        self.reader = FrameReader(receive)


class Child:
    """One running process, the two pipes of its jobs, and a socket for those that wait for no other."""

    def __init__(self, command: Sequence[str]) -> None:
        ours, theirs = socket.socketpair()
        self.side_fd = theirs.fileno()
        """The other end of ``side``, as the process knows it."""
        # Not trio's open_process: that forks in a worker thread, and the parent-death signal the child asks
        # for comes when the *thread* that forked it ends, which trio's do after ten idle seconds.
        with theirs, contextlib.ExitStack() as failing:
            failing.enter_context(ours)
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                bufsize=0,
                start_new_session=True,
                pass_fds=(self.side_fd,),
            )
            failing.pop_all()
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        stdin = trio.lowlevel.FdStream(os.dup(self._process.stdin.fileno()))
        stdout = trio.lowlevel.FdStream(os.dup(self._process.stdout.fileno()))
        self._process.stdin.close()
        self._process.stdout.close()
        self.main = Lane(stdin, stdout)
        side = trio.SocketStream(trio.socket.from_stdlib_socket(ours))
        self.side = Lane(side, side)
        self.given_up = False
        self.pid = self._process.pid
        self.notes: tuple[str, ...] = ()
        self._oom_kills = oom_kills()

    def exited(self) -> bool:
        return self._process.poll() is not None

    async def ask(self, lane: Lane, data: bytes, limit_s: float, limit_name: str) -> object:
        """Send a frame on ``lane`` and wait for the answer, as long as there is progress. Raises Died."""
        deadline = trio.current_time() + limit_s
        try:
            with trio.move_on_at(deadline):
                await lane.send.send_all(frame(data))
            progress = -1
            while True:
                with trio.move_on_at(min(deadline, trio.current_time() + _POLL_S)) as scope:
                    answer = await lane.reader.read()
                if scope.cancelled_caught:
                    # A process that user code forked may hold the pipe open after ours has died.
                    if self.exited():
                        raise Died(self.last_words(), self.death())
                    if trio.current_time() >= deadline:
                        raise Died(f"made no progress for {limit_s:g} s ({limit_name})", Death.HUNG)
                    continue
                if answer is None:
                    raise Died(await self._farewell(), self.death())
                message: object = TO_PARENT.decode(answer)
                if isinstance(message, Noted):
                    self.notes = message.notes
                    continue
                if not isinstance(message, Heartbeat):
                    return message
                if message.progress > progress:
                    progress = message.progress
                    deadline = trio.current_time() + limit_s
        except (trio.BrokenResourceError, trio.ClosedResourceError):  # closed when the other lane has given it up
            raise Died(await self._farewell(), self.death()) from None
        except Malformed as error:
            raise Died(f"wrote garbage: {error.message}") from error

    async def stop(self) -> None:
        await self.main.send.aclose()
        await self._wait(STOP_GRACE_S)
        await self.kill()

    async def kill(self) -> None:
        """Kill it with everything it started, and wait for its end even when cancelled."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        with trio.CancelScope(shield=True):
            for lane in (self.main, self.side):
                await trio.aclose_forcefully(lane.send)
                await trio.aclose_forcefully(lane.receive)
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
