"""Hundreds of small federations in which everything goes wrong at once; the checker rides along.

Each seed draws links, a script of crashes (between commits, at one, made durable or not), orderly stops, restarts and
partitions (noticed or not), and what one of the five peers does to everybody else: it garbles, replays, withholds or
swaps what it sends, or runs twice. At every virtual second replicas must be what was signed, no number used twice, no
honest peer punished; in the end, on a network that is whole again, everybody must have got on.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import pytest
from founders import private
from node_helpers import parsed, start_all, toy_world
from test_fork_world import copied
from test_node_world import check_ledgers, published_by

from quidnunc.crypto.errors import LedgerBehind
from quidnunc.gossip.events import Commit, Send
from quidnunc.gossip.federation.charter import RoundSpec
from quidnunc.gossip.provenance import EquivocationProof
from quidnunc.sim.network import Link
from quidnunc.sim.world import Peer

SEEDS, CHUNK = 500, 20
MEMBERS, ROUNDS = 5, 200
STORM_S, CALM_S = 15, 16
SENT_KEPT = 20


class PowerOff(Exception):
    """The power of a peer goes off now."""


@dataclass
class Liar:
    """What the Byzantine peer makes of each message it sends: (header, body), None for nothing."""

    rng: random.Random
    rate: float
    kinds: list[str]
    log_id: bytes
    sent: list[tuple[bytes, bytes]] = field(default_factory=list)

    def __call__(self, sender: Peer, receiver: Peer, send: Send, body: bytes) -> tuple[bytes, bytes] | None:
        header = send.frame.header
        if sender.log_id != self.log_id:
            return header, body
        self.sent = [*self.sent[1 - SENT_KEPT :], (header, body)]
        if self.rng.random() >= self.rate:
            return header, body
        match self.rng.choice(self.kinds):
            case "withhold":
                return None
            case "replay":
                return self.rng.choice(self.sent)
            case "swap":
                return header, self.rng.choice(self.sent)[1]
            case "header":
                return self._garbled(header), body
            case "cut":
                return header[: self.rng.randrange(len(header) + 1)], body
            case _:
                return header, self._garbled(body)

    def _garbled(self, data: bytes) -> bytes:
        if not data:
            return b"\x00"
        at = self.rng.randrange(len(data))
        return data[:at] + bytes([data[at] ^ (1 << self.rng.randrange(8))]) + data[at + 1 :]


class Storm:
    """One federation and everything that happens to it, all of it drawn from ``seed``."""

    def __init__(self, seed: int) -> None:
        self.rng = rng = random.Random(f"storm-{seed}")
        link = Link(0.02, rng.choice([0.0, 0.05, 0.3, 1.0]), rng.choice([0.0, 0.1, 0.3, 0.5]), rng.choice([0.0, 0.2]))
        paid = rng.random() < 0.5
        changes = {"privacy": private(rounds=ROUNDS)} if paid else {}
        self.world, self.watch = toy_world(
            MEMBERS,
            seed=seed,
            link=link,
            periods_s=tuple(rng.choice([0.5, 1.0, 2.0]) for _ in range(MEMBERS)),
            rounds=RoundSpec(ROUNDS, 0, rng.choice([0, 2]), "majority"),
            **changes,
        )
        self.bad = self.world.peers[rng.randrange(MEMBERS)]
        kinds = rng.sample(["withhold", "replay", "swap", "header", "cut", "body"], rng.randint(1, 6))
        self.world.hooks.tamper = Liar(rng, rng.choice([0.05, 0.3, 1.0]), kinds, self.bad.log_id)
        self.world.hooks.on_commit = self._committed
        self.twins = rng.random() < 0.25
        self.doomed: dict[int, bool] = {}
        self.ended: set[int] = set()
        self.honest = [peer for peer in self.world.peers if peer is not self.bad]

    def run(self) -> None:
        """The storm, and the calm after it."""
        self._guarded(partial(start_all, self.world))
        for second in range(1, STORM_S + 1):
            for _ in range(self.rng.choice([0, 0, 1, 1, 2])):
                self._guarded(self._strike)
            self._until(second)
            self.check()
        self.world.network.link = Link(jitter_s=0.02)
        self.doomed.clear()
        for a, b in [tuple(cut) for cut in self.world.network.cuts]:
            self.world.heal(a, b)
            self._guarded(partial(self.world.connect, a, b))
        for peer in self.world.peers[:MEMBERS]:
            if peer.node is None and peer.index not in self.ended:
                self._guarded(partial(self.world.start, peer.index))
        before = [published_by(peer)[-1] if published_by(peer) else 0 for peer in self.honest]
        for second in range(STORM_S + 1, STORM_S + CALM_S + 1, 3):
            self._until(second)
            self.check()
        self._check_end(before)

    def check(self) -> None:
        """What holds at any moment, for every honest peer about every other."""
        for peer in self.honest:
            if peer.node is None:
                continue
            assert peer.node.publisher.number == self.watch.newest(peer)
            for neighbor in peer.node.neighbors.values():
                if neighbor.log_id == self.bad.log_id:
                    continue
                if neighbor.number:
                    assert self.watch.signed[neighbor.log_id, neighbor.number] == neighbor.state
                assert not neighbor.quarantined
                assert neighbor.standing.bad == 0
                assert not peer.node.exposure.frozen(neighbor.log_id), "an honest log is never taken for a forked one"

    def _check_end(self, before: list[int]) -> None:
        check_ledgers(self.world, absences=True)
        by_log = {peer.log_id: peer for peer in self.honest}
        for peer, number in zip(self.honest, before, strict=True):
            assert peer.node is not None
            assert published_by(peer)[-1] > number, "everybody gets on"
            proofs = [record.who for _, record in parsed(peer.disk.entries) if isinstance(record, EquivocationProof)]
            assert set(proofs) <= {self.bad.log_id}
            for neighbor in peer.node.neighbors.values():
                if neighbor.log_id in by_log:
                    newest = published_by(by_log[neighbor.log_id])[-1]
                    assert neighbor.number >= newest - 5, "repaired once messages arrive again"

    def _committed(self, peer: Peer, commit: Commit) -> None:
        if peer.log_id != self.bad.log_id:
            self.watch.committed(peer, commit)
        durable = self.doomed.pop(peer.index, None)
        if durable is None:
            return
        if not durable:
            del peer.disk.entries[-len(commit.entries) :]
            for _, author, number, _ in commit.tokens:
                if author == peer.log_id:
                    del peer.disk.tokens[number]
                    self.watch.published[author, number] -= 1
        raise PowerOff(peer.index)

    def _strike(self) -> None:
        """One thing that goes wrong, or is mended."""
        world, rng = self.world, self.rng
        peer = rng.choice(world.peers[:MEMBERS])
        match rng.choice(["crash", "crash", "commit", "stop", "start", "start", "start", "cut", "cut", "heal", "twin"]):
            case "crash" if peer.node is not None:
                world.crash(peer.index)
                if rng.random() < 0.5:
                    world.start(peer.index)
            case "commit" if peer.node is not None:
                self.doomed[peer.index] = rng.random() < 0.5
            case "stop" if peer.node is not None:
                world.stop(peer.index)
            case "start":
                for each in world.peers[:MEMBERS]:
                    if each.node is None and each.index not in self.ended:
                        world.start(each.index)
            case "cut":
                side = rng.sample(range(MEMBERS), rng.randint(1, 2))
                noticed = rng.random() < 0.5
                for a in side:
                    for b in set(range(MEMBERS)) - set(side):
                        world.cut(a, b)
                        if noticed:
                            world.disconnect(a, b)
            case "heal":
                for a, b in [tuple(cut) for cut in world.network.cuts]:
                    world.heal(a, b)
                    world.connect(a, b)
            case "twin" if self.twins and self.bad.node is not None:
                self.twins = False
                twin = world.twin(self.bad.index, *copied(self.bad))
                world.start(twin.index, current=True)
            case _:
                return

    def _liars(self) -> list[Peer]:
        return [peer for peer in self.world.peers if peer.log_id == self.bad.log_id]

    def _until(self, second: float) -> None:
        while self.world.now < second:
            self._guarded(partial(self.world.run, second))

    def _guarded(self, action: Callable[[], None]) -> None:
        """Do ``action``; a peer whose power goes off in it is dead, and mostly soon started again."""
        try:
            action()
        except LedgerBehind as behind:
            # Of two that run on one key, the one that finds out ends; that was the liar's own fault.
            (ended,) = [p for p in self._liars() if p.node is not None and len(p.disk.entries) == behind.had]
            self.world.crash(ended.index)
            self.ended.add(ended.index)
        except PowerOff as off:
            self.world.crash(off.args[0])
            if self.rng.random() < 0.7:
                self._guarded(partial(self.world.start, off.args[0]))


def survive(seed: int) -> None:
    """One whole storm; the seed is in the message of what failed."""
    try:
        Storm(seed).run()
    except Exception as error:
        error.add_note(f"seed {seed}")
        raise


@pytest.mark.parametrize("seed", range(4))
def test_a_storm_leaves_every_honest_ledger_right(seed: int) -> None:
    survive(seed)


@pytest.mark.soak
@pytest.mark.parametrize("first", range(0, SEEDS, CHUNK))
def test_five_hundred_storms(first: int) -> None:
    for seed in range(first, first + CHUNK):
        survive(seed)
