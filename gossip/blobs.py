"""Content-addressed vectors: the only thing shared between a node's host and its compute side."""

from __future__ import annotations

import hashlib
from typing import Protocol


class Blobs(Protocol):
    """A store of immutable byte strings under their SHA-256."""

    def get(self, name: bytes) -> bytes | None:
        """The blob called ``name``, or None. What is returned hashes to ``name``: a damaged blob is absent."""

    def put(self, data: bytes, *, durable: bool = False) -> bytes:
        """Keep ``data`` and return its SHA-256. With ``durable``, only return once it survives a power loss."""

    def discard(self, name: bytes) -> None:
        """Forget a blob; absent ones are ignored."""


class MemoryBlobs:
    """Blobs in a dict, for the simulator and for tests."""

    def __init__(self) -> None:
        self.data: dict[bytes, bytes] = {}

    def get(self, name: bytes) -> bytes | None:
        return self.data.get(name)

    def put(self, data: bytes, *, durable: bool = False) -> bytes:
        name = hashlib.sha256(data).digest()
        self.data[name] = data
        return name

    def discard(self, name: bytes) -> None:
        self.data.pop(name, None)
