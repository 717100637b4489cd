"""The wire format of one frame, on streams in memory."""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from quidnunc.crypto.errors import ConfigError, Malformed, Reason, RemoteProtocolError
from quidnunc.gossip.events import Frame
from quidnunc.peer.network.overlay_api import OverlaySettings
from quidnunc.peer.network.transfer import (
    HASH_BYTES,
    JOINED_BYTES,
    OFFER_BYTES,
    VERSION,
    Offer,
    Refused,
    StreamEnded,
    encode_offer,
    judge,
    parse_offer,
    receive_frame,
    send_frame,
)

FEDERATION = bytes(range(32))
LIMITS = OverlaySettings(header_bytes_max=1_000, body_bytes_max=300_000, idle_timeout_s=15.0)


class Pipe:
    """A ByteStream over trio's memory streams that remembers what was written and expected."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self.piece = 262_144
        self.written = b""
        self.expected: list[int] = []

    async def read_exactly(self, count: int) -> bytes:
        data = bytearray(count)
        await self.read_into(memoryview(data), math.inf)
        return bytes(data)

    async def read_into(self, target: memoryview, idle_s: float, told: Callable[[int], None] | None = None) -> None:
        filled = 0
        while filled < len(target):
            with trio.fail_after(idle_s):
                piece = await self.stream.receive_some(min(len(target) - filled, self.piece))
            if not piece:
                raise StreamEnded
            target[filled : filled + len(piece)] = piece
            filled += len(piece)
            if told is not None:
                told(filled)

    async def write(self, data: bytes, idle_s: float = math.inf) -> None:
        self.written += data
        try:
            with trio.fail_after(idle_s):
                await self.stream.send_all(data)
        except trio.BrokenResourceError as error:
            raise StreamEnded from error

    def expect(self, count: int) -> None:
        self.expected.append(count)


class Sink:
    """Receives on one end of a pipe and remembers the outcome of every transfer."""

    def __init__(self, pipe: Pipe, limits: OverlaySettings = LIMITS, verdict: Reason | None = None) -> None:
        self.pipe = pipe
        self.limits = limits
        self.verdict = verdict
        self.frames: list[Frame] = []
        self.busy = trio.Semaphore(1)
        self.error: BaseException | None = None

    @asynccontextmanager
    async def slot(self, size: int) -> AsyncIterator[None]:
        async with self.busy:
            yield

    async def deliver(self, frame: Frame) -> Reason | None:
        self.frames.append(frame)
        return self.verdict

    async def once(self) -> Reason | None:
        return await receive_frame(self.pipe, FEDERATION, self.limits, self.slot, self.deliver)

    async def forever(self) -> None:
        try:
            while True:
                await self.once()
        except (StreamEnded, RemoteProtocolError, trio.TooSlowError) as error:
            self.error = error
            await self.pipe.stream.aclose()


def make(limits: OverlaySettings = LIMITS, verdict: Reason | None = None) -> tuple[Pipe, Sink]:
    left, right = trio.testing.memory_stream_pair()
    return Pipe(left), Sink(Pipe(right), limits, verdict)


def offer_for(frame: Frame, **changes: object) -> bytes:
    digest = frame.digest()
    values: dict[str, object] = {
        "federation": FEDERATION,
        "header_bytes": len(frame.header),
        "body_bytes": len(frame.body),
        "digest": digest,
    }
    return encode_offer(Offer(**{**values, **changes}))  # type: ignore[arg-type]


def test_offer_layout_is_the_documented_one() -> None:
    data = encode_offer(Offer(FEDERATION, 0x01020304, 0x1112131415161718, b"d" * 32))
    assert data == b"\x01" + FEDERATION + bytes.fromhex("010203041112131415161718") + b"d" * 32
    assert len(data) == OFFER_BYTES == 77


@given(
    st.binary(min_size=32, max_size=32),
    st.integers(0, 2**32 - 1),
    st.integers(0, 2**64 - 1),
    st.binary(min_size=32, max_size=32),
)
def test_offers_survive_the_wire(federation: bytes, header: int, body: int, digest: bytes) -> None:
    offer = Offer(federation, header, body, digest)
    assert parse_offer(encode_offer(offer)) == offer


@given(
    st.one_of(
        st.binary(max_size=2 * OFFER_BYTES),
        st.binary(min_size=OFFER_BYTES, max_size=OFFER_BYTES),
        st.binary(min_size=OFFER_BYTES - 1, max_size=OFFER_BYTES - 1).map(lambda rest: b"\x01" + rest),
    )
)
def test_arbitrary_bytes_are_an_offer_or_one_typed_refusal(data: bytes) -> None:
    if len(data) == OFFER_BYTES and data[0] == VERSION:
        assert encode_offer(parse_offer(data)) == data
    else:
        with pytest.raises(RemoteProtocolError) as refused:
            parse_offer(data)
        assert refused.value.reason is (Reason.VERSION if len(data) == OFFER_BYTES else Reason.MALFORMED)


@pytest.mark.parametrize(
    ("header", "body", "reason"),
    [
        (1_000, 300_000, None),
        (1_001, 0, Reason.TOO_LARGE),
        (1, 300_001, Reason.TOO_LARGE),
        (1, 2**32, Reason.TOO_LARGE),
        (1, 2**64 - 1, Reason.TOO_LARGE),
        (0, 5, Reason.MALFORMED),
    ],
)
def test_lengths_are_judged_before_anything_else_happens(header: int, body: int, reason: Reason | None) -> None:
    assert judge(Offer(FEDERATION, header, body, b"d" * 32), FEDERATION, LIMITS) is reason


@pytest.mark.trio
@pytest.mark.parametrize("body", [0, 1, JOINED_BYTES - 100, JOINED_BYTES - 99, 300_000])
async def test_frames_of_every_size_arrive_whole_on_one_stream(body: int) -> None:
    pipe, sink = make()
    frames = [Frame(b"h" * 100, bytes(body)), Frame(b"i", bytes(range(256))), Frame(b"j" * 1_000)]
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(sink.forever)
            for frame in frames:
                await send_frame(pipe, frame, FEDERATION, LIMITS)
            nursery.cancel_scope.cancel()
    assert sink.frames == frames
    assert sink.pipe.written == b"GA" * 3


@pytest.mark.trio
@pytest.mark.parametrize("body", [HASH_BYTES - 1, HASH_BYTES, HASH_BYTES + 1, 3 * HASH_BYTES + 1])
async def test_a_large_body_is_hashed_while_it_comes_and_kept_once(body: int) -> None:
    pipe, sink = make(OverlaySettings())
    frame = Frame(b"h", hashlib.shake_256(b"body").digest(body))
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(sink.forever)
            await send_frame(pipe, frame, FEDERATION, OverlaySettings())
            await pipe.write(offer_for(frame, digest=b"d" * 32))
            assert await pipe.read_exactly(1) == b"G"
            await pipe.write(b"h" + frame.body)
            assert await pipe.read_exactly(2) == bytes([ord("N"), Reason.HASH_MISMATCH])
            nursery.cancel_scope.cancel()
    assert sink.frames == [frame]
    assert type(sink.frames[0].body) is bytes
    assert sink.frames[0].known_hash == hashlib.sha256(frame.body).digest()


@pytest.mark.trio
async def test_another_federation_is_refused_before_any_byte_of_the_frame() -> None:
    pipe, sink = make()
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(sink.forever)
            with pytest.raises(Refused) as refused:
                await send_frame(pipe, Frame(b"h", b"secret"), b"x" * 32, LIMITS)
            nursery.cancel_scope.cancel()
    assert refused.value.reason is Reason.WRONG_FEDERATION
    assert len(pipe.written) == OFFER_BYTES
    assert sink.frames == []


@pytest.mark.trio
async def test_a_length_over_the_cap_is_refused_before_memory_is_taken_and_the_stream_goes_on() -> None:
    pipe, sink = make()
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(sink.forever)
            for size in (2**32, 300_001):
                await pipe.write(offer_for(Frame(b"h", b""), body_bytes=size))
                assert await pipe.read_exactly(2) == bytes([ord("N"), Reason.TOO_LARGE])
            assert sink.pipe.expected == []
            await send_frame(pipe, Frame(b"h", bytes(300_000)), FEDERATION, LIMITS)
            nursery.cancel_scope.cancel()
    assert [len(frame.body) for frame in sink.frames] == [300_000]


@pytest.mark.trio
async def test_a_wrong_hash_is_refused_and_never_delivered() -> None:
    pipe, sink = make()
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(sink.forever)
            await pipe.write(offer_for(Frame(b"h", b"body"), digest=b"d" * 32))
            assert await pipe.read_exactly(1) == b"G"
            await pipe.write(b"hbody")
            assert await pipe.read_exactly(2) == bytes([ord("N"), Reason.HASH_MISMATCH])
            nursery.cancel_scope.cancel()
    assert sink.frames == []


@pytest.mark.trio
@pytest.mark.parametrize("sent", [0, 1, OFFER_BYTES - 1, OFFER_BYTES, OFFER_BYTES + 3])
async def test_an_end_in_the_middle_is_never_a_frame(sent: int) -> None:
    pipe, sink = make()
    frame = Frame(b"h", b"body")
    data = offer_for(frame) + b"hbod"
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(sink.forever)
            await pipe.write(data[:sent])
            await pipe.stream.aclose()
    assert isinstance(sink.error, StreamEnded)
    assert sink.frames == []


@pytest.mark.trio
async def test_the_hosts_refusal_reaches_the_sender() -> None:
    pipe, sink = make(verdict=Reason.STALE)
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(sink.forever)
            for _ in range(2):
                with pytest.raises(Refused) as refused:
                    await send_frame(pipe, Frame(b"h", b"b"), FEDERATION, LIMITS)
                assert refused.value.reason is Reason.STALE
            nursery.cancel_scope.cancel()
    assert len(sink.frames) == 2


@pytest.mark.trio
async def test_an_unknown_version_ends_the_stream_after_one_answer() -> None:
    pipe, sink = make()
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(sink.forever)
            await pipe.write(b"\x02" + offer_for(Frame(b"h"))[1:])
            assert await pipe.read_exactly(2) == bytes([ord("N"), Reason.VERSION])
            with pytest.raises(StreamEnded):
                await pipe.read_exactly(1)
    assert isinstance(sink.error, RemoteProtocolError)


@pytest.mark.trio
@pytest.mark.parametrize("answer", [b"X", b"A", b"N\x00", b"N\xff"])
async def test_answers_outside_the_format_are_malformed(answer: bytes) -> None:
    pipe, sink = make()
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(sink.pipe.write, answer)
            with pytest.raises(Malformed):
                await send_frame(pipe, Frame(b"h", b"b"), FEDERATION, LIMITS)


@pytest.mark.trio
async def test_a_sender_that_stalls_is_given_up(autojump_clock: trio.testing.MockClock) -> None:
    pipe, sink = make()
    await pipe.write(offer_for(Frame(b"h", b"body")))
    began = trio.current_time()
    with pytest.raises(trio.TooSlowError):
        await sink.once()
    assert trio.current_time() - began == pytest.approx(LIMITS.idle_timeout_s)


@pytest.mark.trio
async def test_a_drip_of_bytes_is_given_up_at_the_total_deadline(
    autojump_clock: trio.testing.MockClock,
) -> None:
    pipe, sink = make()

    async def drip() -> None:
        await pipe.write(offer_for(Frame(b"h", bytes(100))))
        while True:
            await trio.sleep(LIMITS.idle_timeout_s * 0.9)
            await pipe.write(b"h")

    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(drip)
        with pytest.raises(trio.TooSlowError):
            await sink.once()
        nursery.cancel_scope.cancel()
    assert trio.current_time() - began <= LIMITS.transfer_timeout(101) + 1


@pytest.mark.trio
async def test_a_receiver_that_never_answers_is_given_up(autojump_clock: trio.testing.MockClock) -> None:
    pipe, _ = make()
    began = trio.current_time()
    with pytest.raises(trio.TooSlowError):
        await send_frame(pipe, Frame(b"h", b"b"), FEDERATION, LIMITS)
    assert trio.current_time() - began == pytest.approx(LIMITS.idle_timeout_s)


@pytest.mark.trio
async def test_without_a_free_slot_the_sender_hears_so_before_it_gives_up(
    autojump_clock: trio.testing.MockClock,
) -> None:
    pipe, sink = make()
    await sink.busy.acquire()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sink.forever)
        with pytest.raises(Refused) as refused:
            await send_frame(pipe, Frame(b"h", b"b"), FEDERATION, LIMITS)
        assert refused.value.reason is Reason.RATE_LIMITED
        sink.busy.release()
        await send_frame(pipe, Frame(b"h", b"b"), FEDERATION, LIMITS)
        nursery.cancel_scope.cancel()


@given(
    st.lists(
        st.one_of(
            st.binary(max_size=200),
            st.builds(
                lambda body, declared, digest: (
                    struct.pack(">B32sIQ32s", 1, FEDERATION, 1, declared, digest) + b"h" + body
                ),
                st.binary(max_size=20),
                st.integers(0, 30),
                st.sampled_from([b"d" * 32, Frame(b"h", b"body").digest()]),
            ),
        ),
        max_size=4,
    )
)
@settings(deadline=None, max_examples=100)
def test_whatever_is_sent_only_a_matching_hash_is_delivered(pieces: list[bytes]) -> None:
    async def main() -> None:
        pipe, sink = make()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(sink.forever)
            await pipe.write(b"".join(pieces))
            await pipe.stream.send_eof()  # type: ignore[attr-defined]
        assert isinstance(sink.error, (StreamEnded, RemoteProtocolError))
        for frame in sink.frames:
            assert frame == Frame(b"h", b"body")

    trio.run(main)


def test_overlay_settings_refuse_nonsense() -> None:
    with pytest.raises(ConfigError, match="ping_interval_s is 0"):
        OverlaySettings(ping_interval_s=0)
    with pytest.raises(ConfigError, match="redial_min_s"):
        OverlaySettings(redial_min_s=5, redial_max_s=1)
