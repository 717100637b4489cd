"""Before it signs, a node asks: who must have answered, what is believed, and what it does when nobody can help."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from founders import private
from node_helpers import Author, Bench, header_of, start_all, toy_world

from quidnunc.crypto.entry import Entry, parse_header
from quidnunc.crypto.errors import LedgerBehind, Reason
from quidnunc.crypto.identity import Role, SecretKey, derive_seed
from quidnunc.crypto.log import Log
from quidnunc.crypto.token import make_token, parse_token
from quidnunc.gossip import health
from quidnunc.gossip.conditions import Severity
from quidnunc.gossip.events import Paused, PeerUp, Rebuild, Started, Storage, TimerFired
from quidnunc.gossip.federation.charter import RoundSpec
from quidnunc.gossip.health import conditions
from quidnunc.gossip.key_change import rotate
from quidnunc.gossip.message import Entries, Fetch, Known, Newest, Notice
from quidnunc.gossip.node import Node
from quidnunc.gossip.provenance import LogRecover, NodeStart, PayloadErased, payload_of
from quidnunc.gossip.rejoin import REJOIN_TIMER
from quidnunc.gossip.status import state_of
from quidnunc.peer.ledger.ending import entry_notice
from quidnunc.peer.ledger.store import Store


def returning(members: int = 4, **changes: Any) -> Bench:
    """A node with some history that starts again and has not asked yet."""
    bench = Bench(members, **changes)
    bench.greet()
    bench.turn()
    bench.current = False
    bench.sent.clear()
    bench.restart()
    return bench


def older(members: int = 4) -> tuple[Bench, list[Entry], bytes]:
    """A node whose disk is an older copy; all it once signed, and the newest checkpoint."""
    bench = Bench(members)
    bench.greet()
    copied = copy.deepcopy(bench.disk)
    bench.turn()
    whole, note = list(bench.disk.entries), bench.commits[-1].note
    bench.disk = copied
    bench.current = False
    bench.sent.clear()
    bench.restart()
    return bench, whole, note


def known(bench: Bench, author: Author, note: bytes = b"", last: int = 0) -> list[Reason]:
    return bench.receive(author, header_of(Known(bench.charter.federation_id, note, 0, last)))


def give(bench: Bench, author: Author, entries: Sequence[Entry]) -> list[Reason]:
    """Answer the newest request for entries with what of ``entries`` it asks for."""
    asked = bench.messages(author)[-1]
    assert isinstance(asked, Fetch)
    bare = tuple(Entry(each.header, each.payload, each.salt) for each in entries[asked.first : asked.last])
    return bench.receive(author, header_of(Entries(asked.federation, asked.log_id, asked.first, bare, b"")))


def wait(bench: Bench, seconds: float = 1.0) -> None:
    bench.now += seconds
    bench.feed(TimerFired(REJOIN_TIMER))


def starts(bench: Bench) -> int:
    return sum(isinstance(record, NodeStart) for record in bench.records())


def test_with_history_nothing_is_signed_before_somebody_answers_however_long_it_takes() -> None:
    bench = returning(5)
    size = len(bench.disk.entries)
    for _ in range(100):
        wait(bench, 60.0)
    assert state_of(bench.node, bench.now)[0] == "recovering"
    assert len(bench.disk.entries) == size
    assert bench.node.recorder.size == size, "not even in mind"
    bench.connect()
    assert len(bench.disk.entries) == size
    assert all(isinstance(bench.messages(author)[-1], Newest) for author in bench.authors)
    for author in bench.authors[:2]:
        assert known(bench, author) == []
    wait(bench)
    assert starts(bench) == 1, "a quorum of four is three"
    assert known(bench, bench.authors[2]) == []
    assert starts(bench) == 2
    assert state_of(bench.node, bench.now)[0] != "recovering"


def test_who_never_comes_is_missed_from_the_start_on_while_the_peer_still_asks() -> None:
    """Regression: the time was counted from the first signature, which such a start never came to."""
    bench = returning(privacy=private(rounds=6), rounds=RoundSpec(6, 0, 0, "majority"))
    wait(bench, bench.settings.reconnect_s - 0.1)
    assert state_of(bench.node, bench.now)[0] == "recovering"
    assert conditions(bench.node, bench.now) == []
    bench.connect(bench.authors[0])
    wait(bench, 0.2)
    assert bench.node.rejoin.active
    found = {(each.id, each.subject, each.severity) for each in conditions(bench.node, bench.now)}
    missed = {("neighbor-disconnected", each.member.name, Severity.DEGRADED) for each in bench.authors[1:]}
    assert found == missed
    assert "never connected since the start 15 s ago" in conditions(bench.node, bench.now)[0].text


def test_what_is_said_while_the_peer_asks_holds_when_it_starts() -> None:
    """Regression: the first of two words won, on a pause as on the room on the disk, and was never taken back."""
    bench = returning()
    for event in (Paused(True), Paused(False), Storage(False), Storage(True)):
        bench.feed(event)
    bench.connect()
    for author in bench.authors:
        assert known(bench, author) == []
    assert starts(bench) == 2
    assert not bench.node.rounds.paused
    assert not bench.node.frugal.active
    bench.restart()
    bench.feed(Paused(True))
    bench.connect()
    for author in bench.authors:
        assert known(bench, author) == []
    assert state_of(bench.node, bench.now)[0] == "paused"


def test_a_quorum_is_enough_and_all_that_are_connected_after_a_while_with_a_note() -> None:
    bench = returning(5)
    bench.connect()
    for author in bench.authors[:3]:
        known(bench, author)
    assert starts(bench) == 2, "three of four are a quorum, whatever the fourth does"
    assert not any(each.id == "start-unconfirmed" for each in health.conditions(bench.node, bench.now))
    bench = returning(5)
    bench.connect(*bench.authors[:2])
    for author in bench.authors[:2]:
        known(bench, author)
    wait(bench, bench.settings.rejoin_s - 0.01)
    assert starts(bench) == 1
    wait(bench, 0.02)
    assert starts(bench) == 2
    assert any(each.id == "start-unconfirmed" for each in health.conditions(bench.node, bench.now))
    bench.connect(bench.authors[2])
    assert any(isinstance(message, Newest) for message in bench.messages(bench.authors[2])), "asked when it comes"
    known(bench, bench.authors[2])
    assert not any(each.id == "start-unconfirmed" for each in health.conditions(bench.node, bench.now))


def test_a_log_without_entries_begins_alone_after_a_while_and_at_once_with_a_quorum() -> None:
    bench = Bench(4, current=False)
    wait(bench, bench.settings.rejoin_s - 0.01)
    assert not bench.disk.entries
    wait(bench, 0.02)
    assert starts(bench) == 1
    bench = Bench(4, current=False)
    bench.connect()
    for author in bench.authors[:2]:
        assert not bench.disk.entries
        known(bench, author)
    assert starts(bench) == 1, "two of three are a quorum"


def test_a_restored_home_without_entries_does_not_begin_alone() -> None:
    """The backup may be from before the first start of a peer that ran since."""
    bench = Bench(4, current=False)
    bench.disk.copied = True
    bench.restart()
    for _ in range(20):
        wait(bench, 60.0)
    assert not bench.disk.entries
    bench.connect(bench.authors[0])
    known(bench, bench.authors[0])
    wait(bench)
    assert starts(bench) == 1, "whoever is there knows of nothing"


def log_key_of(bench: Bench) -> Callable[[int], SecretKey]:
    founder = next(each for each in bench.founders if each.member.log_id == bench.own.log_id)
    return lambda epoch: SecretKey(derive_seed(founder.secret, Role.LOG, epoch))


def rotated(lost: bool, *, keys: bool = True) -> tuple[Bench, list[Entry], list[bytes], bytes]:
    """A node whose disk is from before its log key changed twice, or is ``lost``.

    Besides it all that it once signed, the notices of both changes, and the newest checkpoint, by the third key.
    """
    bench = Bench(4)
    bench.greet()
    copied = copy.deepcopy(bench.disk)
    bench.turn()
    log = Log(bench.own.log_id)
    for entry in bench.disk.entries:
        log.replay(entry)
    log_key, root = log_key_of(bench), bench.founders[0].root
    entries, notices = list(bench.disk.entries), []
    for epoch in (1, 2):
        record = rotate(root, log.log_id, log.size, epoch, log_key(epoch))
        entries.append(log.append(record.TYPE, payload_of(record), salt=bytes(16), t_ms=0, key_epoch=epoch - 1))
        note = log.checkpoint(log_key(epoch - 1))
        notices.append(make_token(entries[-1], log.inclusion(log.size - 1), note))
        start = NodeStart(epoch + 1, "0.1.0", "3.11.7", "2.13.0", "cpu")
        entries.append(log.append(start.TYPE, payload_of(start), salt=bytes(16), t_ms=0, key_epoch=epoch))
    bench.disk = copied
    if lost:
        bench.disk.entries.clear()
        bench.disk.lost = True
    bench.own = replace(bench.own, log_key=log_key if keys else None)
    bench.current = False
    bench.sent.clear()
    bench.restart()
    bench.connect()
    return bench, entries, notices, log.checkpoint(log_key(2))


def tell(bench: Bench, author: Author, notices: Sequence[bytes]) -> None:
    for notice in notices:
        assert bench.receive(author, header_of(Notice(bench.charter.federation_id, notice))) == []


@pytest.mark.parametrize("lost", [False, True])
def test_a_ledger_from_before_its_key_changed_comes_back_and_signs_with_the_newest_key(
    lost: bool, tmp_path: Path
) -> None:
    """Regression: whoever had rotated its key could neither come back from an older copy nor from nothing."""
    bench, whole, notices, note = rotated(lost)
    had = len(bench.disk.entries)
    assert known(bench, bench.authors[0], note, len(whole)) == [Reason.BAD_SIGNATURE], "nobody has named that key yet"
    for author in bench.authors:
        tell(bench, author, notices)
        assert known(bench, author, note, len(whole)) == []
    (source,) = [author for author in bench.authors if isinstance(bench.messages(author)[-1], Fetch)]
    assert give(bench, source, whole) == []
    wait(bench, bench.settings.rejoin_s)
    for author in bench.authors:
        known(bench, author, note, len(whole))
    (record,) = [each for each in bench.records() if isinstance(each, LogRecover)]
    assert (record.had, record.to) == (had, len(whole))
    commit = bench.commits[-1]
    header = parse_header(commit.entries[-1].header)
    assert (header.type, header.key_epoch) == (LogRecover.TYPE, 2)
    shown = [parse_token(each).note for each in notices]
    assert [each for _, each in commit.earlier] == shown, "what neighbors are shown of it is what they saw"
    store = Store.create(tmp_path / "ledger.db", bench.own.log_id, log_key_of(bench)(0).public, lost=lost)
    with store:
        if not lost:
            for old in Bench(4).commits[:1]:
                store.commit(old.entries, old.note)
            assert store.size == had
        store.commit(commit.entries, commit.note, commit.tokens, earlier=commit.earlier)
    with Store.open(tmp_path / "ledger.db") as store:
        assert store.keys.epoch == 2
        assert [entry_notice(store, parse_header(parse_token(each).header).seq) for each in notices] == notices
        assert not [each for layer in (*store.verify().layers, *store.meaning()) for each in layer.problems]


def test_a_change_of_keys_that_this_peer_cannot_follow_leaves_everything_as_it_is() -> None:
    """Without a source of other keys, and with another operational secret's."""
    bench, whole, notices, note = rotated(False, keys=False)
    tell(bench, bench.authors[0], notices[:1])
    assert state_of(bench.node, bench.now)[0] == "behind"
    bench, whole, notices, note = rotated(False)
    bench.own = replace(bench.own, log_key=lambda epoch: SecretKey(bytes([epoch]) * 32))
    bench.restart()
    bench.connect()
    had = len(bench.disk.entries)
    for author in bench.authors:
        tell(bench, author, notices)
        known(bench, author, note, len(whole))
    for author in bench.authors:
        if isinstance(bench.messages(author)[-1], Fetch):
            give(bench, author, whole)
    wait(bench, bench.settings.rejoin_s)
    for author in bench.authors:
        known(bench, author, note, len(whole))
    assert state_of(bench.node, bench.now)[0] == "behind"
    assert "its key of epoch 2 signs this log, which this peer does not have" in bench.node.witnesses.ahead
    assert len(bench.disk.entries) == had


def test_who_is_asked_for_a_log_tells_first_which_keys_it_has() -> None:
    """Also while it starts itself: two peers that both start again would else wait for each other."""
    for current in (True, False):
        bench = Bench(3)
        bench.greet()
        author = bench.authors[0]
        record = rotate(bench.founders[1].root, author.log.log_id, author.log.size, 1, SecretKey(b"k" * 32))
        notice = author.sign(record)
        tell(bench, bench.authors[1], [notice])
        bench.current = current
        bench.restart()
        bench.connect()
        bench.sent.clear()
        assert bench.receive(author, header_of(Newest(bench.charter.federation_id))) == []
        kinds = [type(each) for each in bench.messages(author)]
        assert kinds[-2:] == [Notice, Known], current


def test_a_lost_ledger_never_begins_anew() -> None:
    bench = Bench(4, current=False)
    bench.disk.lost = True
    bench.restart()
    bench.connect()
    for _ in range(20):
        for author in bench.authors:
            known(bench, author)
        wait(bench, 60.0)
    assert not bench.disk.entries
    assert bench.node.recorder.size == 0, "not even in mind"
    word, sentence = state_of(bench.node, bench.now)
    assert word == "recovering"
    assert "none of the 3 neighbors that answered knows an entry of it" in sentence
    assert bench.node.rejoin.stage == "asking"


def test_what_is_missing_is_fetched_checked_watched_and_recorded() -> None:
    bench, whole, note = older()
    had = len(bench.disk.entries)
    bench.connect()
    for author in bench.authors:
        assert known(bench, author, note, len(whole)) == []
    (source,) = [author for author in bench.authors if isinstance(bench.messages(author)[-1], Fetch)]
    assert give(bench, source, whole) == []
    assert len(bench.disk.entries) == had, "watched first"
    for author in bench.authors:
        known(bench, author, note, len(whole))
    assert len(bench.disk.entries) == had, "an answer from before the watch does not count"
    wait(bench, bench.settings.rejoin_s)
    for author in bench.authors[:2]:
        known(bench, author, note, len(whole))
    bench.now += 1.0
    effects = bench.feed(TimerFired(REJOIN_TIMER))
    assert not any(isinstance(effect, Rebuild) for effect in effects)
    known(bench, bench.authors[2], note, len(whole))
    assert [each.header for each in bench.disk.entries[: len(whole)]] == [each.header for each in whole]
    (record,) = [each for each in bench.records() if isinstance(each, LogRecover)]
    assert (record.had, record.to, len(record.sources)) == (had, len(whole), 3)
    assert len(bench.disk.entries) == len(whole) + 1
    assert bench.feed(Started()) == bench.feed(PeerUp(source.transport)) == [], "another node takes its place"
    log = Log(bench.own.log_id)
    for entry in bench.disk.entries:
        log.replay(entry)
    assert 1 in bench.disk.tokens, "its own update can be served again"


def test_entries_that_its_key_did_not_sign_are_refused_and_others_are_asked() -> None:
    bench, whole, note = older()
    had = len(bench.disk.entries)
    bench.connect()
    for author in bench.authors:
        known(bench, author, note, len(whole))
    (liar,) = [author for author in bench.authors if isinstance(bench.messages(author)[-1], Fetch)]
    forged = Log(bench.own.log_id)
    for entry in whole[:had]:
        forged.replay(entry)
    lies = [forged.append(0x80, b"\xc0", salt=bytes(16), t_ms=0) for _ in whole[had:]]
    assert give(bench, liar, [*whole[:had], *lies]) == [Reason.HASH_MISMATCH]
    wait(bench)
    (honest,) = [a for a in bench.authors if a is not liar and isinstance(bench.messages(a)[-1], Fetch)]
    assert give(bench, honest, whole) == []
    assert len(bench.disk.entries) == had
    assert "all are back" in bench.node.rejoin.why


def erased(named: bool) -> tuple[Bench, int, list[Entry], bytes]:
    """A lost ledger of which entry 2, a ``node.start``, was erased, as a later entry says if ``named``; all of it."""
    bench = Bench(4)
    bench.greet()
    bench.turn()
    log = Log(bench.own.log_id)
    for entry in bench.disk.entries:
        log.replay(entry)
    first = next(header.seq for header, record in bench.entries() if isinstance(record, NodeStart))
    told = PayloadErased((first if named else first + 1,), 1)
    whole = [*bench.disk.entries, log.append(told.TYPE, payload_of(told), salt=bytes(16), t_ms=0)]
    whole[first] = whole[first]._replace(payload=b"", salt=b"")
    bench.disk.entries.clear()
    bench.disk.lost, bench.current = True, False
    bench.sent.clear()
    bench.restart()
    bench.connect()
    return bench, first, whole, log.checkpoint(bench.own.key)


@pytest.mark.parametrize("named", [True, False])
def test_an_entry_comes_back_without_its_payload_only_if_a_later_one_says_it_was_erased(
    named: bool, tmp_path: Path
) -> None:
    """Regression: a log with an erased payload could not come back; and nobody else may strip one."""
    bench, first, whole, note = erased(named)
    for author in bench.authors:
        known(bench, author, note, len(whole))
    (source,) = [author for author in bench.authors if isinstance(bench.messages(author)[-1], Fetch)]
    assert give(bench, source, whole) == ([] if named else [Reason.MALFORMED])
    wait(bench, bench.settings.rejoin_s)
    for author in bench.authors:
        known(bench, author, note, len(whole))
    assert bool(bench.disk.entries) == named
    if named:
        commit = bench.commits[-1]
        with Store.create(tmp_path / "l.db", bench.own.log_id, bench.own.key.public, lost=True) as store:
            store.commit(commit.entries, commit.note, commit.tokens)
            assert store.entry(first).erased
            assert not [each for layer in (*store.verify().layers, *store.meaning()) for each in layer.problems]
        Store.open(tmp_path / "l.db").close()


def test_a_checkpoint_that_its_key_did_not_sign_is_no_answer() -> None:
    bench = returning()
    bench.connect()
    author = bench.authors[0]
    foreign = author.log.checkpoint(author.key)
    assert known(bench, author, foreign) == [Reason.STRANGER]
    author = bench.authors[1]
    random_bytes = random.Random(1).randbytes(200)
    assert known(bench, author, random_bytes) == [Reason.MALFORMED]
    wait(bench, 100.0)
    assert starts(bench) == 1


def test_when_nobody_keeps_what_is_missing_the_peer_ends_and_says_what_to_do() -> None:
    bench, whole, note = older()
    had = len(bench.disk.entries)
    bench.connect()
    known(bench, bench.authors[0], note, had)
    known(bench, bench.authors[1], b"", had)
    with pytest.raises(LedgerBehind, match=f"holds {had} entries, its key has signed {len(whole)}") as caught:
        known(bench, bench.authors[2], b"", had)
    assert "restore a newer backup" in (caught.value.hint or "")
    assert len(bench.disk.entries) == had


def test_as_long_as_somebody_is_away_who_may_keep_it_the_peer_waits() -> None:
    bench, whole, note = older()
    bench.connect(*bench.authors[:2])
    for author in bench.authors[:2]:
        known(bench, author, note, len(bench.disk.entries))
    for _ in range(20):
        wait(bench, 5.0)
        for author in bench.authors[:2]:
            known(bench, author, note, len(bench.disk.entries))
    assert "no connected neighbor keeps entry" in state_of(bench.node, bench.now)[1]
    bench.connect(bench.authors[2])
    known(bench, bench.authors[2], note, len(whole))
    wait(bench, 5.0)
    for author in bench.authors[:2]:
        known(bench, author, note, len(bench.disk.entries))
    wait(bench, 5.0)
    assert isinstance(bench.messages(bench.authors[2])[-1], Fetch | Newest)


def test_peers_that_all_start_again_at_once_answer_each_other() -> None:
    world, _ = toy_world(4, seed=2, watch=False)
    start_all(world)
    world.run(4.0)
    for peer in world.peers:
        world.stop(peer.index)
    world.run(5.0)
    sizes = [len(peer.disk.entries) for peer in world.peers]
    start_all(world)
    world.run(9.0)
    for peer, size in zip(world.peers, sizes, strict=True):
        assert isinstance(peer.node, Node)
        assert not peer.node.rejoin.active
        assert len(peer.disk.entries) > size
