"""Neighbors witness each other's logs: never two roots at one size, durable before the cosignature leaves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from node_helpers import Author, Bench, start_all, toy_world, witness_key
from test_fork_world import TWO_ROUNDS_S, check_proofs, frozen_by, run_twice

from quidnunc.crypto.checkpoint import Checkpoint, cosign_checkpoint, open_checkpoint, sign_checkpoint, witness_verifier
from quidnunc.crypto.entry import open_entry
from quidnunc.crypto.errors import LocalProtocolError, Reason
from quidnunc.crypto.fork import verify_fork
from quidnunc.crypto.fork_build import fork_of_kept
from quidnunc.crypto.identity import SecretKey
from quidnunc.crypto.note import parse_note, verify_note
from quidnunc.gossip.attestation import SuspicionCleared, SuspicionRaised, WitnessSummary
from quidnunc.gossip.audit import Audit
from quidnunc.gossip.conditions import Severity
from quidnunc.gossip.events import Compared, Frame, Received, Send
from quidnunc.gossip.exposure import keys_of
from quidnunc.gossip.federation.charter import RoundSpec
from quidnunc.gossip.health import conditions
from quidnunc.gossip.message import (
    Consistency,
    Cosigned,
    Entries,
    Fetch,
    Heads,
    Hello,
    Message,
    Prove,
    Snapshot,
    Update,
)
from quidnunc.gossip.message_codec import parse_message, write_message
from quidnunc.gossip.node import Node
from quidnunc.gossip.provenance import Merge
from quidnunc.gossip.settings import Settings
from quidnunc.gossip.status import peers, state_of, status
from quidnunc.peer.ledger.store import Store
from quidnunc.sim.network import Link
from quidnunc.sim.world import EPOCH_S, Peer, World

ENDLESS = RoundSpec(1_000_000, 0, 2, "majority")


def frame(message: Message) -> Frame:
    return Frame(write_message(message))


def last(bench: Bench, author: Author, kind: type) -> Message:
    return [each for each in bench.messages(author) if isinstance(each, kind)][-1]


def count(bench: Bench, author: Author, kind: type) -> int:
    return sum(isinstance(each, kind) for each in bench.messages(author))


def answer(author: Author, asked: Message) -> Frame:
    """What an honest log answers to a question."""
    assert isinstance(asked, Prove)
    log = author.log
    path = tuple(log.consistency(asked.old, asked.new))
    return frame(Consistency(asked.federation, asked.old, asked.new, log.root_at(asked.old), path))


@pytest.fixture
def bench() -> Bench:
    made = Bench(4)
    made.connect()
    return made


def test_the_first_checkpoint_is_cosigned_and_durable_before_that_is_said(bench: Bench) -> None:
    author = bench.authors[0]
    effects = bench.feed(Received(author.transport, author.update().frame))
    kinds = [type(each).__name__ for each in effects]
    assert kinds.index("Witness") < kinds.index("Send")
    said = last(bench, author, Cosigned)
    assert isinstance(said, Cosigned)
    found = open_checkpoint(said.note, author.log.origin, author.member.log)
    assert (found.size, found.root) == (author.log.size, author.log.root)
    mine = witness_verifier(bench.own.log_id, bench.own.witness.public)
    assert verify_note(parse_note(said.note), [mine])
    assert bench.disk.heads[author.member.log_id][:2] == (found.size, found.root)


def test_a_later_checkpoint_is_cosigned_once_it_is_shown_to_continue(bench: Bench) -> None:
    author = bench.authors[0]
    bench.receive(author, author.update().frame)
    bench.settle()
    bench.receive(author, author.update().frame)
    assert count(bench, author, Cosigned) == 1, "not before it is shown"
    asked = last(bench, author, Prove)
    assert bench.receive(author, answer(author, asked)) == []
    assert count(bench, author, Cosigned) == 2
    assert bench.disk.heads[author.member.log_id][0] == author.log.size
    assert bench.receive(author, answer(author, asked)) == [Reason.UNSOLICITED]


def test_questions_to_one_log_are_at_most_one_in_witness_s(bench: Bench) -> None:
    author = bench.authors[0]
    for _ in range(6):
        bench.receive(author, author.update().frame)
        bench.settle()
    assert count(bench, author, Prove) == 1
    bench.now += bench.settings.witness_s
    bench.receive(author, author.update().frame)
    assert count(bench, author, Prove) == 2


def test_a_checkpoint_that_was_verified_is_not_verified_again(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []

    def counting(note: bytes, *arguments: Any) -> Checkpoint:
        opened.append(note)
        return open_checkpoint(note, *arguments)

    monkeypatch.setattr("quidnunc.gossip.witness.open_checkpoint", counting)
    told, first, second = bench.authors
    told.append(0x80, b"\xc0")
    heard(bench, told, first)
    assert len(opened) == 1
    heard(bench, told, second)
    assert len(opened) == 1, "byte for byte the same"
    note = bytearray(opened[0])
    note[-20] ^= 1
    forged = frame(Heads(bench.charter.federation_id, (bytes(note),)))
    assert bench.receive(second, forged) == [Reason.BAD_SIGNATURE]
    assert len(opened) == 2


def heard(bench: Bench, told: Author, by: Author) -> None:
    """A neighbor says what it has seen of another author's log."""
    note = sign_checkpoint(Checkpoint(told.log.origin, told.log.size, told.log.root_at(told.log.size)), told.key)
    assert bench.receive(by, frame(Heads(bench.charter.federation_id, (note,)))) == []


def test_what_is_heard_of_a_silent_log_is_held_against_what_is_kept_of_it(bench: Bench) -> None:
    author, other = bench.authors[0], bench.authors[1]
    twin, log_id = author.twin(), author.member.log_id
    for _ in range(3):
        author.append(0x80, b"\xc0")
        bench.receive(author, author.update().frame)
        bench.settle()
    kept = tuple(author.entries)
    assert bench.receive(author, frame(Entries(bench.charter.federation_id, log_id, 0, kept, b""))) == []
    twin.update(2.0)
    heard(bench, twin, other)
    assert bench.compares == [], "it is asked first"
    bench.disconnect(author)
    bench.tick()
    (asked,) = bench.compares
    assert asked.log_id == log_id
    sizes = [open_checkpoint(note, author.log.origin, author.member.log).size for note in asked.notes]
    assert twin.log.size in sizes
    assert max(sizes) <= len(kept)
    bench.tick()
    assert len(bench.compares) == 1, "it is held against them once"
    found = fork_of_kept(asked.notes, [each.header for each in kept])
    bench.feed(Compared(None))
    assert not bench.neighbor(author).quarantined
    bench.feed(Compared(found))
    assert bench.neighbor(author).quarantined
    bench.tick()
    assert len(bench.compares) == 1


def test_what_others_stay_at_is_said_again_until_all_have_heard_it() -> None:
    """A word may be lost: a log that has ended gives no newer one."""
    bench = Bench(4)
    bench.greet()
    author, other = bench.authors[0], bench.authors[1]
    bench.receive(author, author.update().frame)
    bench.settle()

    def told() -> int:
        heads = [each for each in bench.messages(other) if isinstance(each, Heads)]
        return sum(author.log.origin.encode() in note for each in heads for note in each.notes)

    for _ in range(3):
        bench.turn()
    assert told() == 1
    bench.turn(bench.settings.reminder_s)
    bench.turn()
    assert told() == 2
    bench.disconnect(other)
    bench.connect(other)
    bench.turn()
    assert told() == 3


def test_a_path_that_leads_elsewhere_is_refused_and_proves_nothing(bench: Bench) -> None:
    author = bench.authors[0]
    bench.receive(author, author.update().frame)
    bench.settle()
    bench.receive(author, author.update().frame)
    asked = last(bench, author, Prove)
    assert isinstance(asked, Prove)
    wrong = Consistency(asked.federation, asked.old, asked.new, bytes(32), (bytes(32),))
    assert bench.receive(author, frame(wrong)) == [Reason.MALFORMED]
    assert not bench.node.exposure.proofs
    assert count(bench, author, Cosigned) == 1


def test_a_beginning_that_is_another_one_is_a_proof(bench: Bench) -> None:
    author = bench.authors[0]
    twin = author.twin()
    bench.receive(author, author.update(1.0).frame)
    bench.settle()
    twin.update(2.0)
    twin.update(2.0)
    assert bench.receive(author, frame(Heads(bench.charter.federation_id, (twin.log.checkpoint(twin.key),)))) == []
    bench.receive(author, answer(twin, last(bench, author, Prove)))
    assert bench.neighbor(author).quarantined
    found = verify_fork(next(iter(bench.disk.proofs.values())), keys_of(bench.charter))
    assert found.kind.value == "B2"


def test_another_root_at_one_size_heard_from_a_third_is_a_proof_and_is_never_cosigned(bench: Bench) -> None:
    author, third = bench.authors[:2]
    twin = author.twin()
    bench.receive(author, author.update(1.0).frame)
    twin.update(2.0)
    assert bench.receive(third, frame(Heads(bench.charter.federation_id, (twin.log.checkpoint(twin.key),)))) == []
    assert bench.neighbor(author).quarantined
    assert verify_fork(next(iter(bench.disk.proofs.values())), keys_of(bench.charter)).kind.value == "A"
    assert count(bench, author, Cosigned) == 1


def test_what_was_witnessed_survives_a_restart(bench: Bench) -> None:
    author = bench.authors[0]
    twin = author.twin()
    bench.receive(author, author.update(1.0).frame)
    bench.restart()
    bench.connect()
    twin.update(2.0)
    bench.receive(bench.authors[1], frame(Heads(bench.charter.federation_id, (twin.log.checkpoint(twin.key),))))
    assert bench.neighbor(author).quarantined


def test_heads_that_their_log_did_not_sign_are_refused(bench: Bench) -> None:
    author, other = bench.authors[:2]
    note = sign_checkpoint(Checkpoint(author.log.origin, 1, author.log.root), other.key)
    assert bench.receive(other, frame(Heads(bench.charter.federation_id, (note,)))) == [Reason.BAD_SIGNATURE]
    stranger = sign_checkpoint(Checkpoint("quidnunc/v1/" + "0" * 64, 1, bytes(32)), other.key)
    assert bench.receive(other, frame(Heads(bench.charter.federation_id, (stranger,)))) == [Reason.STRANGER]


def test_the_documented_race_ends_at_the_store(tmp_path: Path) -> None:
    """A looks at size N, B at N+K and persists it; then A would overwrite it with N."""
    log_id, key = b"o" * 32, Bench(2).own
    with Store.create(tmp_path / "ledger.db", key.log_id, key.key.public) as store:
        store.witness(log_id, 5, b"n" * 32, b"note at N + K")
        with pytest.raises(LocalProtocolError, match="never again"):
            store.witness(log_id, 3, b"m" * 32, b"note at N")
        with pytest.raises(LocalProtocolError, match="never again"):
            store.witness(log_id, 5, b"x" * 32, b"another at N + K")
        store.witness(log_id, 5, b"n" * 32, b"the same again")
        assert store.heads()[log_id][:2] == (5, b"n" * 32)
        assert store.verify().ok


def test_a_cosignature_counts_only_under_an_own_checkpoint_by_the_senders_key(bench: Bench) -> None:
    author, other = bench.authors[:2]
    own, federation = bench.own, bench.charter.federation_id
    bench.turn()
    note = bench.commits[-1].note
    size = open_checkpoint(note, bench.node.recorder.log.origin, own.key.public).size
    witness = witness_of(bench, author)
    cosigned = cosign_checkpoint(note, author.member.log_id, witness, time=1)
    assert bench.receive(other, frame(Cosigned(federation, cosigned))) == [Reason.BAD_SIGNATURE]
    assert bench.receive(author, frame(Cosigned(federation, note))) == [Reason.BAD_SIGNATURE]
    assert bench.receive(author, frame(Cosigned(federation, cosigned))) == []
    assert bench.node.witnesses.cosigned == {author.member.log_id: (size, cosigned)}


def witness_of(bench: Bench, author: Author) -> SecretKey:
    return witness_key(next(each for each in bench.founders if each.member.log_id == author.member.log_id))


def test_a_peer_that_is_shown_more_of_its_own_log_than_it_holds_signs_nothing_more(bench: Bench) -> None:
    bench.greet()
    bench.turn()
    older = bench.disk.fold(64)
    entries, note = list(bench.disk.entries), bench.commits[-1].note
    bench.turn()
    newer = bench.commits[-1].note
    bench.disk.entries = entries
    bench.resume(older)
    bench.connect()
    held = len(bench.disk.entries)
    own = frame(Heads(bench.charter.federation_id, (note,)))
    assert bench.receive(bench.authors[0], own) == []
    assert not bench.node.witnesses.ahead, "a checkpoint of this very history"
    assert bench.receive(bench.authors[0], frame(Heads(bench.charter.federation_id, (newer,)))) == []
    assert bench.node.witnesses.ahead
    assert bench.reports[-1].kind == "behind"
    bench.turn()
    assert len(bench.disk.entries) == held
    assert state_of(bench.node, bench.now)[0] == "behind"


# Worlds.


def cosign(bench: Bench, index: int) -> bytes:
    """A cosignature of an author under the newest own checkpoint."""
    note = bench.commits[-1].note
    return cosign_checkpoint(note, bench.authors[index].log.log_id, witness_key(bench.founders[index + 1]), time=1000)


@pytest.mark.parametrize(("came", "entries"), [(2, 0), (3, 1), (5, 1), (6, 2)])
def test_so_many_cosignatures_become_one_entry_without_a_commit_of_its_own(came: int, entries: int) -> None:
    bench = Bench(4, settings=Settings(summary_cosignatures=3))
    bench.greet()
    for number in range(came):
        bench.turn()
        commits = len(bench.commits)
        bench.receive(
            bench.authors[number % 3], frame(Cosigned(bench.charter.federation_id, cosign(bench, number % 3)))
        )
        assert len(bench.commits) == commits
    bench.turn()
    found = [record for record in bench.records() if isinstance(record, WitnessSummary)]
    assert len(found) == entries
    for summary in found:
        assert summary.count == 3
        assert [row.witness for row in summary.rows] == sorted(author.log.log_id for author in bench.authors)
        assert {row.time for row in summary.rows} == {1000}


def silent(bench: Bench, times: int) -> None:
    """An author that goes on growing, and is asked ``times`` times how, in vain."""
    author = bench.authors[0]
    bench.receive(author, author.update().frame)
    for _ in range(times):
        bench.now += bench.settings.witness_s
        bench.receive(author, author.update().frame)
    bench.settle()


@pytest.mark.parametrize(("unanswered", "suspected"), [(3, False), (4, True), (9, True)])
def test_a_log_that_does_not_show_how_it_grew_is_suspected_never_convicted(unanswered: int, suspected: bool) -> None:
    bench = Bench(4, settings=Settings(suspect_unanswered=3))
    bench.greet()
    silent(bench, unanswered)
    author = bench.authors[0]
    bench.turn()
    bench.turn()
    raised = [record for record in bench.records() if isinstance(record, SuspicionRaised)]
    assert [each.who for each in raised] == [author.log.log_id] * suspected
    assert all((each.kind, len(each.challenge)) == ("E", 32) for each in raised)
    neighbor = bench.neighbor(author)
    assert (neighbor.suspected is not None, neighbor.quarantined) == (suspected, False)
    assert not bench.node.exposure.proofs
    merged = [row.log_id for record in bench.records() if isinstance(record, Merge) for row in record.rows]
    assert (author.log.log_id in merged) == (not suspected)


def suspicions(bench: Bench) -> list[tuple[bytes, str]]:
    """(log, kind) of every suspicion that the ledger tells of."""
    bench.settle()
    bench.turn()
    return [(each.who, each.kind) for each in bench.records() if isinstance(each, SuspicionRaised)]


@pytest.mark.parametrize(("reminders", "suspected"), [(2, False), (3, True)])
def test_a_log_that_shows_nothing_new_and_answers_no_reminder_is_suspected_of_silence(
    reminders: int, suspected: bool
) -> None:
    bench = Bench(4, settings=Settings(suspect_unanswered=3))
    bench.greet()
    silent(bench, 1)
    author = bench.authors[0]
    first = last(bench, author, Prove)
    for asked in range(1, reminders + 1):
        bench.turn(bench.settings.reminder_s)
        assert count(bench, author, Prove) == 1 + asked
        assert last(bench, author, Prove) == first
    assert suspicions(bench) == [(author.log.log_id, "E2")] * suspected
    bench.receive(author, answer(author, first))
    assert bench.neighbor(author).suspected is None
    bench.turn(bench.settings.reminder_s)
    assert count(bench, author, Prove) == 1 + reminders


def test_nobody_is_reminded_early_or_while_away(bench: Bench) -> None:
    bench.greet()
    silent(bench, 1)
    author = bench.authors[0]
    bench.turn(bench.settings.reminder_s - 0.5)
    bench.disconnect(author)
    bench.turn(bench.settings.reminder_s)
    assert count(bench, author, Prove) == 1


@pytest.mark.parametrize(("shown", "suspected"), [(3, False), (4, True)])
def test_a_log_that_shows_less_than_it_showed_others_is_asked_for_that_and_suspected(
    shown: int, suspected: bool
) -> None:
    bench = Bench(4, settings=Settings(suspect_unanswered=3))
    bench.greet()
    author, other = bench.authors[:2]
    bench.receive(author, author.update().frame)
    withheld = Author(bench.founders[1], bench.charter)
    for _ in range(9):
        withheld.update()
    seen_by_others = withheld.log.checkpoint(withheld.key)
    bench.receive(other, frame(Heads(bench.charter.federation_id, (seen_by_others,))))
    assert count(bench, author, Prove) == 0
    for _ in range(shown):
        bench.now += bench.settings.witness_s
        bench.receive(author, author.update().frame)
        assert (last(bench, author, Prove).new, bench.neighbor(author).quarantined) == (withheld.log.size, False)
    assert suspicions(bench) == [(author.log.log_id, "E3")] * suspected
    bench.receive(author, answer(withheld, last(bench, author, Prove)))
    assert bench.neighbor(author).suspected is None
    head = bench.node.witnesses.heads[author.log.log_id]
    assert (head.size, head.root) == (withheld.log.size, withheld.log.root_at(withheld.log.size))


def shown(author: Author, first: int, last: int) -> Frame:
    """Entries of an author's log as it would show them."""
    return frame(
        Entries(author.charter.federation_id, author.log.log_id, first, tuple(author.entries[first:last]), b"")
    )


@pytest.mark.parametrize(("vain", "suspected"), [(2, False), (3, True)])
def test_a_log_that_shows_its_roots_and_not_its_entries_is_suspected_until_it_does(vain: int, suspected: bool) -> None:
    """Kind F: it proves how it grew, and leaves out of what."""
    bench = Bench(4, settings=Settings(suspect_omissions=3))
    bench.greet()
    author = bench.authors[0]
    bench.receive(author, author.update().frame)
    for number in range(vain):
        bench.now += bench.settings.repair_retry_s
        bench.receive(author, author.update().frame)
        if count(bench, author, Prove) == number + 1:
            bench.receive(author, answer(author, last(bench, author, Prove)))
        if number % 2:
            bench.receive(author, shown(author, 0, 0))
    fetched = [each for each in bench.messages(author) if isinstance(each, Fetch)]
    assert (len(fetched) >= 3) == suspected
    assert suspicions(bench) == [(author.log.log_id, "F")] * suspected
    neighbor = bench.neighbor(author)
    assert (neighbor.suspected is not None, neighbor.quarantined) == (suspected, False)
    if suspected:
        told = [each.text for each in conditions(bench.node, bench.now) if each.id == "neighbor-suspected"]
        assert ["suspicion F (omission)" in each and "the entries under its checkpoints" in each for each in told] == [
            True
        ]
        bench.restart()
        bench.connect()
        assert bench.neighbor(author).suspected is not None, "a restart forgives nothing"
        bench.now += 1.0
        bench.receive(author, author.update().frame)
        assert bench.neighbor(author).suspected is not None, "nor does another update"
    bench.receive(author, shown(author, 0, author.log.size))
    assert bench.neighbor(author).suspected is None
    assert not bench.node.exposure.proofs
    assert len([each for each in bench.records() if isinstance(each, SuspicionRaised)]) == suspected


def test_an_answer_of_one_kind_takes_no_suspicion_of_the_other_back() -> None:
    bench = Bench(4, settings=Settings(suspect_omissions=3))
    bench.greet()
    author = bench.authors[0]
    for _ in range(5):
        bench.now += bench.settings.repair_retry_s
        bench.receive(author, author.update().frame)
    assert suspicions(bench) == [(author.log.log_id, "F")]
    bench.receive(author, answer(author, last(bench, author, Prove)))
    assert bench.neighbor(author).suspected is not None
    bench = Bench(4, settings=Settings(suspect_unanswered=3, suspect_omissions=100))
    bench.greet()
    silent(bench, 5)
    author = bench.authors[0]
    assert suspicions(bench) == [(author.log.log_id, "E")]
    bench.receive(author, shown(author, 0, author.log.size))
    assert bench.neighbor(author).suspected is not None


def test_an_answer_takes_the_suspicion_back_also_after_a_restart() -> None:
    bench = Bench(4, settings=Settings(suspect_unanswered=3))
    bench.greet()
    silent(bench, 4)
    bench.turn()
    author = bench.authors[0]
    bench.restart()
    bench.connect()
    assert bench.neighbor(author).suspected is not None
    bench.now += bench.settings.witness_s
    bench.receive(author, author.update().frame)
    bench.receive(author, answer(author, last(bench, author, Prove)))
    assert bench.neighbor(author).suspected is None
    bench.settle()
    bench.turn()
    raised = next(header.seq for header, record in bench.entries() if isinstance(record, SuspicionRaised))
    cleared = [record for record in bench.records() if isinstance(record, SuspicionCleared)]
    assert [(each.who, each.raised) for each in cleared] == [(author.log.log_id, raised)]
    audit = Audit(bench.own.log_id)
    for entry in bench.disk.entries:
        header = open_entry(entry)
        audit.read(header.seq, header.type, entry.payload)
    assert audit.findings == []


def test_logs_of_a_running_federation_are_witnessed_by_a_quorum_with_bounded_traffic() -> None:
    world, watch = toy_world(4, seed=2)
    start_all(world)
    world.run(15.0)
    watch.check(world)
    for peer in world.peers:
        assert peer.node is not None
        k, size = peer.node.witnesses.witnessed()
        assert k >= peer.node.witnesses.quorum == 2
        assert size > 0.6 * len(peer.disk.entries)
        assert not peer.disk.proofs
        assert len(peer.disk.cosigned) == 3


@pytest.mark.parametrize("seed", range(6))
def test_a_split_view_is_found_by_pollination_within_two_rounds(seed: int) -> None:
    """The two instances never share a listener: half of the peers hear the one, half the other."""
    pace = Settings(repair_retry_s=0.25, witness_s=0.25)
    world, _ = toy_world(8, seed=seed, watch=False, link=Link(jitter_s=0.05), settings=pace)
    start_all(world)
    world.run(4.0 + seed / 8)
    culprit = world.peers[0]
    for index in range(4, 8):
        world.cut(0, index)
    for index in range(1, 4):
        world.cut(8, index)
    twin = run_twice(world, 0)
    before = max(twin.disk.tokens)
    world.run(world.now + 30.0, stop=lambda: max(twin.disk.tokens) > before)
    world.run(world.now + TWO_ROUNDS_S)
    assert len(frozen_by(world, culprit)) == 7
    check_proofs(world, culprit)


@pytest.mark.parametrize(("silent_from", "kinds"), [(1e9, {"E"}), (5.0, {"E2", "E3"})])
def test_a_peer_that_answers_no_question_is_named_by_all_and_welcomed_back(silent_from: float, kinds: set[str]) -> None:
    settings = Settings(repair_retry_s=0.5, suspect_unanswered=6, reminder_s=2.0)
    world, _ = toy_world(4, seed=3, settings=settings, rounds=ENDLESS)
    withheld = True

    def tamper(sender: Peer, _: Peer, send: Send, body: bytes) -> tuple[bytes, bytes] | None:
        message = parse_message(send.frame.header, world.charter.federation_id)
        shows = isinstance(message, Update | Snapshot | Hello | Entries) and world.now > silent_from
        drops = withheld and sender.index == 3 and world.now > 3.0
        return None if drops and (shows or isinstance(message, Consistency)) else (send.frame.header, body)

    def named() -> set[int]:
        nodes = {peer.index: peer.node for peer in world.peers[:3] if peer.node is not None}
        found = {index: status(node, EPOCH_S + world.now)["suspected"] for index, node in nodes.items()}
        return {index for index, each in found.items() if len(each) == 1 and each[0]["kind"] in kinds}

    world.hooks.tamper = tamper
    start_all(world)
    world.run(60.0, stop=lambda: named() == {0, 1, 2})
    assert named() == {0, 1, 2}
    for peer in world.peers[:3]:
        assert peer.node is not None
        now = EPOCH_S + world.now
        told = [each for each in conditions(peer.node, now) if each.id == "neighbor-suspected"]
        assert [(each.severity, each.text.split()[1] in kinds) for each in told] == [(Severity.DEGRADED, True)]
        assert [row["suspicion"] for row in peers(peer.node, now) if row["suspected"]] == [
            {key: value for key, value in each.items() if key != "name"} for each in status(peer.node, now)["suspected"]
        ]
    withheld = False
    world.run(world.now + 60.0, stop=lambda: not any(status(n, 0.0)["suspected"] for n in nodes_of(world)))
    assert not any(status(node, 0.0)["suspected"] for node in nodes_of(world))
    assert not any(node.exposure.proofs for node in nodes_of(world))


def nodes_of(world: World) -> list[Node]:
    return [peer.node for peer in world.peers if peer.node is not None]
