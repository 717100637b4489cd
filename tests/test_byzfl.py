"""The classical rules equal frozen outputs of ByzFL 0.0.11 (tools/make_rule_vectors.py), deviations named below."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quidnunc.gossip.rules.central import nearest_mixing
from quidnunc.gossip.rules.gram import gram
from quidnunc.gossip.rules.registry import apply

CASES = json.loads((Path(__file__).parent / "vectors" / "byzfl.json").read_text())["cases"]
NAMED = [f"k{case['k']}-bad{case['bad']}" for case in CASES]


def stack_of(case: dict[str, Any]) -> np.ndarray:
    return np.random.Generator(np.random.PCG64(case["seed"])).normal(size=(case["k"], case["d"])).astype(np.float32)


def from_origin(stack: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """ByzFL starts at the origin where we start at the own row: an own row of zeros without any weight."""
    k, d = stack.shape
    return np.concatenate([np.zeros((1, d), np.float32), stack]), np.concatenate([[0.0], np.full(k, 1 / k)])


@pytest.mark.parametrize("case", CASES, ids=NAMED)
@pytest.mark.parametrize("name", ["mean", "median", "trimmed_mean"])
def test_rules_without_a_deviation(name: str, case: dict[str, Any]) -> None:
    stack = stack_of(case)
    options = {"bad": case["bad"]} if name == "trimmed_mean" else {}
    result = apply(name, stack, np.full(len(stack), 1 / len(stack)), options)
    np.testing.assert_allclose(result, case["outputs"][name], atol=1e-6)


@pytest.mark.parametrize("case", CASES, ids=NAMED)
@pytest.mark.parametrize(
    ("name", "options"),
    [("geometric_median", {"steps": 3, "floor": 0.1}), ("centered_clip", {"steps": 2, "radius": 2.0})],
)
def test_rules_that_start_at_the_own_row(name: str, options: dict[str, float], case: dict[str, Any]) -> None:
    stack, weights = from_origin(stack_of(case))
    np.testing.assert_allclose(apply(name, stack, weights, options), case["outputs"][name], atol=1e-6)


@pytest.mark.parametrize("case", CASES, ids=NAMED)
def test_krum_counts_one_neighbor_less(case: dict[str, Any]) -> None:
    stack = stack_of(case)
    result = apply("krum", stack, np.full(len(stack), 1 / len(stack)), {"bad": case["bad"] - 1})
    np.testing.assert_allclose(result, case["outputs"]["krum"], atol=1e-6)


@pytest.mark.parametrize("case", CASES, ids=NAMED)
def test_multi_krum_is_the_mean_of_the_best_by_byzfls_scores(case: dict[str, Any]) -> None:
    """Ours scores by k - bad - 2 neighbors (Blanchard et al.), ByzFL by one more; both keep k - bad rows."""
    stack = stack_of(case).astype(np.float64)
    apart = ((stack[:, None] - stack[None]) ** 2).sum(axis=-1)
    k, bad = case["k"], case["bad"]
    for neighbors, expected in [
        (k - bad - 1, case["outputs"]["multi_krum"]),
        (k - bad - 2, apply("multi_krum", stack_of(case), np.full(k, 1 / k), {"bad": bad})),
    ]:
        scores = np.sort(apart, axis=1)[:, 1 : neighbors + 1].sum(axis=1)
        np.testing.assert_allclose(stack[np.argsort(scores)[: k - bad]].mean(axis=0), expected, atol=1e-6)


@pytest.mark.parametrize("case", CASES, ids=NAMED)
def test_nearest_neighbor_mixing(case: dict[str, Any]) -> None:
    stack = stack_of(case)
    mixed = nearest_mixing(gram(stack), case["bad"]) @ stack.astype(np.float64)
    np.testing.assert_allclose(mixed, case["outputs"]["mixing"], atol=1e-6)
