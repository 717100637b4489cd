"""What every overlay does, over libp2p on loopback and in memory alike."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from overlay_helpers import FEDERATION, KEYS, LOOPBACK, SEEDS, Recorder, serving

from quidnunc.crypto.errors import Reason
from quidnunc.gossip.events import Frame
from quidnunc.peer.network.memory_overlay import MemoryNetwork, MemoryOverlay
from quidnunc.peer.network.overlay import Libp2pOverlay, Member, Overlay, OverlaySettings, SendFailed

pytestmark = pytest.mark.trio


class Libp2pWorld:
    """Real hosts on loopback."""

    def make(self, index: int, federation: bytes = FEDERATION, **settings: Any) -> Overlay:
        return Libp2pOverlay(SEEDS[index], listen=LOOPBACK, federation=federation, settings=OverlaySettings(**settings))


class MemoryWorld:
    """The twin."""

    def __init__(self) -> None:
        self.network = MemoryNetwork()

    def make(self, index: int, federation: bytes = FEDERATION, **settings: Any) -> Overlay:
        return MemoryOverlay(KEYS[index], self.network, federation=federation, settings=OverlaySettings(**settings))


World = Libp2pWorld | MemoryWorld


@pytest.fixture(params=[Libp2pWorld, MemoryWorld], ids=["libp2p", "memory"])
def world(request: pytest.FixtureRequest) -> World:
    made: World = request.param()
    return made


def introduce(overlays: Sequence[Overlay]) -> None:
    members = [Member(key, overlay.addresses()) for key, overlay in zip(KEYS, overlays, strict=False)]
    for overlay in overlays:
        overlay.set_members(members)


@asynccontextmanager
async def pair(
    world: World, federations: tuple[bytes, bytes] = (FEDERATION, FEDERATION), **settings: Any
) -> AsyncIterator[tuple[Overlay, Recorder, Overlay, Recorder]]:
    one, two = (world.make(i, federations[i], **settings) for i in range(2))
    async with serving(one) as one_events, serving(two) as two_events:
        introduce((one, two))
        await one_events.until_up(KEYS[1])
        await two_events.until_up(KEYS[0])
        yield one, one_events, two, two_events


async def test_two_members_find_each_other_and_frames_arrive_whole(world: World) -> None:
    frame = Frame(b"header", bytes(range(256)) * 100)
    async with pair(world) as (one, one_events, two, two_events):
        assert one.connected() == {KEYS[1]}
        assert two.connected() == {KEYS[0]}
        await one.send(KEYS[1], frame)
        await two.send(KEYS[0], Frame(b"back"))
        assert two_events.frames == [(KEYS[0], frame)]
        assert one_events.frames == [(KEYS[1], Frame(b"back"))]
        assert one.stats()[KEYS[1]].frames_sent == 1
        assert one.stats()[KEYS[1]].frames_received == 1
        assert one.stats()[KEYS[1]].bytes_sent >= 25_600
        assert two.stats()[KEYS[0]].bytes_received >= 25_600


async def test_a_refusal_by_the_host_comes_back_with_its_reason_and_the_link_goes_on(world: World) -> None:
    async with pair(world) as (one, _, two, two_events):
        two_events.verdict = lambda peer, frame: Reason.STALE if frame.header == b"old" else None
        with pytest.raises(SendFailed) as failed:
            await one.send(KEYS[1], Frame(b"old"))
        assert failed.value.reason is Reason.STALE
        assert failed.value.peer == KEYS[1]
        await one.send(KEYS[1], Frame(b"new"))
        assert [frame.header for _, frame in two_events.frames] == [b"new"]
        assert one.stats()[KEYS[1]].refused_by_peer == {Reason.STALE: 1}
        assert two.stats()[KEYS[0]].refused_by_us == {Reason.STALE: 1}
        assert one.connected() == {KEYS[1]}


async def test_a_peer_of_another_federation_is_refused(world: World) -> None:
    async with pair(world, (FEDERATION, b"another federation".ljust(32))) as (one, _, _, two_events):
        with pytest.raises(SendFailed) as failed:
            await one.send(KEYS[1], Frame(b"header", b"body"))
        assert failed.value.reason is Reason.WRONG_FEDERATION
        assert two_events.frames == []


async def test_own_frames_over_a_limit_are_not_sent(world: World) -> None:
    async with pair(world, header_bytes_max=10, body_bytes_max=1_000) as (one, _, _, two_events):
        await one.send(KEYS[1], Frame(bytes(10), bytes(1_000)))
        for frame in (Frame(bytes(11)), Frame(b"h", bytes(1_001)), Frame(b"")):
            with pytest.raises(SendFailed):
                await one.send(KEYS[1], frame)
        assert len(two_events.frames) == 1


async def test_frames_over_the_receivers_limit_are_refused(world: World) -> None:
    generous, strict = world.make(0), world.make(1, body_bytes_max=1_000)
    async with serving(generous) as events, serving(strict) as strict_events:
        introduce((generous, strict))
        await events.until_up(KEYS[1])
        await strict_events.until_up(KEYS[0])
        await generous.send(KEYS[1], Frame(b"h", bytes(1_000)))
        with pytest.raises(SendFailed) as failed:
            await generous.send(KEYS[1], Frame(b"h", bytes(1_001)))
        assert failed.value.reason is Reason.TOO_LARGE
        assert len(strict_events.frames) == 1


async def test_sending_to_somebody_not_connected_fails_at_once(world: World) -> None:
    one = world.make(0)
    with pytest.raises(SendFailed, match="not connected"):
        await one.send(KEYS[1], Frame(b"h"))
    async with serving(one):
        one.set_members([Member(KEYS[1])])
        with pytest.raises(SendFailed, match="not connected"):
            await one.send(KEYS[1], Frame(b"h"))
        assert one.connected() == frozenset()


async def test_a_member_taken_off_the_list_is_disconnected_and_comes_back_when_listed(world: World) -> None:
    async with pair(world) as (one, one_events, two, two_events):
        one.set_members([])
        await one_events.until_down(KEYS[1])
        await two_events.until_down(KEYS[0])
        assert one.connected() == frozenset()
        introduce((one, two))
        await one_events.until_up(KEYS[1], times=2)
        await two_events.until_up(KEYS[0], times=2)
        await two.send(KEYS[0], Frame(b"again"))


async def test_a_one_sided_listing_connects_nobody(world: World) -> None:
    one, two, three = (world.make(i) for i in range(3))
    async with serving(one) as one_events, serving(two) as two_events, serving(three) as three_events:
        everybody = [Member(key, o.addresses()) for key, o in zip(KEYS, (one, two, three), strict=False)]
        one.set_members(everybody)
        two.set_members([everybody[0]])
        three.set_members([everybody[0]])
        await two_events.until_up(KEYS[0])
        await three_events.until_up(KEYS[0])
        two.set_members(everybody)
        with pytest.raises(SendFailed, match="not connected"):
            await two.send(KEYS[2], Frame(b"h"))
        assert ("up", KEYS[1]) not in three_events.log
        assert ("up", KEYS[2]) not in two_events.log
        await one_events.until(lambda self: len(self.log) == 2)


async def test_events_of_a_peer_alternate_and_a_stopped_peer_is_reported(world: World) -> None:
    one, two = world.make(0), world.make(1)
    async with serving(one) as one_events:
        for times in (1, 2):
            async with serving(two) as two_events:
                introduce((one, two))
                await one_events.until_up(KEYS[1], times)
                await two_events.until_up(KEYS[0])
            await one_events.until_down(KEYS[1], times)
            assert two.addresses() == ()
            assert two.connected() == frozenset()
        assert [event for event, _ in one_events.log] == ["up", "down"] * 2


async def test_a_send_to_a_peer_that_ends_before_it_answers_fails(world: World) -> None:
    """Regression: the sender's queue waited forever for a host that was gone, and its successor heard nothing."""
    one, two = world.make(0), world.make(1)
    async with serving(one) as one_events, trio.open_nursery() as nursery:
        failed = trio.Event()

        async def sending() -> None:
            with pytest.raises(SendFailed):
                await one.send(KEYS[1], Frame(b"h"))
            failed.set()

        async with serving(two) as two_events:
            two_events.gate = trio.Event()
            introduce((one, two))
            await one_events.until_up(KEYS[1])
            nursery.start_soon(sending)
            await two_events.until(lambda self: self.receiving == 1)
        with trio.fail_after(30):
            await failed.wait()


async def test_many_frames_both_ways_at_once(world: World) -> None:
    async with pair(world) as (one, one_events, two, two_events):
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                for number in range(20):
                    body = bytes([number]) * (number * 5_000)
                    nursery.start_soon(one.send, KEYS[1], Frame(b"h", body))
                    nursery.start_soon(two.send, KEYS[0], Frame(b"h", body))
        for events in (one_events, two_events):
            assert sorted(len(frame.body) for _, frame in events.frames) == [n * 5_000 for n in range(20)]
            assert all(len(set(frame.body)) <= 1 for _, frame in events.frames)


async def test_a_link_can_be_cut_in_the_twin() -> None:
    world = MemoryWorld()
    async with pair(world) as (one, one_events, two, two_events):
        world.network.cut(KEYS[0], KEYS[1])
        await one_events.until_down(KEYS[1])
        await two_events.until_down(KEYS[0])
        with pytest.raises(SendFailed):
            await one.send(KEYS[1], Frame(b"h"))
        world.network.heal(KEYS[0], KEYS[1])
        await two_events.until_up(KEYS[0], times=2)
        await two.send(KEYS[0], Frame(b"h"))
