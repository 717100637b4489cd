"""Privacy of the whole site: one clipped and noised delta a round, and an account that is never a record's."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli_helpers import make_home, quidnunc
from founders import charter, private
from hypothesis import given, settings
from hypothesis import strategies as st
from learners import blobs_task
from node_helpers import Bench
from test_audit import codes, spend, story, update
from test_cli_budget import forecast, home_with
from test_recompute_tool import recomputed
from torch import nn

from quidnunc.crypto.encoding import decode, encode
from quidnunc.crypto.entry import parse_header
from quidnunc.crypto.errors import CharterError, Malformed
from quidnunc.crypto.noise import NoiseStream
from quidnunc.gossip.audit import Audit
from quidnunc.gossip.budget import Budget
from quidnunc.gossip.feasibility import feasibility
from quidnunc.gossip.federation.charter import Charter, MergeSpec, PrivacySpec, RoundSpec
from quidnunc.gossip.jobs import PrivacyStep, Release, TrainJob, Unit, counting
from quidnunc.gossip.learning.accountant import combined_noise, epsilon_of, epsilon_of_total
from quidnunc.gossip.learning.builtin import DEFAULTS, breast_cancer
from quidnunc.gossip.learning.functional import Functional
from quidnunc.gossip.learning.privacy import clipped_delta
from quidnunc.gossip.learning.sampled import epsilon_sampled
from quidnunc.gossip.learning.trainer import train
from quidnunc.gossip.provenance import (
    NoiseSource,
    PrivacyExhausted,
    PrivacySpend,
    UpdatePublished,
    parse_record,
    payload_of,
)
from quidnunc.gossip.resume import Resume
from quidnunc.gossip.status import status
from quidnunc.gossip.task import Task, Training
from quidnunc.peer.commands.budget_forecast import counted
from quidnunc.peer.commands.demo_view import verdict_lines
from quidnunc.sim.federation import Scenario, build
from quidnunc.sim.world import World

CLIP = 0.25
PLAIN = Training(learning_rate=0.5, momentum=0.5, local_steps=6, batch_size=16)
OS_KEY = NoiseSource.CHACHA20_OS_KEY


def site(epsilon: float = 8.0, rounds: int = 50) -> PrivacySpec:
    """The noise of :func:`private` under the promise for whole sites."""
    return replace(private(epsilon, rounds), mechanism="gaussian-delta", unit=Unit.SITE)


def budget(privacy: PrivacySpec, **state: Any) -> Budget:
    rounds = RoundSpec(privacy.releases, 1000, 2, "majority")
    return Budget(charter(privacy=privacy, rounds=rounds), 8_000_000, OS_KEY, b"d" * 32, **state)


def stream(name: bytes = b"r") -> NoiseStream:
    return NoiseStream(bytes(32), name)


def net_of(task: Task) -> tuple[Functional, np.ndarray]:
    net = Functional(task.model(), task)
    return net, NoiseStream(bytes(32), b"at").gaussian(net.dim).astype(np.float32)


def moved(task: Task, training: Training = PLAIN, noise: float = 0.0, name: bytes = b"r") -> np.ndarray:
    """What one round of a site makes of its params."""
    net, vector = net_of(task)
    step = PrivacyStep(CLIP, noise, unit=Unit.SITE)
    return train(net, task.train, vector, training, step, stream(name))[0].astype(np.float64) - vector


# The mechanism.


@settings(deadline=None, max_examples=100)
@given(
    st.lists(st.floats(width=32), min_size=1, max_size=12),
    st.lists(st.floats(width=32), min_size=12, max_size=12),
    st.floats(1e-3, 1e3),
)
def test_any_two_sites_differ_by_twice_the_clip_and_one_from_none_by_the_clip(
    one: list[float], other: list[float], clip: float
) -> None:
    here, there = (clipped_delta(np.array(each[: len(one)]), clip) for each in (one, other))
    assert np.linalg.norm(here) <= clip
    assert np.linalg.norm(here - there) <= 2 * clip
    inside = np.isfinite(one).all() and np.linalg.norm(one) <= 0.99 * clip
    assert not inside or here.tolist() == one, "what is within the clip is left as it is"
    assert np.isfinite(one).all() or not here.any(), "a training that diverged says nothing"


def test_a_site_is_trained_as_without_privacy_and_its_whole_delta_is_clipped() -> None:
    task = blobs_task()
    net, vector = net_of(task)
    plain = train(net, task.train, vector, PLAIN, None, stream())[0].astype(np.float64) - vector
    length = np.linalg.norm(plain)
    assert length > CLIP
    np.testing.assert_allclose(moved(task), plain * CLIP / length, atol=1e-6)
    gentle = replace(PLAIN, learning_rate=1e-3)
    small = train(net, task.train, vector, gentle, None, stream())[0].astype(np.float64) - vector
    np.testing.assert_allclose(moved(task, gentle), small, atol=1e-9)


@pytest.mark.parametrize("scale", [1.0, 1e3, 1e30], ids=["as it is", "far out", "diverging"])
def test_neighboring_sites_differ_by_at_most_the_stated_bound_before_noise(scale: float) -> None:
    """One site of the same records under opposite labels, however far out: nobody's data moves the release further."""
    task = blobs_task()
    inputs, targets = task.train
    other = replace(task, train=(inputs * scale, (targets + 1) % 3))
    absent = np.zeros(net_of(task)[0].dim)
    assert np.linalg.norm(moved(other) - absent) <= CLIP * (1 + 1e-5)
    assert np.linalg.norm(moved(other) - moved(task)) <= 2 * CLIP * (1 + 1e-5)


def test_noise_is_what_is_claimed_and_is_drawn_once_a_round(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[int] = []
    whole = NoiseStream.add_noise
    monkeypatch.setattr(
        NoiseStream, "add_noise", lambda self, *given: (drawn.append(len(given[0])), whole(self, *given))[1]
    )
    task, still = blobs_task(), replace(PLAIN, learning_rate=1e-9)
    noises = [moved(task, still, 3.0, b"%d" % round_) for round_ in range(40)]
    scale = np.concatenate(noises)
    assert len(drawn) == 40, "one for each release of six steps"
    assert scale.std() == pytest.approx(3.0 * CLIP, rel=0.03)
    assert abs(scale.mean()) < 0.05
    assert np.corrcoef(noises[0], noises[1])[0, 1] < 0.5, "every round has noise of its own"


def test_a_repeated_round_has_the_same_noise_and_no_second_release() -> None:
    task = blobs_task()
    assert moved(task, noise=2.0).tobytes() == moved(task, noise=2.0).tobytes()


def test_batch_normalization_is_allowed_for_a_site_only() -> None:
    """It mixes records, and a site is all of them."""
    assert not charter(privacy=site()).plan().private
    assert charter(privacy=private()).plan().private
    model = lambda: nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6), nn.Linear(6, 3))  # noqa: E731
    assert np.linalg.norm(moved(replace(blobs_task(), model=model))) <= CLIP * (1 + 1e-5)


# What it costs.


@pytest.mark.parametrize(("epsilon", "noise"), [(8.0, 4.24), (4.0, 7.64), (2.0, 14.1), (1.0, 26.4)])
def test_fifty_releases_cost_what_the_study_and_dp_accounting_say(epsilon: float, noise: float) -> None:
    """Known answers of the study (A8), and dp-accounting's privacy loss distribution as a second accountant."""
    privacy = site(epsilon)
    assert privacy.noise_u / 1e6 == pytest.approx(noise, rel=0.01)
    spent = budget(privacy, history=((privacy.release, 49),), releases=49).spend(50).cumulative_u / 1e6
    assert spent == pytest.approx(epsilon, abs=1e-5)
    assert epsilon_sampled(((privacy.release, 50),), 1e-5) == pytest.approx(spent, rel=0.01)


def test_the_charters_releases_fit_its_epsilon_and_one_more_does_not() -> None:
    made = budget(site(rounds=6))
    spends: list[PrivacySpend] = []
    while made.affords_next():
        spends.append(made.spend(1))
    assert len(spends) == 6
    assert all(each.site and each.unit == Unit.SITE for each in spends)
    claim = made.claim(spends[-1], 3)
    assert (claim.mechanism, claim.site, claim.steps, claim.accountant) == (3, True, 1, "analytic-gaussian/1")
    assert made.step() == PrivacyStep(1.0, site(rounds=6).noise_u / 1e6, unit=Unit.SITE)


def test_the_two_units_are_two_accounts() -> None:
    records, sites = private().release, site().release
    history = ((records, 10), (sites, 3))
    whole = budget(site(), history=history, releases=13, others=10)
    assert (whole.spend(1).cumulative_u / 1e6, whole.made) == (
        pytest.approx(epsilon_of(sites.noise_u / 1e6, 4, 1e-5), abs=2e-6),
        4,
    )
    single = budget(private(), history=history, releases=13, others=3)
    halved = combined_noise([records.noise_u / 1e6] * 11 + [sites.noise_u // 2 / 1e6] * 3)
    assert single.spend(1).cumulative_u / 1e6 == pytest.approx(epsilon_of_total(halved, 1e-5), abs=2e-6)
    assert single.made == 11


def test_an_exhausted_account_of_records_leaves_that_of_the_site_open() -> None:
    spent = {private().release: 50}
    resume = Resume(releases=50, spent=spent, cumulative_u={Unit.EXAMPLE: 8_000_000}, exhausted={Unit.EXAMPLE})
    whole, single = (counted(charter(privacy=privacy), None, resume, 1, ()) for privacy in (site(), private()))
    assert (whole.cumulative_u, whole.exhausted, whole.affords_next(), whole.made) == (0, False, True, 0)
    assert (single.cumulative_u, single.exhausted, single.affords_next(), single.made) == (8_000_000, True, False, 50)


def test_releases_of_a_site_are_releases_of_each_record_at_half_the_noise() -> None:
    sampled, sites = Release(2_000_000, 50_000, 4), Release(5_000_001, unit=Unit.SITE)
    spent = ((sampled, 2), (sites, 3))
    assert counting(spent, Unit.SITE) == ((sites, 3),)
    assert counting(spent, Unit.EXAMPLE) == ((sampled, 2), (Release(2_500_000), 3))
    assert counting(((Release(7), 1), (Release(14, unit=Unit.SITE), 2)), Unit.EXAMPLE) == ((Release(7), 3),)


# What is signed.


def test_an_example_charter_has_the_bytes_it_always_had_and_a_site_charter_names_its_unit() -> None:
    assert "unit" not in private().to_value()
    assert site().to_value()["unit"] == "site"
    made = charter(privacy=site())
    assert Charter.parse(made.body()) == made
    assert made.federation_id != charter(privacy=private()).federation_id


@pytest.mark.parametrize(
    "change",
    [
        {"unit": "example"},
        {"unit": "Site"},
        {"unit": 1},
        {"unit": None},
        {"mechanism": "dp-sgd-full-batch"},
        {"mechanism": "dp-sgd-poisson", "rate_ppm": 50_000, "steps": 1},
        {"rate_ppm": 50_000},
    ],
)
def test_a_charter_that_mixes_the_units_is_refused(change: dict[str, Any]) -> None:
    body: Any = decode(charter(privacy=site()).body(), max_bytes=1 << 20)
    body["privacy"] |= change
    body["privacy"] = {key: value for key, value in body["privacy"].items() if value is not None}
    with pytest.raises(CharterError):
        Charter.parse(encode(body))


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda: replace(private(), unit=Unit.SITE), "unit site is the promise of gaussian-delta"),
        (lambda: replace(site(), unit=Unit.EXAMPLE), "unit is example with mechanism gaussian-delta"),
        (lambda: replace(site(), mechanism="dp-sgd-poisson"), "unit is site with mechanism dp-sgd-poisson"),
        (lambda: PrivacySpec("none", unit=Unit.SITE), "unit is site with mechanism none"),
        (lambda: replace(site(), rate_ppm=1), "rate_ppm of a whole site"),
        (lambda: replace(site(), noise_u=site().noise_u - 1000), "cost epsilon"),
    ],
)
def test_terms_that_contradict_the_unit_are_refused(make: Any, word: str) -> None:
    with pytest.raises(CharterError, match=word):
        make()


def test_only_what_is_about_a_site_says_so() -> None:
    whole, single = budget(site()).spend(1), budget(private()).spend(1)
    ended = PrivacyExhausted(1, 1, 1, 5, bytes(32), site=True)
    for record, told in ((whole, True), (single, False), (ended, True)):
        payload: Any = decode(payload_of(record), max_bytes=1 << 16)
        assert payload.get("si", False) == told
        assert parse_record(record.TYPE, payload_of(record)) == record
    spelled: Any = decode(payload_of(single), max_bytes=1 << 16) | {"si": False}
    with pytest.raises(Malformed, match="must be left out"):
        parse_record(single.TYPE, encode(spelled))


def test_each_unit_has_a_total_that_never_falls() -> None:
    told = [*story(), replace(spend(3, 100), site=True), spend(4, 950)]
    assert codes(told) == [], "a small total for the site after a large one for records is no refund"
    assert ("I10", 12) in codes([*told[:-1], replace(spend(4, 99), site=True)])
    assert ("I10", 12) in codes([*told[:-1], spend(4, 899)])


def test_a_claim_is_of_the_unit_of_its_spend() -> None:
    """The other way round is a drill, in test_privacy_drills.py."""
    honest = update(2, 8, 900)
    assert honest.privacy is not None
    whole = {8: replace(spend(2, 900), site=True), 9: replace(honest, privacy=replace(honest.privacy, site=True))}
    assert codes([whole.get(seq, each) for seq, each in enumerate(story())]) == []
    assert ("I10", 9) in codes([whole[9] if seq == 9 else each for seq, each in enumerate(story())])


# The peer.


def test_a_node_stops_at_the_cap_says_so_of_the_site_and_remembers() -> None:
    rules = {"privacy": site(rounds=6), "rounds": RoundSpec(6, 0, 0, "majority")}
    bench = Bench(own={"epsilon_cap_u": 4_000_000}, **rules)  # type: ignore[arg-type]
    bench.greet()
    for _ in range(8):
        for author in bench.authors:
            bench.receive(author, author.update().frame)
        bench.settle()
        bench.turn()
    records = bench.records()
    spends = [record for record in records if isinstance(record, PrivacySpend)]
    trained = [record for record in records if isinstance(record, UpdatePublished) and record.privacy is not None]
    assert 0 < len(spends) == len(trained) < 6
    assert all(each.site for each in spends)
    assert all(each.privacy is not None and each.privacy.site for each in trained)
    assert {each.steps for each in trained} == {bench.charter.training.local_steps}
    jobs = [job for job in bench.worker.done if isinstance(job, TrainJob) and job.train]
    assert {job.privacy.unit for job in jobs if job.privacy is not None} == {Unit.SITE}
    assert [record.site for record in records if isinstance(record, PrivacyExhausted)] == [True]
    shown = status(bench.node, bench.now)["privacy"]
    assert (shown["unit"], shown["releases"]) == ("site", len(spends))
    before = bench.node.budget.cumulative_u
    bench.restart()
    assert (bench.node.budget.cumulative_u, bench.node.budget.exhausted) == (before, True)
    assert not bench.node.budget.affords_next()


def test_a_federation_of_sites_publishes_one_release_a_round_in_ledgers_that_hold() -> None:
    world: World = build(
        Scenario(
            *(breast_cancer, Training(0.1, 0.0, 4, 16), 3, "breast-cancer"),
            rounds=3,
            epsilon=8.0,
            unit=Unit.SITE,
        )
    )
    for peer in world.peers:
        world.start(peer.index)
    world.run(60, stop=lambda: all(p.node is not None and p.node.rounds.finished for p in world.peers))
    for peer in world.peers:
        audit = Audit(peer.log_id)
        told = [audit.read(n, parse_header(e.header).type, e.payload) for n, e in enumerate(peer.disk.entries)]
        assert audit.findings == []
        spends = [record for record in told if isinstance(record, PrivacySpend)]
        claims = [record.privacy for record in told if isinstance(record, UpdatePublished) and record.steps]
        assert [each.cumulative_u for each in spends] == [budget(site(rounds=3)).cost(n) for n in (1, 2, 3)]
        assert [each is not None and (each.mechanism, each.site, each.steps) for each in claims] == [(3, True, 1)] * 3


def test_the_gate_of_a_site_asks_for_no_records() -> None:
    few, many = (feasibility(site(), MergeSpec("repute", 1_000_000), 650, n) for n in (10, 10_000))
    assert few is not None
    assert many is not None
    assert few.ratio == many.ratio == pytest.approx(4.24 * 650**0.5, rel=0.01)
    assert "with any number of records" in few.sentence()


# The command line.


@pytest.fixture(scope="module")
def cards(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    root = tmp_path_factory.mktemp("cards")
    return [make_home(root / name, f"Hospital {name.upper()}", "--no-input") for name in "ab"]


def test_a_charter_for_sites_is_drafted_shown_and_warned_of(cards: list[Path], tmp_path: Path) -> None:
    draft = tmp_path / "charter.note"
    words = ["--privacy-unit", "site", "--rounds", "10", "--epsilon", "4", "--local-steps", "7", "--out", draft]
    result = quidnunc("--json", "federation", "create", *cards, *words)
    terms = result.data["privacy"]
    assert (terms["mechanism"], terms["unit"], terms["clip"], terms["releases"]) == ("gaussian-delta", "site", 1.0, 10)
    assert epsilon_of(terms["noise_multiplier"], 10, 1e-5) <= 4 < epsilon_of(terms["noise_multiplier"] - 1e-3, 10, 1e-5)
    training = result.data["training"]
    assert (training["local_steps"], training["learning_rate"]) == (7, DEFAULTS["digits"].plain.learning_rate)
    (warning,) = [text for text in result.envelope["warnings"] if "largest delta that is released" in text]
    assert warning.startswith("every member: a round's noise is")
    shown = quidnunc("federation", "show", draft).out
    assert "epsilon 4 at delta 1e-05 for all training records of one member together (there or absent)" in shown
    assert "7 steps of 32 examples per round" in shown
    assert "one record" not in shown


def both(home: Path) -> tuple[Path, list[PrivacySpend]]:
    """A home that released three times for records, then twice for the site."""
    records = budget(private())
    wholes = budget(site(4.0), others=3, releases=3, history=((private().release, 3),))
    spends = [records.spend(n) for n in (1, 2, 3)] + [wholes.spend(n) for n in (4, 5)]
    return home_with(home, site(4.0), *spends), spends


def test_both_accounts_are_shown_and_neither_speaks_for_the_other(tmp_path: Path) -> None:
    home, spends = both(tmp_path / "a")
    data = quidnunc("--home", home, "--json", "budget", "show").data
    single, whole = data["datasets"]
    assert (single["privacy_unit"], single["unit"], single["releases"]) == ("example", "one record, add or remove", 3)
    assert (whole["privacy_unit"], whole["releases"], whole["releases_left"]) == ("site", 2, 48)
    assert single["epsilon"] == spends[2].cumulative_u / 1e6 == pytest.approx(single["epsilon_recomputed"], abs=1e-5)
    assert whole["epsilon"] == spends[4].cumulative_u / 1e6 == pytest.approx(whole["epsilon_recomputed"], abs=1e-5)
    assert single["releases_left"] is None, "the charter plans none for records"
    assert whole["epsilon_exchanged"] == pytest.approx(epsilon_of(site(4.0).noise_u / 2e6, 2, 1e-5), abs=1e-5)
    shown = quidnunc("--home", home, "budget", "show").out
    records, sites = shown[: shown.index("for all training")], shown[shown.index("for all training") :]
    assert "for one record of this peer's training data, add or remove" in records
    assert "not counted: 2 releases for the whole site that came since" in records
    assert "there or absent" in sites
    assert "one noised delta a round" in sites
    assert "full batch" not in sites
    assert "not counted: 3 releases under a promise for single records" in sites
    assert "neither stands for the other" in shown
    units = [row["unit"] for row in quidnunc("--home", home, "--json", "budget", "history").data["releases"]]
    assert units == ["example"] * 3 + ["site"] * 2
    assert quidnunc("--home", home, "budget", "history").out.count("for the whole site") == 3
    found = forecast(home, "--more", "3")
    assert (found["unit"], found["releases"], found["releases_left"]) == ("site", 2, 48)
    assert found["epsilon_after_more"] == pytest.approx(epsilon_of(site(4.0).noise_u / 1e6, 5, 1e-5), abs=2e-6)


def test_the_script_without_the_program_finds_both_accounts(tmp_path: Path) -> None:
    records = budget(private())
    history = (private().release, 2), (site().release, 1)
    mixed = budget(private(), history=history, releases=3, others=1)
    spends = [
        records.spend(1),
        records.spend(2),
        budget(site(), releases=2, others=2, history=history[:1]).spend(3),
        mixed.spend(4),
    ]
    code, text = recomputed(tmp_path / "a", spends)
    assert code == 0, text
    single, whole = text.splitlines()
    assert f"3 releases, epsilon {spends[3].cumulative_u / 1e6:.4f} claimed" in single
    assert f"1 releases for the whole site, epsilon {spends[2].cumulative_u / 1e6:.4f} claimed" in whole
    code, text = recomputed(tmp_path / "b", [*spends[:3], replace(spends[3], cumulative_u=records.cost(3))])
    assert (code, "UNDERSTATED" in text) == (30, True), "a record was in the release for the site as well"
    shown = quidnunc("--home", tmp_path / "b", "--json", "budget", "show")
    assert (shown.code, "its releases cost" in shown.envelope["error"]["message"]) == (30, True)


@pytest.mark.parametrize("words", [("federation", "create", "a.card", "b.card"), ("demo",)], ids=["create", "demo"])
@pytest.mark.parametrize(
    ("flags", "why"),
    [
        (("--sampling-rate", "0.2"), "does not go with --privacy-unit site"),
        (("--epsilon", "inf"), "--privacy-unit site without privacy"),
    ],
)
def test_what_contradicts_the_unit_is_refused_with_the_reason(
    words: tuple[str, ...], flags: tuple[str, ...], why: str, cards: list[Path]
) -> None:
    named = [str(cards[0]) if word == "a.card" else str(cards[1]) if word == "b.card" else word for word in words]
    result = quidnunc("--json", *named, "--privacy-unit", "site", *flags)
    assert (result.code, why in json.dumps(result.envelope["error"])) == (2, True), result.envelope
    assert quidnunc("--json", *named, "--privacy-unit", "patient").code == 2


def test_the_demo_says_whom_its_epsilon_protects() -> None:
    rows: list[dict[str, Any]] = [{"ledger_verified": True, "ended": None, "attacker": False, "accuracy": None}]
    said = {unit: str(verdict_lines(rows, 0.9, 0.8, 8.0, unit.label)) for unit in Unit}
    assert "each record is (8, 1e-05)" in said[Unit.EXAMPLE]
    assert "each peer's training data are (8, 1e-05)" in said[Unit.SITE]
    assert "record is" not in said[Unit.SITE]
    assert "towards everybody" not in said[Unit.SUM]
    assert "the few curious peers of a private sum" in said[Unit.SUM]
