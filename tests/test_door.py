"""Who waits in the door, and who gives way: a flood from one address displaces itself."""

from __future__ import annotations

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from overlay_helpers import KEYS, node, port_of, serving

from quidnunc.peer.network.door import Queue, source_of
from quidnunc.peer.network.overlay import Member

HELLO = b"\x13/multistream/1.0.0\n"


def queue(total: int = 8, per_source: int = 4, known: str = "") -> Queue:
    return Queue(total, per_source, known.split().__contains__)


@pytest.mark.parametrize(
    ("host", "source"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3::4", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("peer.example.org", "peer.example.org"),
        ("", ""),
    ],
)
def test_a_source_is_an_address_or_a_network_of_one_customer(host: str, source: str) -> None:
    assert source_of(host) == source


def test_a_source_that_has_all_its_places_displaces_its_own_oldest() -> None:
    door = queue()
    assert [door.enter(n, "a") for n in range(6)] == [None, None, None, None, 0, 1]
    assert door.enter(6, "b") is None
    assert len(door) == 5


def test_in_a_full_door_the_source_with_most_gives_way() -> None:
    door = queue(per_source=8)
    for n in range(7):
        door.enter(n, "flood")
    assert door.enter(7, "b") is None
    assert door.enter(8, "c") == 0
    assert [door.enter(9 + n, "flood") for n in range(3)] == [1, 2, 3]


def test_who_is_expected_does_not_give_way_to_who_is_not() -> None:
    door = queue(total=4, known="member")
    for n in range(3):
        door.enter(n, "member")
    assert door.enter(3, "a") is None
    assert door.enter(4, "b") == 3
    assert door.enter(5, "member") == 4
    assert door.enter(6, "c") == 0, "all places are theirs: strangers must not be kept out for good either"


def test_who_is_done_frees_a_place() -> None:
    door = queue(total=2, per_source=2)
    door.enter(0, "a")
    door.enter(1, "b")
    door.leave(0)
    door.leave(0)
    assert door.enter(2, "c") is None
    assert len(door) == 2


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.booleans()), max_size=60))
def test_no_bound_is_ever_passed(steps: list[tuple[str, bool]]) -> None:
    door = queue(total=5, per_source=3, known="a b")
    inside: dict[int, str] = {}
    for number, (source, leaves) in enumerate(steps):
        displaced = door.enter(number, source)
        if displaced is not None:
            del inside[displaced]
        inside[number] = source
        if leaves:
            door.leave(number)
            del inside[number]
        assert len(door) == len(inside) <= 5
        assert max([list(inside.values()).count(each) for each in "abcdef"]) <= 3


@pytest.mark.trio
async def test_a_flood_from_elsewhere_does_not_displace_a_slow_handshake() -> None:
    """Regression: the oldest gave way whoever it was, so that a flood kept every neighbor on a slow link out."""
    two = node(1, handshakes_max=8, handshake_timeout_s=3_600, members=[Member(KEYS[0])])
    async with serving(two):
        port = port_of(two.addresses()[0])
        with trio.fail_after(30):
            slow = await trio.open_tcp_stream("127.0.0.1", port)
            try:
                flood = [await trio.open_tcp_stream("127.0.0.1", port, local_address="127.0.0.2") for _ in range(40)]
            except OSError:
                pytest.skip("this system has no second loopback address")
            while two.strangers().displaced < 33:  # 41 came, 8 have a place
                await trio.sleep(0.001)
            await slow.send_all(HELLO)
            assert (await slow.receive_some()).startswith(HELLO)
            for connection in flood[:33]:
                while await connection.receive_some():
                    pass
            while two.strangers().refused < 33:
                await trio.sleep(0.001)
            door = two.strangers()
            assert (door.limit, door.waiting, door.displaced, door.last_source) == (8, 8, 33, "127.0.0.2")
            for connection in (slow, *flood):
                await connection.aclose()
