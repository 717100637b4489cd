"""A chaos proxy: TCP links between daemons that can be delayed, slowed, cut, silenced or garbled while they run.

Every ordered pair of peers gets a proxy of its own, so that each direction of each link is switched alone; the daemons
dial the proxies because their address books say so. The proxies run under trio in a thread of the test process.
"""

from __future__ import annotations

import contextlib
import random
import re
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

import trio

from quidnunc.peer.rehearsal import Actor, Rehearsal

CHUNK = 4096
QUEUED = 64
LINGER_RESET = struct.pack("ii", 1, 0)


class Mode(StrEnum):
    """What happens to the bytes of one direction."""

    PASS = "pass"
    DELAY = "delay"
    """Everything arrives ``value`` seconds later."""
    SLOW = "slow"
    """``value`` bytes pass per second."""
    CUT = "cut"
    """Connections are reset, and new ones at once."""
    BLACKHOLE = "blackhole"
    """Connections are accepted and stand; nothing passes until the mode changes."""
    GARBLE = "garble"
    """One byte in each chunk is flipped."""


class Setting(NamedTuple):
    """A mode and its number: seconds for DELAY, bytes per second for SLOW."""

    mode: Mode = Mode.PASS
    value: float = 0.0


@dataclass
class Way:
    """The bytes from one peer to another. Read by the proxy's thread, set by the test's."""

    setting: Setting = field(default_factory=Setting)
    changed: trio.Event = field(default_factory=trio.Event)
    carried: int = 0


class Chaos:
    """Proxies between all peers of a rehearsal; use :meth:`between` before the daemons start."""

    def __init__(self, names: list[str], ports: dict[str, int]) -> None:
        self._ports = ports
        self.ways = {(a, b): Way() for a in names for b in names if a != b}
        self.listening: dict[tuple[str, str], int] = {}
        self._connections: dict[tuple[str, str], set[trio.CancelScope]] = {pair: set() for pair in self.ways}
        self._token: trio.lowlevel.TrioToken | None = None
        self._stop = trio.Event()
        self._ready = threading.Event()
        self._random = random.Random(1)

    @classmethod
    @contextlib.contextmanager
    def between(cls, rehearsal: Rehearsal) -> Iterator[Chaos]:
        """Proxies run inside the block, and every daemon's address book names them."""
        chaos = cls([actor.name for actor in rehearsal.actors], {a.name: port_of(a) for a in rehearsal.actors})
        with chaos.running():
            for actor in rehearsal.actors:
                chaos._rewrite(actor)
            yield chaos

    @contextlib.contextmanager
    def running(self) -> Iterator[Chaos]:
        """The proxies listen inside the block."""
        thread = threading.Thread(target=trio.run, args=(self._run,), daemon=True)
        thread.start()
        assert self._ready.wait(10)
        try:
            yield self
        finally:
            self._from_thread(self._stop.set)
            thread.join(10)

    def set(self, sender: str, receiver: str, mode: Mode, value: float = 0.0) -> None:
        """From now on, bytes from ``sender`` to ``receiver`` fare like this."""
        way = self.ways[sender, receiver]

        def change() -> None:
            way.setting = Setting(mode, value)
            way.changed.set()
            way.changed = trio.Event()
            if mode == Mode.CUT:
                for pair in ((sender, receiver), (receiver, sender)):
                    for scope in self._connections[pair]:
                        scope.cancel()

        self._from_thread(change)

    def link(self, a: str, b: str, mode: Mode, value: float = 0.0) -> None:
        """Both directions of a link."""
        self.set(a, b, mode, value)
        self.set(b, a, mode, value)

    def isolate(self, name: str, mode: Mode, value: float = 0.0) -> None:
        """All links of one peer."""
        for a, b in self.ways:
            if a == name:
                self.link(a, b, mode, value)

    def heal(self) -> None:
        """All links pass everything again."""
        for a, b in self.ways:
            self.set(a, b, Mode.PASS)

    def _from_thread(self, action: Callable[[], None]) -> None:
        assert self._token is not None
        trio.from_thread.run_sync(action, trio_token=self._token)

    def _rewrite(self, actor: Actor) -> None:
        """Have ``actor`` dial the proxies."""
        lines = [
            f'"{name}" = ["/ip4/127.0.0.1/tcp/{self.listening[actor.name, name]}"]'
            for name in self._ports
            if name != actor.name
        ]
        text = actor.home.config.read_text()
        assert "[network.peers]" in text
        actor.home.config.write_text(text.replace("[network.peers]", "\n".join(["[network.peers]", *lines])))

    async def _run(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        async with trio.open_nursery() as nursery:
            for pair in self.ways:
                (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
                self.listening[pair] = listener.socket.getsockname()[1]
                nursery.start_soon(self._accept, listener, *pair, nursery)
            self._ready.set()
            await self._stop.wait()
            nursery.cancel_scope.cancel()

    async def _accept(self, listener: trio.SocketListener, dialer: str, target: str, nursery: trio.Nursery) -> None:
        while True:
            stream = await listener.accept()
            nursery.start_soon(self._serve, stream, dialer, target)

    async def _serve(self, near: trio.SocketStream, dialer: str, target: str) -> None:
        """Carry one connection; an end of it by us is a reset."""
        there, back = self.ways[dialer, target], self.ways[target, dialer]
        far: trio.SocketStream | None = None
        with trio.CancelScope() as scope:
            self._connections[dialer, target].add(scope)
            try:
                if Mode.CUT not in (there.setting.mode, back.setting.mode):
                    far = await trio.open_tcp_stream("127.0.0.1", self._ports[target])
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(self._carry, near, far, there, nursery.cancel_scope)
                        nursery.start_soon(self._carry, far, near, back, nursery.cancel_scope)
            except OSError:
                pass
            finally:
                self._connections[dialer, target].discard(scope)
        for stream in (near, far):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_RESET)
                await trio.aclose_forcefully(stream)

    async def _carry(
        self, source: trio.SocketStream, sink: trio.SocketStream, way: Way, scope: trio.CancelScope
    ) -> None:
        """Move the bytes of one direction until either end closes."""
        send, receive = trio.open_memory_channel[tuple[float, bytes]](QUEUED)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._read, source, send, way)
            try:
                async with receive:
                    async for due, data in receive:
                        await trio.sleep_until(due)
                        await self._pass_on(sink, data, way)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                pass
            nursery.cancel_scope.cancel()
        scope.cancel()

    async def _read(
        self, source: trio.SocketStream, send: trio.MemorySendChannel[tuple[float, bytes]], way: Way
    ) -> None:
        async with send:
            with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                while data := await source.receive_some(CHUNK):
                    delay = way.setting.value if way.setting.mode == Mode.DELAY else 0.0
                    await send.send((trio.current_time() + delay, data))

    async def _pass_on(self, sink: trio.SocketStream, data: bytes, way: Way) -> None:
        while way.setting.mode == Mode.BLACKHOLE:
            await way.changed.wait()
        if way.setting.mode == Mode.GARBLE:
            broken = bytearray(data)
            broken[self._random.randrange(len(broken))] ^= 0x20
            data = bytes(broken)
        while data:
            piece = len(data)
            if way.setting.mode == Mode.SLOW:
                piece = max(1, int(way.setting.value / 10))
                await trio.sleep(min(piece, len(data)) / way.setting.value)
            await sink.send_all(data[:piece])
            way.carried += min(piece, len(data))
            data = data[piece:]


def port_of(actor: Actor) -> int:
    """The TCP port in a daemon's configuration."""
    found = re.search(r"^listen = .*/tcp/(\d+)", actor.home.config.read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1])
