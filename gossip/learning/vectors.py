"""Params by hash: a peer's blobs behind a bounded cache of decoded vectors."""

from __future__ import annotations

from collections import OrderedDict

from quidnunc.gossip.blobs import Blobs
from quidnunc.gossip.learning import codec
from quidnunc.gossip.learning.codec import Vector

_CACHE_BYTES = 64 << 20


class MissingBlob(Exception):
    """A job names a blob that is not in the store."""

    def __init__(self, name: bytes) -> None:
        super().__init__(f"blob {name.hex()} is not in the store")
        self.name = name


class Vectors:
    """Params by hash: the blobs, behind a bounded cache of decoded vectors."""

    def __init__(self, blobs: Blobs, capacity_bytes: int = _CACHE_BYTES) -> None:
        self._blobs = blobs
        self._capacity = capacity_bytes
        self.held_bytes = 0
        self._cache: OrderedDict[bytes, Vector] = OrderedDict()

    def data(self, name: bytes) -> bytes:
        """The raw blob. Raises MissingBlob."""
        data = self._blobs.get(name)
        if data is None:
            raise MissingBlob(name)
        return data

    def get(self, name: bytes, dim: int) -> Vector:
        """The params [dim] called ``name``. Raises MissingBlob, or RemoteProtocolError if they are no such params."""
        vector = self._cache.get(name)
        if vector is None:
            vector = codec.parse_state(self.data(name), dim)
            self._keep(name, vector)
        else:
            self._cache.move_to_end(name)
        return vector

    def put(self, vector: Vector, *, durable: bool = False) -> bytes:
        """Store params and return their hash."""
        name = self._blobs.put(codec.state_bytes(vector), durable=durable)
        self._keep(name, vector)
        return name

    def _keep(self, name: bytes, vector: Vector) -> None:
        if name in self._cache:
            return
        vector.flags.writeable = False
        self._cache[name] = vector
        self.held_bytes += vector.nbytes
        while self.held_bytes > self._capacity and len(self._cache) > 1:
            self.held_bytes -= self._cache.popitem(last=False)[1].nbytes
