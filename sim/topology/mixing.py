"""Sparse mixing: how much of each neighbor goes into a merge, for thousands of peers at once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

Indices = NDArray[np.int64]
Reals = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Mixing:
    """One round's mixing matrix in compressed rows, the diagonal apart.

    Peer i reads ``indices[indptr[i]:indptr[i+1]]`` (ascending, never i) with ``weights`` at the same places, and keeps
    ``own[i]`` of itself. Every row sums to one. int64 [n+1], int64 [m], float64 [m], float64 [n].
    """

    indptr: Indices
    indices: Indices
    weights: Reals
    own: Reals

    @property
    def peers(self) -> int:
        """How many rows there are."""
        return len(self.own)

    @property
    def receivers(self) -> Indices:
        """The row of every entry, int64 [m]."""
        return np.repeat(np.arange(self.peers), np.diff(self.indptr))

    def apply(self, states: Reals) -> Reals:
        """What the rows of ``states`` [n, d] become in one round, in float64: for measuring."""
        matrix = csr_array((self.weights, self.indices, self.indptr), shape=(self.peers, self.peers))
        result: Reals = matrix @ states + states * self.own[:, None]
        return result

    def dense(self) -> Reals:
        """The whole matrix, float64 [n, n]."""
        return self.apply(np.eye(self.peers))

    def reordered(self, order: Indices) -> Mixing:
        """The same mixing with peer ``order[i]`` now called i; ``order`` is a permutation of 0 to n-1."""
        place = np.empty_like(order)
        place[order] = np.arange(len(order))
        return from_arcs(self.peers, place[self.receivers], place[self.indices], self.weights, self.own[order])


def from_arcs(peers: int, receivers: Indices, senders: Indices, weights: Reals, own: Reals) -> Mixing:
    """The mixing in which ``receivers[e]`` reads ``senders[e]`` with ``weights[e]``, arcs in any order."""
    order = np.lexsort((senders, receivers))
    indptr = np.concatenate([[0], np.cumsum(np.bincount(receivers, minlength=peers))]).astype(np.int64)
    return Mixing(indptr, senders[order].astype(np.int64), weights[order], own)


def metropolis(peers: int, edges: Indices) -> Mixing:
    """Metropolis-Hastings weights (Xiao and Boyd 2004) of undirected ``edges`` [m, 2], each of them once.

    w_ij = 1 / (1 + max(deg_i, deg_j)), the rest to self: symmetric, so that merging preserves the average. The same
    weights as :func:`quidnunc.gossip.federation.mixing.metropolis`, before that one rounds them for the ledger.
    """
    degrees = np.bincount(edges.reshape(-1), minlength=peers)
    one, other = edges[:, 0], edges[:, 1]
    weights = (1.0 / (1.0 + np.maximum(degrees[one], degrees[other]))).astype(np.float64)
    both = np.concatenate([weights, weights])
    receivers, senders = np.concatenate([one, other]), np.concatenate([other, one])
    own = 1.0 - np.bincount(receivers, weights=both, minlength=peers).astype(np.float64)
    return from_arcs(peers, receivers, senders, both, own)


def uniform(peers: int, receivers: Indices, senders: Indices) -> Mixing:
    """Equal weights for oneself and everybody one reads; the arcs sender -> receiver need not be mutual."""
    heard = np.bincount(receivers, minlength=peers)
    own: Reals = 1.0 / (1.0 + heard.astype(np.float64))
    return from_arcs(peers, receivers, senders, own[receivers], own)
