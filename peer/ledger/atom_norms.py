"""How far an update moved its model, from the vectors that are still held.

The length of an update's atom, ``|pr - mb|``, needs the state that its author trained from, which never leaves the
author, and the one it published. So a home can tell it of its own newest updates, and whoever reads several homes of
those of their owners.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from quidnunc.crypto.errors import RemoteProtocolError
from quidnunc.gossip.learning.codec import parse_state
from quidnunc.gossip.provenance import UpdatePublished
from quidnunc.gossip.rules.linear import Vector
from quidnunc.peer.blobs import read_blob


def atom_norms(roots: Sequence[Path], dim: int) -> Callable[[UpdatePublished], float | None]:
    """The Euclidean length of an update's atom, or None where a vector of it lies under none of the blob ``roots``."""

    def vector(name: bytes) -> Vector | None:
        for root in roots:
            data = read_blob(root, name)
            if data is not None:
                try:
                    return parse_state(data, dim)
                except RemoteProtocolError:
                    return None
        return None

    def norm(update: UpdatePublished) -> float | None:
        base = vector(update.base)
        after = None if base is None else vector(update.replica_after)
        if base is None or after is None:
            return None
        return float(np.linalg.norm(after.astype(np.float64) - base.astype(np.float64)))

    return norm
