"""The own log as a node writes it."""

from __future__ import annotations

from node_helpers import SCHEMA, founders, log_key, parsed

from quidnunc.crypto.checkpoint import open_checkpoint
from quidnunc.crypto.entry import EntryType
from quidnunc.crypto.errors import Reason
from quidnunc.crypto.log import Log
from quidnunc.gossip.provenance import MessageRefused, NodeStart, UpdatePublished
from quidnunc.gossip.recorder import Recorder
from quidnunc.gossip.signed_update import open_update

FOUNDER = founders(2)[0]
START = NodeStart(1, "", "", "", "")
UPDATE = UpdatePublished(
    *(bytes(32), SCHEMA, 1, 1, bytes(32), bytes(32), bytes(32), bytes(32), 9, 1, 1, bytes(32), 0, None)
)


def recorder(slots: int = 3) -> Recorder:
    log = Log(FOUNDER.member.log_id)
    made = Recorder(log, log_key(FOUNDER), bytes, refusals_per_round=slots)
    made.append_raw(EntryType.GENESIS, FOUNDER.member.genesis, 1.0)
    return made


def flushed(made: Recorder) -> list[MessageRefused]:
    commit = made.flush()
    records = parsed(commit.entries if commit else ())
    return [record for _, record in records if isinstance(record, MessageRefused)]


def test_a_commit_holds_what_piled_up_under_one_checkpoint() -> None:
    made = recorder()
    assert made.append(START, 2.5) == 1
    assert made.pending == 2
    commit = made.flush()
    assert commit is not None
    assert [header.t_ms for header, _ in parsed(commit.entries)] == [2500]
    checkpoint = open_checkpoint(commit.note, made.log.origin, FOUNDER.member.log)
    assert (checkpoint.size, checkpoint.root) == (2, made.log.root)
    assert (made.flush(), made.pending) == (None, 0)


def test_publishing_commits_everything_and_the_token_verifies() -> None:
    made = recorder()
    made.append(START, 1.0)
    commit, token, seq = made.publish(UPDATE, FOUNDER.member.log_id, 2.0)
    assert len(commit.entries) == 3
    opened = open_update(token, log_id=FOUNDER.member.log_id, public=FOUNDER.member.log)
    assert (opened.token.header.seq, opened.update) == (seq, UPDATE)
    assert [(author, number, data) for _, author, number, data in commit.tokens] == [(FOUNDER.member.log_id, 1, token)]
    assert made.flush() is None


def test_the_first_refusal_of_a_kind_is_an_entry_and_the_rest_one_more() -> None:
    made = recorder()
    for size in range(5):
        assert made.refuse(b"a" * 32, Reason.STALE, size, bytes([size]) * 32, 1.0) == (size == 0)
    assert flushed(made) == [MessageRefused(b"a" * 32, Reason.STALE, 1, 0, bytes(32))]
    made.close_round(1.0)
    assert flushed(made) == [MessageRefused(b"a" * 32, Reason.STALE, 4, 10, bytes(32))]
    assert made.refused == 5
    made.close_round(1.0)
    assert flushed(made) == []


def test_one_sender_has_as_many_entries_as_the_limit_and_the_next_is_counted() -> None:
    made = recorder(slots=3)
    reasons = [Reason.STALE, Reason.FUTURE, Reason.MALFORMED, Reason.DUPLICATE]
    assert [made.refuse(b"a" * 32, each, 1, bytes(32), 1.0) for each in reasons] == [True, True, True, False]
    assert made.refuse(b"b" * 32, Reason.STALE, 1, bytes(32), 1.0)
    assert made.refuse(None, Reason.STRANGER, 1, bytes(32), 1.0)
    assert len(flushed(made)) == 5
    made.close_round(1.0)
    assert flushed(made) == [MessageRefused(b"a" * 32, Reason.DUPLICATE, 1, 1, bytes(32))]
    assert made.take_refusal_slot(b"a" * 32), "a new round"


def test_a_flood_costs_no_memory() -> None:
    made = recorder(slots=1)
    for n in range(1000):
        made.refuse(None, Reason(1 + n % 21), 1, bytes(32), 1.0)
    assert len(made._refused) == 21
    made.close_round(1.0)
    assert sum(record.count for record in flushed(made)) == 1000


def test_a_private_part_is_sealed_behind_its_commitment() -> None:
    made = recorder()
    salt, commitment = made.seal_private(b"secret")
    assert len(salt) == 16
    assert len(commitment) == 32
    assert commitment != made.seal_private(b"secrets")[1]
