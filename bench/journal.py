"""What a journal costs a daemon by event, and how fast one is replayed.

Eight simulated peers on a ring of two neighbors each way train on digits, with real signatures and ledgers. All of
them keep a journal on the file system, as a daemon does. Of every event the time that the node itself takes is told
apart from what taking it down adds: hashes of bodies and effects, encoding, one write. The node's time holds neither
disk nor training: beside a daemon's own work for the same event, a commit with its sync above all (bench/ledger.py),
the cost is smaller still. Without a journal a daemon pays a comparison with None. The best of three runs counts
(--quick: of one).
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from common import Row, main

from quidnunc.crypto.identity import SecretKey
from quidnunc.gossip.events import Effect, Event
from quidnunc.gossip.federation.founding import draft_note, sign_charter
from quidnunc.gossip.journal.frames import Reader
from quidnunc.gossip.journal.recording import Recording
from quidnunc.gossip.journal.records import read_record
from quidnunc.gossip.journal.replay import Replay, Replayed
from quidnunc.gossip.learning.builtin import digits
from quidnunc.gossip.node import Node
from quidnunc.gossip.task import Training
from quidnunc.peer.journal import JournalFile
from quidnunc.sim.federation import Scenario, _seed, build
from quidnunc.sim.world import Hooks

PEERS = 8
MAX_BYTES = 1 << 30
RUNS = 3


class Timed(Recording):
    """A recording that takes its own time and that of the node apart."""

    spent: list[tuple[float, float]]
    """By event: seconds of the node, seconds on top."""

    def handle(self, node: Node, event: Event, now: float) -> list[Effect]:
        """As Recording.handle."""
        inner: list[float] = []
        handle = node.handle

        class Clocked:
            """Stands for the node where the recording calls it."""

            def handle(self, event: Event, now: float) -> list[Effect]:
                """As Node.handle, timed."""
                begun = time.perf_counter()
                effects = handle(event, now)
                inner.append(time.perf_counter() - begun)
                return effects

        begun = time.perf_counter()
        effects = super().handle(Clocked(), event, now)  # type: ignore[arg-type]
        whole = time.perf_counter() - begun
        self.spent.append((inner[0], whole - inner[0]))
        return effects


@dataclass(frozen=True, slots=True)
class Run:
    """One run: by event the node's seconds and those on top, bytes of all journals, a replay and its seconds."""

    spent: list[tuple[float, float]]
    size: int
    replayed: Replayed
    replay_s: float


def run(where: Path, rounds: int) -> Run:
    """Let a federation run and replay the journal of its first peer."""
    edges = tuple((i, (i + step) % PEERS) for i in range(PEERS) for step in (1, 2))
    scenario = Scenario(
        digits,
        Training(learning_rate=0.5, momentum=0.0, local_steps=1, batch_size=32),
        PEERS,
        rounds=rounds,
        edges=edges,
    )
    hooks = Hooks()
    world = build(scenario, hooks)
    note = draft_note(world.charter)
    for index in range(PEERS):
        note = sign_charter(note, SecretKey.from_seed(_seed(scenario, f"root-{index}")))
    files = [JournalFile.at(where / f"journal-{index}", MAX_BYTES) for index in range(PEERS)]
    recordings = [Timed(file.write, note) for file in files]
    spent: list[tuple[float, float]] = []
    for recording in recordings:
        recording.spent = spent
    hooks.recordings = dict(enumerate(recordings))
    for peer in world.peers:
        world.start(peer.index)
    world.run(rounds + 10.0)
    for each in files:
        each.close()
    begun = time.perf_counter()
    with files[0].path.open("rb") as file:
        replayed = Replay().run(map(read_record, Reader(file.read)))
    replay_s = time.perf_counter() - begun
    if replayed.divergence is not None or replayed.head != world.heads()[0]:
        raise SystemExit(f"the replay came to something else: {replayed.divergence}")
    return Run(spent, sum(each.path.stat().st_size for each in files), replayed, replay_s)


def measure(quick: bool) -> list[Row]:
    """All rows."""
    runs = []
    for _ in range(1 if quick else RUNS):
        with tempfile.TemporaryDirectory(prefix="quidnunc-bench-", dir=".") as where:
            runs.append(run(Path(where), 10 if quick else 60))
    best = min(runs, key=lambda each: sum(extra for _, extra in each.spent))
    events = len(best.spent)
    node_us, extra_us = (1e6 * sum(each[i] for each in best.spent) / events for i in (0, 1))
    middle_us = 1e6 * median(extra for _, extra in best.spent)
    fast = min(runs, key=lambda each: each.replay_s)
    return [
        Row("journal, mean of an event", extra_us, "us", "the node alone", node_us, at_most=500.0),
        Row("journal, median of an event", middle_us, "us"),
        Row("bytes of an event", best.size / events, "B", note=f"{events} events of {PEERS} peers"),
        Row("replay", fast.replayed.events / fast.replay_s, "events/s", note=f"{fast.replayed.entries} entries"),
    ]


if __name__ == "__main__":
    raise SystemExit(main(__doc__, measure))
