"""Shards: disjoint, complete, equal, repeatable, and skewed as asked."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quidnunc.crypto.errors import ConfigError
from quidnunc.gossip.learning.partition import dirichlet

LABELS = np.arange(1437) % 10


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 40), st.sampled_from([0.01, 0.1, 0.5, 10.0]), st.integers(0, 2**32), st.integers(1, 6))
def test_every_example_is_used_once(peers: int, alpha: float, seed: int, classes: int) -> None:
    labels = np.arange(peers * 20 + 7) % classes
    shards = dirichlet(labels, peers, alpha, seed)
    assert sorted(np.concatenate(shards).tolist()) == list(range(len(labels)))
    sizes = [len(shard) for shard in shards]
    assert max(sizes) - min(sizes) <= 1
    assert all((np.diff(shard) > 0).all() for shard in shards)


def test_a_seed_repeats_and_another_does_not() -> None:
    first, again, other = (dirichlet(LABELS, 5, 0.5, seed) for seed in (1, 1, 2))
    assert all((a == b).all() for a, b in zip(first, again, strict=True))
    assert any(len(a) != len(b) or (a != b).any() for a, b in zip(first, other, strict=True))


def test_small_alpha_separates_labels() -> None:
    def top_share(alpha: float) -> float:
        shares = []
        for seed in range(10):
            for shard in dirichlet(LABELS, 8, alpha, seed):
                shares.append(np.sort(np.bincount(LABELS[shard], minlength=10))[-2:].sum() / len(shard))
        return float(np.mean(shares))

    assert top_share(0.1) > 0.75 > top_share(0.5) > 0.45 > 0.3 > top_share(100.0)


def test_too_many_peers_are_refused_with_the_remedy() -> None:
    with pytest.raises(ConfigError, match="below 20 each") as caught:
        dirichlet(LABELS, 72, 0.5, 0)
    assert caught.value.hint == "use at most 71 peers"
    with pytest.raises(ConfigError, match="alpha 0"):
        dirichlet(LABELS, 5, 0.0, 0)
