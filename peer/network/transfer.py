"""One frame over one byte stream: the wire format, both sides, no libp2p.

Wire text (normative). Protocol ``/quidnunc/1/frame``. The opener of a stream sends transfers on it, one
after the other; the acceptor only answers. Integers are unsigned and big-endian. One transfer is::

    offer   1   version, 0x01
            32  federation id
            4   header length H, 1 <= H
            8   body length B
            32  digest: H("frame", SHA-256 of the body, header)
    answer  "G"         go: the acceptor has room and waits for the bytes, or
            "N" reason  refused, one reason byte; the transfer is over
    bytes   H + B       header, then body
    answer  "A"         hash checked and frame accepted, or
            "N" reason  refused

The acceptor checks version, federation and lengths before it allocates and takes its slot before it says
"G". After an "N" both sides are at the start of the next transfer, except after reason 21 (version): then
the layout is unknown and the acceptor resets the stream. A bad answer, an end inside a transfer or a timeout
also ends in a reset; an end of stream never means "complete". Hash and lengths are checked here, everything
inside the frame by the core. Reason codes are those of ``crypto/errors.py``; an answer with any other is
bad.
"""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from io import BytesIO
from typing import Protocol

import trio

from quidnunc.crypto.errors import Malformed, Reason, RemoteProtocolError
from quidnunc.gossip.events import Frame
from quidnunc.peer.network.overlay_api import OverlaySettings

FRAME_PROTOCOL = "/quidnunc/1/frame"
VERSION = 1
JOINED_BYTES = 65_507
"""Header and body up to this size together leave in one write: one noise message, behind yamux's 12 bytes."""
HASH_BYTES = 1_048_576
"""More than this is hashed in a thread, in pieces of this size while the next bytes come."""
_OFFER = struct.Struct(">B32sIQ32s")
OFFER_BYTES = _OFFER.size


class StreamEnded(Exception):
    """The byte stream is over: closed, reset or disconnected. Never means that a transfer is complete."""


class Refused(Exception):
    """The other side answered "N" with ``reason``; the stream stays usable."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason.label)
        self.reason = reason


class ByteStream(Protocol):
    """What a transfer needs of a stream. All calls raise StreamEnded when it is over."""

    async def read_exactly(self, count: int) -> bytes:
        """Exactly ``count`` bytes."""

    async def read_into(self, target: memoryview, idle_s: float, told: Callable[[int], None] | None = None) -> None:
        """Fill ``target``; trio.TooSlowError when nothing came for ``idle_s``. ``told`` hears how much is there."""

    async def write(self, data: bytes, idle_s: float = math.inf) -> None:
        """Hand all of ``data`` to the network; trio.TooSlowError when nothing of it moved for ``idle_s``."""

    def expect(self, count: int) -> None:
        """Let the flow control know that ``count`` bytes are coming."""


@dataclass(frozen=True, slots=True)
class Offer:
    """The fixed-size announcement of one frame."""

    federation: bytes
    header_bytes: int
    body_bytes: int
    digest: bytes

    @property
    def size(self) -> int:
        """Header and body together, in bytes."""
        return self.header_bytes + self.body_bytes


def encode_offer(offer: Offer) -> bytes:
    """The ``OFFER_BYTES`` bytes of ``offer``."""
    return _OFFER.pack(VERSION, offer.federation, offer.header_bytes, offer.body_bytes, offer.digest)


def parse_offer(data: bytes) -> Offer:
    """The offer in ``data``, exactly ``OFFER_BYTES``; RemoteProtocolError(VERSION) or Malformed otherwise."""
    if len(data) != OFFER_BYTES:
        raise Malformed(f"offer of {len(data)} bytes, must be {OFFER_BYTES}")
    version, federation, header_bytes, body_bytes, digest = _OFFER.unpack(data)
    if version != VERSION:
        raise RemoteProtocolError(Reason.VERSION, f"offer of version {version}, must be {VERSION}")
    return Offer(federation, header_bytes, body_bytes, digest)


def judge(offer: Offer, federation: bytes, settings: OverlaySettings) -> Reason | None:
    """Why ``offer`` must be refused before its bytes, or None."""
    if offer.federation != federation:
        return Reason.WRONG_FEDERATION
    if offer.header_bytes == 0:
        return Reason.MALFORMED
    if offer.header_bytes > settings.header_bytes_max or offer.body_bytes > settings.body_bytes_max:
        return Reason.TOO_LARGE
    return None


async def digest_of(frame: Frame) -> bytes:
    """The digest of ``frame``; in a thread when it would hold up the loop."""

    if frame.known_hash is None and len(frame.body) > HASH_BYTES:
        return await trio.to_thread.run_sync(frame.digest)
    return frame.digest()


async def send_frame(stream: ByteStream, frame: Frame, federation: bytes, settings: OverlaySettings) -> None:
    """Offer ``frame`` and send it; returns once the other side has acknowledged.

    Raises Refused (stream still usable); Malformed, StreamEnded, trio.TooSlowError (stream lost).
    """
    offer = Offer(federation, len(frame.header), len(frame.body), await digest_of(frame))
    with trio.fail_after(settings.transfer_timeout(offer.size)):
        with trio.fail_after(settings.idle_timeout_s):
            await stream.write(encode_offer(offer))
            await _expect_answer(stream, b"G")
        if offer.size <= JOINED_BYTES:
            await stream.write(frame.header + frame.body, settings.idle_timeout_s)
        else:
            await stream.write(frame.header, settings.idle_timeout_s)
            await stream.write(frame.body, settings.idle_timeout_s)
        await _expect_answer(stream, b"A")


async def _expect_answer(stream: ByteStream, wanted: bytes) -> None:
    answer = await stream.read_exactly(1)
    if answer == wanted:
        return
    if answer != b"N":
        raise Malformed(f"answer {answer!r}, must be {wanted!r} or b'N'")
    code = (await stream.read_exactly(1))[0]
    try:
        reason = Reason(code)
    except ValueError:
        raise Malformed(f"refusal with unknown reason {code}") from None
    raise Refused(reason)


Slot = Callable[[int], AbstractAsyncContextManager[object]]
"""Makes the context in which a frame of so many bytes may be received; entering it may wait."""
Deliver = Callable[[Frame], Awaitable[Reason | None]]


async def receive_frame(
    stream: ByteStream, federation: bytes, settings: OverlaySettings, slot: Slot, deliver: Deliver
) -> Reason | None:
    """Wait for one offer, receive its frame, hand it to ``deliver`` and answer; returns the refusal, if any.

    Waits without bound for the first byte only. With RemoteProtocolError(VERSION), StreamEnded and
    trio.TooSlowError the stream is lost.
    """
    first = await stream.read_exactly(1)
    with trio.fail_after(settings.idle_timeout_s):
        rest = await stream.read_exactly(OFFER_BYTES - 1)
    try:
        offer = parse_offer(first + rest)
    except RemoteProtocolError as error:
        await _refuse(stream, settings, error.reason)
        raise
    refusal = judge(offer, federation, settings)
    if refusal is not None:
        return await _refuse(stream, settings, refusal)
    # Half of what the sender waits: it hears a refusal rather than a timeout.
    with trio.move_on_after(settings.idle_timeout_s / 2) as waiting:
        async with slot(offer.size):
            waiting.deadline = math.inf
            with trio.fail_after(settings.transfer_timeout(offer.size)):
                refusal = await _receive_offered(stream, offer, settings, deliver)
    if waiting.cancelled_caught:
        return await _refuse(stream, settings, Reason.RATE_LIMITED)
    return refusal


async def _receive_offered(
    stream: ByteStream, offer: Offer, settings: OverlaySettings, deliver: Deliver
) -> Reason | None:
    refusal, frame = await _receive_bytes(stream, offer, settings)
    if refusal is None:
        refusal = await deliver(frame)
    if refusal is not None:
        return await _refuse(stream, settings, refusal)
    await stream.write(b"A")
    return None


async def _receive_bytes(stream: ByteStream, offer: Offer, settings: OverlaySettings) -> tuple[Reason | None, Frame]:
    stream.expect(offer.size)
    await stream.write(b"G", settings.idle_timeout_s)
    with trio.fail_after(settings.idle_timeout_s):
        header = await stream.read_exactly(offer.header_bytes)
    body_hash = hashlib.sha256()
    # A BytesIO gives away the very bytes it was filled with: the body is in memory once, as bytes.
    room = BytesIO(bytes(offer.body_bytes))
    with room.getbuffer() as view:
        await _receive_body(stream, view, body_hash.update, settings.idle_timeout_s)
    frame = Frame(header, room.getvalue(), body_hash.digest())
    return None if frame.digest() == offer.digest else Reason.HASH_MISMATCH, frame


async def _receive_body(
    stream: ByteStream, view: memoryview, take: Callable[[memoryview], None], idle_s: float
) -> None:
    """Fill ``view`` and have ``take`` hash what comes, in a thread and meanwhile when it is much."""
    if len(view) <= HASH_BYTES:
        await stream.read_into(view, idle_s)
        take(view)
        return
    async with _in_thread(take) as take_soon:
        taken = 0

        def told(filled: int) -> None:
            nonlocal taken
            if filled - taken >= HASH_BYTES or filled == len(view):
                take_soon(view[taken:filled])
                taken = filled

        await stream.read_into(view, idle_s, told)


@asynccontextmanager
async def _in_thread(take: Callable[[memoryview], None]) -> AsyncIterator[Callable[[memoryview], None]]:
    """Gives a function that queues a piece for ``take``; at the end of the block all are taken."""
    send, receive = trio.open_memory_channel[memoryview](math.inf)

    async def work() -> None:
        async for piece in receive:
            with piece:
                await trio.to_thread.run_sync(take, piece)

    failed: Exception | None = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(work)
        with send:
            try:
                yield send.send_nowait
            except (StreamEnded, trio.TooSlowError) as error:  # as itself, not in the nursery's group
                failed = error
                nursery.cancel_scope.cancel()
    if failed is not None:
        raise failed


async def _refuse(stream: ByteStream, settings: OverlaySettings, reason: Reason) -> Reason:
    await stream.write(b"N" + bytes([reason]), settings.idle_timeout_s)
    return reason
