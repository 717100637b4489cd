"""Sealing and opening noise messages, against the library that made the keys."""

from __future__ import annotations

import contextlib
import functools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from noise.connection import Keypair, NoiseConnection

from quidnunc.peer.network.sealing import MESSAGE_BYTES, PLAIN_BYTES, TAG_BYTES, BadMessage, Opener, Sealer

PLAINTEXTS = st.lists(
    st.one_of(st.binary(max_size=100), st.integers(PLAIN_BYTES - 2, PLAIN_BYTES).map(bytes)), max_size=6
)


def handshaken() -> tuple[NoiseConnection, NoiseConnection]:
    """Both ends of a noise XX handshake."""
    ends = []
    for number in range(2):
        end = NoiseConnection.from_name(b"Noise_XX_25519_ChaChaPoly_SHA256")
        end.set_keypair_from_private_bytes(Keypair.STATIC, bytes([number + 1]) * 32)
        ends.append(end)
    ends[0].set_as_initiator()
    ends[1].set_as_responder()
    for end in ends:
        end.start_handshake()
    for turn in (0, 1, 0):
        ends[1 - turn].read_message(bytes(ends[turn].write_message()))
    return ends[0], ends[1]


def sealer_of(end: NoiseConnection, messages: int = 4) -> Sealer:
    state = end.noise_protocol.cipher_state_encrypt
    return Sealer(state.k, state.n, messages)


def opener_of(end: NoiseConnection, early: bytes = b"", messages: int = 4) -> Opener:
    state = end.noise_protocol.cipher_state_decrypt
    return Opener(state.k, state.n, messages, early)


def seal(sealer: Sealer, plain: bytes) -> None:
    sealer.plain[: len(plain)] = plain
    sealer.seal(len(plain))


def wire_form(end: NoiseConnection, plain: bytes) -> bytes:
    sealed = end.encrypt(plain)
    return len(sealed).to_bytes(2, "big") + sealed


def fed(opener: Opener, data: bytes, cuts: list[int]) -> list[bytes]:
    """What comes out when ``data`` comes in pieces of the sizes ``cuts``, over and over."""
    found: list[bytes] = []
    turn = 0
    while data:
        room = opener.room
        count = min(cuts[turn % len(cuts)], len(room), len(data))
        room[:count] = data[:count]
        data = data[count:]
        found += [bytes(plain) for plain in opener.opened(count)]
        turn += 1
    return found


@functools.cache
def ends_after(messages: int) -> tuple[NoiseConnection, NoiseConnection]:
    """Ends that have used the channel already, as libp2p does for negotiating."""
    left, right = handshaken()
    for _ in range(messages):
        right.decrypt(left.encrypt(b"used"))
    return left, right


@settings(deadline=None, max_examples=50)
@given(PLAINTEXTS)
def test_what_is_sealed_the_handshakes_own_library_opens(plains: list[bytes]) -> None:
    left, right = handshaken()
    sealer = sealer_of(left)
    stream = b""
    for plain in plains:
        if sealer.full:
            stream += bytes(sealer.take())
        seal(sealer, plain)
    stream += bytes(sealer.take())
    opened = []
    while stream:
        size = int.from_bytes(stream[:2], "big")
        opened.append(right.decrypt(stream[2 : 2 + size]))
        stream = stream[2 + size :]
    assert opened == plains


@settings(deadline=None, max_examples=50)
@given(PLAINTEXTS, st.lists(st.integers(1, 200_000), min_size=1, max_size=4), st.integers(0, 70_000))
def test_what_the_handshakes_own_library_seals_is_opened_however_it_is_cut(
    plains: list[bytes], cuts: list[int], early: int
) -> None:
    left, right = handshaken()
    stream = b"".join(wire_form(left, plain) for plain in plains)
    opener = opener_of(right, stream[:early])
    found = [bytes(plain) for plain in opener.opened(0)]
    assert found + fed(opener, stream[early:], cuts) == plains


def test_a_channel_is_taken_over_in_the_middle() -> None:
    left, right = handshaken()
    for _ in range(3):
        right.decrypt(left.encrypt(b"negotiating"))
    sealer, opener = sealer_of(left), opener_of(right)
    seal(sealer, b"fourth")
    assert fed(opener, bytes(sealer.take()), [1]) == [b"fourth"]


def test_a_sealer_holds_as_many_full_messages_as_it_was_told() -> None:
    sealer = sealer_of(handshaken()[0], messages=2)
    seal(sealer, bytes(PLAIN_BYTES))
    assert not sealer.full
    seal(sealer, bytes(PLAIN_BYTES))
    assert sealer.full
    assert len(sealer.take()) == 2 * (2 + MESSAGE_BYTES)
    assert not sealer.full
    assert len(sealer.take()) == 0


@pytest.mark.parametrize("place", [0, 2, 2 + PLAIN_BYTES // 2, -1])
def test_a_flipped_bit_is_never_opened(place: int) -> None:
    left, right = ends_after(0)
    stream = bytearray(wire_form(left, bytes(PLAIN_BYTES)))
    stream[place] ^= 1
    with pytest.raises(BadMessage, match="does not authenticate"):
        fed(opener_of(right), bytes(stream) + bytes(600), [70_000])


def test_a_replayed_message_is_not_opened() -> None:
    left, right = handshaken()
    message = wire_form(left, b"once")
    opener = opener_of(right)
    assert fed(opener, message, [100]) == [b"once"]
    with pytest.raises(BadMessage):
        fed(opener, message, [100])


@pytest.mark.parametrize("size", [0, TAG_BYTES - 1])
def test_a_message_without_room_for_its_tag_is_refused(size: int) -> None:
    with pytest.raises(BadMessage, match=f"message of {size} bytes"):
        fed(opener_of(handshaken()[1]), size.to_bytes(2, "big") + bytes(size), [100])


@given(st.binary(max_size=300), st.integers(1, 300))
def test_arbitrary_bytes_open_to_nothing(data: bytes, cut: int) -> None:
    _, right = ends_after(0)
    with contextlib.suppress(BadMessage):
        assert fed(opener_of(right), data, [cut]) == []
