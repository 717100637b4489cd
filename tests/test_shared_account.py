"""Homes that train on the same records count each other's spends, and never run side by side."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from cli_helpers import make_home, quidnunc
from founders import charter, private
from node_helpers import Bench
from test_cli_budget import FULL, SAMPLED, forecast, home_with
from test_cli_ledger import NOISE_U, Scribe, spend

from quidnunc.crypto.errors import ConfigError
from quidnunc.gossip.federation.charter import RoundSpec
from quidnunc.gossip.jobs import Release, Spent
from quidnunc.gossip.learning.accountant import combined_noise, epsilon_of_total
from quidnunc.gossip.provenance import CharterAdopt, PrivacyExhausted, PrivacySpend
from quidnunc.gossip.rebuild import account_job
from quidnunc.gossip.resume import Resume
from quidnunc.peer.config import load
from quidnunc.peer.config_text import with_values
from quidnunc.peer.home import Home
from quidnunc.peer.shared_account import spent_elsewhere

KIND = Release(NOISE_U)


def names(home: Path, *others: Path) -> None:
    config = Home.at(home).config
    listed = [str(each) for each in others]
    config.write_text(with_values(config.read_text(), {"privacy.shared_homes": listed}))


def elsewhere(home: Path) -> Spent:
    return spent_elsewhere(Home.at(home), load(Home.at(home).config))


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """Two homes that name each other; the second one has spent three releases."""
    first, second = home_with(tmp_path / "a", FULL, spend(1)), tmp_path / "b"
    make_home(second, "B")
    Scribe(Home.at(second)).write(*(spend(n) for n in range(1, 4)))
    names(first, second)
    names(second, first)
    return first, second


def test_the_others_spends_are_counted_and_cut_the_own_budget(pair: tuple[Path, Path]) -> None:
    first, second = pair
    assert (elsewhere(first), elsewhere(second)) == (((KIND, 3),), ((KIND, 1),))
    found = forecast(first, "--more", "6")
    whole = epsilon_of_total(combined_noise([NOISE_U / 1e6] * 10), 1e-5)
    assert found["epsilon_after_more"] == pytest.approx(whole, abs=2e-6)
    assert (found["releases_planned"], found["releases_affordable"]) == (48, 45)


def test_by_itself_a_home_counts_nobody_else(tmp_path: Path) -> None:
    assert elsewhere(home_with(tmp_path / "a", FULL, spend(1))) == ()


def test_what_cannot_be_counted_is_refused(pair: tuple[Path, Path], tmp_path: Path) -> None:
    first, second = pair
    for others, why in (
        ((tmp_path / "gone",), "no home with a ledger"),
        ((second, second), "stands there twice"),
        ((first,), "is this home"),
    ):
        names(first, *others)
        with pytest.raises(ConfigError, match=why):
            elsewhere(first)
    names(first, second)
    names(second)
    with pytest.raises(ConfigError, match=r"does not name .* in turn") as caught:
        elsewhere(first)
    assert "privacy.shared_homes" in caught.value.hint


@pytest.fixture
def chain(pair: tuple[Path, Path], tmp_path: Path) -> tuple[Path, Path, Path]:
    """Three homes on the same records, of which the first and the last do not name each other; the last spent five."""
    first, second = pair
    third = tmp_path / "c"
    make_home(third, "C")
    Scribe(Home.at(third)).write(*(spend(n) for n in range(1, 6)))
    names(second, first, third)
    names(third, second)
    return first, second, third


def test_a_home_that_a_named_one_names_counts_too(chain: tuple[Path, Path, Path]) -> None:
    """Regression: of three homes in a row the outer two counted nothing of each other, and could run side by side."""
    first, second, third = chain
    assert [elsewhere(each) for each in chain] == [((KIND, 8),), ((KIND, 6),), ((KIND, 4),)]
    with Home.at(third).lock(), pytest.raises(ConfigError, match=rf"runs {third} on the same records"):
        elsewhere(first)
    names(first, second, third)
    names(third, second, first)
    assert [elsewhere(each) for each in chain] == [((KIND, 8),), ((KIND, 6),), ((KIND, 4),)], "each counts once"


def test_a_break_further_on_is_told_with_the_two_homes_it_lies_between(chain: tuple[Path, Path, Path]) -> None:
    first, second, third = chain
    names(third)
    with pytest.raises(ConfigError, match=rf"{third} does not name {second} in turn") as caught:
        elsewhere(first)
    assert caught.value.hint == f"add {second} to privacy.shared_homes in {third / 'config.toml'}"
    names(third, second, second)
    with pytest.raises(ConfigError, match=rf"privacy.shared_homes of {third / 'config.toml'}: .* stands there twice"):
        elsewhere(first)


def test_they_do_not_run_side_by_side(pair: tuple[Path, Path]) -> None:
    first, second = pair
    with Home.at(second).lock():
        with pytest.raises(ConfigError, match=rf"process {os.getpid()} runs {second}"):
            elsewhere(first)
        assert forecast(first)["releases_left"] == 45, "looking is allowed"
    assert elsewhere(first) == ((KIND, 3),)


def test_a_node_stops_where_both_together_reach_the_cap() -> None:
    """Nine of ten releases were made elsewhere: this peer trains once, then listens."""
    privacy = private(8.0, 10)
    own = {"elsewhere": ((privacy.release, 9),)}
    bench = Bench(privacy=privacy, rounds=RoundSpec(10, 0, 0, "majority"), own=own)
    bench.greet()
    for _ in range(4):
        for author in bench.authors:
            bench.receive(author, author.update().frame)
        bench.settle()
        bench.turn()
    spends = [record for record in bench.records() if isinstance(record, PrivacySpend)]
    assert [each.release for each in spends] == [1]
    assert 7_900_000 < spends[0].cumulative_u <= 8_000_000
    assert [type(record) for record in bench.records()].count(PrivacyExhausted) == 1


def test_samples_are_accounted_on_top_of_both() -> None:
    resume = Resume(spent={KIND: 2})
    job = account_job(charter(3, privacy=SAMPLED, rounds=RoundSpec(10, 0, 0, "majority")), resume, ((KIND, 3),))
    assert job is not None
    assert job.history == ((KIND, 5),)
    # Also where only the other home has sampled: the exact accountant of full batches could not add that up.
    assert account_job(charter(3), Resume(), ((SAMPLED.release, 1),)) is not None


def test_the_statement_counts_what_other_homes_spent_since(pair: tuple[Path, Path]) -> None:
    """The newest claim of a ledger was true when it was made; another home on the same records went on spending."""
    first, second = pair
    whole = epsilon_of_total(combined_noise([NOISE_U / 1e6] * 4), 1e-5)
    shown = quidnunc("--home", first, "budget", "show")
    assert (
        f"with 3 releases of other homes on the same records (privacy.shared_homes): epsilon {whole:.4f}" in shown.out
    )
    found = quidnunc("--home", first, "--json", "budget", "show").data
    assert found["releases_elsewhere"] == 3
    assert found["datasets"][0]["epsilon_with_other_homes"] == pytest.approx(whole, abs=2e-6)
    told = forecast(first)
    assert told["epsilon"] == pytest.approx(whole, abs=2e-6)
    assert told["releases_elsewhere"] == 3
    names(second)
    shown = quidnunc("--home", first, "budget", "show")
    assert "of other homes" not in shown.out
    assert "what other homes spent of these records is not counted here" in shown.err


def test_before_its_first_release_a_home_tells_what_others_spent(pair: tuple[Path, Path], tmp_path: Path) -> None:
    _, second = pair
    third = home_with(tmp_path / "c", FULL, CharterAdopt(b"c" * 32, 0, (b"o" * 32,), 1, b"g" * 32))
    names(third, second)
    names(second, third)
    shown = quidnunc("--home", third, "budget", "show").out
    assert "there are 3 releases of other homes on the same records" in shown
    assert forecast(third)["epsilon"] == pytest.approx(
        epsilon_of_total(combined_noise([NOISE_U / 1e6] * 3), 1e-5), abs=2e-6
    )
