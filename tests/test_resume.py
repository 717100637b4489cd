"""Where a peer stands according to its own ledger, and that a node restarted stands nowhere else."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

import pytest
from founders import private
from node_helpers import GENESIS_NAME, Author, Bench, Signed, header_of

from quidnunc.crypto.entry import Entry, EntryType
from quidnunc.crypto.errors import LedgerCorrupt, Reason
from quidnunc.crypto.log import Log
from quidnunc.gossip.events import Frame, Stopping
from quidnunc.gossip.evidence import PENALIZED
from quidnunc.gossip.federation.charter import RoundSpec
from quidnunc.gossip.jobs import Standing
from quidnunc.gossip.message import Hello
from quidnunc.gossip.neighbor import CONVICTED
from quidnunc.gossip.provenance import NodeStart, payload_of
from quidnunc.gossip.resume import Resume, fold
from quidnunc.gossip.status import status

PRIVATE: dict[str, Any] = {"privacy": private(rounds=6), "rounds": RoundSpec(6, 0, 0, "majority")}


def history(bench: Bench, turns: int) -> dict[str, list[Signed]]:
    """Some turns in which every neighbor publishes."""
    bench.greet()
    told: dict[str, list[Signed]] = {}
    for _ in range(turns):
        for author in bench.authors:
            signed = author.update()
            bench.receive(author, signed.frame)
            told.setdefault(author.member.name, []).append(signed)
        bench.settle()
        bench.turn()
    return told


def standing_of(bench: Bench) -> dict[str, Any]:
    """Everything of a node that must come back from its ledger."""
    node = bench.node
    rounds, publisher, budget = node.rounds, node.publisher, node.budget
    return {
        "round": rounds.round,
        "base": rounds.base,
        "unmerged": rounds.unmerged,
        "trained": rounds.trained,
        "merges": (rounds.merges, rounds.steps_back, rounds.withheld),
        "finished": rounds.finished,
        "replica": publisher.replica,
        "number": publisher.number,
        "seq": publisher.seq,
        "budget": (budget.releases, budget.cumulative_u, budget.exhausted),
        "refused": node.refused_total,
        "neighbors": [
            (n.number, n.state, n.seq, n.quarantined, n.leaves, rounded(n.standing), n.accepted, n.refused)
            for n in node.neighbors.values()
        ],
        "in_use": set(node.in_use()),
    }


def rounded(standing: Standing) -> tuple[float, ...]:
    return tuple(round(value, 6) for value in (standing.good, standing.bad, standing.harm))


def test_an_empty_ledger_leads_to_the_beginning() -> None:
    assert fold([]) == Resume()


@pytest.mark.parametrize("changes", [{}, PRIVATE])
@pytest.mark.parametrize("turns", [0, 1, 2, 5, 9])
def test_a_restarted_node_stands_where_it_stood(turns: int, changes: dict[str, Any]) -> None:
    bench = Bench(**changes)
    history(bench, turns)
    bench.receive(bench.authors[0], Frame(b"garbage"))
    bench.receive(bench.authors[1], bench.authors[1].update(schema=b"x" * 32).frame)
    other = bench.authors[2].twin()
    bench.receive(bench.authors[2], bench.authors[2].update(4.0).frame)
    bench.receive(bench.authors[2], other.update(5.0).frame)
    bench.settle()
    bench.feed(Stopping())
    before = standing_of(bench)
    assert before["refused"] == 3
    bench.restart()
    assert standing_of(bench) == before
    # Regression: what was received began at nothing with every start, beside counts of the whole life.
    told = status(bench.node, bench.now)
    assert (told["updates_accepted"], told["updates_refused"], told["merges"]) == (
        3 * turns + 1,
        3,
        before["merges"][0],
    )


def test_a_punishment_survives_a_crash_before_the_next_merge() -> None:
    """Regression: standings came back from the last merge only."""
    bench = Bench()
    history(bench, 2)
    author = bench.authors[0]
    bench.receive(author, author.update(schema=b"x" * 32).frame)
    standing = bench.neighbor(author).standing
    assert standing.bad >= 10
    bench.restart()
    assert rounded(bench.neighbor(author).standing) == rounded(standing)


def test_a_second_history_is_recognized_after_a_restart() -> None:
    """Regression: only the leaf of the newest update came back, so older proofs were lost."""
    bench = Bench()
    told = history(bench, 3)
    author = bench.authors[0]
    assert len(told[author.member.name]) == 3
    bench.restart()
    bench.connect()
    other = Author(bench.founders[1], bench.charter)
    assert other.member == author.member
    second = [other.update(9.0) for _ in range(2)][-1]
    assert bench.receive(author, second.frame) == [Reason.EQUIVOCATION]
    assert bench.neighbor(author).standing == CONVICTED


def test_a_duplicate_is_still_one_after_a_restart() -> None:
    bench = Bench()
    told = history(bench, 3)
    bench.restart()
    bench.connect()
    author = bench.authors[0]
    for signed in told[author.member.name]:
        assert bench.receive(author, signed.frame) == [Reason.DUPLICATE]


def test_a_spend_without_an_update_stays_spent() -> None:
    bench = Bench(**PRIVATE)
    bench.greet()
    bench.turn()
    bench.tick()
    bench.settle_one()  # merged; the spend is committed, the training under way
    assert bench.node.budget.releases == 2
    bench.restart()
    assert bench.node.budget.releases == 2
    assert bench.node.publisher.number == 1
    assert bench.node.rounds.trained == 1
    assert bench.node.budget.cumulative_u == bench.node.budget.cost(2)


def test_an_exhausted_budget_stays_exhausted() -> None:
    bench = Bench(own={"epsilon_cap_u": 1}, **PRIVATE)
    bench.greet()
    bench.turn()
    assert bench.node.budget.exhausted
    bench.restart()
    assert bench.node.budget.exhausted
    assert bench.node.rounds.finished


def test_after_a_merge_the_next_training_starts_from_it_and_merges_nothing() -> None:
    bench = Bench()
    history(bench, 2)
    bench.tick()
    bench.settle_one()
    assert not bench.node.rounds.unmerged
    base = bench.node.rounds.base
    bench.restart()
    assert (bench.node.rounds.base, bench.node.rounds.unmerged) == (base, False)


def test_refusals_that_were_only_counted_are_written_at_an_orderly_stop() -> None:
    bench = Bench()
    bench.greet()
    for n in range(5):
        bench.receive(bench.authors[0], Frame(b"garbage %d" % n))
    assert sum(record.count for record in bench.refused()) == 1
    bench.feed(Stopping())
    assert sum(record.count for record in bench.refused()) == 5
    assert fold(bench.disk.entries).refused == 5


# Our own disk contradicts itself.


def corrupt(entries: list[Entry], kind: int, payload: bytes, private_part: bytes = b"") -> None:
    log = Log(Bench().own.log_id)
    for entry in entries:
        log.replay(entry)
    made = log.append(kind, payload, salt=bytes(16), t_ms=0)
    entries.append(made._replace(private=private_part) if private_part else made)


@pytest.mark.parametrize(
    ("kind", "payload"), [(EntryType.NODE_START, b"\x80"), (0x7E, b"\x80"), (EntryType.MERGE, b"nonsense")]
)
def test_an_own_entry_that_cannot_be_read_stops_the_start(kind: int, payload: bytes) -> None:
    bench = Bench()
    corrupt(bench.disk.entries, kind, payload)
    with pytest.raises(LedgerCorrupt) as caught:
        fold(bench.disk.entries)
    assert caught.value.seq == 3


def test_a_changed_private_part_stops_the_start() -> None:
    bench = Bench()
    history(bench, 2)
    place = next(i for i, entry in enumerate(bench.disk.entries) if entry.private)
    bench.disk.entries[place] = bench.disk.entries[place]._replace(private=b"other")
    with pytest.raises(LedgerCorrupt) as caught:
        fold(bench.disk.entries)
    assert caught.value.seq == place


def test_without_its_private_part_a_merge_still_counts() -> None:
    bench = Bench()
    history(bench, 2)
    for place, entry in enumerate(bench.disk.entries):
        bench.disk.entries[place] = entry._replace(private=b"", private_salt=b"")
    state = fold(bench.disk.entries)
    assert (state.merges, state.standings) == (1, {})


def test_penalties_are_what_only_a_signer_can_cause() -> None:
    transport = {
        *(Reason.MALFORMED, Reason.BAD_SIGNATURE, Reason.STRANGER, Reason.HASH_MISMATCH, Reason.UNSOLICITED),
        *(Reason.DUPLICATE, Reason.RATE_LIMITED, Reason.NOT_NEIGHBOR, Reason.WRONG_FEDERATION, Reason.VERSION),
    }
    assert not PENALIZED & transport
    assert not PENALIZED & {Reason.STALE, Reason.FUTURE}, "honest peers can cause these by a restart or a long gap"


def test_helpers_agree_with_the_ledger() -> None:
    bench = Bench()
    start = NodeStart(1, "", "", "", "cpu")
    assert payload_of(start) in {entry.payload for entry in bench.disk.entries}
    assert replace(start, incarnation=2) != start
    assert hashlib.sha256(bench.disk.blobs.data[GENESIS_NAME]).digest() == GENESIS_NAME
    assert header_of(Hello(bench.charter.federation_id, b"", False)).body == b""
