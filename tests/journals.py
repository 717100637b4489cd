"""Journals for tests: kept by simulated peers, and read again."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from typing import Any

from founders import Founder, founders
from node_helpers import toy_world

from quidnunc.gossip.federation.charter import Charter
from quidnunc.gossip.federation.founding import draft_note, sign_charter
from quidnunc.gossip.journal.frames import FIRST_SEAL, MAGIC, Reader, seal
from quidnunc.gossip.journal.recording import Recording
from quidnunc.gossip.journal.records import Entered, read_record, write_record
from quidnunc.sim.world import World


class Paper:
    """A journal in memory."""

    def __init__(self) -> None:
        self.data = bytearray(MAGIC)
        self._last = FIRST_SEAL

    def write(self, record: Entered) -> None:
        """As JournalFile.write."""
        whole, self._last = seal(self._last, write_record(record))
        self.data += whole


def journal_of(records: Iterable[Entered]) -> bytes:
    """The journal of these records."""
    paper = Paper()
    for record in records:
        paper.write(record)
    return bytes(paper.data)


def read(data: bytes) -> Iterator[Entered]:
    """The records of a journal."""
    return map(read_record, Reader(io.BytesIO(data).read))


def signed(charter: Charter, group: Iterable[Founder]) -> bytes:
    """A charter's text, signed by every member."""
    note = draft_note(charter)
    for each in group:
        note = sign_charter(note, each.root)
    return note


def kept_world(members: int = 3, **changes: Any) -> tuple[World, list[Paper]]:
    """A toy federation, not started yet, in which every peer keeps a journal."""
    world, _ = toy_world(members, **changes)
    note = signed(world.charter, founders(members))
    papers = [Paper() for _ in world.peers]
    world.hooks.recordings = {index: Recording(paper.write, note) for index, paper in enumerate(papers)}
    return world, papers
