"""Addresses and peer ids."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from libp2p.crypto.ed25519 import Ed25519PublicKey
from libp2p.peer.id import ID

from quidnunc.crypto.errors import ConfigError
from quidnunc.crypto.identity import SecretKey
from quidnunc.peer.network.address import Endpoint, multihash_of, parse_address, peer_id_of, public_of


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("/ip4/127.0.0.1/tcp/4901", "127.0.0.1", 4901),
        ("/ip6/::1/tcp/1", "::1", 1),
        ("/dns/peer.example.org/tcp/65535", "peer.example.org", 65535),
        ("/dns4/localhost/tcp/80", "localhost", 80),
    ],
)
def test_supported_forms(text: str, host: str, port: int) -> None:
    endpoint = parse_address(text)
    assert (endpoint.host, endpoint.port) == (host, port)
    assert endpoint.text == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "127.0.0.1:4901",
        "/ip4/127.0.0.1/udp/4901",
        "/ip4/127.0.0.1/tcp/4901/ws",
        "/ip4/127.0.0.256/tcp/4901",
        "/ip4/::1/tcp/4901",
        "/ip6/127.0.0.1/tcp/4901",
        "/ip4/127.0.0.1/tcp/0",
        "/ip4/127.0.0.1/tcp/65536",
        "/ip4/127.0.0.1/tcp/٤",
        "/ip4/127.0.0.1/tcp/-1",
        "/dns//tcp/1",
        "/dns/a b/tcp/1",
        "/dns/-a.org/tcp/1",
        "/unix/x/tcp/1",
        "/ip4/127.0.0.1/tcp/4901/p2p/12D3KooW",
    ],
)
def test_anything_else_is_refused_with_a_remedy(text: str) -> None:
    with pytest.raises(ConfigError) as refused:
        parse_address(text)
    assert refused.value.hint


def test_listening_takes_any_free_port_but_no_names() -> None:
    assert parse_address("/ip4/0.0.0.0/tcp/0", listen=True) == Endpoint("ip4", "0.0.0.0", 0)
    with pytest.raises(ConfigError, match="cannot listen on the name"):
        parse_address("/dns/peer.example.org/tcp/1", listen=True)


@given(st.text(max_size=60))
def test_arbitrary_text_is_an_address_or_one_typed_refusal(text: str) -> None:
    try:
        endpoint = parse_address(text)
    except ConfigError:
        return
    assert parse_address(endpoint.text) == endpoint


@given(st.binary(min_size=32, max_size=32))
def test_peer_ids_are_those_of_libp2p(seed: bytes) -> None:
    public = SecretKey.from_seed(seed).public
    theirs = ID.from_pubkey(Ed25519PublicKey.from_bytes(public))
    assert peer_id_of(public) == str(theirs)
    assert multihash_of(public) == theirs.to_bytes()
    assert public_of(theirs.to_bytes()) == public


@given(st.binary(max_size=60))
def test_other_peer_ids_hold_no_key_of_ours(data: bytes) -> None:
    public = public_of(data)
    assert public is None or multihash_of(public) == data
