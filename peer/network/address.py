"""Where a peer listens and how libp2p names it, without importing libp2p.

Addresses are the TCP subset of multiaddr text (https://github.com/multiformats/multiaddr): ``/ip4/A/tcp/P``,
``/ip6/A/tcp/P``, ``/dns/N/tcp/P``, ``/dns4/N/tcp/P``, ``/dns6/N/tcp/P``. They never carry ``/p2p``: whom we
expect there is said by the member's transport key.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

from quidnunc.crypto.errors import ConfigError

_BASE58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_IDENTITY_MULTIHASH = bytes.fromhex("002408011220")
_LABEL = r"[A-Za-z0-9_][A-Za-z0-9_-]{0,62}"
_HOSTNAME = re.compile(rf"(?=.{{1,253}}\Z){_LABEL}(\.{_LABEL})*\.?\Z")
_EXAMPLE = "write it as /ip4/192.0.2.7/tcp/4901, /ip6/2001:db8::7/tcp/4901 or /dns/peer.example.org/tcp/4901"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One TCP end: a host (address or name) and a port."""

    kind: str
    host: str
    port: int

    @property
    def text(self) -> str:
        """The multiaddr text."""
        return f"/{self.kind}/{self.host}/tcp/{self.port}"


def parse_address(text: str, *, listen: bool = False) -> Endpoint:
    """The endpoint that ``text`` names; ConfigError with a remedy when it is not one of the supported forms.

    With ``listen``, names are refused and port 0 (any free port) is allowed.
    """
    parts = text.split("/")
    if len(parts) == 7 and parts[5] == "p2p":
        raise ConfigError(f"address {text!r} ends in a /p2p part", hint="leave it out: keys come from the charter")
    if len(parts) != 5 or parts[0] or parts[3] != "tcp":
        raise ConfigError(f"address {text!r} is not of the form /ip4/.../tcp/...", hint=_EXAMPLE)
    kind, host = parts[1], parts[2]
    try:
        if kind == "ip4":
            host = str(ipaddress.IPv4Address(host))
        elif kind == "ip6":
            host = str(ipaddress.IPv6Address(host))
        elif kind not in ("dns", "dns4", "dns6") or not _HOSTNAME.match(host):
            raise ConfigError(f"address {text!r}: {kind}/{host} is no host", hint=_EXAMPLE)
    except ValueError as error:
        raise ConfigError(f"address {text!r}: {error}", hint=_EXAMPLE) from None
    if listen and kind.startswith("dns"):
        raise ConfigError(
            f"cannot listen on the name in {text!r}",
            hint="listen on an address such as /ip4/0.0.0.0/tcp/4901",
        )
    if not (parts[4].isascii() and parts[4].isdigit() and len(parts[4]) <= 5):
        raise ConfigError(f"address {text!r}: port {parts[4]!r} is not a number", hint=_EXAMPLE)
    port = int(parts[4])
    least = 0 if listen else 1
    if not least <= port <= 65_535:
        raise ConfigError(f"address {text!r}: port {port} is not in {least}..65535", hint=_EXAMPLE)
    return Endpoint(kind, host, port)


def multihash_of(public: bytes) -> bytes:
    """The bytes of the libp2p peer id of an Ed25519 key: an identity multihash of its protobuf form."""
    return _IDENTITY_MULTIHASH + public


def public_of(multihash: bytes) -> bytes | None:
    """The Ed25519 public key inside a peer id's bytes, or None for any other kind of id."""
    if len(multihash) != 38 or not multihash.startswith(_IDENTITY_MULTIHASH):
        return None
    return multihash[6:]


def peer_id_of(public: bytes) -> str:
    """The libp2p peer id text (``12D3KooW...``) of a 32-byte Ed25519 transport key."""
    raw = multihash_of(public)
    number = int.from_bytes(raw, "big")
    digits = ""
    while number:
        number, rest = divmod(number, 58)
        digits = _BASE58[rest] + digits
    return "1" * (len(raw) - len(raw.lstrip(b"\0"))) + digits
