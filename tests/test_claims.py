"""What peers claim of whose training stands in their states: exact, bounded, believed only where it can be true."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from node_helpers import Bench, parsed, start_all, toy_world
from test_lineage import GENESIS, merge, name, org, update

from quidnunc.crypto.entry import Entry, open_entry
from quidnunc.gossip.audit import Audit
from quidnunc.gossip.blobs import MemoryBlobs
from quidnunc.gossip.claims import (
    BEYOND,
    INITIAL,
    MASS_MAX,
    NOTHING,
    ORIGIN,
    Claim,
    ClaimAudit,
    believable,
    merged,
    published,
)
from quidnunc.gossip.events import Stopping
from quidnunc.gossip.federation.charter import Charter
from quidnunc.gossip.federation.terms import RoundSpec
from quidnunc.gossip.jobs import PPB, TrainJob
from quidnunc.gossip.learning.builtin import breast_cancer
from quidnunc.gossip.lineage import Lineage, Place, Trace
from quidnunc.gossip.provenance import (
    CLAIM_ROWS_MAX,
    ContributionClaim,
    Decision,
    Merge,
    UpdatePublished,
    UpdateReceived,
)
from quidnunc.gossip.signed_update import open_update
from quidnunc.gossip.task import Training
from quidnunc.sim.federation import Scenario, build
from quidnunc.sim.network import Link
from quidnunc.sim.world import World

A, B, C = org("a"), org("b"), org("c")


def claim(**masses: float) -> Claim:
    """``claim(a=1, b=.5)``, everything else from the initial params."""
    rows = [ContributionClaim(org(letter), round(mass * PPB)) for letter, mass in sorted(masses.items())]
    return (*INITIAL, *rows)


# Arithmetic.


def test_training_adds_one_to_its_author_and_a_heartbeat_nothing() -> None:
    assert published(INITIAL, A, 3) == claim(a=1)
    assert published(claim(a=1, b=0.5), B, 1) == claim(a=1, b=1.5)
    assert published(claim(a=1), B, 0) == claim(a=1)
    assert published(NOTHING, A, 1) == (ContributionClaim(A, PPB),)


def test_a_merge_mixes_the_claims_of_its_inputs_by_their_weights() -> None:
    half = merged([(PPB // 2, claim(a=1)), (PPB // 4, claim(b=3)), (PPB // 4, NOTHING)])
    assert dict(half) == {ORIGIN: PPB * 3 // 4, A: PPB // 2, B: PPB * 3 // 4}
    assert merged([(PPB, claim(a=1)), (0, claim(b=9))]) == claim(a=1), "what weighs nothing is not there"
    third = merged([(333_333_333, (ContributionClaim(A, 1),)), (166_666_667, (ContributionClaim(A, 1),))])
    assert third == (ContributionClaim(A, 1),), "half of the smallest unit is rounded up"


def test_organizations_beyond_the_last_row_share_one() -> None:
    many = {bytes([i + 1]) * 32: PPB * (i + 1) for i in range(CLAIM_ROWS_MAX - 3)}
    base = tuple(ContributionClaim(*each) for each in sorted({ORIGIN: PPB, **many}.items()))
    own = b"\xf0" * 32
    assert dict(published(base, own, 1)) == {ORIGIN: PPB, own: PPB} | many, "as many as there is room for"
    one_more = tuple(sorted((*base, ContributionClaim(b"\xf1" * 32, PPB // 2))))
    made = published(one_more, own, 1)
    assert dict(made) == {ORIGIN: PPB, own: PPB, BEYOND: PPB // 2} | many
    assert len(made) == CLAIM_ROWS_MAX
    assert believable(made, own, 1) == made
    assert dict(published(made, own, 0)) == dict(made), "what is beyond stays beyond"


def test_masses_stop_at_the_limit_instead_of_running_over() -> None:
    full = (ContributionClaim(A, MASS_MAX),)
    assert published(full, A, 1) == full
    assert merged([(PPB, full), (PPB, full)]) == full


@pytest.mark.parametrize(
    "rows",
    [
        [(B, PPB), (A, PPB)],
        [(A, PPB), (A, PPB)],
        [(A, PPB), (B, 0)],
        [(A, PPB), (B, MASS_MAX + 1)],
        [(ORIGIN, PPB + 1), (A, PPB)],
        [(A, PPB - 1)],
        [(B, PPB)],
    ],
)
def test_what_cannot_be_a_claim_is_none(rows: list[tuple[bytes, int]]) -> None:
    assert believable(tuple(ContributionClaim(*row) for row in rows), A, 1) == NOTHING


def test_a_claim_at_every_limit_is_believed() -> None:
    limit = (ContributionClaim(ORIGIN, PPB), ContributionClaim(A, PPB), ContributionClaim(B, MASS_MAX))
    assert believable(limit, A, 1) == limit
    assert believable(limit[:1], A, 0) == limit[:1], "who has never trained has no row"


ROWS = st.lists(
    st.builds(ContributionClaim, st.binary(min_size=32, max_size=32), st.integers(0, 2**64 - 1)), max_size=70
)


@given(ROWS, ROWS, st.integers(0, PPB), st.integers(0, 3))
def test_whatever_others_claim_the_own_claim_can_be_one(
    one: list[ContributionClaim], other: list[ContributionClaim], weight: int, steps: int
) -> None:
    inputs = [(weight, believable(tuple(sorted(one)), A, 0)), (PPB - weight, believable(tuple(other), B, 1))]
    made = published(merged(inputs), C, steps)
    assert believable(made, C, steps) == made
    assert all(row.ppb < 2**64 for row in made)


# Lineage.


def line() -> Lineage:
    """What C holds of a line A - B - C: its own entries and the updates of B that it accepted."""
    b2 = replace(update(2, name("bm"), name("b2")), claims=claim(a=0.5, b=1.5))
    lineage = Lineage(GENESIS)
    lineage.add(B, 3, b2)
    lineage.add(C, 1, update(1, GENESIS, name("c1")))
    lineage.add(C, 2, merge(name("cm"), (name("c1"), C, 1, PPB // 2), (name("b2"), B, 3, PPB // 2)))
    return lineage


def masses(trace: Trace) -> dict[bytes, tuple[float, float]]:
    return {share.log_id: (share.mass, share.claimed) for share in trace.shares}


def test_in_a_line_the_last_sees_the_first_by_the_claim_of_the_second() -> None:
    trace = line().trace(Place(C, 2))
    assert masses(trace) == {A: (0.25, 0.25), B: (0.75, 0.25), C: (0.5, 0.0)}
    assert (trace.genesis, trace.unexplained, trace.claimed) == (1.0, {}, {B: 0.5})
    assert sum(share.share for share in trace.shares) == pytest.approx(1.0)


def test_without_claims_nobodys_word_counts() -> None:
    whole, held = line(), Lineage(GENESIS, claims=False)
    for place in (Place(B, 3), Place(C, 1), Place(C, 2)):
        held.add(*place, whole.event(place))
    trace = held.trace(Place(C, 2))
    assert masses(trace) == {B: (0.5, 0.0), C: (0.5, 0.0)}
    assert (trace.unexplained, trace.claimed) == ({B: 0.5}, {})


def test_what_is_held_counts_instead_of_what_is_claimed() -> None:
    lineage = line()
    lineage.add(B, 1, update(1, GENESIS, name("b1")))
    lineage.add(B, 2, merge(name("bm"), (name("b1"), B, 1, PPB)))
    assert masses(lineage.trace(Place(C, 2))) == {B: (1.0, 0.0), C: (0.5, 0.0)}


@pytest.mark.parametrize("lie", [(ContributionClaim(A, PPB),), (*claim(b=1), ContributionClaim(B, PPB))])
def test_a_claim_that_cannot_be_one_explains_nothing(lie: Claim) -> None:
    lineage = Lineage(GENESIS)
    lineage.add(B, 3, replace(update(2, name("bm"), name("b2")), claims=lie))
    trace = lineage.trace(Place(B, 3))
    assert (masses(trace), trace.unexplained) == ({B: (1.0, 0.0)}, {B: 1.0})


def test_what_an_author_cannot_explain_is_unexplained_and_those_without_a_row_are_summed() -> None:
    said = (ContributionClaim(ORIGIN, PPB // 4), ContributionClaim(B, PPB), ContributionClaim(BEYOND, 3 * PPB))
    lineage = Lineage(GENESIS)
    lineage.add(B, 3, replace(update(2, name("bm"), name("b2")), claims=said))
    trace = lineage.trace(Place(B, 3))
    assert (trace.genesis, trace.unexplained, trace.beyond) == (0.25, {B: 0.75}, 3.0)
    assert [(share.log_id, share.share) for share in trace.shares] == [(B, 0.25)]


# Twelve organizations, sixty rounds: one ledger alone against all of them.


def test_claims_add_up_over_twelve_organizations_and_sixty_random_rounds() -> None:
    draw = np.random.Generator(np.random.PCG64(60))
    logs = [bytes([i + 1]) * 32 for i in range(12)]
    whole, alone = Lineage(GENESIS), [Lineage(GENESIS) for _ in logs]
    base = [(GENESIS, INITIAL)] * 12
    seqs = [1] * 12
    for number in range(1, 61):
        made = []
        for i, log_id in enumerate(logs):
            said = published(base[i][1], log_id, 1)
            each = replace(update(number, base[i][0], name("u", i, number)), claims=said)
            made.append((log_id, seqs[i], each))
            seqs[i] += 1
        for lineage in (whole, *alone):  # everybody accepts everybody's updates, as tokens
            for log_id, seq, each in made:
                lineage.add(log_id, seq, each)
        for i, log_id in enumerate(logs):
            others = [int(j) for j in draw.choice(12, size=draw.integers(1, 5), replace=False) if j != i]
            shares = [int(share) for share in draw.dirichlet(np.ones(len(others) + 1)) * PPB]
            shares[0] = PPB - sum(shares[1:])
            picked = [made[j] for j in (i, *others)]
            result = name("m", i, number)
            inputs = [(*each, share) for each, share in zip(picked, shares, strict=True)]
            event = merge(result, *((u.replica_after, who, seq, share) for who, seq, u, share in inputs))
            whole.add(log_id, seqs[i], event)
            alone[i].add(log_id, seqs[i], event)
            base[i] = result, merged((share, u.claims) for _, _, u, share in inputs)
            seqs[i] += 1
    worst = 0.0
    for i, log_id in enumerate(logs):
        place = Place(log_id, seqs[i] - 1)
        true, told = masses(whole.trace(place)), masses(alone[i].trace(place))
        assert true.keys() == told.keys()
        assert len(true) == 12
        assert any(claimed for _, claimed in told.values())
        worst = max(worst, *(abs(true[each][0] - told[each][0]) for each in true))
        assert alone[i].trace(place).genesis == pytest.approx(1.0, abs=1e-12)
    assert worst <= 1e-6


# The audit.


def told() -> list[tuple[int, object]]:
    return [
        (1, replace(update(1, GENESIS, name("c1")), replica_before=GENESIS, claims=claim(c=1))),
        (2, merge(name("cm"), (name("c1"), C, 1, PPB // 2), (name("b2"), B, 3, PPB // 2))),
        (3, replace(update(2, name("cm"), name("c2")), claims=claim(a=0.25, b=0.75, c=1.5))),
        (4, replace(update(3, name("c2"), name("c3"), steps=0), claims=claim(a=0.25, b=0.75, c=1.5))),
    ]


def audited(records: list[tuple[int, object]], *, held: bool = True) -> ClaimAudit:
    audit = ClaimAudit(C)
    if held:
        audit.received(B, 3, claim(a=0.5, b=1.5))
    for seq, record in records:
        audit.read(seq, record)
    return audit


def test_true_claims_pass() -> None:
    audit = audited(told())
    assert (audit.findings, audit.checked, audit.not_held) == ([], 3, 0)


@pytest.mark.parametrize("lie", [claim(a=0.25, b=0.75, c=1.500000001), claim(c=1.5), claim(b=1, c=1.5)])
def test_a_false_claim_is_named_once_and_its_followers_are_judged_by_it(lie: Claim) -> None:
    records = told()
    records[2] = (3, replace(records[2][1], claims=lie))  # type: ignore[type-var]
    records[3] = (4, replace(records[3][1], claims=lie))  # type: ignore[type-var]
    assert [(found.code, found.seq) for found in audited(records).findings] == [("I21", 3)]


def test_what_was_made_of_updates_that_are_not_held_is_not_judged() -> None:
    audit = audited(told(), held=False)
    assert (audit.findings, audit.checked, audit.not_held) == ([], 2, 1)


# Real nodes.


def audit_of(
    charter: Charter, log_id: bytes, entries: list[Entry], received: dict[tuple[bytes, int], bytes]
) -> ClaimAudit:
    """The audit of one log by what its peer holds."""
    audit = ClaimAudit(log_id)
    for header, record in parsed(entries):
        if isinstance(record, UpdateReceived) and record.decision == Decision.ACCEPT:
            member = charter.member(record.sender)
            assert member is not None
            signed = open_update(received[record.sender, record.number], log_id=member.log_id, public=member.log)
            audit.received(
                record.sender, record.seq, believable(signed.update.claims, member.log_id, signed.update.steps)
            )
        audit.read(header.seq, record)
    return audit


def line_world() -> World:
    """Three peers in a line, over links that lose a fifth of all messages."""
    scenario = Scenario(
        task=breast_cancer,
        training=Training(learning_rate=1.0, local_steps=2, batch_size=16),
        reference="breast-cancer",
        peers=3,
        rounds=8,
        edges=((0, 1), (1, 2)),
        link=Link(loss=0.2, jitter_s=0.3),
        seed=4,
    )
    return build(scenario)


def test_real_peers_claim_what_their_ledgers_give(monkeypatch: pytest.MonkeyPatch) -> None:
    """With loss, gaps and snapshots: every claim is computed again exactly, and agrees with all ledgers together."""
    monkeypatch.setattr(MemoryBlobs, "discard", lambda self, blob: None)
    world = line_world()
    start_all(world)
    world.run(14.0)
    whole = Lineage(world.charter.task.genesis)
    for peer in world.peers:
        for header, record in parsed(peer.disk.entries):
            if isinstance(record, UpdatePublished | Merge):
                whole.add(peer.log_id, header.seq, record)
    for peer in world.peers:
        audit = audit_of(world.charter, peer.log_id, peer.disk.entries, peer.disk.received)
        assert (audit.findings, audit.not_held) == ([], 0)
        own = [(h.seq, r) for h, r in parsed(peer.disk.entries) if isinstance(r, UpdatePublished)]
        assert audit.checked == len(own) > 5
        seq, last = own[-1]
        trace = whole.trace(Place(peer.log_id, seq))
        true = {share.log_id: share.mass * PPB for share in trace.shares} | {ORIGIN: PPB}
        assert dict(last.claims) == pytest.approx(true, abs=1000)
        assert len(true) == 4, "also of who never met"


@pytest.mark.parametrize("crash", [False, True])
def test_claims_survive_a_crash_between_merge_and_update(crash: bool) -> None:
    """What the base is made of is told by the ledger and the kept tokens, as far as the crash left them."""
    bench = Bench()
    bench.greet()
    said: list[Claim] = [INITIAL] * len(bench.authors)

    def hear() -> None:
        for i, author in enumerate(bench.authors):
            said[i] = published(said[i], author.log.log_id, 1)
            assert bench.receive(author, author.update(0.1, claims=said[i]).frame) == []

    for _ in range(3):
        hear()
        bench.settle()
        bench.turn()
    hear()
    bench.settle()
    bench.tick()
    while not any(isinstance(job, TrainJob) for job in bench.jobs):
        bench.settle_one()
    training = bench.jobs.pop()
    hear()  # after the merge: no part of what is trained from
    bench.settle()
    if crash:
        bench.feed(Stopping())
        bench.restart()
        bench.greet()
        bench.tick()
    else:
        bench.jobs.append(training)
    bench.settle()
    records = bench.entries()
    merges = [header.seq for header, record in records if isinstance(record, Merge)]
    heard = [header.seq for header, record in records if isinstance(record, UpdateReceived)]
    own = [(header.seq, record) for header, record in records if isinstance(record, UpdatePublished)]
    assert merges[-1] < heard[-1] < own[-1][0], "more was heard between the merge and what was made of it"
    assert len(own[-1][1].claims) == 5
    audit = audit_of(bench.charter, bench.own.log_id, bench.disk.entries, bench.disk.received)
    assert (audit.findings, audit.not_held, audit.checked) == ([], 0, 4)


@pytest.mark.parametrize("seed", range(2))
def test_ledgers_of_peers_that_crash_at_random_make_sense_and_claim_the_truth(seed: int) -> None:
    """Whatever is lost between two commits, on disk or on the way: no audit finds anything."""
    draw = random.Random(seed)
    link, rounds = Link(loss=0.3, jitter_s=0.2), RoundSpec(60, 0, 0, "majority")
    world, _ = toy_world(5, seed=seed, watch=False, link=link, rounds=rounds)
    start_all(world)
    for _ in range(25):
        world.run(world.now + draw.uniform(0.2, 2.5))
        index = draw.randrange(5)
        if world.peers[index].node is None:
            world.start(index)
        else:
            world.crash(index)
    for peer in world.peers:
        if peer.node is None:
            world.start(peer.index)
    world.run(world.now + 20.0)
    for peer in world.peers:
        made = Audit(peer.log_id)
        for entry in peer.disk.entries:
            header = open_entry(entry)
            made.read(header.seq, header.type, entry.payload)
        claimed = audit_of(world.charter, peer.log_id, peer.disk.entries, peer.disk.received)
        assert (made.findings, claimed.findings, claimed.not_held) == ([], [], 0)
        assert claimed.checked
