"""Who gets which examples of a pool: shares of equal or ragged size, skewed by label, size or site.

Where peers ask for more than there is, they draw with replacement, and the result says so: accuracies are then those
of peers whose data overlap.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from quidnunc.crypto.errors import ConfigError
from quidnunc.gossip.learning.partition import dirichlet
from quidnunc.sim.data.pool import Pool
from quidnunc.sim.data.spec import DataSpec

Indices = NDArray[np.int64]
SIZE_MIN = 4
"""Nobody gets fewer examples, however skewed the sizes."""


@dataclass(frozen=True, slots=True, eq=False)
class Shares:
    """Rows of the pool for each peer, whether they were drawn with replacement, and whether they are those of sites."""

    rows: list[Indices]
    replaced: bool
    natural: bool = False

    @property
    def sizes(self) -> Indices:
        return np.array([len(rows) for rows in self.rows], dtype=np.int64)

    def describe(self, pool: int) -> str:
        """One sentence for people: sizes, and replacement where there is any."""
        sizes = self.sizes
        low, high = int(sizes.min()), int(sizes.max())
        each = f"{low:,} examples" if low == high else f"{low:,} to {high:,} examples (median {np.median(sizes):,.0f})"
        if self.natural:
            return (
                f"each peer is a site with {each}, {pool:,} in all; every peer is tested on the test rows of all sites"
            )
        if not self.replaced:
            return f"each peer has {each}, all different, of a pool of {pool:,}"
        return (
            f"each peer has {each}, drawn WITH REPLACEMENT from a pool of {pool:,} "
            f"({sizes.sum():,} in all): peers share examples"
        )


def share_out(pool: Pool, spec: DataSpec, peers: int, seed: int) -> Shares:
    """The shares of ``peers`` peers under ``spec``, drawn from ``seed``.

    Raises ConfigError where the pool does not suffice and replacement is refused, or where sites and peers differ.
    """
    if spec.partition == "natural":
        return _natural(pool, spec, peers)
    generator = np.random.Generator(np.random.PCG64([seed, 0xDA7A]))
    sizes = _sizes(pool, spec, peers, generator)
    need, have = int(sizes.sum()), len(pool.labels)
    replaced = spec.replacement == "always" or need > have
    if replaced and spec.replacement == "never":
        raise ConfigError(
            f"{peers} peers with {need / peers:.0f} examples each need {need:,}, the pool has {have:,}",
            hint='lower data.examples or peers, or set data.replacement = "auto"',
        )
    if spec.partition == "by-label":
        return _by_label(pool, spec, sizes, generator, replaced=replaced)
    if replaced:
        mixes = _mixes(pool, spec, peers, generator)
        return Shares(_drawn(pool, mixes, sizes, generator), True)
    if spec.partition == "dirichlet":
        chosen = np.sort(generator.permutation(have)[:need])
        drawn = int(generator.integers(0, 2**63))
        return Shares(
            [chosen[rows] for rows in dirichlet(pool.labels[chosen], peers, spec.alpha, drawn, min_examples=1)], False
        )
    order = generator.permutation(have)[:need]
    return Shares([np.sort(part) for part in np.split(order, np.cumsum(sizes)[:-1])], False)


def _sizes(pool: Pool, spec: DataSpec, peers: int, generator: np.random.Generator) -> Indices:
    have = len(pool.labels)
    if spec.partition == "by-quantity":
        mean = spec.examples or have / peers
        weights = generator.lognormal(0.0, spec.skew, size=peers)
        sizes: Indices = np.maximum(SIZE_MIN, mean * peers * weights / weights.sum()).astype(np.int64)
        if spec.examples:
            return sizes
    if spec.examples:
        return np.full(peers, spec.examples, dtype=np.int64)
    if have < peers * SIZE_MIN:
        raise ConfigError(
            f"{have:,} examples among {peers:,} peers are fewer than {SIZE_MIN} each",
            hint="set data.examples: peers then draw with replacement",
        )
    if spec.partition == "by-quantity":
        # The least size may have pushed the sum above the pool: the largest give.
        while (excess := int(sizes.sum()) - have) > 0:
            sizes[sizes.argmax()] -= min(excess, int(sizes.max()) - SIZE_MIN)
        return sizes
    sizes = np.full(peers, have // peers, dtype=np.int64)
    sizes[: have % peers] += 1
    return sizes


def _mixes(pool: Pool, spec: DataSpec, peers: int, generator: np.random.Generator) -> NDArray[np.float64]:
    """How likely each class is for each peer, float64 [peers, classes]; only classes that occur."""
    supply = np.bincount(pool.labels, minlength=pool.classes).astype(np.float64)
    if spec.partition != "dirichlet":
        return np.tile(supply / supply.sum(), (peers, 1))
    mixes: NDArray[np.float64] = np.zeros((peers, pool.classes))
    present = np.flatnonzero(supply)
    mixes[:, present] = generator.dirichlet(np.full(len(present), spec.alpha), size=peers)
    # For tiny alpha a row can come out as zeros or nan: such a peer has one class.
    broken = ~(np.isfinite(mixes).all(axis=1) & (np.abs(mixes.sum(axis=1) - 1) < 1e-6))
    mixes[broken] = 0.0
    mixes[broken, generator.choice(present, size=int(broken.sum()))] = 1.0
    return mixes


def _drawn(pool: Pool, mixes: NDArray[np.float64], sizes: Indices, generator: np.random.Generator) -> list[Indices]:
    """Rows drawn with replacement, class by class as ``mixes`` say."""
    by_class = [np.flatnonzero(pool.labels == c) for c in range(pool.classes)]
    shares = []
    for mix, size in zip(mixes, sizes, strict=True):
        counts = generator.multinomial(size, mix / mix.sum())
        parts = [by_class[c][generator.integers(0, len(by_class[c]), size=counts[c])] for c in np.flatnonzero(counts)]
        shares.append(np.sort(np.concatenate(parts)))
    return shares


def _by_label(pool: Pool, spec: DataSpec, sizes: Indices, generator: np.random.Generator, *, replaced: bool) -> Shares:
    """Each peer holds ``labels_per_peer`` classes, dealt out in turn (McMahan et al. 2017); shares come out ragged."""
    present = np.flatnonzero(np.bincount(pool.labels, minlength=pool.classes))
    each, peers = spec.labels_per_peer, len(sizes)
    if each > len(present):
        raise ConfigError(f"data.labels_per_peer = {each}, the data have {len(present)} classes", hint="lower it")
    deck = generator.permutation(present)
    # Peer i holds the classes i*each ... of the endless deck: never one of them twice.
    held = deck[(np.arange(peers)[:, None] * each + np.arange(each)) % len(deck)]
    if replaced:
        mixes: NDArray[np.float64] = np.zeros((peers, pool.classes))
        np.put_along_axis(mixes, held, 1.0, axis=1)
        return Shares(_drawn(pool, mixes, sizes, generator), True)
    parts: list[list[Indices]] = [[] for _ in range(peers)]
    for c in deck:
        holders = np.flatnonzero((held == c).any(axis=1))
        rows = generator.permutation(np.flatnonzero(pool.labels == c))
        for peer, part in zip(holders, np.array_split(rows, max(1, len(holders))), strict=False):
            wanted = -(-int(sizes[peer]) // each) if spec.examples else len(part)
            parts[peer].append(part[:wanted])
    shares = [np.sort(np.concatenate(part)) for part in parts]
    if min(len(share) for share in shares) < SIZE_MIN:
        raise ConfigError(
            f"by-label among {peers} peers leaves one with fewer than {SIZE_MIN} examples",
            hint='use fewer peers, or set data.examples with data.replacement = "always"',
        )
    return Shares(shares, False)


def _natural(pool: Pool, spec: DataSpec, peers: int) -> Shares:
    if pool.groups is None:
        raise ConfigError(
            f"data.partition = 'natural': source {spec.source} has no sites of its own",
            hint='use source = "csv", or another partition',
        )
    if peers != len(pool.group_names):
        raise ConfigError(
            f"{peers} peers, the data have {len(pool.group_names)} sites", hint=f"set peers = {len(pool.group_names)}"
        )
    if spec.examples or spec.replacement == "always":
        raise ConfigError(
            f"data.examples = {spec.examples} with a natural partition: every site keeps what it has",
            hint="leave data.examples and data.replacement out",
        )
    return Shares([np.flatnonzero(pool.groups == site) for site in range(peers)], False, natural=True)
