"""The parts of py-libp2p that we use, imported without the rest.

Importing anything below ``libp2p`` runs the ``__init__`` files of its packages, which import every transport, router
and discovery service there is: 30 MiB and most of a second for nothing of ours. A few modules more are wanted for a
name or two, at the price of another library. While our parts are imported, those packages stand empty and those
modules hold nothing but the names; afterwards they are as if nobody had asked for them: whoever wants the whole of
libp2p later gets it. Held to the pinned version by the overlay tests.
"""

from __future__ import annotations

import sys
from abc import ABC
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec, module_from_spec
from types import ModuleType

PACKAGES = (
    "libp2p",
    "libp2p.network",
    "libp2p.security",
    "libp2p.stream_muxer",
    "libp2p.tools",
    "libp2p.tools.anyio_service",
    "libp2p.transport",
    "libp2p.transport.quic",
    "libp2p.utils",
)
"""Packages whose ``__init__`` imports what we do not use, parents first."""
LENGTHS = "libp2p.utils.varint"
"""What of libp2p.utils is used, and under that name; the rest imports psutil."""


def ed25519_key(data: bytes) -> object:
    """The public key that a peer presents; ValueError for one of another kind."""
    key = PublicKey.deserialize_from_protobuf(data)
    if key.key_type != KeyType.Ed25519.value:
        raise ValueError(f"public key of kind {key.key_type}, must be Ed25519")
    return Ed25519PublicKey.from_bytes(key.data)


STAND_INS: Mapping[str, Mapping[str, object]] = {
    "libp2p.transport.quic.stream": {"QUICStream": object},
    "libp2p.tools.anyio_service.api": {"ServiceAPI": ABC},
    "libp2p.crypto.serialization": {"deserialize_public_key": ed25519_key},
}
"""Modules that are wanted for one name: an alias of a type, the base of a class, the keys that we speak. They would
import aioquic, anyio, and pycryptodome with coincurve."""


@contextmanager
def empty_packages() -> Iterator[None]:
    """Within the block, packages that were not imported before have submodules, but no contents."""
    made: list[str] = []
    for name in PACKAGES:
        spec = None if name in sys.modules else find_spec(name)
        if spec is not None:
            sys.modules[name] = module_from_spec(spec)
            made.append(name)
    for name, names in STAND_INS.items():
        if name not in sys.modules:
            sys.modules[name] = ModuleType(name)
            sys.modules[name].__dict__.update(names)
            made.append(name)
    if "libp2p.utils" in made:
        lengths = vars(import_module(LENGTHS)).items()
        sys.modules["libp2p.utils"].__dict__.update({name: value for name, value in lengths if name[0] != "_"})
    try:
        yield
    finally:
        for name in made:
            del sys.modules[name]


with empty_packages():
    from libp2p.abc import IRawConnection, ISecureConn
    from libp2p.crypto.ed25519 import Ed25519PublicKey, create_new_key_pair
    from libp2p.crypto.keys import KeyPair, KeyType, PublicKey
    from libp2p.crypto.x25519 import create_new_key_pair as create_new_x25519_key_pair
    from libp2p.custom_types import TProtocol
    from libp2p.exceptions import BaseLibp2pError
    from libp2p.io.abc import ReadWriteCloser
    from libp2p.io.exceptions import ConnectionClosedError
    from libp2p.network.connection.raw_connection import RawConnection
    from libp2p.peer.id import ID
    from libp2p.protocol_muxer.multiselect import Multiselect
    from libp2p.protocol_muxer.multiselect_client import MultiselectClient
    from libp2p.protocol_muxer.multiselect_communicator import MultiselectCommunicator
    from libp2p.security.noise.transport import PROTOCOL_ID as NOISE_ID
    from libp2p.security.noise.transport import Transport as Noise
    from libp2p.security.security_multistream import SecurityMultistream
    from libp2p.stream_muxer.muxer_multistream import MuxerMultistream
    from libp2p.stream_muxer.yamux.yamux import PROTOCOL_ID as YAMUX_ID
    from libp2p.stream_muxer.yamux.yamux import Yamux

__all__ = [
    "ID",
    "NOISE_ID",
    "YAMUX_ID",
    "BaseLibp2pError",
    "ConnectionClosedError",
    "IRawConnection",
    "ISecureConn",
    "KeyPair",
    "Multiselect",
    "MultiselectClient",
    "MultiselectCommunicator",
    "MuxerMultistream",
    "Noise",
    "RawConnection",
    "ReadWriteCloser",
    "SecurityMultistream",
    "TProtocol",
    "Yamux",
    "create_new_key_pair",
    "create_new_x25519_key_pair",
]
