"""Another log key under the same charter: by the root key only, and each key for the sizes it was valid for."""

from __future__ import annotations

import random
from dataclasses import dataclass, field, fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from node_helpers import Author, Bench, start_all, toy_world

from quidnunc.crypto.entry import EntryType
from quidnunc.crypto.errors import LocalProtocolError, Malformed, Reason, RemoteProtocolError
from quidnunc.crypto.fork import verify_fork
from quidnunc.crypto.fork_build import fork_of_notes
from quidnunc.crypto.fork_proof import encode_fork
from quidnunc.crypto.identity import Role, SecretKey, derive_seed
from quidnunc.crypto.log import Log
from quidnunc.crypto.log_keys import KeySpan, LogKeys, key_at
from quidnunc.crypto.token import make_token, open_token
from quidnunc.gossip import notices
from quidnunc.gossip.audit import Audit
from quidnunc.gossip.events import Frame, PeerUp
from quidnunc.gossip.federation.charter import RoundSpec
from quidnunc.gossip.key_change import KeyRevoke, KeyRotate, follow, revoke, rotate
from quidnunc.gossip.keybook import Keybook
from quidnunc.gossip.message import Heads, Hello, Message, Notice
from quidnunc.gossip.message_codec import write_message
from quidnunc.gossip.provenance import MemberNotice, UpdatePublished, payload_of
from quidnunc.gossip.resume import Resume
from quidnunc.gossip.status import state_of
from quidnunc.sim.disk import Disk
from quidnunc.sim.network import Link
from quidnunc.sim.world import EPOCH_S, Peer, World

ROOT, OTHER = SecretKey(b"r" * 32), SecretKey(b"o" * 32)
KEYS = [SecretKey(bytes([epoch]) * 32) for epoch in range(1, 5)]
LOG_ID = b"l" * 32
FIRST = LogKeys.of(KEYS[0].public)


# -- the rules ----------------------------------------------------------------------------------------------------


def test_the_entry_that_brings_a_key_in_is_the_last_one_under_the_old_key() -> None:
    keys = follow(FIRST, rotate(ROOT, LOG_ID, 6, 1, KEYS[1]), LOG_ID, 6, ROOT.public)
    assert keys.spans == (KeySpan(KEYS[0].public, 0, 7), KeySpan(KEYS[1].public, 8))
    assert [keys.at(size) for size in (0, 7, 8, 2**62)] == [KEYS[i].public for i in (0, 0, 1, 1)]
    assert [keys.epoch_at(seq + 1) for seq in (0, 6, 7)] == [0, 0, 1], "it is itself of the old epoch"
    assert key_at(KEYS[0].public, 8) == KEYS[0].public
    again = follow(keys, rotate(ROOT, LOG_ID, 7, 2, KEYS[2]), LOG_ID, 7, ROOT.public)
    assert [again.at(size) for size in (7, 8, 9)] == [KEYS[i].public for i in (0, 1, 2)]


def test_what_was_taken_in_before_a_revocation_stays_and_only_what_comes_in_is_bound() -> None:
    keys = follow(FIRST, rotate(ROOT, LOG_ID, 6, 1, KEYS[1]), LOG_ID, 6, ROOT.public)
    cut = follow(keys, revoke(ROOT, LOG_ID, 7, 0, 4), LOG_ID, 7, ROOT.public)
    assert cut.spans == keys.spans
    assert [cut.counting.at(size) for size in (4, 5, 7, 8)] == [KEYS[0].public, None, None, KEYS[1].public]
    for since in (4, 6):
        with pytest.raises(Malformed, match="no further"):
            follow(cut, revoke(ROOT, LOG_ID, 8, 0, since), LOG_ID, 8, ROOT.public)
    earlier = follow(cut, revoke(ROOT, LOG_ID, 8, 0, 3), LOG_ID, 8, ROOT.public)
    assert earlier.counting.at(4) is None


@given(st.lists(st.integers(0, 9), min_size=1, max_size=6), st.integers(0, 80))
def test_every_size_has_one_key(gaps: list[int], size: int) -> None:
    keys, seq = FIRST, 0
    for epoch, gap in enumerate(gaps, 1):
        seq += gap + 1
        keys = keys.rotated(seq, bytes([epoch]) * 32)
    valid = [span.public for span in keys.spans if span.first <= size <= span.last]
    assert valid == [keys.at(size)] == [keys.spans[keys.epoch_at(size)].public]


ONCE = follow(FIRST, rotate(ROOT, LOG_ID, 6, 1, KEYS[1]), LOG_ID, 6, ROOT.public)


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (rotate(ROOT, LOG_ID, 9, 1, KEYS[2]), Reason.MALFORMED),
        (rotate(ROOT, LOG_ID, 9, 3, KEYS[2]), Reason.MALFORMED),
        (rotate(ROOT, LOG_ID, 9, 2, KEYS[0]), Reason.MALFORMED),
        (rotate(ROOT, LOG_ID, 9, 2, ROOT), Reason.MALFORMED),
        (rotate(OTHER, LOG_ID, 9, 2, KEYS[2]), Reason.BAD_SIGNATURE),
        (rotate(KEYS[1], LOG_ID, 9, 2, KEYS[2]), Reason.BAD_SIGNATURE),
        (rotate(ROOT, LOG_ID, 8, 2, KEYS[2]), Reason.BAD_SIGNATURE),
        (rotate(ROOT, b"m" * 32, 9, 2, KEYS[2]), Reason.BAD_SIGNATURE),
        (replace(rotate(ROOT, LOG_ID, 9, 2, KEYS[2]), public=KEYS[3].public), Reason.BAD_SIGNATURE),
        (replace(rotate(ROOT, LOG_ID, 9, 2, KEYS[2]), possession=bytes(64)), Reason.BAD_SIGNATURE),
        (revoke(ROOT, LOG_ID, 9, 1, 9), Reason.MALFORMED),
        (revoke(ROOT, LOG_ID, 9, 0, 8), Reason.MALFORMED),
        (revoke(OTHER, LOG_ID, 9, 0, 7), Reason.BAD_SIGNATURE),
        (replace(revoke(ROOT, LOG_ID, 9, 0, 7), since=6), Reason.BAD_SIGNATURE),
        (revoke(ROOT, LOG_ID, 8, 0, 7), Reason.BAD_SIGNATURE),
    ],
    ids=str,
)
def test_keys_change_in_turn_and_by_the_root_key_only(record: KeyRotate | KeyRevoke, reason: Reason) -> None:
    with pytest.raises(RemoteProtocolError) as refused:
        follow(ONCE, record, LOG_ID, 9, ROOT.public)
    assert refused.value.reason is reason


def test_a_key_cannot_come_in_before_the_one_before_it() -> None:
    with pytest.raises(LocalProtocolError):
        ONCE.rotated(5, KEYS[2].public)
    with pytest.raises(Malformed, match="before the key"):
        follow(ONCE, rotate(ROOT, LOG_ID, 5, 2, KEYS[2]), LOG_ID, 5, ROOT.public)


@pytest.mark.parametrize("change", [rotate(OTHER, LOG_ID, 1, 1, KEYS[1]), revoke(ROOT, LOG_ID, 1, 0, 1)], ids=str)
def test_the_audit_names_a_change_of_keys_that_nobody_may_make(change: KeyRotate | KeyRevoke) -> None:
    bench = Bench(2)
    member = bench.authors[0].member
    audit = Audit(member.log_id)
    audit.read(0, EntryType.GENESIS, member.genesis)
    audit.read(1, change.TYPE, payload_of(change))
    assert [finding.code for finding in audit.findings] == ["I22"]


# -- a neighbor that rotates --------------------------------------------------------------------------------------


class Rotating(Author):
    """A neighbor made by hand that changes its log key."""

    def __init__(self, bench: Bench, author: Author) -> None:
        super().__init__(next(each for each in bench.founders if each.member == author.member), bench.charter)
        founder = next(each for each in bench.founders if each.member == author.member)
        self.root, self.secret = founder.root, founder.secret
        self.epoch = 0

    def log_key(self, epoch: int) -> SecretKey:
        return SecretKey(derive_seed(self.secret, Role.LOG, epoch))

    def change(self, record: KeyRotate | KeyRevoke) -> bytes:
        """The notice of a change of keys, which is the next entry."""
        entry = self.log.append(record.TYPE, payload_of(record), salt=bytes(16), t_ms=0, key_epoch=self.epoch)
        return make_token(entry, self.log.inclusion(self.log.size - 1), self.log.checkpoint(self.key))

    def rotate(self) -> bytes:
        """Change to the next key; the notice."""
        key = self.log_key(self.epoch + 1)
        data = self.change(rotate(self.root, self.log.log_id, self.log.size, self.epoch + 1, key))
        self.epoch, self.key = self.epoch + 1, key
        return data

    def sign(self, record: object, key: SecretKey | None = None) -> bytes:
        assert isinstance(record, UpdatePublished)
        entry = self.log.append(record.TYPE, payload_of(record), salt=bytes(16), t_ms=0, key_epoch=self.epoch)
        return make_token(entry, self.log.inclusion(self.log.size - 1), self.log.checkpoint(key or self.key))


@pytest.fixture
def bench() -> Bench:
    bench = Bench(4)
    bench.greet()
    return bench


@pytest.fixture
def author(bench: Bench) -> Rotating:
    return Rotating(bench, bench.authors[0])


def told(bench: Bench, data: bytes) -> Frame:
    return Frame(write_message(Notice(bench.charter.federation_id, data)))


def of_kind(bench: Bench, author: Author, kind: type[Message]) -> list[Message]:  # type: ignore[valid-type]
    return [each for each in bench.messages(author) if isinstance(each, kind)]


def test_updates_by_the_new_key_are_taken_and_by_the_old_one_no_more(bench: Bench, author: Rotating) -> None:
    assert bench.receive(author, author.update().frame) == []
    bench.settle()
    old = author.key
    assert bench.receive(bench.authors[1], told(bench, author.rotate())) == []
    assert bench.receive(author, author.update().frame) == []
    bench.settle()
    assert bench.neighbor(author).number == 2
    assert bench.receive(author, author.update(key=old).frame) == [Reason.BAD_SIGNATURE]
    (record,) = [each for each in bench.records() if isinstance(each, MemberNotice)]
    assert (record.who, record.kind) == (author.member.log_id, EntryType.KEY_ROTATE)
    bench.restart()
    assert bench.neighbor(author).number == 2, "its newest update is by a key that the charter does not name"
    assert bench.node.keys.of(author.member.log_id).epoch == 1
    assert len(of_kind(bench, bench.authors[2], Notice)) == 1
    bench.feed(PeerUp(bench.authors[2].transport))
    assert len(of_kind(bench, bench.authors[2], Notice)) == 2


def test_an_entry_of_the_wrong_epoch_is_refused(bench: Bench, author: Rotating) -> None:
    bench.receive(author, told(bench, author.rotate()))
    author.epoch = 0
    assert bench.receive(author, author.update().frame) == [Reason.MALFORMED]


def test_who_lacks_a_notice_asks_and_is_told_before_the_answer(bench: Bench, author: Rotating) -> None:
    notice = author.rotate()
    bench.sent.clear()
    bench.now += 60.0
    update = author.update()
    assert bench.receive(author, update.frame) == [Reason.BAD_SIGNATURE]
    assert [each.reply for each in of_kind(bench, author, Hello) if isinstance(each, Hello)] == [True]
    assert bench.receive(author, told(bench, notice)) == []
    assert bench.receive(author, update.frame) == []
    bench.sent.clear()
    other = bench.authors[1]
    assert bench.receive(other, Frame(write_message(Hello(bench.charter.federation_id, b"", True)))) == []
    kinds = [type(each) for each in bench.messages(other)]
    assert kinds.index(Notice) < kinds.index(Hello)


def test_two_changes_come_in_their_order(bench: Bench, author: Rotating) -> None:
    first, second = author.rotate(), author.rotate()
    assert bench.receive(author, told(bench, second)) == [Reason.BAD_SIGNATURE]
    assert bench.receive(author, told(bench, first)) == []
    assert bench.receive(author, told(bench, second)) == []
    assert bench.receive(author, author.update().frame) == []
    bench.settle()
    bench.turn()
    bench.restart()
    assert bench.neighbor(author).number == 1


def test_keys_change_so_often_and_no_more(bench: Bench, author: Rotating, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notices, "KEY_CHANGES_MAX", 3)
    for _ in range(3):
        assert bench.receive(author, told(bench, author.rotate())) == []
    assert bench.receive(author, told(bench, author.rotate())) == [Reason.TOO_LARGE]
    assert bench.node.keys.of(author.member.log_id).epoch == 3


def test_what_a_revoked_key_signed_beyond_is_neither_believed_nor_held_against_its_log(
    bench: Bench, author: Rotating
) -> None:
    twin = author.twin()
    for _ in range(3):
        author.update()
        bench.receive(author, told(bench, b""))
    stolen, other = author.key, bench.authors[1]
    honest = author.log.checkpoint(author.key)
    bench.receive(other, told(bench, author.rotate()))
    for step in (5.0, 6.0, 7.0):
        twin.update(step)
    forged = twin.log.checkpoint(stolen)
    proof = fork_of_notes(honest, forged)
    assert proof is not None
    assert verify_fork(encode_fork(proof), bench.node.keys.known()).kind.value == "A", "a fork, until it is revoked"
    revocation = author.change(revoke(author.root, author.log.log_id, author.log.size, 0, 2))
    assert bench.receive(other, told(bench, revocation)) == []
    with pytest.raises(RemoteProtocolError):
        verify_fork(encode_fork(proof), bench.node.keys.known())
    heads = Frame(write_message(Heads(bench.charter.federation_id, (forged,))))
    assert bench.receive(other, heads) == [Reason.BAD_SIGNATURE]
    assert bench.receive(author, author.update().frame) == []
    assert not bench.neighbor(author).quarantined


@pytest.mark.parametrize("seed", range(3))
def test_no_spoiled_notice_changes_a_key(bench: Bench, author: Rotating, seed: int) -> None:
    data, rng = author.rotate(), random.Random(seed)
    book = bench.node.keys.of(author.member.log_id)
    for _ in range(100):
        spoiled = bytearray(data)
        spoiled[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        bench.now += 1.0
        assert len(bench.receive(bench.authors[1], told(bench, bytes(spoiled)))) == 1
    assert bench.node.keys.of(author.member.log_id) == book


# -- the own log --------------------------------------------------------------------------------------------------


def rotated(bench: Bench) -> bytes:
    """Rotate the bench's own key, as ``key rotate`` does while the peer is down; the notice."""
    founder = next(each for each in bench.founders if each.member.log_id == bench.own.log_id)
    key = SecretKey(derive_seed(founder.secret, Role.LOG, 1))
    log = Log(bench.own.log_id)
    for entry in bench.disk.entries:
        log.replay(entry)
    record = rotate(founder.root, log.log_id, log.size, 1, key)
    entry = log.append(record.TYPE, payload_of(record), salt=bytes(16), t_ms=0)
    notice = make_token(entry, log.inclusion(log.size - 1), log.checkpoint(bench.own.key))
    bench.disk.entries.append(entry)
    bench.own = replace(bench.own, key=key)
    return notice


def again(bench: Bench, notice: bytes) -> None:
    resume = bench.disk.fold(bench.settings.keep_deltas)
    resume.own_notices = [notice]
    bench.resume(resume)


def test_after_a_rotation_this_peer_signs_with_the_new_key_and_shows_the_entry_first(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.turn()
    monkeypatch.setattr(bench, "_check_write_ahead", lambda send: None)
    notice = rotated(bench)
    bench.sent.clear()
    again(bench, notice)
    bench.greet()
    bench.turn()
    kinds = [type(each) for each in bench.messages(bench.authors[0])]
    assert kinds[0] is Notice
    keys = bench.node.keys.of(bench.own.log_id)
    newest = bench.disk.tokens[max(bench.disk.tokens)]
    assert open_token(newest, log_id=bench.own.log_id, public=keys).header.key_epoch == 1
    first = bench.disk.tokens[min(bench.disk.tokens)]
    assert open_token(first, log_id=bench.own.log_id, public=keys).header.key_epoch == 0
    assert bench.receive(bench.authors[0], told(bench, notice)) == [], "it is known here"
    assert not bench.node.witnesses.ahead


def test_a_copy_from_before_a_rotation_signs_nothing(bench: Bench) -> None:
    bench.turn()
    disk, own = list(bench.disk.entries), bench.own
    notice = rotated(bench)
    bench.disk.entries[:], bench.own, bench.current = disk, own, False
    bench.restart()
    bench.connect()
    bench.receive(bench.authors[0], told(bench, notice))
    assert state_of(bench.node, bench.now)[0] == "behind"
    assert "changed its keys" in bench.node.witnesses.ahead
    assert len(bench.disk.entries) == len(disk)


def test_a_keybook_knows_the_charter_until_it_is_told_more() -> None:
    bench = Bench(3)
    book = Keybook(bench.charter.members)
    for member in bench.charter.members:
        assert book.of(member.log_id) == LogKeys.of(member.log)
    assert book.member(b"x" * 32) is None


# -- a world ------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class RotatedDisk(Disk):
    """A disk whose ledger changes keys, with the notices a host would make of these entries."""

    notices: list[bytes] = field(default_factory=list)

    def fold(self, keep: int) -> Resume:
        resume = Disk.fold(self, keep)
        resume.own_notices = list(self.notices)
        return resume


def rotate_peer(world: World, peer: Peer) -> int:
    """Rotate the key of a simulated peer that is down; the entry's ``seq``."""
    founder = next(each for each in Bench(len(world.charter.members)).founders if each.member.log_id == peer.log_id)
    log = Log(peer.log_id)
    for entry in peer.disk.entries:
        log.replay(entry)
    key = SecretKey(derive_seed(founder.secret, Role.LOG, 1))
    record = rotate(founder.root, peer.log_id, log.size, 1, key)
    entry = log.append(record.TYPE, payload_of(record), salt=bytes(16), t_ms=0)
    notice = make_token(entry, log.inclusion(log.size - 1), log.checkpoint(peer.secret))
    peer.disk.entries.append(entry)
    peer.disk = RotatedDisk(*(getattr(peer.disk, each.name) for each in fields(peer.disk)), [notice])
    peer.secret = key
    return log.size - 1


@pytest.mark.parametrize("seed", range(2))
def test_a_key_changes_over_links_that_lose_and_everybody_goes_on(seed: int) -> None:
    link = Link(loss=0.25, duplicate=0.1, jitter_s=0.1)
    world, _ = toy_world(4, seed=seed, watch=False, link=link, rounds=RoundSpec(300, 0, 2, "majority"))
    start_all(world)
    world.run(5.0)
    peer = world.peers[seed]
    world.stop(peer.index)
    seq = rotate_peer(world, peer)
    world.run(world.now + 1.0)
    world.start(peer.index)
    world.run(world.now + 25.0)
    other = world.peers[(seed + 1) % 4]
    world.crash(other.index)
    world.start(other.index)
    world.run(world.now + 15.0)
    for each in world.peers:
        assert each.node is not None
        assert not each.node.exposure.proofs
        if each is not peer:
            neighbor = each.node.neighbors[peer.log_id]
            assert neighbor.seq is not None
            assert neighbor.seq > seq, "an update by the new key was taken"
            assert not neighbor.quarantined
            assert neighbor.standing.bad == 0
    assert each_is_live(world)


def each_is_live(world: World) -> bool:
    nodes = [each.node for each in world.peers if each.node is not None]
    return len(nodes) == 4 and all(len(node.rounds.live(EPOCH_S + world.now)) == 3 for node in nodes)
