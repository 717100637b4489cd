"""One home that runs twice: every honest peer holds a proof and freezes that log, and nobody else is ever convicted."""

from __future__ import annotations

import copy
import random
from functools import partial

import pytest
from node_helpers import Bench, ToyWorker, parsed, start_all, toy_world

from quidnunc.crypto.errors import Reason, RemoteProtocolError
from quidnunc.crypto.fork import verify_fork
from quidnunc.crypto.fork_build import fork_of_tokens
from quidnunc.crypto.fork_proof import encode_fork
from quidnunc.gossip.events import Frame, PeerUp, Received, Send
from quidnunc.gossip.exposure import keys_of
from quidnunc.gossip.federation.charter import RoundSpec
from quidnunc.gossip.health import conditions
from quidnunc.gossip.message import Cosigned, Heads, Proof
from quidnunc.gossip.message_codec import parse_message, write_message
from quidnunc.gossip.provenance import EquivocationProof, Merge, UpdatePublished
from quidnunc.gossip.status import state_of
from quidnunc.sim.disk import Disk
from quidnunc.sim.network import Link
from quidnunc.sim.world import Peer, World

ENDLESS = RoundSpec(1_000_000, 0, 2, "majority")
PERIOD_S = 1.0
TWO_ROUNDS_S = 2 * PERIOD_S * 1.1 + 0.5
"""Two trainings of the slowest peer, and the time of a few messages."""


def copied(peer: Peer) -> tuple[Disk, ToyWorker]:
    """The home of a peer as a copy of its directory would be."""
    blobs = copy.deepcopy(peer.disk.blobs)
    disk = copy.deepcopy(peer.disk)
    disk.blobs = blobs
    return disk, ToyWorker(peer.index, blobs)


def run_twice(world: World, index: int, *, deaf: bool = True) -> Peer:
    """Start a copy of a running peer's home beside it that asks nobody before it signs.

    A ``deaf`` one is never told what its log has come to.
    """
    twin = world.twin(index, *copied(world.peers[index]))
    if deaf:
        world.hooks.tamper = partial(without_heads_of_itself, world.charter.federation_id, twin)
    world.start(twin.index, current=True)
    return twin


def without_heads_of_itself(
    federation: bytes, twin: Peer, sender: Peer, receiver: Peer, send: Send, body: bytes
) -> tuple[bytes, bytes] | None:
    """The network of somebody who does not want to know."""
    told = parse_message(send.frame.header, federation)
    return None if receiver is twin and isinstance(told, Heads | Cosigned) else (send.frame.header, body)


def frozen_by(world: World, culprit: Peer) -> list[Peer]:
    """The honest peers that are up and have frozen the culprit's log."""
    honest = [p for p in world.alive() if p.log_id != culprit.log_id]
    return [p for p in honest if p.node is not None and p.node.exposure.frozen(culprit.log_id)]


def check_proofs(world: World, culprit: Peer) -> None:
    """Every honest ledger names one proof, of the culprit alone, that holds for whoever knows the public keys."""
    for peer in world.peers:
        if peer.log_id == culprit.log_id:
            continue
        named = [record for _, record in parsed(peer.disk.entries) if isinstance(record, EquivocationProof)]
        assert [each.who for each in named] == [culprit.log_id]
        found = verify_fork(peer.disk.proofs[named[0].proof], keys_of(world.charter))
        assert found.culprit.endswith(culprit.log_id.hex())
        assert found.kind.value == named[0].kind


@pytest.mark.parametrize("seed", range(12))
def test_a_copied_home_that_runs_twice_is_frozen_by_all_within_two_rounds(seed: int) -> None:
    world, _ = toy_world(8, seed=seed, watch=False, link=Link(jitter_s=0.05))
    start_all(world)
    world.run(4.0 + seed / 12)
    culprit = world.peers[seed % 8]
    run_twice(world, culprit.index)
    begun = world.now
    world.run(begun + TWO_ROUNDS_S)
    assert len(frozen_by(world, culprit)) == 7
    check_proofs(world, culprit)
    sizes = [len(peer.disk.entries) for peer in world.peers]
    world.run(world.now + 5.0)
    for peer, size in zip(world.peers, sizes, strict=True):
        if peer.log_id != culprit.log_id:
            merges = [r for _, r in parsed(peer.disk.entries[size:]) if isinstance(r, Merge)]
            assert merges, "the others go on"
            assert not any(row.log_id == culprit.log_id for merge in merges for row in merge.rows)


@pytest.mark.parametrize("seed", range(6))
def test_a_copied_home_that_is_told_signs_nothing_and_nobody_is_frozen(seed: int) -> None:
    world, _ = toy_world(8, seed=seed, watch=False, link=Link(jitter_s=0.05))
    start_all(world)
    world.run(4.0 + seed / 12)
    twin = run_twice(world, seed % 8, deaf=False)
    before = published(twin)
    world.run(world.now + TWO_ROUNDS_S)
    assert twin.node is not None
    assert twin.node.witnesses.ahead
    assert published(twin) == before
    assert not frozen_by(world, twin)


@pytest.mark.parametrize("seed", range(6))
def test_a_copied_home_that_asks_finds_that_its_log_grows_on_and_signs_nothing(seed: int) -> None:
    world, _ = toy_world(5, seed=seed, watch=False, link=Link(jitter_s=0.05), rounds=RoundSpec(200, 0, 0, "majority"))
    start_all(world)
    world.run(3.0 + seed / 12)
    twin = world.twin(seed % 5, *copied(world.peers[seed % 5]))
    world.run(6.0)
    world.start(twin.index)
    before, entries = published(twin), len(twin.disk.entries)
    world.run(world.now + 20.0)
    assert twin.node is not None
    assert "another instance" in twin.node.witnesses.ahead
    assert len(twin.disk.entries) == entries
    assert published(twin) == before
    assert not frozen_by(world, twin)


def split(world: World, sides: tuple[set[int], set[int]], seconds: float) -> None:
    """Let the two sides, one instance in each, go on for a while without a word between them, then lose both."""
    crossing = [(a, b) for a in sides[0] for b in sides[1]]
    instances = {min(sides[0]), max(sides[1])}
    for a, b in crossing:
        world.cut(a, b)
        if not instances & {a, b}:
            world.disconnect(a, b)
    world.run(world.now + seconds)
    for each in instances:
        world.crash(each)
    for a, b in crossing:
        world.heal(a, b)
        world.connect(a, b)


@pytest.mark.parametrize("seed", range(8))
def test_two_halves_of_a_proof_are_joined_though_both_instances_are_gone(seed: int) -> None:
    world, _ = toy_world(4, seed=seed, watch=False, link=Link(jitter_s=0.05), rounds=ENDLESS)
    start_all(world)
    world.run(4.0 + seed / 8)
    culprit = world.peers[0]
    run_twice(world, 0)
    split(world, ({0, 3}, {1, 2, 4}), 4.0 + seed)
    assert not frozen_by(world, culprit)
    world.run(world.now + 2 * TWO_ROUNDS_S)
    assert len(frozen_by(world, culprit)) == 3
    check_proofs(world, culprit)


@pytest.mark.parametrize("seed", range(8))
def test_the_halves_of_a_proof_find_each_other_around_a_ring(seed: int) -> None:
    """Those that saw one history each are no neighbors: the peers between them keep no entries of that log."""
    ring = tuple(sorted((min(a, b), max(a, b)) for a, b in ((i, (i + 1) % 8) for i in range(8))))
    world, _ = toy_world(8, seed=seed, watch=False, link=Link(jitter_s=0.05), rounds=ENDLESS, edges=ring)
    start_all(world)
    world.run(4.0 + seed / 8)
    culprit = world.peers[0]
    run_twice(world, 0)
    shorter, longer = ({0, 5, 6, 7}, {1, 2, 3, 4, 8})
    split(world, (shorter, longer), 4.0 + seed)
    assert not frozen_by(world, culprit)
    world.run(world.now + 8 * TWO_ROUNDS_S)
    assert len(frozen_by(world, culprit)) == 7
    check_proofs(world, culprit)


def test_a_peer_whose_own_log_is_frozen_says_so_and_why() -> None:
    world, _ = toy_world(5, seed=1, watch=False)
    start_all(world)
    world.run(4.0)
    culprit = world.peers[0]
    run_twice(world, 0)
    world.run(4.0 + 2 * TWO_ROUNDS_S)
    assert len(frozen_by(world, culprit)) == 4
    node = culprit.node
    assert node is not None
    word, sentence = state_of(node, world.now)
    assert word == "exposed"
    assert "this peer's own key signed two histories" in sentence
    (condition,) = conditions(node, world.now)
    assert (condition.id, condition.severity, condition.subject) == ("log-exposed", "stalled", "ledger")
    assert "every neighbor has frozen this log" in condition.text
    for peer in frozen_by(world, culprit):
        assert peer.node is not None
        told = {(each.id, each.subject) for each in conditions(peer.node, world.now)}
        assert ("neighbor-quarantined", node.charter.members[node.charter.index(culprit.log_id)].name) in told


def test_a_copy_that_is_told_what_its_log_has_come_to_is_stalled_for_that_reason() -> None:
    world, _ = toy_world(5, seed=0, watch=False)
    start_all(world)
    world.run(4.0)
    twin = run_twice(world, 0, deaf=False)
    world.run(4.0 + TWO_ROUNDS_S)
    assert twin.node is not None
    assert state_of(twin.node, world.now)[0] == "behind"
    (condition,) = conditions(twin.node, world.now)
    assert (condition.id, condition.severity) == ("log-behind", "stalled")


def published(peer: Peer) -> int:
    return sum(isinstance(record, UpdatePublished) for _, record in parsed(peer.disk.entries))


def test_a_frozen_log_stays_frozen_after_a_restart_and_late_peers_are_told() -> None:
    world, _ = toy_world(5, seed=3, watch=False)
    start_all(world)
    world.run(4.0)
    culprit = world.peers[0]
    run_twice(world, 0)
    world.run(4.3)
    world.crash(4)
    world.run(8.0)
    assert len(frozen_by(world, culprit)) == 3
    world.crash(1)
    world.crash(0)
    world.crash(5)
    world.start(1)
    world.start(4)
    world.run(10.0)
    assert {p.index for p in frozen_by(world, culprit)} == {1, 2, 3, 4}, "a peer that was away is told on its return"
    for index in (1, 4):
        node = world.peers[index].node
        assert node is not None
        assert node.neighbors[culprit.log_id].quarantined


@pytest.mark.parametrize("seed", range(12))
def test_crashes_losses_and_restarts_convict_nobody(seed: int) -> None:
    rng = random.Random(seed)
    link = Link(loss=0.3, duplicate=0.2, jitter_s=0.5)
    world, watch = toy_world(5, seed=seed, link=link)
    start_all(world)
    for second in range(1, 30):
        world.run(float(second))
        if rng.random() < 0.4:
            index = rng.randrange(5)
            world.crash(index)
            world.start(index)
    watch.check(world)
    assert not any(peer.disk.proofs for peer in world.peers)
    for peer in world.alive():
        assert peer.node is not None
        assert not peer.node.exposure.proofs


# One node.


def forged_fork(bench: Bench) -> bytes:
    """A proof that the bench's first author signed two updates under one number."""
    author = bench.authors[0]
    twin = author.twin()
    proof = fork_of_tokens(author.update(1.0).token, twin.update(2.0).token)
    assert proof is not None
    return encode_fork(proof)


def test_a_proof_from_anybody_freezes_and_is_handed_on_once() -> None:
    bench = Bench(4)
    bench.connect()
    proof = forged_fork(bench)
    message = Frame(write_message(Proof(bench.charter.federation_id, proof)))
    sender, culprit, other = bench.authors[1], bench.authors[0], bench.authors[2]
    bench.sent.clear()
    assert bench.receive(sender, message) == []
    told = [
        send for send in bench.sent if isinstance(parse_message(send.frame.header, bench.charter.federation_id), Proof)
    ]
    assert sorted(send.peer for send in told) == sorted([culprit.transport, other.transport]), "not back to the sender"
    assert bench.neighbor(culprit).quarantined
    assert [r.who for r in bench.records() if isinstance(r, EquivocationProof)] == [culprit.member.log_id]
    bench.sent.clear()
    entries = len(bench.disk.entries)
    assert bench.receive(other, message) == []
    assert not bench.sent
    assert len(bench.disk.entries) == entries, "one proof of a log is enough"
    bench.restart()
    assert bench.neighbor(culprit).quarantined
    effects = bench.feed(PeerUp(other.transport))
    assert any(
        isinstance(e, Send) and isinstance(parse_message(e.frame.header, bench.charter.federation_id), Proof)
        for e in effects
    )


def test_a_proof_is_durable_before_it_is_handed_on() -> None:
    bench = Bench(4)
    bench.connect()
    proof = forged_fork(bench)
    effects = bench.feed(
        Received(bench.authors[1].transport, Frame(write_message(Proof(bench.charter.federation_id, proof))))
    )
    kinds = [type(effect).__name__ for effect in effects]
    assert kinds.index("Commit") < kinds.index("Send")
    commit = bench.commits[-1]
    assert commit.proofs == (proof,)


@pytest.mark.parametrize("where", [0, 40, 200, 500])
def test_what_proves_nothing_is_refused_and_changes_nothing(where: int) -> None:
    bench = Bench(4)
    bench.connect()
    proof = bytearray(forged_fork(bench))
    proof[where] ^= 1
    message = Frame(write_message(Proof(bench.charter.federation_id, bytes(proof))))
    with pytest.raises(RemoteProtocolError):
        verify_fork(bytes(proof), keys_of(bench.charter))
    reasons = bench.receive(bench.authors[1], message)
    assert len(reasons) == 1
    assert reasons[0] in (Reason.MALFORMED, Reason.BAD_SIGNATURE, Reason.STRANGER, Reason.VERSION)
    assert not any(n.quarantined for n in bench.node.neighbors.values())
    assert not bench.disk.proofs
