"""What a hostile neighbor can send: every kind of bad input is one typed refusal in the ledger and changes nothing."""

from __future__ import annotations

import numpy as np
import pytest
from founders import founder
from hypothesis import given, settings
from hypothesis import strategies as st
from node_helpers import DIM, Author, Bench, Signed, header_of, line

from quidnunc.crypto.encoding import encode
from quidnunc.crypto.errors import Reason
from quidnunc.crypto.identity import SecretKey
from quidnunc.gossip.events import Frame, Received, Refuse, Send
from quidnunc.gossip.evidence import standing_class
from quidnunc.gossip.learning import codec
from quidnunc.gossip.message import Hello, Want
from quidnunc.gossip.provenance import MessageRefused, ReputationChange, UpdateReceived
from quidnunc.gossip.reputation import StandingClass
from quidnunc.gossip.settings import Settings

BOUNDED = settings(deadline=None, max_examples=150)


@pytest.fixture
def bench() -> Bench:
    bench = Bench()
    bench.greet()
    return bench


def refuses(bench: Bench, author: Author | bytes, frame: Frame, reason: Reason) -> MessageRefused:
    """The frame is refused for ``reason``; that is in the durable ledger before the sender hears of it."""
    before = bench.params()
    known = len(bench.refused())
    assert bench.receive(author, frame) == [reason]
    entries = bench.refused()[known:]
    assert [entry.reason for entry in entries] == [reason]
    assert bench.params() == before
    assert not bench.jobs
    return entries[0]


def rejects(bench: Bench, author: Author, signed: Signed, reason: Reason) -> UpdateReceived:
    """The signed update is refused for ``reason``, which its author has to answer for."""
    before = bench.params()
    known = len(bench.rejected())
    answered = bench.receive(author, signed.frame)
    bench.settle()
    entries = bench.rejected()[known:]
    assert [(entry.sender, entry.reasons) for entry in entries] == [(author.member.log_id, (reason,))]
    assert answered in ([reason], [])
    assert bench.params() == before
    return entries[0]


# Nothing that can be blamed on an author.


def test_arbitrary_bytes_are_malformed(bench: Bench) -> None:
    entry = refuses(bench, bench.authors[0], Frame(b"\xc1 no message", b"body"), Reason.MALFORMED)
    assert entry.sender == bench.authors[0].member.log_id
    assert (entry.count, entry.size) == (1, 16)


def test_a_stranger_is_refused_and_not_named(bench: Bench) -> None:
    stranger = founder(99).member.transport
    entry = refuses(bench, stranger, header_of(Hello(bench.charter.federation_id, b"", True)), Reason.STRANGER)
    assert entry.sender is None


def test_a_member_without_an_edge_is_refused() -> None:
    bench = Bench(edges=line(4))
    far = bench.authors[2]
    entry = refuses(bench, far, far.update().frame, Reason.NOT_NEIGHBOR)
    assert entry.sender == far.member.log_id


def test_another_federation_is_refused(bench: Bench) -> None:
    refuses(bench, bench.authors[0], header_of(Hello(b"f" * 32, b"", True)), Reason.WRONG_FEDERATION)


def test_an_update_signed_for_another_federation_is_refused(bench: Bench) -> None:
    signed = bench.authors[0].update(federation=b"f" * 32)
    refuses(bench, bench.authors[0], signed.frame, Reason.WRONG_FEDERATION)


def test_a_forged_signature_is_refused(bench: Bench) -> None:
    signed = bench.authors[0].update(key=SecretKey(b"k" * 32))
    refuses(bench, bench.authors[0], signed.frame, Reason.BAD_SIGNATURE)


def test_anothers_update_is_refused(bench: Bench) -> None:
    refuses(bench, bench.authors[0], bench.authors[1].update().frame, Reason.STRANGER)


def test_a_body_that_was_not_signed_is_refused(bench: Bench) -> None:
    signed = bench.authors[0].update()
    swapped = Frame(signed.frame.header, signed.body[:-1] + b"\x01")
    refuses(bench, bench.authors[0], swapped, Reason.HASH_MISMATCH)
    assert bench.receive(bench.authors[0], signed.frame) == []


def test_a_later_protocol_is_refused_by_version(bench: Bench) -> None:
    header = encode(["quidnunc/v2/update", bench.charter.federation_id, b""])
    refuses(bench, bench.authors[0], Frame(header), Reason.VERSION)


def test_a_body_at_the_limit_is_read_and_one_past_it_is_not(bench: Bench) -> None:
    author, limit = bench.authors[0], bench.charter.payload_bytes
    at = author.update(body=bytes(limit))
    rejects(bench, author, at, Reason.BAD_SHAPE)
    past = author.update(body=bytes(limit + 1))
    refuses(bench, author, past.frame, Reason.TOO_LARGE)


def test_a_snapshot_nobody_asked_for_is_refused(bench: Bench) -> None:
    refuses(bench, bench.authors[0], bench.authors[0].update().snapshot, Reason.UNSOLICITED)


def test_a_duplicate_is_refused(bench: Bench) -> None:
    signed = bench.authors[0].update()
    assert bench.receive(bench.authors[0], signed.frame) == []
    assert bench.receive(bench.authors[0], signed.frame) == [Reason.DUPLICATE], "while its job runs"
    bench.settle()
    assert bench.receive(bench.authors[0], signed.frame) == [Reason.DUPLICATE]
    assert [entry.reason for entry in bench.refused()] == [Reason.DUPLICATE]
    assert bench.neighbor(bench.authors[0]).number == 1


# What an author signed and has to answer for.


def test_a_wrong_schema_is_rejected(bench: Bench) -> None:
    rejects(bench, bench.authors[0], bench.authors[0].update(schema=b"x" * 32), Reason.WRONG_SCHEMA)


def test_another_codec_is_rejected(bench: Bench) -> None:
    rejects(bench, bench.authors[0], bench.authors[0].update(codec=0), Reason.BAD_CODEC)


def test_a_wrong_shape_is_rejected(bench: Bench) -> None:
    rejects(bench, bench.authors[0], bench.authors[0].update(body=bytes(DIM)), Reason.BAD_SHAPE)
    rejects(bench, bench.authors[0], bench.authors[0].update(body=bytes(DIM + 2)), Reason.BAD_SHAPE)


def test_a_size_that_is_not_the_bodys_is_rejected(bench: Bench) -> None:
    rejects(bench, bench.authors[0], bench.authors[0].update(size=DIM + 2), Reason.BAD_SHAPE)


def test_a_signed_size_past_the_limit_is_rejected(bench: Bench) -> None:
    limit = bench.charter.payload_bytes
    rejects(bench, bench.authors[0], bench.authors[0].update(size=limit), Reason.BAD_SHAPE)
    rejects(bench, bench.authors[0], bench.authors[0].update(size=limit + 1), Reason.TOO_LARGE)


@pytest.mark.parametrize(
    "body",
    [
        b"\x41" + bytes([64]) * DIM,  # scale 2**65
        b"\x9b" + bytes([64]) * DIM,  # scale 2**-101
        b"\x00" + b"\x80" * DIM,  # level -128
        b"\x00" + b"\x01" * DIM,  # not the finest scale
    ],
)
def test_a_bad_scale_or_level_is_rejected(bench: Bench, body: bytes) -> None:
    rejects(bench, bench.authors[0], bench.authors[0].update(body=body), Reason.BAD_CODEC)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_rejected(value: float) -> None:
    bench = Bench(codec=codec.FLOAT32)
    bench.greet()
    body = np.full(DIM, value, "<f4").tobytes()
    rejects(bench, bench.authors[0], bench.authors[0].update(body=body), Reason.NON_FINITE)


def test_a_sum_that_overflows_is_rejected() -> None:
    bench = Bench(codec=codec.FLOAT32)
    bench.greet()
    author = bench.authors[0]
    largest = np.full(DIM, np.finfo(np.float32).max, "<f4")
    first = author.update(body=largest.tobytes(), replica_after=bench.disk.blobs.put(largest.tobytes()))
    assert bench.receive(author, first.frame) == []
    bench.settle()
    assert bench.neighbor(author).number == 1
    second = author.update(body=largest.tobytes(), replica_before=first.update.replica_after)
    rejects(bench, author, second, Reason.NON_FINITE)


def test_a_wrong_result_hash_is_rejected(bench: Bench) -> None:
    rejects(bench, bench.authors[0], bench.authors[0].update(replica_after=b"r" * 32), Reason.BAD_RESULT)


def test_a_wrong_base_is_rejected_and_a_snapshot_asked_for(bench: Bench) -> None:
    author = bench.authors[0]
    rejects(bench, author, author.update(replica_before=b"b" * 32), Reason.BAD_BASE)
    assert bench.messages(author)[-1] == Want(bench.charter.federation_id, 1, 1, True)


def test_a_stale_number_is_rejected(bench: Bench) -> None:
    author = bench.authors[0]
    for _ in range(3):
        bench.receive(author, author.update().frame)
        bench.settle()
    assert bench.neighbor(author).number == 3
    bench.neighbor(author).leaves.clear()  # too long ago to remember
    rejects(bench, author, author.update(number=3), Reason.STALE)


def test_a_number_at_the_limit_of_the_future_waits_and_one_past_it_is_rejected() -> None:
    bench = Bench(settings=Settings(future_updates=10))
    bench.greet()
    author = bench.authors[0]
    rejects(bench, author, author.update(number=11), Reason.FUTURE)
    assert bench.receive(author, author.update(number=10).frame) == []
    assert bench.neighbor(author).claimed == 10
    assert bench.neighbor(author).number == 0


# Two histories.


def equivocate(bench: Bench, author: Author) -> tuple[Signed, Signed]:
    other = author.twin()
    return author.update(1.0), other.update(2.0)


def test_two_updates_under_one_number_are_proof_and_end_it(bench: Bench) -> None:
    author = bench.authors[0]
    first, second = equivocate(bench, author)
    bench.receive(author, first.frame)
    bench.settle()
    rejects(bench, author, second, Reason.EQUIVOCATION)
    neighbor = bench.neighbor(author)
    assert neighbor.quarantined
    assert standing_class(neighbor) == StandingClass.EXCLUDED
    changes = [r for r in bench.records() if isinstance(r, ReputationChange)]
    assert [(c.who, c.new) for c in changes] == [(author.member.log_id, 2)]
    kept = [token for commit in bench.commits for token in commit.tokens]
    assert {first.token, second.token} <= {token for *_, token in kept}
    refuses(bench, author, author.update().frame, Reason.QUARANTINED)


def test_a_quarantine_survives_a_restart(bench: Bench) -> None:
    author = bench.authors[0]
    first, second = equivocate(bench, author)
    bench.receive(author, first.frame)
    bench.receive(author, second.frame)
    bench.restart()
    bench.connect()
    assert bench.neighbor(author).quarantined
    refuses(bench, author, author.update().frame, Reason.QUARANTINED)
    bench.turn()
    assert bench.neighbor(author) not in bench.node.rounds.live(bench.now)


@pytest.mark.parametrize("kind", ["update", "hello", "snapshot"])
def test_a_second_history_is_seen_in_every_message(bench: Bench, kind: str) -> None:
    author = bench.authors[0]
    first, second = equivocate(bench, author)
    bench.receive(author, first.frame)
    bench.settle()
    bench.neighbor(author).snapshots_due = 1
    frames = {"update": second.frame, "hello": second.hello(), "snapshot": second.snapshot}
    assert Reason.EQUIVOCATION in bench.receive(author, frames[kind])
    assert bench.neighbor(author).quarantined


# Anything at all.

FUZZED = Bench()
FUZZED.greet()
WORDS = ["quidnunc/v1/update", "quidnunc/v1/snapshot", "quidnunc/v1/hello", "quidnunc/v1/want", "other"]
VALUES = st.one_of(st.none(), st.booleans(), st.integers(0, 2**64 - 1), st.binary(max_size=80), st.sampled_from(WORDS))


def survives(frame: Frame, sender: bytes) -> None:
    """Whatever happens, it is no exception, no change of params, and a commit before every refusal that is recorded."""
    before = FUZZED.params()
    effects = FUZZED.feed(Received(sender, frame))
    assert FUZZED.params() == before
    assert any(isinstance(effect, Refuse | Send) for effect in effects) or effects == []
    FUZZED.jobs.clear()


@BOUNDED
@given(header=st.binary(max_size=300), body=st.binary(max_size=60), who=st.integers(0, 3))
def test_arbitrary_frames_never_raise(header: bytes, body: bytes, who: int) -> None:
    senders = [*(author.transport for author in FUZZED.authors), b"?" * 32]
    survives(Frame(header, body), senders[who])


@BOUNDED
@given(rest=st.lists(VALUES, max_size=5), word=st.sampled_from(WORDS), body=st.binary(max_size=20))
def test_arbitrary_fields_never_raise(rest: list[object], word: str, body: bytes) -> None:
    header = encode([word, FUZZED.charter.federation_id, *rest])  # type: ignore[list-item]
    survives(Frame(header, body), FUZZED.authors[0].transport)


VALID = FUZZED.authors[1].update()


@BOUNDED
@given(data=st.data())
def test_mutated_frames_never_raise(data: st.DataObject) -> None:
    frame = data.draw(st.sampled_from([VALID.frame, VALID.snapshot, VALID.hello(True)]))
    raw = bytearray(frame.header)
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    if bytes(raw) == frame.header:
        return
    survives(Frame(bytes(raw), frame.body), FUZZED.authors[1].transport)


# Floods.


def test_a_flood_of_refusals_leaves_a_bounded_ledger() -> None:
    bench = Bench(settings=Settings(refusals_per_round=5))
    bench.greet()
    bench.turn()
    author = bench.authors[0]
    before = len(bench.disk.entries)
    for n in range(300):
        assert bench.receive(author, Frame(b"garbage %d" % n)) == [Reason.MALFORMED]
        assert bench.receive(author, author.update(schema=b"x" * 32).frame) == [Reason.WRONG_SCHEMA]
    assert len(bench.disk.entries) - before <= 2 * 5 + 1
    bench.turn()
    counted = [r for r in bench.refused() if r.sender == author.member.log_id]
    assert sum(r.count for r in counted if r.reason == Reason.MALFORMED) == 300
    assert len(bench.reports) <= 6, "a flood of refusals is no flood of reports"
    rejected = [r for r in bench.rejected() if r.sender == author.member.log_id]
    signed = sum(r.count for r in counted if r.reason == Reason.WRONG_SCHEMA)
    assert len(rejected) + signed == 300


def test_a_held_back_turn_does_not_reopen_the_bound_on_refusals() -> None:
    """Regression: a node that waits is woken by every hello; a round is not over because of that."""
    bench = Bench(settings=Settings(refusals_per_round=3))
    bench.connect()
    author = bench.authors[0]
    before = len(bench.disk.entries)
    for n in range(50):
        bench.receive(author, Frame(b"garbage %d" % n))
        bench.receive(author, author.update(number=n + 1, schema=b"x" * 32).frame)
        bench.tick(0.1)
        assert bench.node.rounds.blocked
    assert len(bench.disk.entries) - before <= 2 * 3 + 1


def test_one_flooding_neighbor_does_not_use_up_the_evidence_against_another() -> None:
    bench = Bench(settings=Settings(refusals_per_round=4))
    bench.greet()
    loud, other = bench.authors[:2]
    for _ in range(20):
        bench.receive(loud, loud.update(schema=b"x" * 32).frame)
    rejects(bench, other, other.update(schema=b"x" * 32), Reason.WRONG_SCHEMA)


def test_a_strangers_flood_does_not_use_up_the_evidence_against_a_neighbor() -> None:
    bench = Bench(settings=Settings(refusals_per_round=1))
    bench.greet()
    for n in range(20):
        bench.receive(bytes([n]) * 32, Frame(b"x"))
    rejects(bench, bench.authors[0], bench.authors[0].update(schema=b"x" * 32), Reason.WRONG_SCHEMA)
