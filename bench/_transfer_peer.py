"""One end of ``bench/transfer.py`` in a process of its own: orders as JSON lines on standard input, answers on output.

Three stacks under the same orders: ``ours`` is the daemon's overlay, its frames signed as updates are; ``stock`` a
py-libp2p host as it comes; ``raw`` TCP under trio. Every transfer is acknowledged by whoever receives and holds it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import struct
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import trio

CHUNK = 262_144
FEDERATION = bytes(range(32))
SEEDS = sorted(hashlib.sha256(b"bench %d" % n).digest() for n in range(2))
LENGTH = struct.Struct(">Q")
PROTOCOL = "/quidnunc-bench/1"


class End(Protocol):
    """One end of one stack."""

    def listening(self) -> dict[str, Any]:
        """What the other end must know."""

    async def connect(self, other: dict[str, Any]) -> None:
        """Get ready to send to ``other``."""

    def ready(self, body: bytes) -> Any:
        """What is to be sent: ``body``, signed where the stack signs."""

    async def send(self, ready: Any) -> None:
        """Return once the other end has acknowledged what is ``ready``."""


# -- ours --------------------------------------------------------------------------------------------------------


class Ours:
    """The overlay of the daemon; receiving, it does what a node does with an update before it believes it."""

    def __init__(self, receiver: bool) -> None:
        from quidnunc.crypto.identity import SecretKey
        from quidnunc.crypto.log import Log
        from quidnunc.peer.network.overlay import Libp2pOverlay, Member, OverlaySettings

        keys = [SecretKey.from_seed(seed).public for seed in SEEDS]
        me = int(receiver)
        self._other = keys[1 - me]
        self._member = Member
        self._log_id = hashlib.sha256(b"log").digest()
        self._key = SecretKey.from_seed(SEEDS[0])
        self._log = Log(self._log_id)
        self._number = 0
        self._up = trio.Event()
        self.overlay = Libp2pOverlay(
            SEEDS[me],
            listen=["/ip4/127.0.0.1/tcp/0"],
            federation=FEDERATION,
            members=[Member(self._other)],
            settings=OverlaySettings(body_bytes_max=1 << 30, buffer_bytes_max=1 << 26),
        )

    async def peer_up(self, peer: bytes) -> None:
        self._up.set()

    async def peer_down(self, peer: bytes) -> None:
        self._up = trio.Event()

    async def received(self, peer: bytes, frame: Any) -> Any:
        from quidnunc.crypto.errors import Reason
        from quidnunc.gossip.message_codec import parse_message
        from quidnunc.gossip.signed_update import open_update

        signed = open_update(
            parse_message(frame.header, FEDERATION).token, log_id=self._log_id, public=self._key.public
        )
        return None if frame.body_hash() == signed.update.delta else Reason.HASH_MISMATCH

    def listening(self) -> dict[str, Any]:
        return {"addresses": list(self.overlay.addresses())}

    async def connect(self, other: dict[str, Any]) -> None:
        self.overlay.set_members([self._member(self._other, tuple(other["addresses"]))])
        await self._up.wait()

    async def send(self, ready: Any) -> None:
        await self.overlay.send(self._other, ready)

    def ready(self, body: bytes) -> Any:
        """``body`` as an update: a header with the token of its ledger entry. Done once for all neighbors."""
        from quidnunc.crypto.token import make_token
        from quidnunc.gossip.message import Update
        from quidnunc.gossip.message_codec import frame
        from quidnunc.gossip.provenance import UpdatePublished, payload_of

        self._number += 1
        digest = hashlib.sha256(body).digest()
        zero = bytes(32)
        update = UpdatePublished(
            *(FEDERATION, zero, self._number, self._number, zero, zero, zero, digest, len(body), 0, 1, zero, 1),
            None,
        )
        entry = self._log.append(update.TYPE, payload_of(update), salt=bytes(16), t_ms=self._number)
        token = make_token(entry, self._log.inclusion(self._log.size - 1), self._log.checkpoint(self._key))
        return replace(frame(Update(FEDERATION, token), body), known_hash=digest)


# -- stock -------------------------------------------------------------------------------------------------------


class Stock:
    """A py-libp2p host with its defaults, one stream for each transfer, 256 KiB writes."""

    def __init__(self, receiver: bool) -> None:
        from libp2p import new_host
        from libp2p.crypto.ed25519 import create_new_key_pair
        from libp2p.custom_types import TProtocol

        self.host = new_host(key_pair=create_new_key_pair(seed=SEEDS[int(receiver)]))
        self._protocol = TProtocol(PROTOCOL)
        self.host.set_stream_handler(self._protocol, self._take)

    async def _take(self, stream: Any) -> None:
        left = LENGTH.unpack(await stream.read(LENGTH.size))[0]
        body = bytearray()
        while left > len(body):
            body += await stream.read(min(CHUNK, left - len(body)))
        await stream.write(b"A")
        await stream.close()

    def listening(self) -> dict[str, Any]:
        return {"addresses": [str(address) for address in self.host.get_addrs()]}

    async def connect(self, other: dict[str, Any]) -> None:
        import multiaddr
        from libp2p.peer.peerinfo import info_from_p2p_addr

        info = info_from_p2p_addr(multiaddr.Multiaddr(other["addresses"][0]))
        self._peer = info.peer_id
        await self.host.connect(info)

    def ready(self, body: bytes) -> bytes:
        return body

    async def send(self, body: bytes) -> None:
        stream = await self.host.new_stream(self._peer, [self._protocol])
        await stream.write(LENGTH.pack(len(body)))
        for start in range(0, len(body), CHUNK):
            await stream.write(body[start : start + CHUNK])
        assert await stream.read(1) == b"A"
        await stream.close()


# -- raw ---------------------------------------------------------------------------------------------------------


class Raw:
    """TCP and nothing else."""

    def __init__(self, receiver: bool) -> None:
        self.listeners: list[trio.SocketListener] = []

    async def take(self, tcp: trio.SocketStream) -> None:
        while head := await tcp.receive_some(LENGTH.size):
            left = LENGTH.unpack(head)[0]
            body = bytearray()
            while left > len(body):
                body += await tcp.receive_some(min(CHUNK, left - len(body)))
            await tcp.send_all(b"A")

    def listening(self) -> dict[str, Any]:
        return {"port": self.listeners[0].socket.getsockname()[1]}

    async def connect(self, other: dict[str, Any]) -> None:
        self._tcp = await trio.open_tcp_stream("127.0.0.1", other["port"])

    def ready(self, body: bytes) -> bytes:
        return body

    async def send(self, body: bytes) -> None:
        await self._tcp.send_all(LENGTH.pack(len(body)))
        view = memoryview(body)
        for start in range(0, len(body), CHUNK):
            await self._tcp.send_all(view[start : start + CHUNK])
        assert await self._tcp.receive_some(1) == b"A"


@contextlib.asynccontextmanager
async def running(stack: str, receiver: bool) -> AsyncIterator[End]:
    """The end of ``stack`` while it listens."""
    async with trio.open_nursery() as nursery:
        if stack == "ours":
            ours = Ours(receiver)
            await nursery.start(ours.overlay.serve, ours)
            yield ours
        elif stack == "stock":
            import multiaddr

            stock = Stock(receiver)
            async with stock.host.run([multiaddr.Multiaddr("/ip4/127.0.0.1/tcp/0")]):
                yield stock
                await stock.host.close()
        else:
            raw = Raw(receiver)
            raw.listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
            nursery.start_soon(trio.serve_listeners, raw.take, raw.listeners)
            yield raw
        nursery.cancel_scope.cancel()


# -- orders ------------------------------------------------------------------------------------------------------


def memory_kb(field: str) -> int:
    """VmRSS or VmHWM of this process."""
    status = Path("/proc/self/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith(field)).split()[1])


async def obey(end: End, order: dict[str, Any]) -> dict[str, Any]:
    """Do one thing and say how it went."""
    match order["do"]:
        case "connect":
            with trio.fail_after(30):
                await end.connect(order["other"])
            return {}
        case "mark":
            with contextlib.suppress(OSError):
                Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here
            return {"cpu_s": time.process_time(), "rss_kb": memory_kb("VmRSS:")}
        case "read":
            return {"cpu_s": time.process_time(), "peak_kb": memory_kb("VmHWM:")}
        case "send":
            ready = end.ready(os.urandom(order["bytes"]))
            cpu_s, began = time.process_time(), time.perf_counter()
            for _ in range(order["count"]):
                await end.send(ready)
            return {"wall_s": time.perf_counter() - began, "cpu_s": time.process_time() - cpu_s}
        case "delays":
            return await delays(end, order["bytes"])
    raise ValueError(order["do"])


async def delays(end: End, size: int) -> dict[str, Any]:
    """How long small transfers take while a large one of ``size`` bytes is on its way on the same connection."""
    found: list[float] = []
    async with trio.open_nursery() as nursery:

        async def small() -> None:
            while True:
                ready = end.ready(bytes(1_000))
                began = time.perf_counter()
                await end.send(ready)
                found.append(time.perf_counter() - began)
                await trio.sleep(0.005)

        if size:
            nursery.start_soon(small)
            await end.send(end.ready(bytes(size)))
        else:
            with trio.move_on_after(1.0):
                await small()
        nursery.cancel_scope.cancel()
    return {"delays_s": found}


async def main(stack: str, role: str) -> None:
    async with running(stack, role == "receiver") as end:
        say({"listening": end.listening()})
        async with trio.lowlevel.FdStream(0) as orders:
            rest = b""
            async for piece in orders:
                rest += piece
                while b"\n" in rest:
                    line, rest = rest.split(b"\n", 1)
                    say(await obey(end, json.loads(line)))


def say(answer: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    trio.run(main, sys.argv[1], sys.argv[2])
