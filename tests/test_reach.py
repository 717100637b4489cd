"""Who can dial whom: said before a federation is founded that can never meet, and before a peer waits for ever."""

from __future__ import annotations

from dataclasses import replace

import pytest
from founders import charter, founders

from quidnunc.gossip.federation.charter import Charter
from quidnunc.peer.config import Config, Network
from quidnunc.peer.reach import is_dialable, known_addresses, warnings_at_home, warnings_of_cards, without_address

ADDRESS = "/ip4/192.0.2.7/tcp/4901"
OTHER = "/dns/peer.example.org/tcp/4901"
PORT = Network(listen=("/ip4/0.0.0.0/tcp/4901",))


def with_cards(*addresses: tuple[str, ...], edges: tuple[tuple[int, int], ...] = ()) -> Charter:
    made = founders(len(addresses))
    cards = [
        replace(one, member=replace(one.member, addresses=each)) for one, each in zip(made, addresses, strict=True)
    ]
    return charter(cards, **({"edges": edges} if edges else {}))


@pytest.mark.parametrize(
    ("address", "dialable"),
    [
        (ADDRESS, True),
        (OTHER, True),
        ("/ip4/127.0.0.1/tcp/4901", True),
        ("/ip4/0.0.0.0/tcp/4901", False),
        ("/ip6/::/tcp/4901", False),
        ("/ip6/0:0:0:0:0:0:0:0/tcp/4901", False),
        ("/ip4/127.0.0.1/tcp/0", False),
        ("/ip4/192.0.2.7/udp/4901", False),
    ],
)
def test_an_address_names_one_host_and_one_port(address: str, dialable: bool) -> None:
    assert is_dialable(address) == dialable


def test_a_draft_whose_members_can_all_be_dialed_is_not_warned_of() -> None:
    assert warnings_of_cards(with_cards((ADDRESS,), (OTHER,))) == []


def test_a_draft_of_cards_without_addresses_is_said_never_to_meet() -> None:
    """Regression: a federation of homes made without --listen was drafted, signed and started without a word."""
    (said,) = warnings_of_cards(with_cards((), (), ("/ip4/0.0.0.0/tcp/4901",)))
    assert said.startswith("no two neighbors can ever meet: neither card has an address")
    assert "[network.peers]" in said
    assert "--listen" in said


def test_the_pairs_that_never_meet_are_named_and_those_who_can_only_dial() -> None:
    made = with_cards((), (), (ADDRESS,), (), edges=((0, 1), (1, 2), (2, 3)))
    names = [each.name for each in made.members]
    apart, alone = warnings_of_cards(made)
    assert apart.startswith(f"these never meet: {names[0]} and {names[1]}: ")
    assert names[3] not in apart
    assert f"on the card of {names[3]}: neighbors wait until they are dialed" in alone


def test_one_address_on_several_cards_is_named() -> None:
    made = with_cards((ADDRESS,), (OTHER, ADDRESS), (OTHER.replace("peer", "third"),))
    (said,) = warnings_of_cards(made)
    one, other = made.members[0].name, made.members[1].name
    assert said.startswith(f"{one}, {other} have the same address on their cards, {ADDRESS}")


def test_a_home_is_told_of_neighbors_that_nobody_can_dial() -> None:
    """Regression: run --check called a peer ready to run that could meet nobody."""
    made = with_cards((), ())
    me, other = made.members
    (said,) = warnings_at_home(made, me, Config())
    assert said.startswith(f"{other.name}: no address is known to dial, and this peer's own card has none either")
    assert without_address(made, me, Config()) == {other.transport}
    for key in (other.name, other.log_id.hex()):
        book = Config(network=Network(peers={key: (ADDRESS,)}))
        assert known_addresses(other, book) == (ADDRESS,)
        assert warnings_at_home(made, me, book) == []
        assert without_address(made, me, book) == frozenset()


def test_one_that_can_be_dialed_only_waits_and_must_listen_where_its_card_says() -> None:
    made = with_cards((ADDRESS,), ())
    me, other = made.members
    (said,) = warnings_at_home(made, me, Config(network=PORT))
    assert said == f"{other.name}: no address is known to dial; this peer waits until it is dialed from there"
    _, nowhere = warnings_at_home(made, me, Config())
    assert "nobody finds this peer there" in nowhere
