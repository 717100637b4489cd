"""A member of a federation: an organization's keys, its log, and where it may be reached."""

from __future__ import annotations

import re
from dataclasses import dataclass

from quidnunc.crypto.encoding import Encodable, Value
from quidnunc.crypto.errors import CharterError, RemoteProtocolError
from quidnunc.crypto.identity import PUBLIC_BYTES
from quidnunc.gossip.federation.fields import Fields
from quidnunc.gossip.federation.genesis import GENESIS_BYTES, NAME_BYTES, parse_genesis

MAX_ADDRESSES = 8
ADDRESS_BYTES = 256
MAX_SIZE_BUCKET = 63

_ADDRESS = re.compile(r"(/[!-.0-~]+)+")
_FIELDS = ("name", "root", "log", "witness", "transport", "genesis", "addresses", "size_bucket")


@dataclass(frozen=True, slots=True)
class Member:
    """One organization as it stands in a card and in a charter.

    ``root``, ``log`` (epoch 0), ``witness`` and ``transport`` are Ed25519 public keys, no two alike;
    ``genesis`` is the payload that begins its log, ``log_id`` that log's name. ``size_bucket`` is
    floor(log2(training examples)), 0 if it is not told. ``addresses`` are multiaddresses and may be empty: a
    peer's own address book wins.

    Raises CharterError when the parts do not belong together.
    """

    name: str
    log_id: bytes
    root: bytes
    log: bytes
    witness: bytes
    transport: bytes
    genesis: bytes
    size_bucket: int = 0
    addresses: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        try:
            genesis = parse_genesis(self.genesis)
        except RemoteProtocolError as error:
            raise CharterError(f"a member's genesis is not valid: {error}") from None
        said = (self.log_id, self.root, self.log, self.name)
        if said != (genesis.log_id, genesis.root, genesis.key, genesis.org):
            raise CharterError(
                f"member {self.name!r}: log id, root key, log key or name differ from those in its genesis",
                hint=f"ask {genesis.org} for a fresh card",
            )
        keys = self.keys
        if any(len(key) != PUBLIC_BYTES for key in keys) or len(set(keys)) != len(keys):
            raise CharterError(f"member {self.name!r}: its four keys must be 32 bytes each and all different")
        if not 0 <= self.size_bucket <= MAX_SIZE_BUCKET:
            raise CharterError(f"member {self.name!r}: size bucket {self.size_bucket}, must be 0 to {MAX_SIZE_BUCKET}")
        if len(self.addresses) > MAX_ADDRESSES or len(set(self.addresses)) != len(self.addresses):
            raise CharterError(
                f"member {self.name!r}: {len(self.addresses)} addresses, must be up to {MAX_ADDRESSES} different ones"
            )
        for address in self.addresses:
            if len(address) > ADDRESS_BYTES or not _ADDRESS.fullmatch(address):
                raise CharterError(
                    f"member {self.name!r}: {address[:ADDRESS_BYTES]!a} is not a multiaddress",
                    hint="write it like /ip4/192.0.2.7/tcp/4901",
                )

    @property
    def keys(self) -> tuple[bytes, bytes, bytes, bytes]:
        """Root, log, witness and transport public keys."""
        return self.root, self.log, self.witness, self.transport

    def to_value(self) -> dict[str, Encodable]:
        """The canonical map that stands in cards and charters; the log id follows from the genesis."""
        return {
            "name": self.name,
            "root": self.root,
            "log": self.log,
            "witness": self.witness,
            "transport": self.transport,
            "genesis": self.genesis,
            "addresses": self.addresses,
            "size_bucket": self.size_bucket,
        }

    @classmethod
    def from_value(cls, value: Value, what: str) -> Member:
        """Read :meth:`to_value` strictly; raises Malformed, CharterError or, for a bad genesis, BAD_SIGNATURE."""
        fields = Fields(value, what, _FIELDS)
        genesis = fields.blob("genesis", GENESIS_BYTES)
        return cls(
            name=fields.text("name", NAME_BYTES),
            log_id=parse_genesis(genesis).log_id,
            root=fields.data("root", PUBLIC_BYTES),
            log=fields.data("log", PUBLIC_BYTES),
            witness=fields.data("witness", PUBLIC_BYTES),
            transport=fields.data("transport", PUBLIC_BYTES),
            genesis=genesis,
            size_bucket=fields.integer("size_bucket"),
            addresses=fields.texts("addresses", MAX_ADDRESSES, ADDRESS_BYTES),
        )
