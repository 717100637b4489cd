"""A log that its organization has ended: everybody hears of it, nobody waits for it, nothing more of it is taken."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import trio
from hosts import Table, until
from node_helpers import Author, Bench, ToyWorker, parsed, start_all, toy_world, witness_key

from quidnunc.crypto.checkpoint import cosign_checkpoint
from quidnunc.crypto.errors import Reason, RemoteProtocolError
from quidnunc.crypto.log import Log
from quidnunc.crypto.token import make_token
from quidnunc.gossip.conditions import Severity
from quidnunc.gossip.events import Frame, PeerUp, Received, Rest, TimerFired
from quidnunc.gossip.federation.charter import RoundSpec
from quidnunc.gossip.health import conditions
from quidnunc.gossip.keybook import Keybook
from quidnunc.gossip.message import Cosigned, Entries, Known, Message, Notice, Proof
from quidnunc.gossip.message_codec import write_message
from quidnunc.gossip.notices import open_notice
from quidnunc.gossip.provenance import MemberNotice, Merge, payload_of
from quidnunc.gossip.rejoin import REJOIN_TIMER
from quidnunc.gossip.retirement import LogRetire, RetireReason, retire
from quidnunc.gossip.status import peers, state_of, status
from quidnunc.peer.farewell import Farewell
from quidnunc.peer.network.memory_overlay import MemoryOverlay
from quidnunc.peer.network.overlay_api import Member
from quidnunc.sim.network import Link
from quidnunc.sim.world import EPOCH_S, Peer, World


def end(bench: Bench, author: Author, **changes: object) -> bytes:
    """The notice that ``author``'s organization has ended its log now."""
    founder = next(each for each in bench.founders if each.member == author.member)
    record = retire(founder.root, author.member.log_id, author.log.size, RetireReason.ENDED, None)
    return author.sign(replace(record, **changes))


def told(bench: Bench, data: bytes) -> Frame:
    return Frame(write_message(Notice(bench.charter.federation_id, data)))


def notices(bench: Bench, author: Author) -> list[Message]:
    return [each for each in bench.messages(author) if isinstance(each, Notice)]


# -- one node -----------------------------------------------------------------------------------------------------


def test_a_notice_from_anybody_is_recorded_before_it_is_handed_on_once_and_outlives_a_restart() -> None:
    bench = Bench(4)
    bench.greet()
    gone, sender, other = bench.authors
    data = end(bench, gone)
    bench.sent.clear()
    effects = bench.feed(Received(sender.transport, told(bench, data)))
    kinds = [type(effect).__name__ for effect in effects]
    assert kinds.index("Commit") < kinds.index("Send")
    assert (len(notices(bench, other)), len(notices(bench, sender))) == (1, 0)
    (record,) = [each for each in bench.records() if isinstance(each, MemberNotice)]
    assert (record.who, record.kind, record.seq) == (gone.member.log_id, 5, gone.log.size - 1)
    assert bench.disk.proofs[record.token] == data
    size = len(bench.disk.entries)
    bench.sent.clear()
    assert bench.receive(other, told(bench, data)) == []
    assert len(bench.disk.entries) == size, "one notice is enough"
    assert not bench.sent
    assert Rest(gone.transport) in effects
    assert Rest(gone.transport) in bench.restart()
    assert bench.neighbor(gone).retired is not None
    bench.feed(PeerUp(other.transport))
    assert len(notices(bench, other)) == 1, "whoever was away is told"


def test_a_retired_neighbor_is_waited_for_by_nobody_and_is_no_trouble() -> None:
    bench = Bench(3, rounds=RoundSpec(20, 0, 1, "all"))
    gone, other = bench.authors
    bench.connect(other)
    bench.receive(other, other.update().frame)
    bench.settle()
    bench.tick()
    assert "heard 1 of 2" in bench.node.rounds.blocked
    assert bench.receive(other, told(bench, end(bench, gone))) == []
    bench.turn()
    bench.tick(3600.0)
    assert bench.node.publisher.number
    assert gone.member.name not in bench.node.rounds.blocked
    about = [each for each in conditions(bench.node, bench.now) if each.subject == gone.member.name]
    assert [(each.id, each.severity) for each in about] == [("neighbor-retired", Severity.NOTE)]
    assert status(bench.node, bench.now)["retired"] == [gone.member.name]
    row = next(each for each in peers(bench.node, bench.now) if each["name"] == gone.member.name)
    assert (row["live"], row["retired"]["reason"]) == (False, "ended")


def test_whoever_has_ended_its_log_is_no_witness_any_more() -> None:
    bench = Bench(4)
    bench.greet()
    first, second, third = bench.authors

    def cosigned(author: Author) -> None:
        founder = next(each for each in bench.founders if each.member == author.member)
        note = cosign_checkpoint(bench.commits[-1].note, author.member.log_id, witness_key(founder), time=1)
        data = Frame(write_message(Cosigned(bench.charter.federation_id, note)))
        assert bench.receive(author, data) == []

    def verdict() -> tuple[str, int]:
        found = status(bench.node, bench.now)["witnessed"]
        return found["verdict"], found["quorum"]

    bench.turn()
    cosigned(first)
    cosigned(second)
    assert verdict() == ("WITNESSED 2 of 3", 2)
    assert bench.receive(third, told(bench, end(bench, first))) == []
    assert verdict() == ("SELF-ATTESTED", 2), "of the two that go on one has cosigned"
    cosigned(third)
    assert verdict() == ("WITNESSED 2 of 2", 2)
    bench.restart()
    assert bench.node.witnesses.counting == [second.member.log_id, third.member.log_id]
    for gone in (second, third):
        assert bench.receive(gone, told(bench, end(bench, gone))) == []
    assert verdict() == ("SELF-ATTESTED", 0)


def test_a_start_that_was_short_of_answers_is_not_once_the_silent_ones_have_ended() -> None:
    bench = Bench(3)
    bench.greet()
    bench.turn()
    bench.current = False
    bench.restart()
    silent, other = bench.authors
    bench.connect(other)
    assert bench.receive(other, Frame(write_message(Known(bench.charter.federation_id, b"", 0, 0)))) == []
    bench.now += bench.settings.rejoin_s
    bench.feed(TimerFired(REJOIN_TIMER))
    assert bench.node.rejoin.short
    assert bench.receive(other, told(bench, end(bench, silent))) == []
    assert not bench.node.rejoin.short


def test_what_is_signed_behind_the_end_is_refused_and_recorded() -> None:
    bench = Bench(3)
    bench.greet()
    gone, other = bench.authors
    late = gone.update()
    data = end(bench, gone)
    assert bench.receive(other, told(bench, data)) == []
    size = len(bench.disk.entries)
    assert bench.receive(gone, late.frame) == [], "it came late, nobody is to blame"
    assert len(bench.disk.entries) == size
    behind = gone.update()
    assert bench.receive(gone, behind.frame) == [Reason.RETIRED]
    (refusal,) = bench.rejected()
    assert refusal.reasons == (Reason.RETIRED,)
    assert refusal.seq == gone.log.size - 1
    assert bench.receive(gone, behind.hello()) == [Reason.RETIRED]
    entry = gone.log.append(behind.update.TYPE, payload_of(behind.update), salt=bytes(16), t_ms=0)
    note = gone.log.checkpoint(gone.key)
    more = Entries(bench.charter.federation_id, gone.member.log_id, gone.log.size - 1, (entry,), note)
    assert bench.receive(gone, Frame(write_message(more))) == [Reason.RETIRED]
    assert gone.member.log_id not in bench.disk.heads or bench.disk.heads[gone.member.log_id][0] <= gone.log.size - 2
    assert bench.neighbor(gone).number == 0


def test_two_histories_are_still_proven_after_the_end() -> None:
    bench = Bench(3)
    bench.greet()
    gone, other = bench.authors
    twin = gone.twin()
    first = gone.update(1.0)
    assert bench.receive(gone, first.frame) == []
    bench.settle()
    assert bench.receive(other, told(bench, end(bench, gone))) == []
    bench.receive(gone, twin.update(2.0).frame)
    assert bench.neighbor(gone).quarantined
    assert any(isinstance(each, Proof) for each in bench.messages(other))


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda bench, author: end(bench, author, last=author.log.size + 1), Reason.MALFORMED),
        (lambda bench, author: end(bench, author, why=3), Reason.BAD_SIGNATURE),
        (lambda bench, author: end(bench, author, root_signature=bytes(64)), Reason.BAD_SIGNATURE),
        (lambda bench, author: author.update().token, Reason.MALFORMED),
        (lambda bench, author: b"", Reason.MALFORMED),
        (lambda bench, author: end(Bench(5), Bench(5).authors[3]), Reason.STRANGER),
        (lambda bench, author: by_another_key(bench, author), Reason.BAD_SIGNATURE),
        (lambda bench, author: not_the_last(bench, author), Reason.MALFORMED),
    ],
    ids=[
        "another place",
        "another reason",
        "no signature",
        "an update",
        "nothing",
        "a stranger",
        "log key",
        "not last",
    ],
)
def test_what_ends_no_log_is_refused_and_changes_nothing(spoil: object, reason: Reason) -> None:
    bench = Bench(4)
    bench.greet()
    data = spoil(bench, bench.authors[0])  # type: ignore[operator]
    with pytest.raises(RemoteProtocolError):
        open_notice(data, Keybook(bench.charter.members))
    assert bench.receive(bench.authors[1], told(bench, data)) == [reason]
    assert not any(each.retired for each in bench.node.neighbors.values())
    assert not bench.disk.proofs


def by_another_key(bench: Bench, author: Author) -> bytes:
    """The end of a log, said by the root key, under a checkpoint that another log key signed."""
    founder = next(each for each in bench.founders if each.member == author.member)
    record = retire(founder.root, author.member.log_id, author.log.size, RetireReason.ENDED, None)
    return author.sign(record, bench.authors[1].key)


def not_the_last(bench: Bench, author: Author) -> bytes:
    """The end of a log, in a larger tree."""
    founder = next(each for each in bench.founders if each.member == author.member)
    record = retire(founder.root, author.member.log_id, author.log.size, RetireReason.ENDED, None)
    entry = author.log.append(record.TYPE, payload_of(record), salt=bytes(16), t_ms=0)
    author.update()
    return make_token(entry, author.log.inclusion(record.last), author.log.checkpoint(author.key))


# -- a world ------------------------------------------------------------------------------------------------------


def ended(world: World, peer: Peer) -> bytes:
    """Stop a simulated peer, end its log as ``ledger retire`` does, and return the notice."""
    world.stop(peer.index)
    log = Log(peer.log_id)
    for entry in peer.disk.entries:
        log.replay(entry)
    founder = next(each for each in Bench(len(world.charter.members)).founders if each.member.log_id == peer.log_id)
    record = retire(founder.root, peer.log_id, log.size, RetireReason.MOVED, bytes(32))
    last = log.append(record.TYPE, payload_of(record), salt=bytes(16), t_ms=0)
    peer.disk.entries.append(last)
    return make_token(last, log.inclusion(record.last), log.checkpoint(peer.secret))


def end_of(data: bytes, world: World) -> object:
    return open_notice(data, Keybook(world.charter.members)).record


def tell(world: World, peer: Peer, gone: Peer, data: bytes) -> None:
    """``gone`` shows ``peer`` the end of its log."""
    frame = Frame(write_message(Notice(world.charter.federation_id, data)))
    assert peer.node is not None
    world._feed(peer, Received(gone.transport, frame))


@pytest.mark.parametrize("seed", range(3))
def test_one_that_was_told_is_enough_and_the_others_go_on(seed: int) -> None:
    world, _ = toy_world(4, seed=seed, watch=False, link=Link(jitter_s=0.05), rounds=RoundSpec(200, 0, 2, "majority"))
    start_all(world)
    world.run(4.0)
    gone = world.peers[seed % 4]
    data = ended(world, gone)
    others = [each for each in world.peers if each is not gone]
    world.crash(others[2].index)
    tell(world, others[0], gone, data)
    world.run(world.now + 2.0)
    world.start(others[2].index)
    before = [len(each.disk.entries) for each in others]
    world.run(world.now + 5.0)
    for peer, size in zip(others, before, strict=True):
        assert peer.node is not None
        assert peer.node.neighbors[gone.log_id].retired == open_notice(data, Keybook(world.charter.members)).record
        assert not [each for each in conditions(peer.node, EPOCH_S + world.now) if each.severity != Severity.NOTE]
        merges = [r for _, r in parsed(peer.disk.entries[size:]) if isinstance(r, Merge)]
        assert len(merges) > 2
        assert not any(row.log_id == gone.log_id for merge in merges for row in merge.rows)


def test_an_older_copy_of_an_ended_log_signs_nothing() -> None:
    world, _ = toy_world(3, seed=1, watch=False, rounds=RoundSpec(200, 0, 0, "majority"))
    start_all(world)
    world.run(4.0)
    gone = world.peers[0]
    older = copy.deepcopy(gone.disk)
    data = ended(world, gone)
    tell(world, world.peers[1], gone, data)
    world.run(world.now + 2.0)
    gone.disk, gone.worker = older, ToyWorker(0, older.blobs)
    size = len(older.entries)
    world.start(0)
    world.run(world.now + 20.0)
    assert gone.node is not None
    assert state_of(gone.node, EPOCH_S + world.now)[0] == "behind"
    assert "the root key of this log has ended it" in gone.node.witnesses.ahead
    assert len(older.entries) == size


# -- the farewell -------------------------------------------------------------------------------------------------


@pytest.mark.trio
async def test_a_farewell_tells_who_is_there_and_has_the_end_cosigned(tmp_path: Path) -> None:
    table = Table(tmp_path, 2, rounds=1000)
    gone, there = table.seats
    async with trio.open_nursery() as nursery:
        await nursery.start(gone.host.run, gone.stop)
        await nursery.start(there.host.run, there.stop)
        await until(lambda: gone.founder.member.log_id in there.host.node.witnesses.heads)
        gone.stop.set()
        await gone.host.stopped.wait()
        log = Log(gone.store.log_id)
        for entry in gone.store.entries():
            log.replay(entry)
        record = retire(gone.founder.root, log.log_id, log.size, RetireReason.ENDED, None)
        last = log.append(record.TYPE, payload_of(record), salt=bytes(16), t_ms=0)
        gone.store.commit([last], log.checkpoint(gone.host.node.own.key))
        me, federation = gone.founder.member, table.charter.federation_id
        members = [Member(each.transport) for each in table.charter.members]
        overlay = MemoryOverlay(me.transport, table.network, federation=federation, members=members)
        talk = Farewell(table.charter, me.log_id, overlay, gone.store)
        await talk.run(20.0)
        assert talk.told == talk.cosigned == {there.founder.member.transport}
        assert isinstance(there.host.node.neighbors[me.log_id].retired, LogRetire)
        assert there.overlay.resting == {me.transport}, "nobody looks for it any more"
        there.stop.set()
        await there.host.stopped.wait()
        nursery.cancel_scope.cancel()
    size, _, _ = there.store.heads()[me.log_id]
    assert size == record.last + 1
    assert all(layer.ok for layer in there.store.meaning())
