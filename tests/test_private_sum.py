"""The private sum: what it costs against whom, which charters may ask for it, and peers that stay in step."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli_helpers import make_home, quidnunc
from founders import charter, private
from hypothesis import given, settings
from hypothesis import strategies as st
from learners import blobs_task
from test_audit import codes, spend, story, update
from test_cli_ledger import Scribe
from test_recompute_tool import recomputed

from quidnunc.crypto.encoding import decode, encode
from quidnunc.crypto.entry import parse_header
from quidnunc.crypto.errors import CharterError
from quidnunc.crypto.noise import NoiseStream
from quidnunc.gossip.audit import Audit
from quidnunc.gossip.budget import Budget
from quidnunc.gossip.federation.charter import Charter, MergeSpec, PrivacySpec, RoundSpec, TaskSpec
from quidnunc.gossip.federation.founding import draft_note
from quidnunc.gossip.federation.privacy_terms import SUM_MEMBERS_MAX, SUM_RECORDS_MAX
from quidnunc.gossip.health import conditions
from quidnunc.gossip.jobs import PrivacyStep, Release, Unit, against, counting
from quidnunc.gossip.learning.accountant import epsilon_of, summed_noise_u
from quidnunc.gossip.learning.builtin import DEFAULTS, breast_cancer
from quidnunc.gossip.learning.functional import Functional
from quidnunc.gossip.learning.sampled import epsilon_sampled
from quidnunc.gossip.learning.trainer import train
from quidnunc.gossip.neighbor import Neighbor
from quidnunc.gossip.private_sum import awaited, calibrated, epsilon_alone, next_round, summed
from quidnunc.gossip.provenance import NoiseSource, PrivacyExhausted, PrivacySpend, UpdatePublished
from quidnunc.gossip.status import status
from quidnunc.gossip.task import Training
from quidnunc.peer.commands.privacy_view import lines
from quidnunc.peer.home import Home
from quidnunc.peer.output import Styled
from quidnunc.sim.federation import Scenario, build
from quidnunc.sim.network import Link
from quidnunc.sim.world import Peer, World

MICRO = 1_000_000


def sums(members: int = 5, colluders: int = 1, epsilon: float = 2.0, rounds: int = 6) -> PrivacySpec:
    """The privacy of a sum with just the noise that it takes."""
    return summed(round(epsilon * MICRO), 5, MICRO, rounds, members=members, colluders=colluders, records=100)


def sum_charter(members: int = 5, privacy: PrivacySpec | None = None, **changes: Any) -> Charter:
    """A valid charter of a private sum; ``changes`` are fields of it."""
    privacy = sums(members) if privacy is None else privacy
    fields: dict[str, Any] = {
        "merge": MergeSpec("mean", MICRO),
        "privacy": privacy,
        "rounds": RoundSpec(privacy.releases, 0, 1, "all"),
    }
    return charter(members, **(fields | changes))


def budget(terms: Charter, cap: float = 8.0, **state: Any) -> Budget:
    return Budget(terms, round(cap * MICRO), NoiseSource.CHACHA20_OS_KEY, b"d" * 32, **state)


# What it costs.


def covariance(own: float, pair: float, members: int, knowing: set[int]) -> np.ndarray:
    """The noise in the releases of all, as seen by who knows the pairs of some: one row and column for each other."""
    others = [i for i in range(members) if i not in knowing]
    found = own**2 * np.eye(len(others))
    for (a, i), (b, j) in combinations(list(enumerate(others)), 2):
        assert i < j
        edge = np.zeros(len(others))
        edge[a], edge[b] = 1, -1
        found += pair**2 * np.outer(edge, edge)
    return found


@pytest.mark.parametrize("members", [3, 4, 8, 32])
@pytest.mark.parametrize("share", [0.5, 2.0, 10.0])
def test_the_noise_against_colluders_is_that_of_the_inverse_covariance(members: int, share: float) -> None:
    """Written out edge by edge and inverted: the release is a shift of one coordinate by the clip."""
    for colluders in (0, 1, members // 2, members - 2, members - 1):
        inverse = np.linalg.inv(covariance(3.0, 3.0 * share, members, set(range(colluders))))
        expected = 1e6 / np.sqrt(inverse[0, 0])
        found = summed_noise_u(3_000_000, round(3_000_000 * share), members - colluders)
        assert found <= expected < found + 1.01


@settings(deadline=None, max_examples=60)
@given(st.integers(3, 8), st.floats(0.1, 5.0), st.data())
def test_members_that_are_away_take_nothing_from_the_promise(members: int, share: float, data: st.DataObject) -> None:
    """They publish nothing: what is seen is a part of what could have been, still with the noise of their pairs."""
    whole = covariance(1.0, share, members, {0})
    away = data.draw(st.integers(0, members - 2))
    seen = whole[away:, away:]
    assert np.linalg.inv(seen)[-1, -1] <= np.linalg.inv(whole)[-1, -1] * (1 + 1e-9)
    left = summed_noise_u(MICRO, int(share * MICRO), members - 1) / MICRO
    assert left <= np.linalg.inv(seen)[-1, -1] ** -0.5 * (1 + 1e-6)


def test_more_colluders_leave_less_and_all_others_ones_own_noise() -> None:
    left = [summed_noise_u(MICRO, 2 * MICRO, 8 - colluders) for colluders in range(9)]
    assert left == sorted(left, reverse=True)
    assert left[7] == left[8] == MICRO


@pytest.mark.parametrize(("epsilon", "noise"), [(2.0, 14.1), (1.0, 26.4)])
def test_eight_members_need_less_than_half_of_the_noise_of_one(epsilon: float, noise: float) -> None:
    """In the mean over eight: 1.17 times what all records in one place take; noise without pairs is 2.83 times that."""
    privacy = sums(8, 1, epsilon, rounds=50)
    assert privacy.total_u / MICRO == pytest.approx(noise, rel=0.01)
    assert privacy.noise_u / privacy.total_u * 8**0.5 == pytest.approx(1.175, abs=0.002)
    spent = epsilon_of(privacy.total_u / MICRO, 50, 1e-5)
    assert epsilon - 1e-5 < spent <= epsilon
    assert epsilon_sampled(((Release(privacy.total_u), 50),), 1e-5) == pytest.approx(spent, rel=0.01), "dp-accounting"
    assert 2 * epsilon < epsilon_alone(privacy.release, 50, 1e-5) < 4 * epsilon


def test_the_least_noise_that_suffices_is_found() -> None:
    found = calibrated(2.0, 6, 1e-5, 4)
    assert found.pair_u == 2 * found.own_u
    assert epsilon_of(summed_noise_u(*found, 4) / MICRO, 6, 1e-5) <= 2.0
    assert epsilon_of(summed_noise_u(found.own_u - 1, found.pair_u - 2, 4) / MICRO, 6, 1e-5) > 2.0


def test_a_sum_is_for_each_account_what_it_is_to_it() -> None:
    mine, plain, whole = sums().release, Release(5_000_000), Release(9_000_001, unit=Unit.SITE)
    spent = ((mine, 3), (plain, 2), (whole, 1))
    assert dict(counting(spent, Unit.EXAMPLE)) == {Release(mine.noise_u): 3, plain: 2, Release(4_500_000): 1}
    assert dict(counting(spent, Unit.SITE)) == {whole: 1}
    for colluders in (1, 2, 3):
        left = Release(summed_noise_u(mine.noise_u, mine.pair_u, 5 - colluders))
        assert dict(counting(spent, Unit.SUM, colluders)) == {left: 3, plain: 2, Release(4_500_000): 1}
    assert against(mine, 9) == Release(mine.noise_u), "who knows all pairs of a sum sees its own noise"


def test_the_charters_releases_fit_its_epsilon_and_one_more_does_not() -> None:
    terms = sum_charter()
    made = budget(terms, 2.0)
    spends = []
    while made.affords_next():
        spends.append(made.spend(len(spends) + 1))
    assert len(spends) == 6
    assert {(each.unit, each.pair_u, each.members, each.colluders, each.site) for each in spends} == {
        (Unit.SUM, terms.privacy.pair_u, 5, 1, False)
    }
    claim = made.claim(spends[-1], 3)
    assert (claim.mechanism, claim.unit, claim.accountant) == (4, Unit.SUM, "pairwise-gaussian/1")
    assert made.step() == PrivacyStep(
        *(1.0, terms.privacy.noise_u / MICRO, 1.0, 1, Unit.SUM, terms.privacy.pair_u / MICRO, 100)
    )


def test_what_was_released_against_everybody_counts_against_few_and_a_sum_by_its_own_noise_against_everybody() -> None:
    few, all_ = sums(epsilon=4.0), private(8.0, 6)
    history = ((all_.release, 2), (few.release, 3))
    against_few = budget(sum_charter(privacy=few), history=history, releases=5, others=2).spend(1)
    expected = epsilon_sampled(((Release(few.total_u), 4), (all_.release, 2)), 1e-5)
    assert against_few.cumulative_u / MICRO == pytest.approx(expected, rel=0.01)
    rounds = RoundSpec(6, 0, 2, "all")
    state = {"history": history, "releases": 5, "others": 3}
    against_all = budget(charter(privacy=all_, rounds=rounds), 99.0, **state).spend(1)
    expected = epsilon_sampled(((Release(few.noise_u), 3), (all_.release, 3)), 1e-5)
    assert against_all.cumulative_u / MICRO == pytest.approx(expected, rel=0.01)
    assert against_all.cumulative_u > against_few.cumulative_u


# The mechanism.


def test_the_noise_of_releases_is_what_the_accountant_takes_it_for() -> None:
    """Four members, here without records: variances and covariances of what they send, in clips over records."""
    task = blobs_task()
    nobody = task.train[0][:0], task.train[1][:0]
    net = Functional(task.model(), task)
    at = np.zeros(net.dim, np.float32)
    step = PrivacyStep(0.5, 3.0, unit=Unit.SUM, pair_multiplier=2.0, records=100)
    sent: list[list[np.ndarray]] = []
    for round_ in range(300):
        pairs = {ends: NoiseStream(bytes(32), b"%d-%d-%d" % (*ends, round_)) for ends in combinations(range(4), 2)}
        drawn = {ends: stream.gaussian(net.dim) for ends, stream in pairs.items()}
        row = []
        for member in range(4):
            mine = sum((1 if member == a else -1) * z for (a, b), z in drawn.items() if member in (a, b))
            stream = NoiseStream(bytes([member]) * 32, b"%d" % round_)
            assert isinstance(mine, np.ndarray)
            row.append(train(net, nobody, at, Training(learning_rate=1.0), step, stream, mine)[0])
        sent.append(row)
    seen = np.array(sent, np.float64).transpose(1, 0, 2).reshape(4, -1) * 100 / 0.5
    expected = covariance(3.0, 2.0, 4, set())
    np.testing.assert_allclose(np.cov(seen), expected, atol=0.8)
    assert np.var(seen.mean(0)) == pytest.approx(9 / 4, rel=0.05), "in the mean the pairs are gone"


def test_one_record_moves_a_release_by_the_clip_over_the_charters_records_at_most() -> None:
    task = blobs_task()
    net = Functional(task.model(), task)
    at = NoiseStream(bytes(32), b"at").gaussian(net.dim).astype(np.float32)
    step = PrivacyStep(0.5, 0.0, unit=Unit.SUM, pair_multiplier=0.0, records=7)
    whole, less = (
        train(net, (task.train[0][skip:], task.train[1][skip:]), at, Training(1.0), step, NoiseStream(bytes(32), b"r"))[
            0
        ]
        for skip in (0, 1)
    )
    assert 0 < np.linalg.norm(whole.astype(np.float64) - less) <= 0.5 / 7 * (1 + 1e-5)


# What is signed.


def test_a_charter_of_a_sum_reads_back_and_names_its_unit() -> None:
    made = sum_charter()
    assert Charter.parse(made.body()) == made
    value = made.privacy.to_value()
    assert (value["mechanism"], value["unit"], value["colluders"]) == ("private-sum", "sum", 1)
    assert made.plan().private, "records hide one by one: batch normalization is refused"


NOT_ALL = tuple(pair for pair in combinations(range(5), 2) if pair != (0, 1))


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"merge": MergeSpec("repute", MICRO)}, "merge rule repute with a private sum"),
        ({"merge": MergeSpec("median", MICRO)}, "merge rule median with a private sum"),
        ({"merge": MergeSpec("mean", MICRO, {"nearest": MICRO})}, "merge rule mean with nearest"),
        ({"merge": MergeSpec("mean", MICRO, {}, 2 * MICRO)}, "size_cap_u with a private sum"),
        ({"merge": MergeSpec("mean", 2 * MICRO)}, "drag_cap_u is 2000000"),
        ({"rounds": RoundSpec(6, 0, 2, "all")}, "rounds.lead is 2"),
        ({"rounds": RoundSpec(5, 0, 1, "all")}, "privacy.releases is 6, must be rounds.count, 5"),
        ({"edges": NOT_ALL}, "takes all 10 links between 5 members, there are 9"),
        ({"task": TaskSpec("digits", b"s" * 32, b"g" * 32, 650, personal=("bias",))}, "task.personal"),
        ({"privacy": sums(4)}, "privacy.members is 4, the charter has 5 members"),
    ],
)
def test_a_charter_under_which_pairs_would_not_cancel_is_refused(changes: dict[str, Any], word: str) -> None:
    with pytest.raises(CharterError, match=word):
        sum_charter(**changes)


@pytest.mark.parametrize("codec", [0, 1])
def test_both_codecs_pass(codec: int) -> None:
    assert sum_charter(codec=codec).codec == codec


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"colluders": 0}, "colluders"),
        ({"colluders": 4}, "colluders"),
        ({"members": 2}, "members"),
        ({"members": 33}, "members"),
        ({"pair_u": 0}, "pair_u"),
        ({"records": 0}, "records"),
        ({"records": SUM_RECORDS_MAX + 1}, "records"),
        ({"noise_u": sums().noise_u - 1000}, "cost epsilon"),
        ({"pair_u": sums().pair_u - 100_000}, "cost epsilon"),
        ({"colluders": 2}, "cost epsilon"),
        ({"unit": "example"}, "unit"),
        ({"mechanism": "dp-sgd-full-batch"}, "unknown key"),
        ({"unit": None}, "lacks the key 'unit'"),
        ({"steps": 1}, "has 12 keys"),
    ],
)
def test_terms_that_do_not_keep_the_promise_are_refused(change: dict[str, Any], word: str) -> None:
    body: Any = decode(sum_charter().body(), max_bytes=1 << 20)
    body["privacy"] |= change
    body["privacy"] = {key: value for key, value in body["privacy"].items() if value is not None}
    with pytest.raises(CharterError, match=word):
        Charter.parse(encode(body))


def test_the_largest_sum_and_the_most_colluders_pass() -> None:
    made = sums(SUM_MEMBERS_MAX, SUM_MEMBERS_MAX - 2)
    assert replace(made, records=SUM_RECORDS_MAX).colluders == 30


@pytest.mark.parametrize("field", ["pair_u", "members", "colluders", "records"])
def test_no_other_mechanism_has_pairs(field: str) -> None:
    with pytest.raises(CharterError, match=f"privacy.{field} with mechanism dp-sgd-full-batch"):
        replace(private(), **{field: 1})
    with pytest.raises(CharterError, match="unit sum is the promise of private-sum"):
        replace(private(), unit=Unit.SUM)


def test_a_claim_is_of_the_unit_and_the_noise_of_its_spend() -> None:
    honest = update(2, 8, 900)
    assert honest.privacy is not None
    pairs = {"pair_u": 2, "members": 5, "colluders": 1}
    paid, claimed = replace(spend(2, 900), **pairs), replace(honest.privacy, **pairs)
    paid = replace(paid, noise_u=claimed.noise_u)

    def told(*, spent: PrivacySpend = paid, claim: Any = claimed) -> list[tuple[str, int]]:
        changed = {8: spent, 9: replace(honest, privacy=claim)}
        return codes([changed.get(seq, each) for seq, each in enumerate(story())])

    assert told() == []
    assert ("I10", 9) in told(claim=honest.privacy), "a sum passed off as privacy against everybody"
    assert ("I10", 9) in told(spent=spend(2, 900)), "and the other way round"
    for other in ({"colluders": 2}, {"members": 6}, {"pair_u": 3}, {"noise_u": claimed.noise_u + 1}):
        assert ("I10", 9) in told(claim=replace(claimed, **other))


# Peers in step.


def neighbor(round_: int, *waiting: int, advanced: float | None = 0.0) -> Neighbor:
    from types import SimpleNamespace

    found = Neighbor(charter().members[0], 0, bytes(32), number=round_, round=round_, last_advance=advanced)
    for each in waiting:
        found.waiting[each] = SimpleNamespace(signed=SimpleNamespace(update=SimpleNamespace(round=each)))  # type: ignore[assignment]
    return found


@pytest.mark.parametrize(
    ("published", "rounds", "expected"),
    [
        (0, [], 1),
        (4, [4, 4, 4], 5),
        (4, [5, 5, 5], 5),
        (4, [3, 3, 4], 5),
        (4, [6, 6, 6], 7),
        (4, [5, 5, 900], 5),
        (4, [5, 6, 900], 7),
        (0, [8, 9, 9], 10),
    ],
)
def test_the_next_round_is_the_following_one_or_that_of_most_others(
    published: int, rounds: list[int], expected: int
) -> None:
    assert next_round(published, [neighbor(each) for each in rounds]) == expected


def test_a_release_that_waits_here_tells_how_far_its_author_is() -> None:
    assert next_round(4, [neighbor(4, 5, 6), neighbor(4, 5, 6)]) == 7


def test_a_merge_waits_for_the_releases_of_its_round_but_not_for_the_silent() -> None:
    late, there, silent, never = neighbor(4), neighbor(5), neighbor(4, advanced=-100.0), neighbor(4, advanced=None)
    assert awaited([late, there, silent, never], 5, 1.0, 10.0) == [late]


def world(**changes: Any) -> World:
    fields: dict[str, Any] = {
        "peers": 4,
        "reference": "breast-cancer",
        "alpha": 100.0,
        "rounds": 8,
        "epsilon": 4.0,
        "rule": "mean",
        "colluders": 1,
        "codec": 0,
        "link": Link(0.05, 0.05),
    }
    made = build(Scenario(breast_cancer, DEFAULTS["breast-cancer"].private, **(fields | changes)))
    for peer in made.peers:
        made.start(peer.index)
    return made


def finished(made: World, *but: int) -> bool:
    there = [peer for peer in made.peers if peer.index not in but]
    return all(peer.node is not None and peer.node.rounds.finished for peer in there)


def told(peer: Peer) -> list[object]:
    """A peer's records, of a ledger that holds."""
    audit = Audit(peer.log_id)
    found = [audit.read(n, parse_header(e.header).type, e.payload) for n, e in enumerate(peer.disk.entries)]
    assert audit.findings == []
    return found


def state_of(peer: Peer) -> np.ndarray:
    """The params that the peer would use now."""
    assert peer.node is not None
    return np.frombuffer(peer.disk.blobs.data[peer.node.rounds.base], "<f4").astype(np.float64)


def spread(made: World) -> float:
    """How far apart the peers' params are, against the length of the noise of one pair in them."""
    states = np.array([state_of(peer) for peer in made.peers if peer.node is not None])
    privacy, training = made.charter.privacy, made.charter.training
    pair = privacy.pair_u / MICRO * privacy.clip_u / MICRO / privacy.records * training.learning_rate_u / MICRO
    return float(np.linalg.norm(states - states.mean(0), axis=1).max() / (pair * states.shape[1] ** 0.5))


@pytest.mark.parametrize("codec", [0, 1])
def test_peers_that_stay_in_step_take_the_noise_of_pairs_out_of_each_others_models(codec: int) -> None:
    made = world(codec=codec, periods_s=(1.0, 1.3, 0.7, 1.1))
    made.run(200, stop=lambda: finished(made))
    made.run(made.now + 5)
    assert spread(made) < (1e-5 if codec == 0 else 0.1)
    for peer in made.peers:
        records = told(peer)
        updates = [record for record in records if isinstance(record, UpdatePublished)]
        assert [each.round for each in updates if each.steps] == list(range(1, 9))
        spends = [record for record in records if isinstance(record, PrivacySpend)]
        assert [each.unit for each in spends] == [Unit.SUM] * 8
        assert spends[-1].cumulative_u <= 4 * MICRO
        assert made.peers[0].node is not None
    shown = status(made.peers[0].node, made.now)["privacy"]  # type: ignore[arg-type]
    assert (shown["unit"], shown["colluders"], shown["releases"]) == ("sum", 1, 8)


def test_the_mean_of_all_is_what_noise_without_pairs_makes_it() -> None:
    """Round for round: the members' common step differs from the clipped gradients' by their own noise only."""
    made = world(rounds=1, epsilon=1.0, peers=8)
    made.run(60, stop=lambda: finished(made))
    made.run(made.now + 5)
    privacy, training = made.charter.privacy, made.charter.training
    unit = privacy.clip_u / MICRO / privacy.records * training.learning_rate_u / MICRO
    moved = state_of(made.peers[0]) / unit
    published = [
        np.frombuffer(peer.disk.blobs.data[record.replica_after], "<f4") / unit
        for peer in made.peers
        for record in told(peer)
        if isinstance(record, UpdatePublished) and record.round == 1 and record.replica_after in peer.disk.blobs.data
    ]
    alone = privacy.noise_u / MICRO / 8**0.5
    sent = (privacy.noise_u**2 + 7 * privacy.pair_u**2) ** 0.5 / MICRO
    assert moved.std() < 1.5 * alone + 8, "noise over the root of eight, and the gradients"
    assert all(each.std() > 0.7 * sent for each in published)
    assert sent > 10 * alone


def test_a_peer_that_is_paused_sends_its_noise_and_nothing_else() -> None:
    made = world()
    for peer in made.peers:
        assert peer.node is not None
    made.at(3.5, lambda: made.peers[2].node.rounds.pause(True, 3.5))  # type: ignore[union-attr]
    made.run(200, stop=lambda: finished(made))
    made.run(made.now + 5)
    records = told(made.peers[2])
    updates = [record for record in records if isinstance(record, UpdatePublished)]
    trained = [each.round for each in updates if each.steps]
    assert 0 < len(trained) < 8
    assert {each.round for each in updates} >= set(range(1, 9)), "its noise is in every round"
    assert len([record for record in records if isinstance(record, PrivacySpend)]) == len(trained)
    assert spread(made) < 1e-5


def test_a_budget_that_ends_early_ends_training_and_not_the_noise() -> None:
    made = world()
    node = made.peers[1].node
    assert node is not None
    node.budget.cap_u = node.budget.cost(3)
    made.run(200, stop=lambda: finished(made) and all(p.node.rounds.released > 8 for p in made.peers if p.node))
    made.run(made.now + 3)
    records = told(made.peers[1])
    assert [r.round for r in records if isinstance(r, UpdatePublished) and r.steps] == [1, 2, 3]
    assert [r.unit for r in records if isinstance(r, PrivacyExhausted)] == [Unit.SUM]
    assert {r.round for r in records if isinstance(r, UpdatePublished)} >= set(range(1, 9))
    assert spread(made) < 1e-5


def test_the_others_go_on_without_one_that_is_gone_and_it_finds_their_round_again() -> None:
    made = world(rounds=24)
    made.at(5.5, lambda: made.crash(3))
    made.run(25)
    others = made.peers[:3]
    reached = [peer.node.rounds.released for peer in others if peer.node]
    assert min(reached) > 8
    assert max(reached) - min(reached) <= 1, "in step"
    assert spread(made) > 0.3, "what the lost one's pairs leave behind"
    assert others[0].node is not None
    told_of = [each.text for each in conditions(others[0].node, made.now) if each.id == "neighbor-disconnected"]
    assert [text.endswith("and the noise of its pairs stays in the model") for text in told_of] == [True]
    made.start(3)
    made.run(300, stop=lambda: finished(made))
    rounds = [record.round for record in told(made.peers[3]) if isinstance(record, UpdatePublished) and record.steps]
    assert rounds == sorted(set(rounds)), "no round twice"
    assert max(b - a for a, b in pairwise(rounds)) >= min(reached) - 8, "rounds it missed are missed"
    assert rounds[-1] == 24
    made.run(made.now + 5)
    assert len({peer.node.rounds.released > 24 for peer in made.peers if peer.node}) == 1
    audits = [told(peer) for peer in made.peers]
    assert len(audits) == 4


def test_a_peer_killed_at_any_moment_uses_the_noise_of_a_round_for_one_update_only() -> None:
    """The spend of a round that was never published stays spent; its noise goes out once, or never."""
    made = world(rounds=10)
    for moment in (2.05, 3.4, 4.95, 6.1, 7.75):
        made.at(moment, lambda: (made.crash(0), made.start(0)))
    made.run(300, stop=lambda: finished(made))
    for peer in made.peers:
        records = told(peer)
        noised = [r.round for r in records if isinstance(r, UpdatePublished) and r.round <= 10]
        assert len(noised) == len(set(noised))
        spends = [r for r in records if isinstance(r, PrivacySpend)]
        assert spends[-1].cumulative_u <= 4 * MICRO


# The command line.


def home_of(path: Path, *records: Any) -> Path:
    make_home(path, "A")
    (path / "charter.note").write_bytes(draft_note(sum_charter()))
    if records:
        Scribe(Home.at(path)).write(*records)
    return path


def test_budget_show_says_against_whom_and_what_is_left_against_more(tmp_path: Path) -> None:
    made = budget(sum_charter(), 2.0)
    home = home_of(tmp_path / "a", made.spend(1), made.spend(2))
    shown = quidnunc("--home", home, "budget", "show")
    alone = epsilon_alone(sums().release, 2, 1e-5)
    assert shown.code == 0, shown.out
    for words in (
        "of a private sum of 5 members",
        "up to 1 curious members who follow the protocol",
        f"against more members than that, up to all others together: only epsilon {alone:.4f}",
        "no robustness is claimed",
        "for each pair",
    ):
        assert words in shown.out
    assert "against everybody outside" not in shown.out
    found = quidnunc("--home", home, "--json", "budget", "show").data["datasets"]
    assert [(each["privacy_unit"], each["colluders"]) for each in found] == [("sum", 1)]
    assert found[0]["epsilon_alone"] == pytest.approx(alone)
    assert found[0]["epsilon"] == pytest.approx(found[0]["epsilon_recomputed"], abs=2e-6)
    forecast = quidnunc("--home", home, "--json", "budget", "forecast").data
    assert (forecast["unit"], forecast["releases_left"]) == ("sum", 4)
    assert "against few" in quidnunc("--home", home, "budget", "forecast").out
    assert "against few" in quidnunc("--home", home, "budget", "history").out
    status_ = quidnunc("--home", home, "--json", "ledger", "status").data
    assert (status_["epsilon"], status_["epsilon_sum"] > 0) == (0, True)


def test_an_audit_of_a_sum_is_of_own_noise_and_says_so(tmp_path: Path) -> None:
    """Alone there are no pairs: what can be audited is what all others together are left with."""
    home, terms = home_of(tmp_path / "a"), sum_charter().privacy
    words = ("--rounds", "2", "--canaries", "8", "--shadows", "0")
    audited = quidnunc("--home", home, "--json", "privacy", "audit", *words)
    assert audited.code in (0, 32), "so few canaries may see nothing"
    found = audited.envelope["data"]
    alone = epsilon_alone(terms.release, 2, terms.delta)
    assert found["claim"]["epsilon"] == pytest.approx(alone)
    assert found["claim"]["noise_multiplier"] == pytest.approx(terms.noise_u / MICRO)
    assert (found["private_sum"]["colluders"], found["mechanism"]["verdict"]) == (terms.colluders, "consistent")
    text = "\n".join(line.text if isinstance(line, Styled) else line for line in lines(found))
    assert "a private sum: audited is a member's own noise" in text
    few = f"epsilon {terms.epsilon_u / MICRO:g} against {terms.colluders} of {terms.release.members} members"
    assert f"anything of the charter's {few}" in text


def test_the_accounts_stand_apart_and_understating_one_is_found(tmp_path: Path) -> None:
    few = budget(sum_charter(), 2.0)
    rounds = RoundSpec(6, 0, 2, "all")
    first, second = few.spend(1), few.spend(2)
    history = ((sums().release, 2),)
    everybody = budget(charter(privacy=private(8.0, 6), rounds=rounds), 99.0, history=history, releases=2, others=2)
    third = everybody.spend(3)
    code, text = recomputed(tmp_path / "a", [first, second, third])
    assert code == 0, text
    record, summed_line = text.splitlines()
    assert "1 releases, epsilon" in record
    assert "2 releases of private sums against 1 of 5 members" in summed_line
    shown = quidnunc("--home", tmp_path / "a", "budget", "show")
    assert shown.code == 0
    assert "counted as well: 2 releases of private sums, each at this peer's own noise" in shown.out
    assert "neither stands for the other" in shown.out
    low = epsilon_of(private(8.0, 6).noise_u / MICRO, 1, 1e-5)
    code, text = recomputed(tmp_path / "b", [first, second, replace(third, cumulative_u=round(low * MICRO))])
    assert (code, "UNDERSTATED" in text) == (30, True), "the sums are releases for everybody as well"
    code, text = recomputed(tmp_path / "c", [first, replace(second, cumulative_u=first.cumulative_u)])
    assert (code, "UNDERSTATED" in text) == (30, True)
    code, text = recomputed(tmp_path / "d", [replace(first, colluders=3)])
    assert (code, "UNDERSTATED" in text) == (30, True), "against more members it costs more"


@pytest.fixture
def cards(tmp_path: Path) -> list[str]:
    return [str(make_home(tmp_path / name, name)) for name in ("a", "b", "c", "d")]


def test_a_charter_is_drafted_with_the_noise_of_pairs(cards: list[str], tmp_path: Path) -> None:
    out = tmp_path / "draft.note"
    words = ["--private-sum", "1", "--records", "180", "--rule", "mean", "--epsilon", "2", "--rounds", "10"]
    made = quidnunc("--json", "federation", "create", *cards, *words, "--no-sign", "--out", out)
    assert made.code == 0, made.envelope
    privacy = made.data["privacy"]
    assert (privacy["mechanism"], privacy["unit"], privacy["colluders"], privacy["records"]) == (
        *("private-sum", "sum"),
        *(1, 180),
    )
    assert privacy["epsilon_alone"] > 2
    assert made.data["rounds"]["lead"] == 1
    text = quidnunc("federation", "show", out).out
    assert "against whoever listens and up to 1 of the 4 members together" in text
    assert "nothing is screened" in text
    assert "against everybody else" not in text


@pytest.mark.parametrize(
    ("flags", "why"),
    [
        (("--private-sum", "1", "--records", "9"), "merge rule repute with a private sum"),
        (("--private-sum", "1", "--rule", "mean"), "no card tells a number of records"),
        (("--private-sum", "3", "--records", "9", "--rule", "mean"), "must be 1 to 2"),
        (("--private-sum", "0", "--records", "9", "--rule", "mean"), "must be 1 to 2"),
        (("--private-sum", "1", "--records", "0", "--rule", "mean"), "--records is 0"),
        (("--private-sum", "1", "--rule", "mean", "--epsilon", "inf"), "--epsilon inf"),
        (("--private-sum", "1", "--rule", "mean", "--privacy-unit", "site"), "single records"),
        (("--private-sum", "1", "--rule", "mean", "--sampling-rate", "0.5"), "single records"),
        (("--records", "9"), "--records without --private-sum"),
        (("--privacy-unit", "sum"), "invalid choice"),
    ],
)
def test_flags_that_contradict_a_sum_are_refused_with_the_reason(
    flags: tuple[str, ...], why: str, cards: list[str]
) -> None:
    result = quidnunc("--json", "federation", "create", *cards, *flags, "--no-sign")
    assert result.code in (2, 64), result.envelope
    assert why in json.dumps(result.envelope["error"]), result.envelope


@pytest.mark.parametrize(
    ("flags", "why"),
    [
        (("--private-sum", "1"), "takes the plain mean"),
        (("--private-sum", "1", "--rule", "mean", "--personal", "bias"), "shares all tensors"),
        (("--private-sum", "3", "--rule", "mean"), "must be 1 to 2"),
        (("--private-sum", "1", "--rule", "mean", "--peers", "2"), "must be 3 to 32"),
        (("--private-sum", "1", "--rule", "mean", "--epsilon", "inf"), "--epsilon inf"),
        (("--private-sum", "1", "--rule", "mean", "--privacy-unit", "site"), "single records"),
        (("--private-sum", "1", "--rule", "mean", "--local-steps", "2"), "does not go with full batches"),
    ],
)
def test_a_demo_of_a_sum_refuses_what_contradicts_it(flags: tuple[str, ...], why: str) -> None:
    result = quidnunc("--json", "demo", *flags)
    assert (result.code, why in json.dumps(result.envelope["error"])) == (2, True), result.envelope


def test_a_share_of_a_built_in_data_set_tells_what_to_divide_by_where_no_card_does(
    cards: list[str], tmp_path: Path
) -> None:
    words = ["--private-sum", "1", "--rule", "mean", "--site-peers", "4", "--task", "breast-cancer", "--no-sign"]
    made = quidnunc("--json", "federation", "create", *cards, *words, "--out", tmp_path / "draft.note")
    assert made.code == 0, made.envelope
    assert 50 < made.data["privacy"]["records"] < 150
