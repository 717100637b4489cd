"""Two machines in one: network namespaces with a cable between them, removed whatever happens."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

PREFIX = "10.77.0."
GONE_S = 10.0


@dataclass(frozen=True)
class Machine:
    """A namespace with one interface, whose address ends in ``number``."""

    name: str
    interface: str
    number: int

    def inside(self, *words: str) -> list[str]:
        """The command that runs ``words`` on this machine."""
        return ["ip", "netns", "exec", self.name, *words]

    def link(self, state: str) -> None:
        """Pull the cable (``down``) or plug it in again (``up``)."""
        _ip("-n", self.name, "link", "set", self.interface, state)


@contextlib.contextmanager
def two_machines() -> Iterator[list[Machine]]:
    """Machines at 10.77.0.1 and 10.77.0.2; skips the test, with the reason, where they cannot be had."""
    if sys.platform != "linux":
        pytest.skip("network namespaces are Linux's")
    tag = f"qn{os.getpid()}"
    made = [Machine(f"{tag}{letter}", f"{tag}{letter}", number) for letter, number in (("a", 1), ("b", 2))]
    try:
        try:
            for machine in made:
                _ip("netns", "add", machine.name)
            ends = ("peer", "name", made[1].interface, "netns", made[1].name)
            _ip("link", "add", made[0].interface, "netns", made[0].name, "type", "veth", *ends)
            for machine in made:
                address = f"{PREFIX}{machine.number}/24"
                _ip("-n", machine.name, "address", "add", address, "dev", machine.interface)
                machine.link("up")
                _ip("-n", machine.name, "link", "set", "lo", "up")
                subprocess.run(machine.inside("true"), check=True, capture_output=True)
        except FileNotFoundError:
            pytest.skip("ip (iproute2) is not installed")
        except subprocess.CalledProcessError as error:
            pytest.skip(f"network namespaces are not permitted here: {error.stderr.decode().strip()}")
        yield made
    finally:
        for machine in made:
            _remove(machine)


def _remove(machine: Machine) -> None:
    """Kill what still runs on the machine, and take it away with its end of the cable."""
    with contextlib.suppress(FileNotFoundError, subprocess.CalledProcessError):
        deadline = time.monotonic() + GONE_S
        while (left := _ip("netns", "pids", machine.name).split()) and time.monotonic() < deadline:
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
            time.sleep(0.05)
        _ip("netns", "delete", machine.name)


def _ip(*words: str) -> str:
    return subprocess.run(["ip", *words], check=True, capture_output=True, timeout=GONE_S).stdout.decode()
