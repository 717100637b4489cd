"""Minibatches of many peers at once, shares of equal or ragged size."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from quidnunc.sim.batched.draws import Indices, Keys, permutations


class Batches(NamedTuple):
    """Which examples of its own each peer takes in each step, int64 [steps, n, batch], and how much each counts.

    ``counts`` float32 [n, batch] is 1/b in the first b places of a peer whose batches have b examples, and 0 where a
    place only pads; None where all peers' batches are full.
    """

    picks: Indices
    counts: NDArray[np.float32] | None


def draw_batches(peer_keys: Keys, sizes: Indices, steps: int, batch: int) -> Batches:
    """``steps`` minibatches per peer: shuffled passes over its ``sizes[i]`` examples, as many as are needed.

    A peer with fewer than ``batch`` examples takes all of them in every step, as the daemon's trainer does.
    """
    own = np.minimum(sizes, batch)
    width = int(own.max())
    turn = np.arange(steps)[:, None, None] * own[:, None] + np.arange(width)
    full = bool((own == width).all())
    if not full:
        turn = np.where(np.arange(width) < own[:, None], turn, 0)
    lap, place = np.divmod(turn, sizes[:, None])
    rows = np.arange(len(sizes))[:, None]
    passes = int(lap.max()) + 1
    if passes == 1:
        picks = permutations(peer_keys, sizes)[rows, place]
    else:
        laps = np.stack([permutations(peer_keys + np.uint64(at), sizes) for at in range(passes)])
        picks = laps[lap, rows, place]
    return Batches(picks, None if full else _counts(own, width))


def whole_shares(sizes: Indices) -> Batches:
    """One step over all examples of every peer, for full-batch steps."""
    width = int(sizes.max())
    full = bool((sizes == width).all())
    places = np.broadcast_to(np.arange(width), (len(sizes), width))
    picks = np.where(places < sizes[:, None], places, 0)
    return Batches(picks[None], None if full else _counts(sizes, width))


def _counts(own: Indices, width: int) -> NDArray[np.float32]:
    inside = np.arange(width) < own[:, None]
    return (inside / own[:, None]).astype(np.float32)
