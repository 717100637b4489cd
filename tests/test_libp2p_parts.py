"""Our parts of py-libp2p beside the whole of it, in one process and in either order."""

from __future__ import annotations

import subprocess
import sys

import pytest
from libp2p.crypto.rsa import create_new_key_pair as create_rsa
from libp2p.crypto.secp256k1 import create_new_key_pair as create_secp256k1

from quidnunc.peer.network.libp2p_parts import create_new_key_pair, ed25519_key

WHOLE = """
from libp2p import new_host
from libp2p.crypto.rsa import create_new_key_pair
from libp2p.crypto.serialization import deserialize_public_key
from libp2p.tools.anyio_service.api import ServiceAPI
from libp2p.utils import get_available_interfaces
from libp2p.utils.varint import encode_uvarint
public = create_new_key_pair().public_key
assert deserialize_public_key(public.serialize()) == public
assert isinstance(ServiceAPI.__module__, str) and ServiceAPI.__name__ == "ServiceAPI"
new_host()
"""
PARTS = "import quidnunc.peer.network.transport\n"


@pytest.mark.parametrize("code", [PARTS + WHOLE, WHOLE + PARTS], ids=["parts first", "whole first"])
def test_whoever_wants_the_whole_of_libp2p_gets_it(code: str) -> None:
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_only_ed25519_keys_are_known() -> None:
    public = create_new_key_pair(seed=bytes(32)).public_key
    assert ed25519_key(public.serialize()) == public
    for other in (create_rsa(1024), create_secp256k1()):
        with pytest.raises(ValueError, match="must be Ed25519"):
            ed25519_key(other.public_key.serialize())
