"""The cost of Poisson-sampled releases: against Opacus's accountants, full batches, and its own laws."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from quidnunc.crypto.errors import ConfigError
from quidnunc.gossip.jobs import Release
from quidnunc.gossip.learning.accountant import epsilon_of
from quidnunc.gossip.learning.sampled import (
    EXACT_POINTS,
    FURTHER_POINTS,
    MIN_NOISE_U,
    NEVER_U,
    costs,
    epsilon_sampled,
    noise_for_sampled,
    renyi_epsilon,
    table_points,
)

VECTORS = json.loads((Path(__file__).parent / "vectors" / "sampled.json").read_text())
STEP = Release(2_000_000, 100_000)


@pytest.mark.parametrize("row", VECTORS["rows"], ids=lambda row: f"{row['noise']}-{row['rate']}")
def test_three_accountants_agree_and_the_clt_understates(row: dict[str, float]) -> None:
    spent = ((Release(round(row["noise"] * 1e6), round(row["rate"] * 1e6)), int(row["steps"])),)
    ours = epsilon_sampled(spent, row["delta"])
    assert abs(ours - row["prv"]) <= 0.1
    renyi = renyi_epsilon(spent, row["delta"])
    assert ours <= renyi == pytest.approx(row["rdp"], rel=0.05)
    assert row["gdp"] < ours, "why the GDP number is never reported"


@pytest.mark.parametrize(("epsilon", "noise"), [(8.0, 4.24), (2.0, 14.1), (1.0, 26.4)])
def test_at_rate_one_it_is_the_full_batch_accountant(epsilon: float, noise: float) -> None:
    release = Release(round(noise * 1e6))
    numerical, exact = epsilon_sampled(((release, 50),), 1e-5), epsilon_of(noise, 50, 1e-5)
    assert exact - 1e-6 <= numerical <= exact + 0.03
    assert numerical == pytest.approx(epsilon, rel=0.02)


def test_a_sample_costs_less_than_a_full_batch_and_steps_are_releases() -> None:
    assert epsilon_sampled(((STEP, 20),), 1e-5) < epsilon_of(2.0, 20, 1e-5) / 2
    one = epsilon_sampled(((STEP._replace(steps=5), 4),), 1e-5)
    assert one == pytest.approx(epsilon_sampled(((STEP, 20),), 1e-5), abs=1e-3)
    assert epsilon_sampled((), 1e-5) == epsilon_sampled(((STEP, 0),), 1e-5) == 0.0


def test_a_table_adds_up_with_the_history_and_never_understates() -> None:
    history = ((Release(8_000_000), 10), (Release(1_500_000, 50_000, 2), 5))
    points, alone_u = costs(history, STEP, 4, 5)
    assert [number for number, _ in points] == [1, 2, 3, 4]
    for number, cost_u in points:
        assert cost_u >= epsilon_sampled((*history, (STEP, number)), 1e-5) * 1e6 - 2_000
        assert cost_u >= epsilon_of(8.0, 10, 1e-5) * 1e6, "the full batches alone"
    assert [cost for _, cost in points] == sorted(cost for _, cost in points)
    fresh, fresh_alone_u = costs((), STEP, 4, 5)
    assert fresh[-1][1] == fresh_alone_u == pytest.approx(alone_u, abs=10)
    assert points[0][1] > fresh[0][1]


def test_noise_too_small_to_count_costs_everything() -> None:
    points, _ = costs(((Release(MIN_NOISE_U - 1), 1),), STEP, 3, 5)
    assert points == ((3, NEVER_U),)
    with pytest.raises(ConfigError, match="cannot account"):
        costs((), Release(MIN_NOISE_U - 1, 100_000), 3, 5)


@pytest.mark.parametrize("releases", [1, EXACT_POINTS, EXACT_POINTS + 1, 1000, 1_000_000])
def test_tables_are_short_ascending_and_reach_the_end(releases: int) -> None:
    points = table_points(releases)
    assert list(points) == sorted(set(points))
    assert points[:EXACT_POINTS] == tuple(range(1, min(releases, EXACT_POINTS) + 1))
    assert points[-1] == releases
    assert len(points) <= EXACT_POINTS + FURTHER_POINTS


def test_calibrated_noise_suffices_and_a_little_less_does_not() -> None:
    noise_u = noise_for_sampled(2.0, 100_000, 2, 2, 5)
    assert epsilon_sampled(((Release(noise_u, 100_000, 2), 2),), 1e-5) <= 2.0
    assert epsilon_sampled(((Release(round(noise_u * 0.999), 100_000, 2), 2),), 1e-5) > 2.0
