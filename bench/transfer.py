"""Signed, acknowledged transfers between two processes, beside py-libp2p as it comes and beside raw TCP.

Each stack has a sender and a receiver process of its own, connected over loopback; the stacks take turns, and a row
is the median of the repeats. ``ours`` is what the daemon does with an update: offer, bytes, SHA-256 of the whole, token
and signature verified, the body's hash compared with the signed one, acknowledgement. ``stock`` (default security,
256 KiB writes) and ``raw`` send a length and the bytes and wait for one byte; they verify nothing. CPU is that of both
processes, in ms per MB. Memory is the peak during a transfer; the payload is in flight once in each process.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from typing import Any

from common import Row, main

STACKS = ("ours", "stock", "raw")
MB = 1_000_000
SMALL = 3_000
ALLOWANCE_MB = 60.0


class Peer:
    """One end of one stack."""

    def __init__(self, stack: str, role: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("_transfer_peer.py")), stack, role],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer

    def ask(self, do: str, **order: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"do": do, **order}) + "\n")
        self._process.stdin.flush()
        return self.answer()

    def end(self) -> None:
        self._process.kill()
        self._process.wait()


class Pair:
    """Sender and receiver of one stack, connected, and what they were when idle."""

    def __init__(self, stack: str, stack_of_exits: ExitStack) -> None:
        self.receiver, self.sender = (Peer(stack, role) for role in ("receiver", "sender"))
        for peer in (self.receiver, self.sender):
            stack_of_exits.callback(peer.end)
        listening = self.receiver.answer()["listening"]
        self.sender.answer()
        self.sender.ask("connect", other=listening)
        self.send(SMALL, 1)
        self.idle_mb = [peer.ask("mark")["rss_kb"] / 1024 for peer in (self.sender, self.receiver)]

    def send(self, size: int, count: int) -> dict[str, Any]:
        """MB/s, CPU ms per MB and peak memory of one measured order."""
        peers = (self.sender, self.receiver)
        marks = [peer.ask("mark") for peer in peers]
        sent = self.sender.ask("send", bytes=size, count=count)
        after = [peer.ask("read") for peer in peers]
        moved, wall = size * count / MB, sent["wall_s"]
        cpu = sent["cpu_s"] + after[1]["cpu_s"] - marks[1]["cpu_s"]
        return {
            "speed": moved / wall,
            "rate": count / wall,
            "cpu": 1000 * cpu / moved,
            "cpu_each": 1000 * cpu / count,
            "peaks_mb": [read["peak_kb"] / 1024 for read in after],
        }


@contextmanager
def pairs() -> Iterator[dict[str, Pair]]:
    """A connected pair for each stack."""
    with ExitStack() as exits:
        yield {stack: Pair(stack, exits) for stack in STACKS}


def measure(quick: bool) -> list[Row]:
    """All rows."""
    repeats = 3 if quick else 5
    rows: list[Row] = []
    with pairs() as stacks:
        for size in (1 * MB, 10 * MB, 100 * MB):
            count = max(1, 10 * MB // size)
            found = interleaved(stacks, size, count, repeats if size < 100 * MB else repeats - 1)
            rows += speed_rows(size // MB, found) + memory_rows(size // MB, stacks["ours"], found["ours"])
        rows += small_rows(interleaved(stacks, SMALL, 200 if quick else 500, repeats))
        rows += delay_rows(stacks["ours"])
    return rows


def interleaved(stacks: dict[str, Pair], size: int, count: int, repeats: int) -> dict[str, list[dict[str, Any]]]:
    """``repeats`` measurements of every stack, taking turns."""
    found: dict[str, list[dict[str, Any]]] = {stack: [] for stack in stacks}
    for _ in range(repeats):
        for stack, pair in stacks.items():
            found[stack].append(pair.send(size, count))
    return found


def middle(found: dict[str, list[dict[str, Any]]], stack: str, what: str) -> float:
    """The median of one number of one stack."""
    return median(each[what] for each in found[stack])


def speed_rows(size_mb: int, found: dict[str, list[dict[str, Any]]]) -> list[Row]:
    """Speed and CPU of one size beside stock and raw."""
    speeds, cpus = ({stack: middle(found, stack, what) for stack in STACKS} for what in ("speed", "cpu"))
    name = f"{size_mb} MB"
    return [
        Row(f"{name}: speed", speeds["ours"], "MB/s", "stock", speeds["stock"]),
        Row(f"{name}: speed over stock", speeds["ours"] / speeds["stock"], "x", at_least=1.4),
        Row(f"{name}: speed, raw TCP", speeds["raw"], "MB/s"),
        Row(f"{name}: CPU of both ends", cpus["ours"], "ms/MB", "stock", cpus["stock"], at_most=cpus["stock"]),
        Row(f"{name}: CPU, raw TCP", cpus["raw"], "ms/MB"),
    ]


def memory_rows(size_mb: int, pair: Pair, found: list[dict[str, Any]]) -> list[Row]:
    """Peak memory of our two processes, as it is and over what they were when idle."""
    rows = []
    for index, role in enumerate(("sender", "receiver")):
        peak = max(each["peaks_mb"][index] for each in found)
        idle = pair.idle_mb[index]
        payload = size_mb * MB / 1024**2
        note = f"idle {idle:.0f} MiB"
        rows += [
            Row(f"{size_mb} MB: peak RSS, {role}", peak, "MiB", at_most=ALLOWANCE_MB + 2 * payload, note=note),
            Row(f"{size_mb} MB: RSS over idle, {role}", peak - idle, "MiB", at_most=2 * payload + 2),
        ]
    return rows


def small_rows(found: dict[str, list[dict[str, Any]]]) -> list[Row]:
    """Frames of a few kilobytes, one after the other."""
    rates, cpus = ({stack: middle(found, stack, what) for stack in STACKS} for what in ("rate", "cpu_each"))
    return [
        Row(f"{SMALL} B: transfers", rates["ours"], "1/s", "stock", rates["stock"], at_least=1.4 * rates["stock"]),
        Row(f"{SMALL} B: CPU of both ends", cpus["ours"], "ms", "stock", cpus["stock"], at_most=cpus["stock"]),
    ]


def delay_rows(pair: Pair) -> list[Row]:
    """Small frames of a connection on which a large one is moving."""
    rows = []
    for name, size in (("idle", 0), ("beside 100 MB", 100 * MB)):
        delays = sorted(pair.sender.ask("delays", bytes=size)["delays_s"])
        if not delays:
            rows.append(Row(f"1 kB frame {name}: max", None, "ms", note="none got through"))
            continue
        rows += [
            Row(f"1 kB frame {name}: p50", 1000 * delays[len(delays) // 2], "ms"),
            Row(f"1 kB frame {name}: max", 1000 * delays[-1], "ms", at_most=50.0 if size else None),
        ]
    return rows


if __name__ == "__main__":
    raise SystemExit(main(__doc__, measure))
