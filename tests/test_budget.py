"""The privacy budget: what a release costs, and that it ends."""

from __future__ import annotations

import math
from typing import Any

import pytest
from founders import charter, founders, private
from hypothesis import given, settings
from hypothesis import strategies as st
from node_helpers import Bench, header_of, toy_charter

from quidnunc.gossip.budget import Budget, micro_up
from quidnunc.gossip.federation.charter import PrivacySpec, RoundSpec
from quidnunc.gossip.jobs import PrivacyStep, TrainJob
from quidnunc.gossip.learning.accountant import combined_noise, epsilon_of, epsilon_of_total
from quidnunc.gossip.message import Hello
from quidnunc.gossip.provenance import NoiseSource, PrivacyExhausted, PrivacySpend, UpdatePublished

BOUNDED = settings(deadline=None, max_examples=100)


def budget(cap_u: int = 8_000_000, **state: int) -> Budget:
    return Budget(charter(privacy=private()), cap_u, NoiseSource.TEST_SEED, bytes(32), **state)


def test_the_charters_releases_fit_its_epsilon_and_one_more_does_not() -> None:
    made = budget()
    for _ in range(50):
        assert made.affords_next()
        made.spend(1)
    assert not made.affords_next()
    assert 7.9 < made.epsilon <= 8.0


def test_every_spend_says_what_it_adds() -> None:
    made = budget()
    spends = [made.spend(n) for n in range(1, 11)]
    assert [spend.release for spend in spends] == list(range(1, 11))
    total = 0
    for spend in spends:
        total += spend.epsilon_u
        assert spend.cumulative_u == total == made.cost(spend.release)
    noise = made.charter.privacy.noise_u / 1e6
    assert total / 1e6 == pytest.approx(epsilon_of(noise, 10, 1e-5), abs=2e-6)


def test_a_tighter_cap_stops_earlier() -> None:
    made = budget(cap_u=2_000_000)
    releases = 0
    while made.affords_next():
        made.spend(1)
        releases += 1
    assert 0 < releases < 50
    assert made.cumulative_u <= 2_000_000 < made.cost(releases + 1)


def test_a_peers_own_cap_never_loosens_the_charters() -> None:
    rules = {"privacy": private(rounds=6), "rounds": RoundSpec(6, 0, 0, "majority")}
    assert Bench(own={"epsilon_cap_u": 10**9}, **rules).node.budget.cap_u == 8_000_000  # type: ignore[arg-type]
    assert Bench(own={"epsilon_cap_u": 5}, **rules).node.budget.cap_u == 5  # type: ignore[arg-type]


def test_a_restored_total_is_never_lowered() -> None:
    made = budget(releases=3, cumulative_u=7_000_000)
    spend = made.spend(4)
    assert (spend.epsilon_u, spend.cumulative_u) == (0, 7_000_000)


def test_the_claim_names_its_spend() -> None:
    made = budget()
    spend = made.spend(1)
    claim = made.claim(spend, 17)
    assert (claim.spend_seq, claim.cumulative_u, claim.noise_u) == (17, spend.cumulative_u, spend.noise_u)
    assert claim.noise_source == NoiseSource.TEST_SEED, "a test seed is said openly"


def test_without_privacy_nothing_is_counted() -> None:
    made = Budget(toy_charter(founders(2), privacy=PrivacySpec("none")), 0, NoiseSource.TEST_SEED, bytes(32))
    assert not made.private
    assert made.step() is None
    assert budget().step() == PrivacyStep(1.0, budget().charter.privacy.noise_u / 1e6)


@BOUNDED
@given(value=st.floats(0.0, 1e6))
def test_an_epsilon_is_rounded_up(value: float) -> None:
    assert micro_up(value) >= value * 1e6 - 1e-3
    assert micro_up(value) <= math.ceil(value * 1e6)


def test_a_node_stops_training_at_the_cap_and_goes_on_without() -> None:
    bench = Bench(privacy=private(rounds=6), rounds=RoundSpec(6, 0, 0, "majority"), own={"epsilon_cap_u": 4_000_000})
    bench.greet()
    for _ in range(9):
        for author in bench.authors:
            bench.receive(author, author.update().frame)
        bench.settle()
        bench.turn()
    published = [record for record in bench.records() if isinstance(record, UpdatePublished)]
    spends = [record for record in bench.records() if isinstance(record, PrivacySpend)]
    trained = [record for record in published if record.steps]
    assert 0 < len(trained) == len(spends) < 6
    assert all(record.privacy is not None for record in trained)
    assert all(record.privacy is None for record in published[len(trained) :])
    assert [type(record) for record in bench.records()].count(PrivacyExhausted) == 1
    trains = [job.privacy for job in bench.worker.done if isinstance(job, TrainJob)]
    assert [step is not None for step in trains] == [record.steps > 0 for record in published]
    assert spends[-1].cumulative_u <= 4_000_000


def test_an_isolated_peer_spends_nothing() -> None:
    bench = Bench(privacy=private(rounds=6), rounds=RoundSpec(6, 0, 0, "majority"))
    bench.greet()
    bench.turn()
    for author in bench.authors:
        bench.disconnect(author)
    bench.turn(1000.0)
    assert bench.node.rounds.blocked.startswith("isolated")
    assert bench.node.budget.releases == 1
    author = bench.authors[0]
    bench.connect(author)
    bench.receive(author, author.update().frame)
    bench.settle()
    bench.turn()
    assert bench.node.budget.releases == 2


def test_nothing_is_spent_behind_a_link_that_was_cut_unnoticed() -> None:
    """Regression: five releases went to nobody while the only connections looked alive and nothing came over them."""
    bench = Bench(privacy=private(rounds=20), rounds=RoundSpec(20, 0, 2, "majority"))
    bench.greet()
    bench.turn()
    for _ in range(10):
        bench.turn(bench.node.rounds.turn_s + 60.0)
    assert bench.node.budget.releases == 1
    assert bench.node.rounds.blocked.startswith("isolated")
    assert bench.authors[0].member.name in bench.node.rounds.blocked
    asked = [message for message in bench.messages(bench.authors[0]) if isinstance(message, Hello)]
    assert asked[-1].reply
    # An answer earns a sign of life; what is published in return earns a release.
    bench.receive(bench.authors[0], header_of(Hello(bench.charter.federation_id, b"", False)))
    number = bench.node.publisher.number
    bench.turn()
    assert (bench.node.publisher.number, bench.node.budget.releases) == (number + 1, 1)
    bench.receive(bench.authors[0], bench.authors[0].update().frame)
    bench.settle()
    bench.turn()
    assert bench.node.budget.releases == 2


def test_another_charters_releases_are_added_not_forgotten() -> None:
    """Under-counted once: a charter with more noise took all earlier releases for as well noised as its own."""
    loud = charter(privacy=private(1.0))
    earlier = ((private(8.0).release, 10),)
    made = Budget(loud, 8_000_000, NoiseSource.TEST_SEED, bytes(32), releases=10, cumulative_u=1, history=earlier)
    made.spend(11)
    own = loud.privacy.noise_u / 1e6
    both = epsilon_of_total(combined_noise([private(8.0).noise_u / 1e6] * 10 + [own]), 1e-5)
    assert made.cumulative_u / 1e6 == pytest.approx(both, abs=3e-6)
    assert made.epsilon > epsilon_of(private(8.0).noise_u / 1e6, 10, 1e-5)


SAMPLED = PrivacySpec("dp-sgd-poisson", 8_000_000, 5, 1_000_000, 2_000_000, 50, 50_000, 4)


def sampled(**state: Any) -> Budget:
    return Budget(charter(privacy=SAMPLED), 8_000_000, NoiseSource.TEST_SEED, bytes(32), **state)


def test_sampled_releases_cost_what_the_table_says() -> None:
    made = sampled(table=((1, 1_000_000), (2, 1_500_000), (4, 2_000_000), (5, 9_000_000)), releases=7)
    spends = []
    while made.affords_next():
        spends.append(made.spend(1))
    assert [spend.cumulative_u for spend in spends] == [1_000_000, 1_500_000, 2_000_000, 2_000_000]
    assert [spend.release for spend in spends] == [8, 9, 10, 11]
    assert {spend.kind for spend in spends} == {SAMPLED.release}
    claim = made.claim(spends[0], 3)
    assert (claim.mechanism, claim.sample_rate_ppm, claim.steps, claim.accountant) == (2, 50_000, 4, "pld-poisson/1")
    assert made.step() == PrivacyStep(1.0, 2.0, 0.05, 4)


def test_without_a_table_nothing_sampled_is_affordable() -> None:
    assert not sampled().affords_next()
    assert not sampled(table=((1, 2**53),)).affords_next()
    full = Budget(charter(), 8_000_000, NoiseSource.TEST_SEED, bytes(32), history=((SAMPLED.release, 1),), releases=1)
    assert not full.affords_next(), "full batches after sampled ones need the table as well"
