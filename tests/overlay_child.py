"""A peer in a process of its own for the overlay tests: one JSON order as argument, JSON lines as reports."""

from __future__ import annotations

import hashlib
import json
import resource
import sys
from pathlib import Path
from typing import Any

import trio

from quidnunc.crypto.errors import Reason
from quidnunc.gossip.events import Frame
from quidnunc.peer.network.overlay import Libp2pOverlay, Member, OverlaySettings


def report(event: str, **values: Any) -> None:
    sys.stdout.write(json.dumps({"event": event, **values}) + "\n")
    sys.stdout.flush()


def peak_kb() -> int:
    """Peak memory of this process. Not ru_maxrss where it can be avoided: that one is inherited over fork and exec."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


class Reporter:
    async def peer_up(self, peer: bytes) -> None:
        report("up", peer=peer.hex())

    async def peer_down(self, peer: bytes) -> None:
        report("down", peer=peer.hex(), rss_kb=peak_kb())

    async def received(self, peer: bytes, frame: Frame) -> Reason | None:
        report("frame", peer=peer.hex(), size=len(frame.body), digest=hashlib.sha256(frame.body).hexdigest())
        return None


async def main(order: dict[str, Any]) -> None:
    overlay = Libp2pOverlay(
        bytes.fromhex(order["seed"]),
        listen=order["listen"],
        federation=bytes.fromhex(order["federation"]),
        members=[Member(bytes.fromhex(public), tuple(addresses)) for public, addresses in order["members"]],
        settings=OverlaySettings(**order["settings"]),
    )
    async with trio.open_nursery() as nursery:
        addresses = await nursery.start(overlay.serve, Reporter())
        report("listening", addresses=addresses, rss_kb=peak_kb())


if __name__ == "__main__":
    trio.run(main, json.loads(sys.argv[1]))
