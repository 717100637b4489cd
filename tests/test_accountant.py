"""The accountant against frozen dp-accounting values, published multipliers and its own monotonicity."""

from __future__ import annotations

import json
from math import inf, isclose
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quidnunc.crypto.errors import ConfigError
from quidnunc.gossip.learning.accountant import combined_noise, delta_of, epsilon_of, epsilon_of_total, noise_for

VECTORS = json.loads((Path(__file__).parent / "vectors" / "accountant.json").read_text())


@pytest.mark.parametrize("row", VECTORS["single"])
def test_delta_equals_dp_accounting(row: dict[str, float]) -> None:
    # dp-accounting subtracts two tails, so it loses digits where delta is below about 1e-14.
    assert isclose(delta_of(row["epsilon"], row["sigma"]), row["delta"], rel_tol=1e-9, abs_tol=1e-15)


@pytest.mark.parametrize("row", VECTORS["composed"])
def test_epsilon_of_composed_releases_equals_dp_accounting(row: dict[str, float]) -> None:
    ours = epsilon_of(row["noise"], int(row["releases"]), row["delta"])
    # The numerical accountant is an upper bound, by its discretization only.
    assert ours - 1e-6 <= row["epsilon"] <= ours + 0.02 + 0.002 * ours


@pytest.mark.parametrize(("epsilon", "noise"), [(8.0, 4.24), (4.0, 7.64), (2.0, 14.1), (1.0, 26.4), (0.5, 49.7)])
def test_published_multipliers_for_50_releases(epsilon: float, noise: float) -> None:
    assert noise_for(epsilon, 50, 1e-5) == pytest.approx(noise, rel=0.01)


@settings(deadline=None, max_examples=100)
@given(st.floats(0.05, 20), st.integers(1, 5000), st.floats(1e-14, 0.1), st.floats(1.001, 3), st.integers(1, 5000))
def test_more_noise_costs_less_and_more_releases_cost_more(
    noise: float, releases: int, delta: float, factor: float, more: int
) -> None:
    cost = epsilon_of(noise, releases, delta)
    assert epsilon_of(noise * factor, releases, delta) <= cost
    assert epsilon_of(noise, releases + more, delta) >= cost


@settings(deadline=None, max_examples=100)
@given(st.floats(0.01, 50), st.integers(1, 1000), st.floats(1e-12, 0.01))
def test_noise_for_is_enough_and_not_more(epsilon: float, releases: int, delta: float) -> None:
    noise = noise_for(epsilon, releases, delta)
    assert epsilon_of(noise, releases, delta) <= epsilon
    assert epsilon_of(noise * 0.999, releases, delta) > epsilon


def test_tiny_deltas_keep_their_digits() -> None:
    # Q(a) - e^eps Q(b) at sigma 1, epsilon 30, evaluated to 400 digits.
    assert delta_of(30.0, 1.0) == pytest.approx(4.709326318097522e-193, rel=1e-9, abs=0)
    assert delta_of(1e6, 1.0) == 0.0
    assert 0 < epsilon_of(4.24, 50, 1e-300) < 1e3


def test_edges() -> None:
    assert epsilon_of(1.0, 0, 1e-5) == 0.0
    assert epsilon_of(0.0, 1, 1e-5) == inf
    assert epsilon_of_total(inf, 1e-5) == 0.0
    assert noise_for(inf, 5, 1e-5) == 0.0
    assert delta_of(1.0, 0.0) == 1.0
    assert delta_of(0.0, 1e9) < 1e-9


def test_different_multipliers_combine_like_equal_ones() -> None:
    assert combined_noise([4.24] * 50) == pytest.approx(4.24 / 50**0.5)
    assert combined_noise([]) == inf
    assert combined_noise([1.0, 0.0]) == 0.0
    assert epsilon_of_total(combined_noise([2.0, 3.0]), 1e-5) > epsilon_of(3.0, 2, 1e-5)


@pytest.mark.parametrize("delta", [0.0, 1.0, -1.0, float("nan")])
def test_a_delta_out_of_range_is_refused(delta: float) -> None:
    with pytest.raises(ConfigError, match="privacy delta"):
        epsilon_of(1.0, 1, delta)
