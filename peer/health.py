"""What only the daemon can see to be wrong: its disk, its clock, its compute process, its links.

Together with what the node sees (``quidnunc.gossip.health``) these are the conditions of ``quidnunc status``. One task
looks once a second, tells the node when there is no room on the disk, and keeps the history; ``status`` looks as well.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import trio

from quidnunc.gossip import health as node_health
from quidnunc.gossip.conditions import Condition, Conditions, Severity
from quidnunc.gossip.events import Storage
from quidnunc.peer.child import Death
from quidnunc.peer.compute import Trouble
from quidnunc.peer.files import unwritable
from quidnunc.peer.task_loader import CSV

if TYPE_CHECKING:
    from quidnunc.peer.host import Host
    from quidnunc.peer.network.overlay_api import DoorStats, Overlay

LOOK_S = 1.0
"""Seconds between two looks."""
ROOM_AGAIN = 1.25
"""How many times the reserve must be free before work goes on: a disk at its edge must not start and stop it."""
INODES_MIN = 64
"""Free inodes below which a file system counts as full, where it counts them at all."""
CLOCK_JUMP_S = 5.0
"""Seconds between the wall clock and ours from which the difference is told."""
SHOWN_S = 20.0
"""How long something that happened once (a process that died, a send that was dropped) is shown."""
SEND_SLOW_S = 5.0
"""Seconds a single frame may be under way to a neighbor before its link counts as slow."""

_DEATHS = {
    Death.HUNG: "trainer-hung",
    Death.KILLED: "trainer-died",
    Death.MEMORY: "trainer-out-of-memory",
    Death.ENDED: "trainer-died",
    Death.RAISED: "trainer-failing",
}


def free_bytes(paths: Iterable[Path]) -> int:
    """Bytes this process may still write where ``paths`` lie: the least of all; 0 without inodes. StoreUnwritable."""
    found = []
    for path in paths:
        try:
            stats = os.statvfs(path)
        except OSError as error:
            raise unwritable(path, error) from error
        full = stats.f_files > 0 and stats.f_favail < INODES_MIN
        found.append(0 if full else stats.f_bavail * stats.f_frsize)
    return min(found)


@dataclass(slots=True)
class Room:
    """Whether there is room on the disk. ``reserve`` in bytes, 0 for no reserve; ``free`` as last measured."""

    paths: tuple[Path, ...]
    reserve: int
    free: int = 0
    low: bool = False

    def measure(self) -> bool:
        """Look at the disk (blocks); returns whether there is room. Raises StoreUnwritable when the disk fails."""
        if not self.reserve:
            return True
        self.free = free_bytes(self.paths)
        self.low = self.free < self.reserve * (ROOM_AGAIN if self.low else 1.0)
        return not self.low

    def conditions(self) -> list[Condition]:
        """What to say of the disk."""
        free, reserve = f"{self.free / 2**20:.1f} MiB free", f"{self.reserve / 2**20:g} MiB (limits.disk_free_mib)"
        if self.low:
            text = f"{free}, the reserve is {reserve}: nothing is trained, published or accepted until there is room"
            return [Condition("disk-full", Severity.STALLED, "disk", text)]
        if self.reserve and self.free < 2 * self.reserve:
            text = f"{free}: training stops when less than {reserve} are left"
            return [Condition("disk-low", Severity.DEGRADED, "disk", text)]
        return []


def clock_conditions(drift_s: float) -> list[Condition]:
    """What to say of a wall clock that is ``drift_s`` seconds ahead of the daemon's own (negative: behind)."""
    if abs(drift_s) < CLOCK_JUMP_S:
        return []
    where = "ahead of" if drift_s > 0 else "behind"
    text = (
        f"the wall clock is {abs(drift_s):.0f} s {where} the time this daemon counts; "
        "intervals and the times in the ledger go on as before"
    )
    return [Condition("clock-jumped", Severity.DEGRADED, "clock", text)]


def trainer_conditions(found: list[Condition], trouble: Trouble | None, now: float) -> list[Condition]:
    """``found`` with a failing trainer named for its cause, and one that died shown for a while.

    ``trouble`` is the last one the compute process had, with ``at`` on the clock of ``now``.
    """
    recent = trouble is not None and now - trouble.at <= SHOWN_S
    if trouble is None or not (recent or any(each.id == "trainer-failing" for each in found)):
        return found
    name = _DEATHS[trouble.death]
    named = [replace(each, id=name) if each.id == "trainer-failing" else each for each in found]
    if named == found and not any(each.id == name for each in found):
        text = f"{trouble.text}; started again, {trouble.count} so far"
        named.append(Condition(name, Severity.DEGRADED, "trainer", text))
    return named


@dataclass(frozen=True, slots=True)
class Backlog:
    """What waits to be sent to one peer: frames, seconds the one under way has taken, frames dropped, when last."""

    waiting: int
    under_way_s: float
    dropped: int
    dropped_at: float | None


def link_conditions(backlogs: Mapping[str, Backlog], now: float) -> list[Condition]:
    """Links that do not keep up, by the name of the neighbor."""
    found = []
    for name, backlog in backlogs.items():
        if backlog.under_way_s > SEND_SLOW_S:
            text = f"a frame to it has been under way for {backlog.under_way_s:.0f} s, {backlog.waiting} wait behind it"
            found.append(Condition("link-slow", Severity.DEGRADED, name, text))
        if backlog.dropped_at is not None and now - backlog.dropped_at <= SHOWN_S:
            text = f"{backlog.dropped} frames to it were dropped, because they are made faster than the link takes them"
            found.append(Condition("sends-dropped", Severity.DEGRADED, name, text))
    return found


def with_link_reasons(found: list[Condition], why: Mapping[str, str]) -> list[Condition]:
    """``found`` with the transport's last words added to those about a lost connection, by neighbor name."""
    return [
        replace(each, text=f"{each.text} (last: {why[each.subject]})")
        if each.id == "neighbor-disconnected" and why.get(each.subject)
        else each
        for each in found
    ]


def address_conditions(found: Sequence[Condition], unknown: Iterable[str], *, dialable: bool) -> list[Condition]:
    """What to say of neighbors, by name, that are not connected and that nobody here has an address of.

    ``dialable`` says that the own card has one, so that they can dial; else it is as bad as their absence in ``found``.
    """
    gone = {each.subject: each.severity for each in found if each.id == "neighbor-disconnected"}
    text = "no address of it is known: there is none on its card, and none under [network.peers] in config.toml"
    if dialable:
        return [Condition("neighbor-no-address", Severity.NOTE, name, f"{text}; it has to dial") for name in unknown]
    text += "; nor is there one on our own card, so that neither can dial the other"
    return [Condition("neighbor-no-address", gone.get(name, Severity.NOTE), name, text) for name in unknown]


def door_conditions(door: DoorStats, displaced_at: float | None, now: float) -> list[Condition]:
    """What to say of connections that nobody has authenticated, the last displaced at ``displaced_at``."""
    if displaced_at is None or now - displaced_at > SHOWN_S:
        return []
    text = (
        f"{door.displaced} connections of strangers gave way to newer ones so far, the last to one from "
        f"{door.last_source or 'an address that is gone'}: something floods this port; neighbors get in from other "
        "addresses than that"
    )
    return [Condition("door-full", Severity.NOTE, "network", text)]


def data_conditions(notes: Sequence[str], task: str) -> list[Condition]:
    """One remark for all that the task ``task`` remarks on the local data; the first stands for the rest."""
    if not notes:
        return []
    text = notes[0] if len(notes) == 1 else f"{len(notes)} remarks, the first: {notes[0]}"
    where = "quidnunc data check" if task == CSV else "the task function"
    return [Condition("data-remarks", Severity.NOTE, "data", f"{text}; see: {where}")]


class Health:
    """The conditions of one running daemon."""

    def __init__(
        self,
        host: Host,
        computer: Any,
        overlay: Overlay,
        room: Room,
        unknown: Set[bytes] = frozenset(),
        *,
        dialable: bool = True,
    ) -> None:
        """``unknown`` are neighbors, by transport key, without an address; ``dialable``: the own card has one."""
        self._host = host
        self._unknown = unknown
        self._dialable = dialable
        self._computer = computer
        self._overlay = overlay
        self._displaced = 0
        self._displaced_at: float | None = None
        self._room = room
        self._conditions = Conditions()

    async def run(self) -> None:
        """Look once a second until cancelled. Raises StoreUnwritable when the disk cannot even be asked."""
        while True:
            had = not self._room.low
            room = await trio.to_thread.run_sync(self._room.measure)
            if room != had:
                await self._host.feed(Storage(room))
            self.look()
            await trio.sleep(LOOK_S)

    def look(self) -> None:
        """Find out what is wrong now."""
        host, now = self._host, self._host.clock.now()
        found = node_health.conditions(host.node, now)
        found = trainer_conditions(found, self._computer.trouble(now), now)
        members = {n.member.transport: n.member.name for n in host.node.neighbors.values()}
        why = {members[peer]: stats.last_trouble for peer, stats in self._overlay.stats().items() if peer in members}
        backlogs = {members[peer]: backlog for peer, backlog in host.outboxes.backlogs().items() if peer in members}
        self._conditions.observe(
            [
                *self._room.conditions(),
                *clock_conditions(host.clock.drift()),
                *with_link_reasons(found, why),
                *address_conditions(found, self._strangers(), dialable=self._dialable),
                *link_conditions(backlogs, now),
                *self._door(now),
                *data_conditions(self._computer.notes, host.node.charter.task.reference),
            ],
            now,
        )

    def _door(self, now: float) -> list[Condition]:
        """Whether strangers have crowded each other out of the door of late."""
        door = self._overlay.strangers()
        if door.displaced > self._displaced:
            self._displaced, self._displaced_at = door.displaced, now
        return door_conditions(door, self._displaced_at, now)

    def _strangers(self) -> list[str]:
        """Neighbors that are missed, and that this peer could not even dial."""
        return [
            n.member.name
            for n in self._host.node.neighbors.values()
            if n.member.transport in self._unknown and not n.connected and not n.quarantined and n.retired is None
        ]

    def tell(self) -> dict[str, Any]:
        """``conditions`` now and ``recent_conditions`` that have passed, JSON-ready."""
        self.look()
        return {"conditions": self._conditions.current(), "recent_conditions": self._conditions.recent()}

    def about(self, subject: str) -> list[str]:
        """Identifiers of the conditions that are about ``subject`` now."""
        return [each["id"] for each in self._conditions.current() if each["subject"] == subject]
