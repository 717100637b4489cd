"""Dialing, listening, losing and regaining connections; peers in other processes where it matters."""

from __future__ import annotations

import gc
import hashlib
import socket
import subprocess
import sys

import pytest
import trio
from overlay_helpers import (
    FEDERATION,
    KEYS,
    SEEDS,
    Recorder,
    answer_pings,
    child,
    introduce,
    intruder,
    node,
    pair,
    port_of,
    serving,
    until_over,
    valid_offer,
)

from quidnunc.crypto.errors import ConfigError
from quidnunc.gossip.events import Frame
from quidnunc.peer.network.overlay import Libp2pOverlay, Member, SendFailed
from quidnunc.peer.network.transfer import FRAME_PROTOCOL

pytestmark = pytest.mark.trio


async def test_dialing_an_address_where_somebody_else_answers_connects_nobody() -> None:
    one, impostor = node(0, redial_min_s=0.05), node(2, members=[Member(KEYS[0])])
    async with serving(one) as events, serving(impostor) as impostor_events:
        one.set_members([Member(KEYS[1], impostor.addresses())])
        with trio.fail_after(30):
            while one._neighbors[KEYS[1]].dials < 4:
                await trio.sleep(0.01)
        assert events.log == impostor_events.log == []
        assert one.connected() == frozenset()


async def test_a_peer_in_another_process_is_announced_and_a_large_body_arrives_whole() -> None:
    body = hashlib.shake_256(b"20 MB").digest(20_000_000)
    one = node(0, body_bytes_max=20_000_000)
    async with (
        serving(one) as events,
        child(1, [Member(KEYS[0])], body_bytes_max=20_000_000) as (peer, addresses),
    ):
        one.set_members([Member(KEYS[1], tuple(addresses))])
        await events.until_up(KEYS[1])
        with trio.fail_after(60):
            await one.send(KEYS[1], Frame(b"h", body))
        report = await peer.until("frame", size=len(body))
        assert report["digest"] == hashlib.sha256(body).hexdigest()


@pytest.mark.parametrize("ours", [0, 1], ids=["we-dial", "they-dial"])
async def test_a_killed_peer_is_noticed_and_comes_back(ours: int) -> None:
    one = node(ours, redial_min_s=0.05, redial_max_s=2.0)
    theirs = 1 - ours
    async with serving(one) as events:
        me = [Member(KEYS[ours], one.addresses())]
        async with child(theirs, me, redial_min_s=0.05) as (peer, addresses):
            one.set_members([Member(KEYS[theirs], tuple(addresses))])
            await events.until_up(KEYS[theirs])
            peer.kill()
            await events.until_down(KEYS[theirs])
            with pytest.raises(SendFailed):
                await one.send(KEYS[theirs], Frame(b"h"))
        async with child(theirs, me, listen=addresses, redial_min_s=0.05) as (peer, _):
            await events.until_up(KEYS[theirs], times=2)
            await one.send(KEYS[theirs], Frame(b"back"))
            await peer.until("frame")


async def test_a_stopped_process_is_dropped_by_pings_and_redialed_when_it_goes_on() -> None:
    one = node(0, ping_interval_s=0.3, redial_min_s=0.05, redial_max_s=0.5, handshake_timeout_s=0.5)
    async with serving(one) as events, child(1, [Member(KEYS[0])]) as (peer, addresses):
        one.set_members([Member(KEYS[1], tuple(addresses))])
        await events.until_up(KEYS[1])
        peer.stop()
        await events.until_down(KEYS[1])
        peer.resume()
        await events.until_up(KEYS[1], times=2)
        await one.send(KEYS[1], Frame(b"back"))
        await peer.until("frame")


async def test_a_send_to_a_stopped_process_ends_and_takes_the_connection_with_it() -> None:
    one = node(0, ping_interval_s=600.0, idle_timeout_s=0.5, redial_min_s=600.0, redial_max_s=600.0)
    async with serving(one) as events, child(1, [Member(KEYS[0])]) as (peer, addresses):
        one.set_members([Member(KEYS[1], tuple(addresses))])
        await events.until_up(KEYS[1])
        peer.stop()
        with trio.fail_after(30), pytest.raises(SendFailed, match="timeout"):
            await one.send(KEYS[1], Frame(b"h", bytes(8_000_000)))
        await events.until_down(KEYS[1])


@pytest.mark.parametrize("who", ["sender", "receiver"])
async def test_a_send_ends_when_its_connection_is_lost_meanwhile(who: str) -> None:
    async with pair() as (one, one_events, two, two_events):
        two_events.gate = trio.Event()
        failed = trio.Event()

        async def send() -> None:
            with pytest.raises(SendFailed):
                await one.send(two.public, Frame(b"h"))
            failed.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            await two_events.until(lambda self: self.receiving == 1)
            (one if who == "sender" else two).set_members([])
            with trio.fail_after(5):
                await failed.wait()
        await one_events.until_down(two.public)
        await two_events.until_down(one.public)


async def test_a_second_connection_dialed_by_the_higher_key_is_refused() -> None:
    async with pair() as (one, events, two, _):
        async with intruder(SEEDS[1], one, one.public) as second, trio.open_nursery() as nursery:
            nursery.start_soon(until_over, answer_pings, second)
            with trio.fail_after(30):
                await second.ended.wait()
            nursery.cancel_scope.cancel()
        assert events.log == [("up", two.public)]
        await one.send(two.public, Frame(b"h"))


async def test_simultaneous_dials_end_in_one_connection() -> None:
    # The higher key waits a mere 10 ms for the other's dial: both dial all the time.
    one, two = (node(index, redial_min_s=0.01, redial_max_s=0.01) for index in range(2))
    async with serving(one) as one_events, serving(two) as two_events:
        introduce(one, two)
        await one_events.until_up(two.public)
        await two_events.until_up(one.public)
        with trio.fail_after(30):
            while not (len(one._links) == len(two._links) == 1 and one.connected() and two.connected()):
                await trio.sleep(0.01)
            for _ in range(20):
                await one.send(two.public, Frame(b"h"))
                await two.send(one.public, Frame(b"h"))
        assert [link.outbound for link in one._links] == [True]
        assert [link.outbound for link in two._links] == [False]


async def test_the_higher_key_dials_when_nobody_comes() -> None:
    one, two = node(0), node(1, redial_min_s=0.1, redial_max_s=0.2)
    async with serving(one) as one_events, serving(two):
        one.set_members([Member(two.public)])
        two.set_members([Member(one.public, one.addresses())])
        await one_events.until_up(two.public)


async def test_a_restarted_higher_key_does_not_wait_out_the_pauses_of_one_that_gave_up_dialing() -> None:
    # The lower key never dials here, as one that was refused for long does not for half a minute.
    one, two = node(0), node(1, first_dial_s=0.05, redial_min_s=3_600, redial_max_s=3_600)
    async with serving(one) as one_events, serving(two) as two_events:
        one.set_members([Member(two.public)])
        two.set_members([Member(one.public, one.addresses())])
        await one_events.until_up(two.public)
        await two_events.until_up(one.public)
        assert two._neighbors[one.public].dials == 1


async def test_the_first_dial_of_a_higher_key_fails_once_and_then_it_is_patient() -> None:
    two = node(1, first_dial_s=0.05, redial_min_s=0.05, redial_max_s=3_600)
    closed = socket.socket()
    closed.bind(("127.0.0.1", 0))
    async with serving(two):
        two.set_members([Member(KEYS[0], (f"/ip4/127.0.0.1/tcp/{closed.getsockname()[1]}",))])
        with trio.fail_after(10):
            while not two.stats().get(KEYS[0]):
                await trio.sleep(0.01)
        await trio.testing.wait_all_tasks_blocked(cushion=0.2)
        assert two._neighbors[KEYS[0]].dials == 1
    closed.close()


async def test_a_peer_at_rest_is_not_dialed_and_still_let_in() -> None:
    one, two = node(0, redial_min_s=0.01, redial_max_s=0.02), node(1, redial_min_s=0.1, redial_max_s=0.2)
    async with serving(one) as one_events, serving(two):
        one.set_members([Member(two.public)])
        one.rest(two.public)
        one.set_members([Member(two.public, two.addresses())])
        two.set_members([Member(one.public, one.addresses())])
        await one_events.until_up(two.public)
        assert [link.outbound for link in one._links] == [False], "it came itself"
        assert one._neighbors[two.public].dials == 0
        two.set_members([])
        await one_events.until_down(two.public)
        two.set_members([Member(one.public, one.addresses())])
        await one_events.until_up(two.public, times=2)
        assert one._neighbors[two.public].dials == 0


async def test_a_new_address_is_dialed_without_waiting_for_the_pause() -> None:
    one, two = node(0, redial_min_s=3_600, redial_max_s=3_600), node(1)
    closed = socket.socket()
    closed.bind(("127.0.0.1", 0))
    nowhere = f"/ip4/127.0.0.1/tcp/{closed.getsockname()[1]}"
    async with serving(one) as events, serving(two):
        two.set_members([Member(one.public)])
        one.set_members([Member(two.public, (nowhere,))])
        with trio.fail_after(10):
            while one._neighbors[two.public].dials < 1:
                await trio.sleep(0.01)
        one.set_members([Member(two.public, (nowhere, *two.addresses()))])
        await events.until_up(two.public)
    closed.close()


async def test_a_newer_connection_from_the_same_side_replaces_the_older_one() -> None:
    two = node(1, members=[Member(KEYS[0])])
    async with serving(two) as events, trio.open_nursery() as nursery:
        async with intruder(SEEDS[0], two) as older:
            nursery.start_soon(until_over, answer_pings, older)
            await events.until_up(KEYS[0])
            async with intruder(SEEDS[0], two) as newer:
                nursery.start_soon(until_over, answer_pings, newer)
                await events.until_up(KEYS[0], times=2)
                assert [event for event, _ in events.log] == ["up", "down", "up"]
                assert len(two._links) <= 2
                stream = await newer.open(FRAME_PROTOCOL)
                await stream.write(valid_offer(Frame(b"h")))
                assert await stream.read_exactly(1) == b"G"
        nursery.cancel_scope.cancel()


async def test_a_peer_that_never_answers_pings_is_never_up() -> None:
    two = node(1, members=[Member(KEYS[0])], ping_interval_s=0.1)
    async with serving(two) as events, intruder(SEEDS[0], two) as connection:
        with trio.fail_after(30):
            while not connection.ended.is_set():
                await trio.sleep(0.01)
        assert events.log == []


async def test_nothing_listens_after_the_end_and_the_port_is_free() -> None:
    overlay = node(0)
    async with serving(overlay):
        address = overlay.addresses()[0]
    with pytest.raises(OSError, match=r"(?i)connect"):
        await trio.open_tcp_stream("127.0.0.1", port_of(address))
    again = Libp2pOverlay(SEEDS[0], listen=[address], federation=FEDERATION)
    async with serving(again):
        assert again.addresses() == (address,)


async def test_a_port_in_use_is_a_clear_error() -> None:
    first = node(0)
    async with serving(first):
        second = Libp2pOverlay(SEEDS[1], listen=first.addresses(), federation=FEDERATION)
        with pytest.raises(ConfigError, match=r"cannot listen on /ip4/127\.0\.0\.1/tcp/") as refused:
            await second.serve(Recorder())
        assert refused.value.hint


@pytest.mark.parametrize("host", ["/ip6/::1", "/dns/localhost"])
async def test_names_and_the_newer_protocol_are_dialed(host: str) -> None:
    one = node(0)
    bound = "/ip6/::1/tcp/0" if host.startswith("/ip6") else "/ip4/127.0.0.1/tcp/0"
    two = Libp2pOverlay(SEEDS[1], listen=[bound], federation=FEDERATION, members=[Member(KEYS[0])])
    async with serving(one) as events, serving(two):
        one.set_members([Member(KEYS[1], (f"{host}/tcp/{port_of(two.addresses()[0])}",))])
        await events.until_up(KEYS[1])


async def test_connections_that_come_and_go_leave_nothing_behind() -> None:
    two = node(1, members=[Member(KEYS[0])])
    async with serving(two) as events:
        for times in range(1, 21):
            async with intruder(SEEDS[0], two) as connection, trio.open_nursery() as nursery:
                nursery.start_soon(until_over, answer_pings, connection)
                await events.until_up(KEYS[0], times)
                nursery.cancel_scope.cancel()
            await events.until_down(KEYS[0], times)
            if times == 2:
                settled = _holdings()
        with trio.fail_after(10):
            while any(now > before for now, before in zip(_holdings(), settled, strict=True)):
                await trio.sleep(0.01)
        assert two.stats()[KEYS[0]].connections == 20


def _holdings() -> tuple[int, int]:
    """Tasks running and sockets open in this process."""
    gc.collect()
    sockets = sum(isinstance(thing, socket.socket) and thing.fileno() >= 0 for thing in gc.get_objects())
    return trio.lowlevel.current_statistics().tasks_living, sockets


def _imports_libp2p(module: str) -> bool:
    program = f"import sys, {module}; print(any(name.split('.')[0] == 'libp2p' for name in sys.modules))"
    return subprocess.run([sys.executable, "-c", program], check=True, capture_output=True).stdout == b"True\n"


async def test_only_a_running_overlay_pays_for_libp2p() -> None:
    assert not await trio.to_thread.run_sync(_imports_libp2p, "quidnunc.peer.network.overlay")
    assert not await trio.to_thread.run_sync(_imports_libp2p, "quidnunc.peer.network.memory_overlay")
    assert await trio.to_thread.run_sync(_imports_libp2p, "quidnunc.peer.network.transport")


def _run(program: str) -> bytes:
    return subprocess.run([sys.executable, "-c", program], check=True, capture_output=True).stdout


@pytest.mark.parametrize("before", ["", "import libp2p; "], ids=["ours-first", "libp2p-first"])
async def test_parts_of_libp2p_are_imported_without_the_rest_and_do_not_spoil_it(before: str) -> None:
    parts = f"import sys; {before}import quidnunc.peer.network.transport as t; "
    rest = "print('aioquic' in sys.modules, 'libp2p.transport.manager' in sys.modules)"
    assert (await trio.to_thread.run_sync(_run, parts + rest)).split() == [b"True" if before else b"False"] * 2
    whole = (
        "from libp2p import new_host; from libp2p.security.noise.transport import Transport; "
        "from libp2p.transport.quic.stream import QUICStream; "
        "print(issubclass(t.GatedNoise, Transport), QUICStream is not object, new_host().get_id() is not None)"
    )
    assert (await trio.to_thread.run_sync(_run, parts + whole)).split() == [b"True"] * 3
