"""Blobs that are being sent: read and checked once for all neighbors, and held for as long as one of them needs it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import trio

from quidnunc.gossip.blobs import Blobs


@dataclass(slots=True)
class _Body:
    """One blob on its way to ``users`` neighbors."""

    users: int = 0
    lock: trio.Lock = field(default_factory=trio.Lock)
    data: bytes | None = None


class Bodies:
    """Lends out the blobs of a store. An update goes to every neighbor at about the same time."""

    def __init__(self, blobs: Blobs) -> None:
        self._blobs = blobs
        self._lent: dict[bytes, _Body] = {}

    @asynccontextmanager
    async def lend(self, name: bytes) -> AsyncIterator[bytes | None]:
        """The blob called ``name`` for the length of the block, or None when it is gone."""
        body = self._lent.setdefault(name, _Body())
        body.users += 1
        try:
            async with body.lock:
                if body.data is None:
                    body.data = await trio.to_thread.run_sync(self._blobs.get, name)
            yield body.data
        finally:
            body.users -= 1
            if not body.users:
                del self._lent[name]
