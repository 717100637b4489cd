"""Recorders, pairs and child processes for the overlay tests."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import trio

from quidnunc.crypto.errors import Reason
from quidnunc.crypto.identity import SecretKey
from quidnunc.gossip.events import Frame
from quidnunc.peer.network.mux_stream import MuxStream
from quidnunc.peer.network.overlay import Libp2pOverlay, Member, Overlay, OverlaySettings
from quidnunc.peer.network.transfer import FRAME_PROTOCOL, Offer, StreamEnded, encode_offer
from quidnunc.peer.network.transport import Connection, Transport

FEDERATION = hashlib.sha256(b"a federation").digest()
LOOPBACK = ("/ip4/127.0.0.1/tcp/0",)
PATIENCE = 30.0


def _sorted_seeds(count: int) -> list[bytes]:
    seeds = [hashlib.sha256(b"overlay test %d" % index).digest() for index in range(count)]
    return sorted(seeds, key=lambda seed: SecretKey.from_seed(seed).public)


SEEDS = _sorted_seeds(4)
"""Transport seeds in the order of their public keys: an earlier one dials a later one."""
KEYS = [SecretKey.from_seed(seed).public for seed in SEEDS]


@dataclass
class Recorder:
    """An OverlayEvents that remembers everything and lets a test wait for a state."""

    verdict: Callable[[bytes, Frame], Reason | None] = lambda peer, frame: None
    log: list[tuple[str, bytes]] = field(default_factory=list)
    frames: list[tuple[bytes, Frame]] = field(default_factory=list)
    receiving: int = 0
    receiving_max: int = 0
    gate: trio.Event | None = None
    _changed: trio.Event = field(default_factory=trio.Event)

    def _note(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    async def peer_up(self, peer: bytes) -> None:
        self.log.append(("up", peer))
        self._note()

    async def peer_down(self, peer: bytes) -> None:
        self.log.append(("down", peer))
        self._note()

    async def received(self, peer: bytes, frame: Frame) -> Reason | None:
        self.receiving += 1
        self.receiving_max = max(self.receiving, self.receiving_max)
        self._note()
        try:
            if self.gate is not None:
                await self.gate.wait()
        finally:
            self.receiving -= 1
        reason = self.verdict(peer, frame)
        if reason is None:
            self.frames.append((peer, frame))
        self._note()
        return reason

    async def until(self, state: Callable[[Recorder], bool]) -> None:
        """Wait for ``state``; fails after PATIENCE seconds."""
        with trio.fail_after(PATIENCE):
            while not state(self):
                await self._changed.wait()

    async def until_up(self, peer: bytes, times: int = 1) -> None:
        await self.until(lambda self: self.log.count(("up", peer)) >= times)

    async def until_down(self, peer: bytes, times: int = 1) -> None:
        await self.until(lambda self: self.log.count(("down", peer)) >= times)


@asynccontextmanager
async def serving(overlay: Overlay, events: Recorder | None = None) -> AsyncIterator[Recorder]:
    """Serve ``overlay`` in the background for the length of the block."""
    recorder = events or Recorder()
    async with trio.open_nursery() as nursery:
        await nursery.start(overlay.serve, recorder)
        yield recorder
        nursery.cancel_scope.cancel()


def node(
    index: int, *, federation: bytes = FEDERATION, members: Sequence[Member] = (), **settings: Any
) -> Libp2pOverlay:
    """Test peer number ``index`` on a free loopback port."""
    return Libp2pOverlay(
        SEEDS[index],
        listen=LOOPBACK,
        federation=federation,
        members=members,
        settings=OverlaySettings(**settings),
    )


def introduce(*overlays: Libp2pOverlay) -> None:
    """Make all of ``overlays`` (which must be serving) members of each other."""
    members = [Member(overlay.public, overlay.addresses()) for overlay in overlays]
    for overlay in overlays:
        overlay.set_members(members)


@asynccontextmanager
async def pair(**settings: Any) -> AsyncIterator[tuple[Libp2pOverlay, Recorder, Libp2pOverlay, Recorder]]:
    """Two connected peers; the first one dialed."""
    first, second = node(0, **settings), node(1, **settings)
    async with serving(first) as first_events, serving(second) as second_events:
        introduce(first, second)
        await first_events.until_up(second.public)
        await second_events.until_up(first.public)
        yield first, first_events, second, second_events


def port_of(address: str) -> int:
    return int(address.rsplit("/", 1)[1])


class Child:
    """A peer in a process of its own, reporting events as JSON lines; see ``overlay_child.py``."""

    def __init__(self, process: trio.Process) -> None:
        self.process = process
        self._lines: list[dict[str, Any]] = []
        self._rest = b""

    async def until(self, event: str, **wanted: Any) -> dict[str, Any]:
        """The next report of ``event`` with these values; earlier others are skipped."""
        assert self.process.stdout is not None
        with trio.fail_after(PATIENCE):
            while True:
                while b"\n" in self._rest:
                    line, self._rest = self._rest.split(b"\n", 1)
                    report: dict[str, Any] = json.loads(line)
                    if report["event"] == event and all(report.get(k) == v for k, v in wanted.items()):
                        return report
                piece = await self.process.stdout.receive_some()
                assert piece, "the child is gone"
                self._rest += piece

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)

    def stop(self) -> None:
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self.process.send_signal(signal.SIGCONT)


@asynccontextmanager
async def child(
    index: int, members: Sequence[Member], *, listen: Sequence[str] = LOOPBACK, **settings: Any
) -> AsyncIterator[tuple[Child, list[str]]]:
    """Test peer number ``index`` in a child process, and its addresses."""
    order = {
        "seed": SEEDS[index].hex(),
        "federation": FEDERATION.hex(),
        "listen": list(listen),
        "members": [[member.public.hex(), list(member.addresses)] for member in members],
        "settings": settings,
    }
    process = await trio.lowlevel.open_process(
        [sys.executable, str(Path(__file__).with_name("overlay_child.py")), json.dumps(order)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    try:
        peer = Child(process)
        yield peer, (await peer.until("listening"))["addresses"]
    finally:
        with trio.CancelScope(shield=True):
            if process.returncode is None:
                process.send_signal(signal.SIGCONT)
                process.kill()
            await process.wait()


@asynccontextmanager
async def intruder(seed: bytes, target: Libp2pOverlay | str, public: bytes = KEYS[1]) -> AsyncIterator[Connection]:
    """A raw connection to ``target`` under any key, for doing what no overlay would do."""
    address = target if isinstance(target, str) else target.addresses()[0]
    transport = Transport(seed, lambda peer: True, buffer_bytes_max=1 << 30)
    tcp = await trio.open_tcp_stream("127.0.0.1", port_of(address))
    connection = await transport.connect(tcp, public)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(connection.run)
        yield connection
        nursery.cancel_scope.cancel()
    connection.abort()


async def inject(connection: Connection, data: bytes) -> None:
    """Send ``data`` past the flow control of our own multiplexer; StreamEnded when the connection is over."""
    mux = connection.mux
    mux._answers += data
    mux._work.set()
    while mux._answers:
        if connection.ended.is_set():
            raise StreamEnded
        await trio.sleep(0.001)


async def answer_pings(connection: Connection) -> None:
    """Behave well enough to be called up."""
    while True:
        stream = await connection.accept()
        await connection.answer(stream, ("/ipfs/ping/1.0.0",))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_echo, stream)


async def _echo(stream: MuxStream) -> None:
    while True:
        await stream.write(await stream.read_exactly(32))


async def gets_a_stream(seed: bytes, target: Libp2pOverlay) -> bool:
    """Whether whoever holds ``seed`` can open a frame stream to ``target``."""
    try:
        async with intruder(seed, target, target.public) as connection:
            await connection.open(FRAME_PROTOCOL)
    except Exception:  # noqa: BLE001 - refusal surfaces as one of many types
        return False
    return True


def valid_offer(frame: Frame, **changes: int) -> bytes:
    sizes = {"header_bytes": len(frame.header), "body_bytes": len(frame.body), **changes}
    return encode_offer(Offer(FEDERATION, digest=frame.digest(), **sizes))


async def until_over(call: object, connection: Connection) -> None:
    try:
        await call(connection)  # type: ignore[operator]
    except (StreamEnded, ExceptionGroup):
        return
