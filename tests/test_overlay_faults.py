"""What hostile or broken bytes do to the libp2p overlay: nothing lasting."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import struct
from contextlib import AsyncExitStack

import multiaddr
import pytest
import trio
import trio.testing
from libp2p import new_host
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.crypto.rsa import create_new_key_pair as create_new_rsa_key_pair
from libp2p.crypto.x25519 import create_new_key_pair as create_new_x25519_key_pair
from libp2p.network.stream.exceptions import StreamError
from libp2p.peer.id import ID
from libp2p.peer.peerinfo import PeerInfo
from libp2p.security.insecure.transport import PLAINTEXT_PROTOCOL_ID, InsecureTransport
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE_ID
from libp2p.security.noise.transport import Transport as Noise
from overlay_helpers import (
    KEYS,
    LOOPBACK,
    SEEDS,
    answer_pings,
    child,
    gets_a_stream,
    inject,
    introduce,
    intruder,
    node,
    pair,
    port_of,
    serving,
    until_over,
    valid_offer,
)

from quidnunc.crypto.errors import Reason
from quidnunc.gossip.events import Frame
from quidnunc.peer.network.address import multihash_of
from quidnunc.peer.network.mux_stream import WINDOW_BYTES
from quidnunc.peer.network.overlay import Libp2pOverlay, Member, SendFailed
from quidnunc.peer.network.transfer import FRAME_PROTOCOL, OFFER_BYTES, StreamEnded, parse_offer
from quidnunc.peer.network.transport import Connection

pytestmark = pytest.mark.trio
STRANGER = hashlib.sha256(b"a stranger").digest()


def host_with(seed: bytes, security: str) -> object:
    """A stock py-libp2p host that speaks one security protocol."""
    keys = create_new_key_pair(seed=seed)
    if security == "noise":
        chosen = {NOISE_ID: Noise(keys, noise_privkey=create_new_x25519_key_pair().private_key)}
    else:
        chosen = {PLAINTEXT_PROTOCOL_ID: InsecureTransport(keys)}
    return new_host(key_pair=keys, sec_opt=chosen)


async def speaks(host: object, overlay: Libp2pOverlay, frame: Frame) -> bool:
    """Whether ``host`` gets ``frame`` through to ``overlay``."""
    peer = ID(multihash_of(overlay.public))
    addresses = [multiaddr.Multiaddr(address) for address in overlay.addresses()]
    async with host.run([]):  # type: ignore[attr-defined]
        try:
            await host.connect(PeerInfo(peer, addresses))  # type: ignore[attr-defined]
            stream = await host.new_stream(peer, [FRAME_PROTOCOL])  # type: ignore[attr-defined]
        except Exception:  # noqa: BLE001 - refusal surfaces as one of many types
            return False
        else:
            await stream.write(valid_offer(frame))
            assert await stream.read(1) == b"G"
            await stream.write(frame.header + frame.body)
            assert await stream.read(1) == b"A"
            return True
        finally:
            await host.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("seed", "security", "welcome"),
    [(SEEDS[0], "noise", True), (STRANGER, "noise", False), (SEEDS[0], "plaintext", False)],
    ids=["friend", "stranger", "plaintext"],
)
async def test_a_stock_host_gets_in_over_noise_if_it_is_a_member(seed: bytes, security: str, welcome: bool) -> None:
    overlay = node(1, members=[Member(KEYS[0])])
    with trio.fail_after(60):
        async with serving(overlay) as events:
            assert await speaks(host_with(seed, security), overlay, Frame(b"h", b"body")) is welcome
            assert events.frames == ([(KEYS[0], Frame(b"h", b"body"))] if welcome else [])
            assert (("up", KEYS[0]) in events.log) is welcome


async def test_a_stock_host_with_a_key_of_another_kind_is_a_stranger() -> None:
    """We know Ed25519 keys only; the handshake fails, and the listener goes on."""
    overlay = node(1, members=[Member(KEYS[0])])
    keys = create_new_rsa_key_pair(2048)
    noise = Noise(keys, noise_privkey=create_new_x25519_key_pair().private_key)
    with trio.fail_after(60):
        async with serving(overlay) as events:
            stranger = new_host(key_pair=keys, sec_opt={NOISE_ID: noise})
            assert await speaks(stranger, overlay, Frame(b"h", b"body")) is False
            assert events.frames == []
            assert await speaks(host_with(SEEDS[0], "noise"), overlay, Frame(b"h", b"body")) is True


async def take_frames(stream: object, taken: list[bytes]) -> None:
    """The acceptor of frames on a stock host, as docs/wire.md has it."""

    async def exactly(count: int) -> bytes:
        found = b""
        while len(found) < count:
            found += await stream.read(min(count - len(found), 262_144))  # type: ignore[attr-defined]
        return found

    with contextlib.suppress(StreamError):
        while True:
            offer = parse_offer(await exactly(OFFER_BYTES))
            await stream.write(b"G")  # type: ignore[attr-defined]
            taken.append(await exactly(offer.size))
            header, body = taken[-1][: offer.header_bytes], taken[-1][offer.header_bytes :]
            inside = hashlib.sha256(body).digest() + header
            assert hashlib.sha256(b"quidnunc/v1/frame\0" + inside).digest() == offer.digest
            await stream.write(b"A")  # type: ignore[attr-defined]


async def test_large_frames_go_to_a_stock_host_and_come_from_one() -> None:
    body = hashlib.shake_256(b"3 MB").digest(3_000_000)
    stock, taken = host_with(SEEDS[1], "noise"), []
    stock.set_stream_handler(FRAME_PROTOCOL, lambda stream: take_frames(stream, taken))  # type: ignore[attr-defined]
    one = node(0)
    with trio.fail_after(60):
        async with serving(one) as events, stock.run([multiaddr.Multiaddr(LOOPBACK[0])]):  # type: ignore[attr-defined]
            address = str(stock.get_addrs()[0]).partition("/p2p/")[0]  # type: ignore[attr-defined]
            one.set_members([Member(KEYS[1], (address,))])
            await events.until_up(KEYS[1])
            for size in (len(body), 100, 65_506, 65_507):
                await one.send(KEYS[1], Frame(b"h", body[:size]))
            assert taken == [b"h" + body[:size] for size in (len(body), 100, 65_506, 65_507)]
            stream = await stock.new_stream(ID(multihash_of(KEYS[0])), [FRAME_PROTOCOL])  # type: ignore[attr-defined]
            for frame in (Frame(b"h", body), Frame(b"small")):
                await stream.write(valid_offer(frame))
                assert await stream.read(1) == b"G"
                await stream.write(frame.header + frame.body)
                assert await stream.read(1) == b"A"
            assert [frame for _, frame in events.frames] == [Frame(b"h", body), Frame(b"small")]
            await stock.close()  # type: ignore[attr-defined]


async def test_a_small_frame_passes_a_large_one_that_is_on_its_way() -> None:
    large = Frame(b"large", bytes(64_000_000))
    async with pair(body_bytes_max=len(large.body)) as (one, _, two, events):
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(one.send, two.public, large)
                while two.stats()[one.public].bytes_received < 1_000_000:
                    await trio.sleep(0.001)
                await one.send(two.public, Frame(b"small"))
                assert [frame.header for _, frame in events.frames] == [b"small"]
        assert [frame.header for _, frame in events.frames] == [b"small", b"large"]


async def test_a_stranger_is_never_announced_and_the_listener_goes_on() -> None:
    async with pair() as (one, _, two, events):
        with trio.fail_after(30):
            assert not await gets_a_stream(STRANGER, two)
            await one.send(two.public, Frame(b"h"))
        assert {peer for _, peer in events.log} == {one.public}


@pytest.mark.parametrize(
    "name",
    [b"\xff\xfe\xfd\n", b"/no/such/protocol\n", b"\n", b"x" * 900 + b"\n"],
    ids=["not-utf8", "unknown", "empty", "long"],
)
async def test_any_protocol_name_is_survived(name: bytes) -> None:
    two = node(1, members=[Member(KEYS[0])])
    async with serving(two) as events:
        with trio.fail_after(30):
            async with intruder(SEEDS[0], two) as connection:
                raw = connection.mux.open()
                hello = b"/multistream/1.0.0\n"
                length = bytes([len(name) & 0x7F | (0x80 if len(name) > 127 else 0)])
                if len(name) > 127:
                    length += bytes([len(name) >> 7])
                await raw.write(bytes([len(hello)]) + hello + length + name)
                stream = await connection.open(FRAME_PROTOCOL)
                frame = Frame(b"still here")
                await stream.write(valid_offer(frame))
                assert await stream.read_exactly(1) == b"G"
                await stream.write(frame.header)
                assert await stream.read_exactly(1) == b"A"
        assert [frame.header for _, frame in events.frames] == [b"still here"]


async def test_raw_garbage_on_the_port_is_survived() -> None:
    async with pair() as (one, _, two, _):
        with trio.fail_after(30):
            for garbage in (
                b"GET / HTTP/1.1\r\n\r\n",
                b"\xff" * 70_000,
                b"",
                b"\x13/multistream/1.0.0\n\x07/noise\n\xff\xff",
            ):
                tcp = await trio.open_tcp_stream("127.0.0.1", port_of(two.addresses()[0]))
                await tcp.send_all(garbage)
                await tcp.aclose()
            await one.send(two.public, Frame(b"h"))


async def test_a_stranger_cannot_make_us_hold_more_than_a_handshake_needs() -> None:
    two = node(1, handshake_timeout_s=3_600)
    async with serving(two):
        with trio.fail_after(30):
            tcp = await trio.open_tcp_stream("127.0.0.1", port_of(two.addresses()[0]))
            # A protocol name that claims two gigabytes, and then two gigabytes.
            await tcp.send_all(b"\x13/multistream/1.0.0\n\xff\xff\xff\xff\x07")
            sent = 0
            try:
                while sent < 2_000_000_000:
                    await tcp.send_all(bytes(1_000_000))
                    sent += 1_000_000
            except trio.BrokenResourceError:
                pass
            assert sent < 50_000_000
            await tcp.aclose()


async def test_an_exception_in_the_host_ends_one_stream_only(caplog: pytest.LogCaptureFixture) -> None:
    def explode(peer: bytes, frame: Frame) -> Reason | None:
        if frame.header == b"bad":
            raise ZeroDivisionError
        return None

    async with pair() as (one, one_events, two, two_events):
        two_events.verdict = explode
        with caplog.at_level(logging.CRITICAL, "quidnunc.overlay"), pytest.raises(SendFailed):
            await one.send(two.public, Frame(b"bad"))
        await one.send(two.public, Frame(b"good"))
        assert [frame.header for _, frame in two_events.frames] == [b"good"]
        assert ("down", two.public) not in one_events.log


async def test_a_flood_of_silent_connections_locks_nobody_out() -> None:
    # The handshake timeout is out of reach: only giving way to newer connections can let the friend in.
    one = node(0)
    two = node(1, handshakes_max=8, handshake_timeout_s=3_600)
    async with serving(one) as events, serving(two):
        port = port_of(two.addresses()[0])
        silent = [await trio.open_tcp_stream("127.0.0.1", port) for _ in range(50)]
        introduce(one, two)
        await events.until_up(two.public)
        # libp2p itself gives a silent connection 30 seconds.
        with trio.fail_after(10):
            for connection in silent[:42]:
                while await connection.receive_some():
                    pass
        for connection in silent:
            await connection.aclose()


async def test_a_peer_that_ignores_its_window_is_cut_off_before_memory_grows() -> None:
    members = [Member(KEYS[0])]
    async with child(1, members, idle_timeout_s=300.0) as (peer, addresses):
        pushed = 0
        with trio.fail_after(60):
            async with intruder(SEEDS[0], addresses[0]) as connection, trio.open_nursery() as nursery:
                nursery.start_soon(until_over, answer_pings, connection)
                await peer.until("up", peer=KEYS[0].hex())
                bulk = valid_offer(Frame(b"h", bytes(1_000_000)))
                holder = await connection.open(FRAME_PROTOCOL)
                await holder.write(bulk)
                assert await holder.read_exactly(1) == b"G"
                # The one slot is taken, so nobody reads what comes after this second offer.
                unread = await connection.open(FRAME_PROTOCOL)
                await unread.write(bulk)
                header = struct.pack("!BBHII", 0, 0, 0, unread.number, 65_507)
                with contextlib.suppress(StreamEnded):
                    while pushed < 400_000_000:
                        await inject(connection, header + bytes(65_507))
                        pushed += 65_507
                nursery.cancel_scope.cancel()
        report = await peer.until("down", peer=KEYS[0].hex())
    assert pushed < 400_000_000
    # Kernel buffers come on top of the window; 400 MB would not fit.
    assert report["rss_kb"] < 250_000


async def test_connections_that_prove_nothing_give_way_to_newer_ones_of_the_same_peer() -> None:
    two = node(1, members=[Member(KEYS[0]), Member(KEYS[2])], ping_interval_s=3_600.0)
    async with serving(two) as events, AsyncExitStack() as stack:
        connections = []
        for _ in range(6):
            connections.append(await stack.enter_async_context(intruder(SEEDS[0], two)))
            await connections[-1].open(FRAME_PROTOCOL)
        other = await stack.enter_async_context(intruder(SEEDS[2], two))
        await other.open(FRAME_PROTOCOL)
        with trio.fail_after(10):
            for connection in connections[:4]:
                while not connection.ended.is_set():
                    await trio.sleep(0.01)
        for connection in (*connections[4:], other):
            await connection.open(FRAME_PROTOCOL)
        assert len(two._links) == 3
        assert events.log == []
        good = await stack.enter_async_context(intruder(SEEDS[0], two))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(answer_pings, good)
            await events.until_up(KEYS[0])
            assert not connections[5].ended.is_set()
            nursery.cancel_scope.cancel()


async def test_unread_bytes_are_counted_over_all_connections_of_a_peer() -> None:
    """Regression: each of any number of connections could hold as much."""
    limit = 4 * WINDOW_BYTES
    two = node(
        1,
        members=[Member(KEYS[0]), Member(KEYS[2])],
        buffer_bytes_max=limit,
        inbound_transfers=1,
        ping_interval_s=3_600.0,
        idle_timeout_s=300.0,
    )
    bulk = valid_offer(Frame(b"h", bytes(1_000_000)))

    async def push(connection: Connection, streams: int) -> None:
        """Fill the windows of so many streams that nobody reads: there is no slot for what they offer."""
        for _ in range(streams):
            stream = await connection.open(FRAME_PROTOCOL)
            await stream.write(bulk + bytes(WINDOW_BYTES - 1_000))

    async with serving(two), intruder(SEEDS[0], two) as first, intruder(SEEDS[2], two) as other:
        holder = await other.open(FRAME_PROTOCOL)
        await holder.write(bulk)
        assert await holder.read_exactly(1) == b"G"
        with trio.fail_after(30):
            await push(first, 3)
            await push(other, 3)
            for key in (KEYS[0], KEYS[2]):
                while two._transport.held(key) < 2 * WINDOW_BYTES:
                    await trio.sleep(0.01)
            async with intruder(SEEDS[0], two) as second:
                with contextlib.suppress(StreamEnded):
                    await push(second, 3)
                while not second.ended.is_set():
                    assert two._transport.held(KEYS[0]) <= limit
                    await trio.sleep(0.01)
            assert not first.ended.is_set()
            assert not other.ended.is_set()
            held = two._transport.held(KEYS[0])
            assert 2 * WINDOW_BYTES < held <= 3 * WINDOW_BYTES, "what a closed connection held is not counted"


async def test_a_four_gigabyte_header_is_refused_and_the_stream_goes_on() -> None:
    two = node(1, members=[Member(KEYS[0])], header_bytes_max=1_000)
    async with serving(two) as events, intruder(SEEDS[0], two) as connection:
        with trio.fail_after(30):
            stream = await connection.open(FRAME_PROTOCOL)
            for size, answer in ((2**32 - 1, b"N"), (1_001, b"N"), (1_000, b"G")):
                frame = Frame(bytes(1_000))
                await stream.write(valid_offer(frame, header_bytes=size))
                assert await stream.read_exactly(1) == answer
                if answer == b"N":
                    assert await stream.read_exactly(1) == bytes([Reason.TOO_LARGE])
            await stream.write(bytes(1_000))
            assert await stream.read_exactly(1) == b"A"
        assert len(events.frames) == 1


async def test_a_body_cut_short_and_a_wrong_hash_are_never_delivered() -> None:
    two = node(1, members=[Member(KEYS[0])])
    async with serving(two) as events, intruder(SEEDS[0], two) as connection:
        with trio.fail_after(30):
            stream = await connection.open(FRAME_PROTOCOL)
            await stream.write(valid_offer(Frame(b"h", bytes(100_000))))
            assert await stream.read_exactly(1) == b"G"
            await stream.write(b"h" + bytes(60_000))
            stream.reset()
            stream = await connection.open(FRAME_PROTOCOL)
            await stream.write(valid_offer(Frame(b"h", bytes(5))))
            assert await stream.read_exactly(1) == b"G"
            await stream.write(b"hxxxxx")
            assert await stream.read_exactly(2) == bytes([ord("N"), Reason.HASH_MISMATCH])
            await stream.write(valid_offer(Frame(b"whole")))
            assert await stream.read_exactly(1) == b"G"
            await stream.write(b"whole")
            assert await stream.read_exactly(1) == b"A"
        assert [frame.header for _, frame in events.frames] == [b"whole"]


async def test_bulk_transfers_at_once_are_limited_and_small_frames_pass_them() -> None:
    target = node(3, inbound_transfers=2)
    senders = [node(index) for index in range(3)]
    async with AsyncExitStack() as stack:
        events = await stack.enter_async_context(serving(target))
        recorders = [await stack.enter_async_context(serving(sender)) for sender in senders]
        events.gate = trio.Event()
        introduce(target, *senders)
        for recorder in recorders:
            await recorder.until_up(target.public)
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                for sender in senders:
                    for _ in range(2):
                        nursery.start_soon(sender.send, target.public, Frame(b"h", bytes(200_000)))
                await events.until(lambda self: self.receiving == 2)
                nursery.start_soon(senders[0].send, target.public, Frame(b"small"))
                await events.until(lambda self: self.receiving == 3)
                # Everybody has had a chance to send: whoever may be received is being received.
                await trio.testing.wait_all_tasks_blocked(0.1)
                assert events.receiving == 3
                events.gate.set()
        assert events.receiving_max <= 3
        assert len(events.frames) == 7


async def test_streams_beyond_the_limit_are_reset_and_cost_nothing() -> None:
    two = node(1, members=[Member(KEYS[0])], streams_per_peer=4)
    async with serving(two), intruder(SEEDS[0], two) as connection:
        with trio.fail_after(30):
            held = [await connection.open(FRAME_PROTOCOL) for _ in range(4)]
            for _ in range(20):
                with pytest.raises(StreamEnded):
                    await connection.open(FRAME_PROTOCOL)
            held[0].reset()
            for _ in range(100):
                try:
                    stream = await connection.open(FRAME_PROTOCOL)
                    break
                except StreamEnded:
                    continue
            await stream.write(valid_offer(Frame(b"h")))
            assert await stream.read_exactly(1) == b"G"
