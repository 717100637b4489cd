"""Blobs lent out for sending."""

from __future__ import annotations

import threading

import pytest
import trio
import trio.testing

from quidnunc.gossip.blobs import MemoryBlobs
from quidnunc.peer.bodies import Bodies

pytestmark = pytest.mark.trio


class Slow(MemoryBlobs):
    """Blobs that are read when the test says so, and counted."""

    def __init__(self) -> None:
        super().__init__()
        self.reads = 0
        self.go = threading.Event()

    def get(self, name: bytes) -> bytes | None:
        self.reads += 1
        assert self.go.wait(30)
        return super().get(name)


async def test_a_blob_is_read_once_for_all_who_send_it_at_the_same_time() -> None:
    blobs = Slow()
    name = blobs.put(b"delta")
    bodies = Bodies(blobs)
    found: list[bytes | None] = []
    done = trio.Event()

    async def send() -> None:
        async with bodies.lend(name) as body:
            found.append(body)
            await done.wait()

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(send)
        await trio.testing.wait_all_tasks_blocked(0.01)
        blobs.go.set()
        with trio.fail_after(30):
            while len(found) < 3:
                await trio.sleep(0.001)
        done.set()
    assert blobs.reads == 1
    assert found[0] is found[1] is found[2] is blobs.data[name]
    async with bodies.lend(name) as body:
        assert body == b"delta"
    assert blobs.reads == 2, "nothing is held when nobody sends"


async def test_a_blob_that_is_gone_is_none_and_another_one_is_not_held_up() -> None:
    blobs = Slow()
    blobs.go.set()
    bodies = Bodies(blobs)
    async with bodies.lend(b"n" * 32) as missing, bodies.lend(blobs.put(b"there")) as there:
        assert (missing, there) == (None, b"there")


async def test_who_is_cancelled_while_reading_leaves_the_others_able_to() -> None:
    blobs = Slow()
    name = blobs.put(b"delta")
    bodies = Bodies(blobs)
    found: list[bytes | None] = []

    async def send() -> None:
        async with bodies.lend(name) as body:
            await trio.lowlevel.checkpoint()
            found.append(body)

    async with trio.open_nursery() as nursery:
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as first:
                first.start_soon(send)
                await trio.testing.wait_all_tasks_blocked(0.01)
                nursery.start_soon(send)
                await trio.testing.wait_all_tasks_blocked(0.01)
                scope.cancel()
                blobs.go.set()
    assert found == [b"delta"]
