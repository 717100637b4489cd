"""Clipped gradient sums against Opacus, whose numbers are frozen: by ghost norms, by patches, and by vmap."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from learners import blobs_task
from opacus_cases import CASES, batch, wave

from quidnunc.gossip.learning import privacy
from quidnunc.gossip.learning.functional import Functional
from quidnunc.gossip.learning.privacy import clipped_sum

VECTORS = json.loads((Path(__file__).parent / "vectors" / "opacus.json").read_text())


def learner(case: str) -> tuple[Functional, np.ndarray]:
    make, _ = CASES[case]
    net = Functional(make(), replace(blobs_task(), model=make))
    return net, (wave(net.dim, 0.7) / 2).numpy()


@pytest.mark.parametrize("row", VECTORS["rows"], ids=lambda row: f"{row['case']}-{row['clip']}")
def test_clipped_sums_equal_opacus(row: dict[str, Any]) -> None:
    net, vector = learner(row["case"])
    assert (net.layers is not None) == (row["case"] == "mlp")
    assert (net.convolutions is not None) == (row["case"] == "cnn")
    ours, _ = clipped_sum(net, vector, *batch(CASES[row["case"]][1]), row["clip"])
    theirs = np.array(row["sum"])
    assert np.abs(ours - theirs).max() <= 1e-6 * max(1.0, float(np.linalg.norm(theirs)))


def test_clips_bind_in_some_rows_and_not_in_others() -> None:
    """Else the oracle would say nothing of clipping."""
    norms = {(row["case"], row["clip"]): np.linalg.norm(row["sum"]) for row in VECTORS["rows"]}
    for case in CASES:
        assert 0 < norms[case, 0.05] < norms[case, 0.5] < norms[case, 50.0]


@pytest.mark.parametrize(
    ("case", "way", "limit"), [("groupnorm", "per_example", "_ELEMENTS"), ("cnn", "convolved", "_PATCHES")]
)
def test_memory_does_not_grow_with_the_batch(monkeypatch: pytest.MonkeyPatch, case: str, way: str, limit: str) -> None:
    """However many examples there are, no more gradients exist at once than fit the limit, and the sum is the same."""
    net, vector = learner(case)
    inputs, targets = batch(CASES[case][1])
    inputs, targets = inputs.repeat(9, 1, 1, 1), targets.repeat(9)
    whole, _ = clipped_sum(net, vector, inputs, targets, 0.5)
    seen: list[int] = []
    one = getattr(privacy, way)

    def counting(net: Functional, flat: torch.Tensor, inputs: torch.Tensor, *rest: Any) -> Any:
        seen.append(len(inputs))
        return one(net, flat, inputs, *rest)

    monkeypatch.setattr(privacy, way, counting)
    # The patches of the first convolution are 9 * 64 numbers, more than there are params.
    monkeypatch.setattr(privacy, limit, 5 * max(net.dim, 9 * 64 if case == "cnn" else 0))
    parts, _ = clipped_sum(net, vector, inputs, targets, 0.5)
    assert seen == [5] * 12 + [3]
    np.testing.assert_allclose(parts, whole, rtol=1e-9, atol=1e-7)
