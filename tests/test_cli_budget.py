"""``budget forecast`` and ``budget history``: what remains, what more would cost, and what each release did."""

from __future__ import annotations

import sqlite3
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cli_helpers import make_home, quidnunc
from founders import charter, private
from test_cli_ledger import DATASET, NOISE_U, Scribe, published, spend

from quidnunc.gossip.federation.charter import PrivacySpec, RoundSpec
from quidnunc.gossip.federation.founding import draft_note
from quidnunc.gossip.learning.accountant import combined_noise, epsilon_of, epsilon_of_total
from quidnunc.gossip.learning.sampled import costs, epsilon_sampled
from quidnunc.gossip.provenance import PrivacyClaim, PrivacyExhausted, PrivacySpend, Record
from quidnunc.peer.commands.budget_forecast import pace_ms
from quidnunc.peer.config_text import with_values
from quidnunc.peer.home import Home

SAMPLED = PrivacySpec("dp-sgd-poisson", 8_000_000, 5, 1_000_000, 2_000_000, 10, 50_000, 4)
FULL = replace(private(8.0, 49), noise_u=NOISE_U)


def home_with(path: Path, privacy: PrivacySpec, *records: Record) -> Path:
    make_home(path, "A")
    rounds = RoundSpec(privacy.releases, 1000, 2, "majority")
    (path / "charter.note").write_bytes(draft_note(charter(3, privacy=privacy, rounds=rounds)))
    if records:
        Scribe(Home.at(path)).write(*records)
    return path


def forecast(home: Path, *words: str) -> dict[str, Any]:
    found: dict[str, Any] = quidnunc("--home", home, "--json", "budget", "forecast", *words).data
    return found


def capped(home: Path, epsilon: float) -> None:
    config = Home.at(home).config
    config.write_text(with_values(config.read_text(), {"privacy.epsilon_cap": epsilon}))


def test_what_remains_is_what_the_daemon_would_still_train(tmp_path: Path) -> None:
    home = home_with(tmp_path / "a", FULL, spend(1), spend(2), spend(3))
    found = forecast(home, "--more", "7")
    assert (found["releases_left"], found["releases_planned"], found["releases_affordable"]) == (46, 46, 46)
    assert found["epsilon_after_more"] == pytest.approx(epsilon_of(NOISE_U / 1e6, 10, 1e-5), abs=2e-6)
    assert (found["pace_s"], found["more_fits"], found["exhausted"]) == (1.0, True, False)
    assert found["ends"] > found["last_release"]
    shown = quidnunc("--home", home, "budget", "forecast", "--more", "48").out
    assert "46 more releases, then the charter's plan is reached" in shown
    assert "after 48 more: epsilon 8.0" in shown
    assert "which the cap forbids" in shown


def test_an_own_cap_is_reached_first(tmp_path: Path) -> None:
    home = home_with(tmp_path / "a", FULL, spend(1))
    capped(home, 2.0)
    found = forecast(home)
    left = found["releases_left"]
    assert left == found["releases_affordable"] < found["releases_planned"]
    assert epsilon_of(NOISE_U / 1e6, 1 + left, 1e-5) <= 2.0 < epsilon_of(NOISE_U / 1e6, 2 + left, 1e-5)
    assert "then the cap is reached" in quidnunc("--home", home, "budget", "forecast").out


def test_samples_are_forecast_by_their_accountant(tmp_path: Path) -> None:
    table, _ = costs((), SAMPLED.release, 2, 5)
    kind = {"noise_u": SAMPLED.noise_u, "rate_ppm": SAMPLED.rate_ppm, "steps": SAMPLED.steps}
    made = [replace(spend(n), cumulative_u=cost, **kind) for n, cost in table]
    found = forecast(home_with(tmp_path / "a", SAMPLED, *made), "--more", "12")
    assert (found["releases_planned"], found["releases_left"]) == (8, 8)
    whole = epsilon_sampled(((SAMPLED.release, 14),), 1e-5)
    assert whole - 1e-3 <= found["epsilon_after_more"] <= whole + 0.01


def test_two_charters_in_one_home_are_one_account(tmp_path: Path) -> None:
    """Whatever the first cost stays spent under the second, by another noise."""
    other = replace(FULL, noise_u=2 * NOISE_U, releases=60)
    home = home_with(tmp_path / "a", other, *(spend(n) for n in range(1, 11)))
    both = epsilon_of_total(combined_noise([NOISE_U / 1e6] * 10 + [2 * NOISE_U / 1e6] * 5), 1e-5)
    assert forecast(home, "--more", "5")["epsilon_after_more"] == pytest.approx(both, abs=2e-6)


def test_a_version_of_the_data_does_not_start_from_zero(tmp_path: Path) -> None:
    """Regression: budget show recomputed each data set by itself, so that a second one could claim too little."""
    grown = replace(spend(2), dataset=b"e" * 32, cumulative_u=spend(1).cumulative_u)
    result = quidnunc("--home", home_with(tmp_path / "a", FULL, spend(1), grown), "--json", "budget", "show")
    assert result.code == 30
    assert "its releases cost" in result.envelope["error"]["message"]


def test_nothing_is_left_of_an_exhausted_budget(tmp_path: Path) -> None:
    cap = PrivacyExhausted(2, spend(1).cumulative_u, 8_000_000, 5, DATASET)
    home = home_with(tmp_path / "a", FULL, spend(1), cap)
    found = forecast(home)
    assert (found["releases_left"], found["exhausted"], found["ends"]) == (0, True, None)
    assert "exhausted" in quidnunc("--home", home, "budget", "forecast").out


def test_before_the_first_release_and_without_privacy(tmp_path: Path) -> None:
    home = home_with(tmp_path / "a", FULL)
    found = forecast(home)
    assert (found["epsilon"], found["releases_left"], found["pace_s"], found["ends"]) == (0.0, 49, None, None)
    assert "nothing has been released yet" in quidnunc("--home", home, "budget", "history").out
    (home / "charter.note").write_bytes(draft_note(charter(3, privacy=PrivacySpec("none"))))
    assert forecast(home)["releases_left"] is None


@pytest.mark.parametrize("words", [["forecast", "--more=0"], ["forecast", "--more=10001"], ["history", "-n=-1"]])
def test_numbers_out_of_range_are_refused(tmp_path: Path, words: list[str]) -> None:
    result = quidnunc("--home", home_with(tmp_path / "a", FULL), "--json", "budget", *words)
    assert (result.code, result.envelope["error"]["id"]) == (2, "usage_error")


def test_the_pace_is_that_of_the_newest_releases() -> None:
    assert pace_ms([]) is None
    assert pace_ms([5]) is None
    assert pace_ms([0, 10, 1_000, 1_010]) == 10
    slow = [0, 1_000_000]
    assert pace_ms(slow + [1_000_000 + 7 * n for n in range(1, 21)]) == 7


def test_history_has_every_release_and_which_of_them_left(tmp_path: Path) -> None:
    def paid(number: int, spent: PrivacySpend, seq: int) -> Record:
        claim = PrivacyClaim(
            1, 1, 1_000_000, NOISE_U, 1_000_000, 1, 5, spent.epsilon_u, spent.cumulative_u, "analytic-gaussian/1", seq
        )
        return replace(published(number), privacy=claim)

    lost, grown = spend(2), replace(spend(3), dataset=b"e" * 32)
    home = home_with(tmp_path / "a", FULL, spend(1), paid(1, spend(1), 0), lost, grown, paid(2, grown, 3))
    data = quidnunc("--home", home, "--json", "budget", "history").data
    rows = data["releases"]
    assert [(row["entry"], row["release"], row["update"]) for row in rows] == [(0, 1, 1), (2, 2, None), (3, 3, 2)]
    assert [row["epsilon"] for row in rows] == sorted(row["epsilon"] for row in rows)
    each = [(one["dataset"], one["releases"], one["published"]) for one in data["datasets"]]
    assert each == [(DATASET.hex(), 2, 1), ("65" * 32, 1, 1)]
    newest = quidnunc("--home", home, "--json", "budget", "history", "-n", "1").data
    assert ([row["entry"] for row in newest["releases"]], newest["total"]) == ([3], 3)
    shown = quidnunc("--home", home, "budget", "history").out
    assert "spent, never published" in shown
    elsewhere = quidnunc("--home", tmp_path / "none", "--json", "budget", "history", "--ledger", home)
    assert len(elsewhere.data["releases"]) == 3


def test_a_ceiling_that_came_after_the_last_claim_is_told(tmp_path: Path) -> None:
    """Found by hand: a spent account said of how much by the cap of its last claim alone."""
    home = home_with(tmp_path / "a", FULL, spend(1), spend(2))
    assert "own ceiling" not in quidnunc("--home", home, "budget", "show").out
    capped(home, 1.5)
    assert "this site's own ceiling is epsilon 1.5 now" in quidnunc("--home", home, "budget", "show").out
    assert quidnunc("--home", home, "--json", "budget", "show").data["ceiling"] == 1.5


def test_noise_that_hides_nothing_is_told_in_json_too(tmp_path: Path) -> None:
    """Regression: an epsilon without bound ended ``--json budget show`` as a bug."""
    home = home_with(tmp_path / "a", FULL, replace(spend(1), noise_u=1))
    shown = quidnunc("--home", home, "--json", "budget", "show")
    assert shown.code == 30
    assert shown.envelope["data"]["datasets"][0]["epsilon_recomputed"] is None
    assert "cost inf" in shown.envelope["error"]["message"]


DAMAGE = {
    "a spend that does not parse": (
        "UPDATE entry SET payload = x'81c1' WHERE seq = 1",
        "ledger entry 1: a spend does not parse",
    ),
    "a spend with more noise than was committed to": (
        "UPDATE entry SET payload = (SELECT payload FROM entry WHERE seq = 0) WHERE seq = 1",
        "ledger entry 1: a spend that is not what its header commits to",
    ),
    "an entry of another type": (
        "UPDATE entry SET type = 24 WHERE seq = 3",
        "ledger entry 3: a spend that is not what",
    ),
    "a spend under another type": (
        "UPDATE entry SET type = 9 WHERE seq = 1",
        "release 3 stands where release 2 is due",
    ),
    "a row taken out": ("DELETE FROM entry WHERE seq = 1", "1 of its 4 entries are missing"),
}


@pytest.mark.parametrize("words", [("show",), ("forecast",), ("history",)], ids=lambda words: words[0])
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_account_is_refused_and_not_shown_smaller(
    tmp_path: Path, damage: str, words: tuple[str, ...]
) -> None:
    """Regression: a spend that did not parse was left out of the sum, and what was left was shown with exit 0."""
    home = home_with(tmp_path / "a", FULL, spend(1), spend(2), spend(3), published(1))
    change, told = DAMAGE[damage]
    with sqlite3.connect(Home.at(home).ledger) as db:
        db.execute(change)
    done = quidnunc("--home", home, "budget", *words)
    assert done.code == 65, done.out
    assert told in done.err
    assert "epsilon" not in done.out


def test_the_data_set_released_last_stands_last_with_the_total(tmp_path: Path) -> None:
    """Regression: by first release, the total stood first where a peer came back to earlier data."""
    other = b"o" * 32
    home = home_with(tmp_path / "a", FULL, spend(1), replace(spend(2), dataset=other), spend(3))
    found = quidnunc("--home", home, "--json", "budget", "show").data["datasets"]
    assert [each["dataset"] for each in found] == [other.hex(), DATASET.hex()]
    assert found[-1]["epsilon"] == max(each["epsilon"] for each in found)


def test_rows_of_one_person_share_the_noise_as_the_guide_says() -> None:
    noise = 4.244257
    assert epsilon_of(noise / 2, 50, 1e-5) == pytest.approx(19.1, abs=0.05)
    assert epsilon_of(8 * noise, 50, 1e-5) == pytest.approx(0.76, abs=0.005)
    assert epsilon_of(8 * noise / 2, 50, 1e-5) == pytest.approx(1.63, abs=0.005)
