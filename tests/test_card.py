"""Member cards: only a root key's own card is opened."""

from __future__ import annotations

import base64
from dataclasses import replace
from typing import Any

import pytest
from founders import founder
from hypothesis import given, settings
from hypothesis import strategies as st

from quidnunc.crypto.encoding import encode
from quidnunc.crypto.errors import CharterError, ConfigError, RemoteProtocolError
from quidnunc.crypto.identity import SecretKey
from quidnunc.crypto.note import sign_note
from quidnunc.gossip.federation.card import CARD_BYTES, CARD_LINE, make_card, open_card, root_key_name
from quidnunc.gossip.federation.genesis import checked_name, make_genesis, parse_genesis

BOUNDED = settings(deadline=None, max_examples=150)
ADDRESSES = ("/ip4/192.0.2.7/tcp/4901", "/dns4/ward.example.org/tcp/4901")
OWNER = founder(1, addresses=ADDRESSES, size_bucket=9)
CARD = make_card(OWNER.member, OWNER.root)


def test_a_card_opens_to_its_member() -> None:
    assert open_card(CARD) == OWNER.member
    assert CARD.startswith(b"quidnunc/v1/card\n")
    assert (
        len(
            make_card(
                founder(2, "x" * 64, addresses=tuple(f"/ip4/1.1.1.1/{i:0>240}" for i in range(8))).member,
                founder(2).root,
            )
        )
        < CARD_BYTES
    )


def test_only_its_own_root_key_makes_a_card() -> None:
    with pytest.raises(CharterError, match="the root key at hand"):
        make_card(OWNER.member, founder(2).root)


def test_a_card_signed_by_somebody_else_is_refused() -> None:
    text = CARD.decode().partition("\n\n")[0] + "\n"
    other = founder(2).root
    for name in (root_key_name(other.public), root_key_name(OWNER.member.root)):
        with pytest.raises(CharterError, match="not signed by its root key"):
            open_card(sign_note(text, name, other).encode())


def signed_value(value: Any) -> bytes:
    body = base64.b64encode(encode(value)).decode()
    name = root_key_name(OWNER.root.public)
    return sign_note(f"{CARD_LINE}\n{body}\n", name, OWNER.root).encode()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("name", "Mallory"),
        ("log", founder(2).member.log),
        ("genesis", founder(2).member.genesis),
        ("witness", b""),
        ("transport", OWNER.member.log),
        ("addresses", ["http://example.org"]),
        ("addresses", "/ip4/1.2.3.4"),
        ("size_bucket", True),
        ("size_bucket", 64),
        ("extra", 1),
    ],
)
def test_a_signed_card_whose_parts_do_not_fit_is_refused(key: str, value: Any) -> None:
    assert open_card(signed_value(OWNER.member.to_value())) == OWNER.member
    with pytest.raises(CharterError):
        open_card(signed_value({**OWNER.member.to_value(), key: value}))


@BOUNDED
@given(st.data())
def test_a_changed_card_is_refused(data: st.DataObject) -> None:
    changed = bytearray(CARD)
    at = data.draw(st.integers(0, len(CARD) - 1))
    changed[at] ^= data.draw(st.integers(1, 255))
    with pytest.raises(CharterError):
        open_card(bytes(changed))


@BOUNDED
@given(st.binary(max_size=300))
def test_bytes_that_are_no_card_are_refused(data: bytes) -> None:
    for prefix in (b"", CARD_LINE.encode() + b"\n", CARD):
        if prefix + data != CARD:
            with pytest.raises(CharterError):
                open_card(prefix + data)


@pytest.mark.parametrize("name", ["A", "Hospital 7", "Université de Besançon", "病院", "x" * 64, "O'Neil & Sons, Ltd."])
def test_names_that_stand_on_a_terminal(name: str) -> None:
    assert checked_name(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        " a",
        "a ",
        "a  b",
        "a\tb",
        "a\x1b[31m",
        "a\u202eb",
        "a\u00a0b",
        "a\u200bb",
        "e\u0301",
        "x" * 65,
        "\ud800",
    ],
)
def test_names_that_deceive_the_eye_are_refused(name: str) -> None:
    with pytest.raises(ConfigError):
        checked_name(name)


def test_a_genesis_needs_its_log_key() -> None:
    root, log = SecretKey(b"r" * 32), SecretKey(b"l" * 32)
    payload = make_genesis(root.public, log, b"n" * 16, "Ward")
    genesis = parse_genesis(payload)
    assert (genesis.root, genesis.key, genesis.nonce, genesis.org) == (
        root.public,
        log.public,
        b"n" * 16,
        "Ward",
    )
    with pytest.raises(RemoteProtocolError, match="not signed"):
        parse_genesis(payload.replace(b"n" * 16, b"m" * 16))
    with pytest.raises(RemoteProtocolError):
        parse_genesis(payload.replace(log.public, SecretKey(b"k" * 32).public))


def test_a_member_is_not_its_neighbor() -> None:
    assert open_card(make_card(replace(OWNER.member, addresses=()), OWNER.root)) != OWNER.member
