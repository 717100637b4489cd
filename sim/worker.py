"""One scenario in a process of its own: ``python -m quidnunc.sim.worker`` reads it from stdin as JSON.

``{"scenario": ..., "base": DIR, "out": DIR}`` is run and written to ``out``. A refusal is answered on stdout as
``{"message": ...}`` with exit code 64; everything else that goes wrong ends the process.
"""

from __future__ import annotations

import ctypes
import signal
import sys
import tempfile
from pathlib import Path
from typing import NoReturn

import msgspec

from quidnunc.crypto.errors import ConfigError
from quidnunc.sim.scenarios.run import run
from quidnunc.sim.scenarios.spec import SimScenario
from quidnunc.sim.scenarios.versions import versions

REFUSED = 64
_PR_SET_PDEATHSIG = 1


class Order(msgspec.Struct, frozen=True):
    """What a worker is told."""

    scenario: SimScenario
    base: str
    out: str


class Refusal(msgspec.Struct, frozen=True):
    """What a worker answers where the scenario cannot be run."""

    message: str


class Ran(msgspec.Struct, frozen=True):
    """What a run far away left: its files by name, what was wrong (mostly nothing), and what it was computed with."""

    files: dict[str, bytes]
    problem: str
    versions: dict[str, str]


def ran(body: bytes) -> bytes:
    """Run an :class:`Order` in JSON in a directory of this machine, whatever its ``out``: a :class:`Ran` in msgpack."""
    order = msgspec.json.decode(body, type=Order)
    problem = ""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        try:
            run(order.scenario, base=Path(order.base), out=out)
        except ConfigError as error:
            problem = error.message
        files = {path.name: path.read_bytes() for path in out.iterdir()} if out.exists() else {}
    return msgspec.msgpack.encode(Ran(files, problem, versions()))


def main() -> int:
    """Run what stdin says; a sweep that is killed takes its workers with it, on Linux."""
    if sys.platform == "linux":
        # Else what is left of a sweep writes into directories that the next one begins anew.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    order = msgspec.json.decode(sys.stdin.buffer.read(), type=Order)
    signal.signal(signal.SIGTERM, _leave)
    try:
        run(order.scenario, base=Path(order.base), out=Path(order.out))
    except ConfigError as error:
        sys.stdout.buffer.write(msgspec.json.encode(Refusal(error.message)))
        return REFUSED
    return 0


def _leave(number: int, frame: object) -> NoReturn:
    """In order: the run's directory says that it failed."""
    raise SystemExit(128 + number)


if __name__ == "__main__":
    raise SystemExit(main())
