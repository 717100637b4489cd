"""Every rule of the catalogue against a naive version: even and odd k, ties, weights, batches."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import pytest

from quidnunc.crypto.errors import ConfigError, Reason
from quidnunc.gossip.rules import blocks, central, coordinate, decentral, network
from quidnunc.gossip.rules.gram import RefusedRows, combine
from quidnunc.gossip.rules.registry import RULES, apply, checked_options

OPTIONS: dict[str, dict[str, float]] = {
    "mean": {},
    "median": {},
    "trimmed_mean": {"bad": 2},
    "mass_trimmed_mean": {"mass": 0.2},
    "geometric_median": {"steps": 5, "floor": 0.1},
    "krum": {"bad": 2},
    "multi_krum": {"bad": 2},
    "centered_clip": {"radius": 3.0, "steps": 3},
    "clipped_gossip": {"bad": 2},
    "cs_plus": {"bad": 2},
    "monna": {"bad": 2},
    "rtc": {"mass": 0.25},
    "ios": {"bad": 2},
    "balance": {"gate": 1.4, "t": 0.25},
}


def dist(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.linalg.norm(x - y, axis=-1)


def naive_trim(x: np.ndarray, w: np.ndarray) -> np.ndarray:
    return np.sort(x, axis=0)[2:-2].mean(axis=0)


def naive_mass(x: np.ndarray, w: np.ndarray) -> np.ndarray:
    grid = (np.arange(60_000) + 0.5) / 60_000 * 0.6 + 0.2
    return np.array([c[o][np.searchsorted(np.cumsum(w[o]), grid)].mean() for c in x.T for o in [np.argsort(c)]])


def naive_geometric(x: np.ndarray, w: np.ndarray) -> np.ndarray:
    z = x[0]
    for _ in range(5):
        b = w / np.maximum(0.1, dist(x, z))
        z = b @ x / b.sum()
    return z


def scores(x: np.ndarray) -> list[float]:
    return [np.sort(dist(x, row) ** 2)[1 : len(x) - 3].sum() for row in x]


def naive_multi(x: np.ndarray, w: np.ndarray) -> np.ndarray:
    best = np.argsort(scores(x))[: len(x) - 2]
    return np.average(x[best], axis=0, weights=w[best])


def naive_clip(x: np.ndarray, w: np.ndarray) -> np.ndarray:
    v = x[0]
    for _ in range(3):
        v = v + (w * np.minimum(1, 3 / np.maximum(dist(x, v), 1e-9))) @ (x - v)
    return v


def gossip(x: np.ndarray, w: np.ndarray, tau: float) -> np.ndarray:
    return x[0] + (w * np.minimum(1, tau / np.maximum(dist(x, x[0]), 1e-9))) @ (x - x[0])


def naive_clipped_gossip(x: np.ndarray, w: np.ndarray) -> np.ndarray:
    near = np.argsort(dist(x, x[0]))[:-2]
    return gossip(x, w, np.sqrt((w[near] * dist(x, x[0])[near] ** 2).sum() / np.sort(w[1:])[-2:].sum()))


def naive_cs(x: np.ndarray, w: np.ndarray) -> np.ndarray:
    d, allowed = dist(x, x[0]), 2 * np.sort(w[1:])[-2:].sum() + 1e-12
    return gossip(x, w, min(tau for tau in d if w[d > tau].sum() <= allowed))


def naive_monna(x: np.ndarray, w: np.ndarray) -> np.ndarray:
    near = np.argsort(dist(x, x[0]))[: len(x) - 2]
    return np.average(x[near], axis=0, weights=w[near])


def naive_rtc(x: np.ndarray, w: np.ndarray) -> np.ndarray:
    order = list(np.argsort(-dist(x, x[0])))
    dropped: list[int] = []
    for j in order:
        if w[[*dropped, j]].sum() > 0.25 + 1e-12:
            break
        dropped.append(j)
    left = w.copy()
    left[dropped] = 0
    return gossip(x, left, np.sqrt((left * dist(x, x[0]) ** 2).sum() / 0.25))


def naive_ios(x: np.ndarray, w: np.ndarray) -> np.ndarray:
    kept = list(range(len(x)))
    for _ in range(2):
        kept.remove(max(kept[1:], key=lambda j: dist(x[j], np.average(x[kept], axis=0, weights=w[kept]))))
    return np.average(x[kept], axis=0, weights=w[kept])


def naive_balance(x: np.ndarray, w: np.ndarray) -> np.ndarray:
    near = [j for j in range(1, len(x)) if dist(x[j], x[0]) <= 1.4 * np.exp(-0.25) * np.linalg.norm(x[0])]
    return 0.5 * x[0] + 0.5 * np.average(x[near], axis=0, weights=w[near]) if near else x[0]


NAIVE: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "mean": lambda x, w: w @ x,
    "median": lambda x, w: np.median(x, axis=0),
    "trimmed_mean": naive_trim,
    "mass_trimmed_mean": naive_mass,
    "geometric_median": naive_geometric,
    "krum": lambda x, w: x[int(np.argmin(scores(x)))],
    "multi_krum": naive_multi,
    "centered_clip": naive_clip,
    "clipped_gossip": naive_clipped_gossip,
    "cs_plus": naive_cs,
    "monna": naive_monna,
    "rtc": naive_rtc,
    "ios": naive_ios,
    "balance": naive_balance,
}


def some_stack(k: int, seed: int, d: int = 30) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.Generator(np.random.PCG64(seed))
    stack = generator.normal(size=(k, d)) * generator.uniform(0.5, 2, size=(k, 1))
    weights = generator.uniform(0.5, 1.5, size=k)
    return stack.astype(np.float32), weights / weights.sum()


def test_every_rule_is_tried() -> None:
    assert set(NAIVE) == set(OPTIONS) == set(RULES)


@pytest.mark.parametrize("k", [7, 8, 13])
@pytest.mark.parametrize("name", RULES)
def test_a_rule_is_its_naive_version(name: str, k: int) -> None:
    for seed in range(3):
        stack, weights = some_stack(k, seed)
        expected = NAIVE[name](stack.astype(np.float64), weights)
        tolerance = 3e-4 if name == "mass_trimmed_mean" else 3e-6
        np.testing.assert_allclose(apply(name, stack, weights, OPTIONS[name]), expected, atol=tolerance)


@pytest.mark.parametrize("name", sorted(set(RULES) - {"balance"}))
def test_mixing_goes_in_front_of_any_rule(name: str) -> None:
    """Weights are equal because mixed rows often are, and which of two equal rows is dropped must not matter."""
    stack, _ = some_stack(9, 4)
    weights = np.full(9, 1 / 9)
    wide = stack.astype(np.float64)
    mixed = np.stack([wide[np.argsort(dist(wide, row))[:7]].mean(axis=0) for row in wide])
    result = apply(name, stack, weights, {**OPTIONS[name], "nearest": 2})
    tolerance = 3e-4 if name == "mass_trimmed_mean" else 3e-6
    np.testing.assert_allclose(result, NAIVE[name](mixed, weights), atol=tolerance)


@pytest.mark.parametrize("nearest", [0, 1])
@pytest.mark.parametrize("name", RULES)
def test_batches_are_loops(name: str, nearest: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """And blocks of coordinates change nothing: 30 batches of 8 rows make the width the least there is, 64 of 150."""
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 1)
    some = [some_stack(8, seed, d=150) for seed in range(6)]
    stacks = np.stack([stack for stack, _ in some]).reshape(2, 3, 8, 150)
    weights = np.stack([weight for _, weight in some]).reshape(2, 3, 8)
    together = apply(name, stacks, weights, {**OPTIONS[name], "nearest": nearest})
    monkeypatch.undo()
    for at in np.ndindex(2, 3):
        alone = apply(name, stacks[at], weights[at], {**OPTIONS[name], "nearest": nearest})
        np.testing.assert_allclose(together[at], alone, atol=1e-6)


def test_the_geometric_median_leaves_its_own_row_by_default() -> None:
    """Regression: a floor of 1e-6 held the point where it started, so that peers learned almost nothing together."""
    stack, weights = some_stack(7, 3)
    stack[0] += 5
    found = apply("geometric_median", stack, weights, {})
    others = stack[1:].mean(axis=0)
    assert dist(found, others) < 0.3 * dist(found, stack[0])


@pytest.mark.parametrize("name", RULES)
def test_equal_rows_come_out_unchanged(name: str) -> None:
    row = np.array([1.5, -2.25, 1e6, 0.0], np.float32)
    result = apply(name, np.tile(row, (8, 1)), np.full(8, 0.125), OPTIONS[name])
    np.testing.assert_allclose(result, row, rtol=1e-6)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", RULES)
def test_what_is_not_finite_reaches_no_rule(name: str, value: float) -> None:
    stack, weights = some_stack(8, 0)
    stack[3, 17] = value
    with pytest.raises(RefusedRows) as caught:
        apply(name, stack, weights, OPTIONS[name])
    assert caught.value.reason is Reason.NON_FINITE


def test_a_difference_beyond_float32_is_refused() -> None:
    stack = np.array([[3e38], [-3e38], [0]], np.float32)
    with pytest.raises(RefusedRows):
        apply("monna", stack, np.full(3, 1 / 3), {"bad": 1})


def test_close_models_far_from_the_origin_keep_their_distances() -> None:
    """A float32 Gram of the rows themselves would see distance 0 or noise here, and Krum would take anybody."""
    stack, weights = some_stack(7, 5)
    far = np.float32(1000) + np.float32(0.01) * stack
    stack = far - np.float32(1000)
    assert (apply("krum", far, weights, {"bad": 2}) == far[int(np.argmin(scores(stack.astype(np.float64))))]).all()


@pytest.mark.parametrize("k", range(1, 34))
def test_the_network_sorts(k: int) -> None:
    """By the zero-one principle a network that sorts every 0/1 column sorts everything; above 12 wires, a sample."""
    if k <= 12:
        columns = (np.arange(2**k)[None] >> np.arange(k)[:, None]) & 1
    else:
        columns = np.random.Generator(np.random.PCG64(k)).integers(0, 2, size=(k, 4000))
    stack = columns.astype(np.float32)
    ranked = np.sort(stack, axis=0)
    for first, last in {(0, k - 1), ((k - 1) // 2, k // 2), (0, 0), (k // 4, k - 1 - k // 4)}:
        assert np.stack(network.middle(stack, first, last)).tolist() == ranked[first : last + 1].tolist()
        loose = np.stack(network.middle(stack, first, last, ordered=False))
        assert loose.sum(axis=0).tolist() == ranked[first : last + 1].sum(axis=0).tolist()


@pytest.mark.parametrize(("k", "bad"), [(10, 1), (14, 6), (21, 10), (28, 13)])
def test_mass_left_by_rounding_counts_for_nothing(k: int, bad: int) -> None:
    """Regression: of rows trimmed as a whole 1e-16 of the weight was left, which of a value of 1e30 is 1e14."""
    stack, _ = some_stack(k, 0)
    stack[:bad] = 1e30
    result = apply("mass_trimmed_mean", stack, np.full(k, 1 / k), {"mass": bad / k})
    assert (np.abs(result) <= np.abs(stack[bad:]).max()).all()


@pytest.mark.parametrize("scale", [1e-25, 1e25])
@pytest.mark.parametrize("name", ["krum", "multi_krum", "monna", "cs_plus", "ios"])
def test_squares_that_float32_cannot_hold_are_summed_in_float64(name: str, scale: float) -> None:
    stack, weights = some_stack(8, 6)
    plain, scaled = (apply(name, stack * np.float32(by), weights, OPTIONS[name]) for by in (1.0, scale))
    np.testing.assert_allclose(scaled / np.float32(scale), plain, rtol=1e-4, atol=1e-6)


def test_ties_are_broken_by_the_first_row() -> None:
    stack = np.array([[0], [1], [-1], [1], [-1], [0], [0]], np.float32)
    weights = np.full(7, 1 / 7)
    assert apply("krum", stack, weights, {"bad": 1}).tolist() == [0]
    assert apply("monna", stack, weights, {"bad": 3}).tolist() == [0.25]
    assert apply("ios", stack, weights, {"bad": 1}).tolist() == pytest.approx([-1 / 6])


def test_a_neighbor_that_copies_the_own_row_never_displaces_it() -> None:
    stack = np.array([[5], [5], [5], [9], [9]], np.float32)
    assert combine(stack, np.array([0.0, 0, 0, 0.5, 0.5])).tolist() == [9]
    assert apply("monna", stack, np.full(5, 0.2), {"bad": 2}).tolist() == [5]
    assert apply("cs_plus", stack, np.full(5, 0.2), {"bad": 2}).tolist() == [5]


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("medain", {}, "merge rule medain is unknown"),
        ("krum", {"bda": 1}, "merge rule krum has no option bda"),
        ("krum", {}, "merge rule krum needs the option bad"),
        ("krum", {"bad": 1.5}, "must be a whole number"),
        ("krum", {"bad": -1}, "must be 0 to 1000"),
        ("mass_trimmed_mean", {"mass": 0.5}, "must be 0 to 0.499"),
        ("balance", {"gate": float("nan")}, "option gate of balance is nan"),
        ("median", {"bad": 1}, "merge rule median has no option bad"),
    ],
)
def test_options_are_checked(name: str, options: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        checked_options(name, options)


def test_a_misspelt_name_gets_the_nearest() -> None:
    with pytest.raises(ConfigError) as caught:
        checked_options("trimed_mean", {"bad": 1})
    assert caught.value.hint == "did you mean trimmed_mean?"


@pytest.mark.parametrize(
    ("name", "bad", "rows"), [("krum", 2, 7), ("trimmed_mean", 2, 5), ("monna", 1, 3), ("ios", 2, 3)]
)
def test_the_least_number_of_rows(name: str, bad: int, rows: int) -> None:
    stack, weights = some_stack(rows, 0)
    apply(name, stack, weights, {"bad": bad})
    stack, weights = some_stack(rows - 1, 0)
    with pytest.raises(ConfigError, match=f"needs {rows} rows, has {rows - 1}"):
        apply(name, stack, weights, {"bad": bad})


def test_mixing_needs_an_honest_majority() -> None:
    stack, weights = some_stack(5, 0)
    apply("mean", stack, weights, {"nearest": 2})
    with pytest.raises(ConfigError, match="mean with nearest 3 needs 7 rows, has 5"):
        apply("mean", stack, weights, {"nearest": 3})


def test_weights_must_sum_to_one() -> None:
    stack, _ = some_stack(4, 0)
    with pytest.raises(ConfigError, match="sum to one"):
        apply("mean", stack, np.full(4, 0.3), {})


@pytest.mark.parametrize(
    "rule",
    [
        decentral.mean,
        coordinate.median,
        coordinate.trimmed_mean,
        coordinate.mass_trimmed_mean,
        central.geometric_median,
        central.krum,
        central.multi_krum,
        central.centered_clip,
        central.nearest_mixing,
        decentral.clipped_gossip,
        decentral.cs_plus,
        decentral.monna,
        decentral.remove_then_clip,
        decentral.outlier_scissor,
        decentral.balance,
    ],
)
def test_every_rule_says_its_source_what_it_knows_and_what_it_withstands(rule: Callable[..., object]) -> None:
    text = " ".join((rule.__doc__ or "").split())
    assert re.search(r"\b(19|20)\d\d\)", text), "the source"
    assert "Knows" in text
    assert "reakdown point" in text
