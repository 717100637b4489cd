"""A compute process without torch for test_compute_process.py: ``EvaluateJob.round`` says how to behave."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from enum import IntEnum
from pathlib import Path

from quidnunc.gossip.jobs import Evaluated, EvaluateJob, Job, Result
from quidnunc.peer.pipe import Setup
from quidnunc.peer.trainer import main


class Behavior(IntEnum):
    GOOD = 0
    HANG = 1
    RAISE = 2
    PRINT = 3
    OS_EXIT = 4
    ALLOCATE = 5
    SYS_EXIT = 6
    READ_STDIN = 7
    SLOW_STEPS = 8
    WRONG_TYPE = 9
    NOISE = 10
    SEGFAULT = 11
    FORK_AND_DIE = 12
    LONG_ERROR = 13
    UGLY_ERROR = 14
    NAN = 15
    DESCRIPTORS = 16


class StandIn:
    """Answers with accuracy = own pid, loss = jobs answered so far."""

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self.progress = 0
        self.answered = 0

    def handle(self, job: Job) -> Result:
        assert isinstance(job, EvaluateJob)
        loss = float(self.answered)
        match Behavior(job.round):
            case Behavior.HANG:
                Path(self.setup.path).write_text(str(os.getpid()))
                time.sleep(3600)
            case Behavior.RAISE:
                raise ZeroDivisionError("user code divided by nothing")
            case Behavior.PRINT:
                print("printed by user code " * 1000)  # noqa: T201
                os.write(1, b"written to descriptor 1\n")
                subprocess.run([sys.executable, "-c", "print('printed by a child of user code')"], check=True)
            case Behavior.OS_EXIT:
                os._exit(7)
            case Behavior.ALLOCATE:
                loss = float(len(bytearray(1 << 30)))
            case Behavior.SYS_EXIT:
                sys.exit("leaving")
            case Behavior.READ_STDIN:
                loss = float(len(sys.stdin.read()))
            case Behavior.SLOW_STEPS:
                for _ in range(12):
                    time.sleep(0.25)
                    self.progress += 1
            case Behavior.WRONG_TYPE:
                return "not a result"  # type: ignore[return-value]
            case Behavior.NOISE:
                loss = float(int.from_bytes(self.setup.noise_key[:6], "big"))
            case Behavior.SEGFAULT:
                ctypes.string_at(0)
            case Behavior.FORK_AND_DIE:
                if os.fork() == 0:
                    time.sleep(3600)
                os.kill(os.getpid(), signal.SIGKILL)
            case Behavior.LONG_ERROR:
                raise ValueError("x" * 100_000)
            case Behavior.UGLY_ERROR:
                raise ValueError("\udcff\x1b[2J\nsecond line")
            case Behavior.NAN:
                loss = float("nan")
            case Behavior.DESCRIPTORS:
                program = "import os; print(sum(os.path.exists(f'/proc/self/fd/{n}') for n in range(3, 100)))"
                inherited = subprocess.run(
                    [sys.executable, "-c", program], check=True, capture_output=True, close_fds=False
                )
                loss = float(inherited.stdout)
        self.answered += 1
        return Evaluated(job.round, job.state, float(os.getpid()), loss)


def build(setup: Setup) -> StandIn:
    if setup.task == "hang":
        time.sleep(3600)
    if setup.task == "raise":
        raise FileNotFoundError("no such table: patients.csv")
    if setup.task == "exit":
        os._exit(3)
    return StandIn(setup)


if __name__ == "__main__":
    sys.exit(main(build))
