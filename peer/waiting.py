"""A start on a full disk: nothing is opened or written before there is room, but ``quidnunc status`` is answered."""

from __future__ import annotations

import logging
import os
from typing import Any

import trio

from quidnunc.gossip.conditions import Conditions
from quidnunc.gossip.federation.charter import Charter
from quidnunc.gossip.federation.member import Member
from quidnunc.peer import api
from quidnunc.peer.clock import Clock
from quidnunc.peer.health import LOOK_S, Room
from quidnunc.peer.home import Home

log = logging.getLogger("quidnunc.peer")


class Waiting:
    """A daemon that has not begun. Implements what the control API asks, with the little there is to tell."""

    def __init__(self, home: Home, charter: Charter, member: Member, room: Room) -> None:
        self._home = home
        self._federation = charter.federation_id
        self._member = member
        self._room = room
        self._clock = Clock()
        self._conditions = Conditions()
        self.paused: bool | None = None
        """What was asked for last, None for nothing."""

    def status(self) -> dict[str, Any]:
        """Who waits, and what for."""
        self._conditions.observe(self._room.conditions(), self._clock.now())
        return {
            "name": self._member.name,
            "log_id": self._member.log_id.hex(),
            "federation": self._federation.hex(),
            "state": "waiting",
            "sentence": "waiting for room on the disk before anything is opened",
            "conditions": self._conditions.current(),
            "recent_conditions": self._conditions.recent(),
            "updates_published": 0,
            "finished": False,
            "pid": os.getpid(),
            "home": str(self._home.root),
        }

    def peers(self) -> list[dict[str, Any]]:
        """Nobody is known yet."""
        return []

    async def pause(self, paused: bool) -> None:
        """Nothing is trained yet: the start that follows is told."""
        self.paused = paused


async def wait_for_room(home: Home, charter: Charter, member: Member, room: Room) -> bool | None:
    """Return once there is room on the disk: whether it was asked to pause meanwhile, None for no word.

    Raises StoreUnwritable when the disk fails, or has none for a socket.
    """
    if await trio.to_thread.run_sync(room.measure):
        return None
    waiting = Waiting(home, charter, member, room)
    log.warning("disk-full: %s", room.conditions()[0].text)
    sock = api.bind(home.prepare_socket())
    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(api.serve, waiting, sock)
            while not await trio.to_thread.run_sync(room.measure):
                await trio.sleep(LOOK_S)
            nursery.cancel_scope.cancel()
    finally:
        home.remove_socket()
    return waiting.paused
