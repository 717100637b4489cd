"""Who can dial whom. Members tell each other no addresses: there are those of the cards, and each site's address book.

Of two neighbors one must have an address of the other, else they never meet.
"""

from __future__ import annotations

from collections.abc import Iterable

from quidnunc.crypto.errors import ConfigError
from quidnunc.gossip.federation.charter import Charter
from quidnunc.gossip.federation.member import Member
from quidnunc.peer.config import Config
from quidnunc.peer.network.address import parse_address

_ANY_HOST = ("0.0.0.0", "::")
_NAMED_MAX = 4


def is_dialable(address: str) -> bool:
    """Whether others can dial a multiaddr: one host and one port, not any of either."""
    try:
        endpoint = parse_address(address)
    except ConfigError:
        return False
    return endpoint.host not in _ANY_HOST


def card_addresses(member: Member) -> tuple[str, ...]:
    """The addresses on a member's card that others can dial."""
    return tuple(each for each in member.addresses if is_dialable(each))


def known_addresses(neighbor: Member, config: Config) -> tuple[str, ...]:
    """Where this site dials ``neighbor``: the local address book wins over the card."""
    book = config.network.peers
    return book.get(neighbor.name) or book.get(neighbor.log_id.hex()) or neighbor.addresses


def without_address(charter: Charter, member: Member, config: Config) -> frozenset[bytes]:
    """Transport keys of the neighbors of ``member`` that this site knows no address of."""
    neighbors = charter.neighbors(member.log_id)
    return frozenset(each.transport for each in neighbors if not known_addresses(each, config))


def warnings_of_cards(charter: Charter) -> list[str]:
    """What is wrong with the addresses on the cards of ``charter``, one sentence for each fault; empty if nothing."""
    members = charter.members
    blind = [each for each in members if not card_addresses(each)]
    apart = [(members[i], members[j]) for i, j in charter.edges if members[i] in blind and members[j] in blind]
    found = _shared(members)
    if apart:
        pairs = _listed(f"{one.name} and {other.name}" for one, other in apart)
        whom = "no two neighbors can ever meet" if len(apart) == len(charter.edges) else f"these never meet: {pairs}"
        found.append(
            f"{whom}: neither card has an address that others can dial, which only [network.peers] in config.toml of "
            "one of the two can make up for; have new homes made with: quidnunc init --listen /ip4/ADDRESS/tcp/PORT "
            "(or --announce), and draft again from their cards"
        )
    left = [each for each in blind if all(each not in pair for pair in apart)]
    if left:
        found.append(
            f"no address that others can dial on the card of {_listed(each.name for each in left)}: neighbors wait "
            "until they are dialed from there; if that is not meant, make it a new home with: quidnunc init --listen "
            "/ip4/ADDRESS/tcp/PORT (or --announce), and draft again from its card"
        )
    return found


def warnings_at_home(charter: Charter, member: Member, config: Config) -> list[str]:
    """What ``run --check`` says of the neighbors that this site, ``member``, does not know how to reach."""
    missing = without_address(charter, member, config)
    names = _listed(each.name for each in charter.neighbors(member.log_id) if each.transport in missing)
    listens = [parse_address(each, listen=True).port for each in config.network.listen]
    found = []
    if names and not card_addresses(member):
        found.append(
            f"{names}: no address is known to dial, and this peer's own card has none either: the two never meet; "
            'put theirs under [network.peers] in config.toml, "NAME" = ["/ip4/ADDRESS/tcp/PORT"], or have them put '
            "yours there"
        )
    elif names:
        found.append(f"{names}: no address is known to dial; this peer waits until it is dialed from there")
    if card_addresses(member) and not any(listens):
        found.append(
            f"network.listen is {list(config.network.listen)}, the card says {list(member.addresses)}: nobody finds "
            "this peer there; listen on that port"
        )
    return found


def _shared(members: Iterable[Member]) -> list[str]:
    """One sentence for each address that stands on more than one card."""
    holders: dict[str, list[str]] = {}
    for member in members:
        for address in card_addresses(member):
            holders.setdefault(address, []).append(member.name)
    return [
        f"{_listed(names)} have the same address on their cards, {address}: only one of them can be reached there"
        for address, names in sorted(holders.items())
        if len(names) > 1
    ]


def _listed(names: Iterable[str]) -> str:
    """Some names in a row, no more than a few."""
    all_names = list(names)
    rest = len(all_names) - _NAMED_MAX
    return ", ".join(all_names[:_NAMED_MAX]) + (f" and {rest} more" if rest > 0 else "")
