"""Splitting one data set among simulated peers, deterministically."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from quidnunc.crypto.errors import ConfigError

Indices = NDArray[np.int64]

_TINY = 1e-9
_FITTING_STEPS = 1000


def dirichlet(
    labels: NDArray[np.int64], peers: int, alpha: float, seed: int, *, min_examples: int = 20
) -> list[Indices]:
    """Label-skewed shards of equal size: one ascending index array per peer, disjoint, together everything.

    Every class is spread over the peers by a draw from Dirichlet(``alpha``) (Hsu et al. 2019); the table of
    counts is then balanced by iterative proportional fitting, so that shards differ by at most one example: a
    peer with few examples would otherwise drown the others in its privacy noise. Small ``alpha`` means few
    labels per peer. Raises ConfigError where a shard would have fewer than ``min_examples``.
    """
    if peers < 1 or not alpha > 0:
        raise ConfigError(f"partition into {peers} peers with alpha {alpha}, both must be above 0")
    if len(labels) < peers * min_examples:
        raise ConfigError(
            f"{len(labels)} examples among {peers} peers is below {min_examples} each",
            hint=f"use at most {len(labels) // min_examples} peers",
        )
    generator = np.random.Generator(np.random.PCG64(seed))
    classes, inverse = np.unique(labels, return_inverse=True)
    supply = np.bincount(inverse, minlength=len(classes))
    sizes = np.full(peers, len(labels) // peers)
    sizes[: len(labels) % peers] += 1
    shares = generator.dirichlet(np.full(peers, alpha), size=len(classes)).T
    counts = _round_table(_balance(shares * supply, sizes, supply), sizes, supply)
    shards: list[list[Indices]] = [[] for _ in range(peers)]
    for c in range(len(classes)):
        pool = generator.permutation(np.flatnonzero(inverse == c))
        for peer, part in enumerate(np.split(pool, np.cumsum(counts[:-1, c]))):
            shards[peer].append(part)
    return [np.sort(np.concatenate(parts)).astype(np.int64) for parts in shards]


def _balance(table: NDArray[np.float64], rows: Indices, columns: Indices) -> NDArray[np.float64]:
    """Scale ``table`` [peers, classes] until its margins are ``rows`` and ``columns`` (Sinkhorn and Knopp 1967)."""
    table = np.maximum(table, _TINY)
    for _ in range(_FITTING_STEPS):
        table = table * (rows / table.sum(axis=1))[:, None]
        table = table * (columns / table.sum(axis=0))
    return table


def _round_table(table: NDArray[np.float64], rows: Indices, columns: Indices) -> Indices:
    """Whole numbers near ``table`` with exactly the margins asked for: what is missing goes where it is missed most."""
    counts = np.floor(table).astype(np.int64)
    while (over := np.flatnonzero(counts.sum(axis=1) > rows)).size:
        counts[over[0], counts[over[0]].argmax()] -= 1
    while (over := np.flatnonzero(counts.sum(axis=0) > columns)).size:
        counts[counts[:, over[0]].argmax(), over[0]] -= 1
    while (short := rows - counts.sum(axis=1)).any():
        lacking = columns - counts.sum(axis=0)
        missed = np.where((short[:, None] > 0) & (lacking > 0), table - counts, -np.inf)
        peer, label = np.unravel_index(int(missed.argmax()), missed.shape)
        counts[peer, label] += 1
    return counts
