"""Random numbers named by what they are for: the same for a peer whatever is simulated beside it, or in which order.

A draw is a hash of (seed, purpose, round, peer, place), by SplitMix64's finalizer (Steele et al. 2014), for whole
arrays at once. Good enough for simulation, and for nothing that must be secret.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from quidnunc.crypto.identity import tagged_hash

Keys = NDArray[np.uint64]
Indices = NDArray[np.int64]

_PEER, _PLACE = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xD1B54A32D192ED03)
_FIRST, _SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


def keys(seed: int, purpose: str, number: int, peers: Indices) -> Keys:
    """One key per peer for ``purpose`` in round ``number``, uint64 like ``peers``."""
    base = int.from_bytes(tagged_hash("sim-draw", b"%d/%d/" % (seed, number) + purpose.encode())[:8], "big")
    return _mixed(peers.astype(np.uint64) * _PEER + np.uint64(base))


def uniforms(peer_keys: Keys, count: int) -> NDArray[np.float64]:
    """``count`` numbers in [0, 1) per key, float64 [n, count]."""
    return (_words(peer_keys, count) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def permutations(peer_keys: Keys, sizes: Indices) -> Indices:
    """Row i begins with a random permutation of 0 to sizes[i]-1, int64 [n, max(sizes)]; what follows is without use."""
    width = int(sizes.max())
    place = np.arange(width, dtype=np.uint64)
    # The place rides in the low bits of a random word: one sort of numbers, no argsort.
    low = np.uint64((1 << max(1, (width - 1).bit_length())) - 1)
    words = (_words(peer_keys, width) & ~low) | place
    if (sizes != width).any():
        words[place >= sizes[:, None].astype(np.uint64)] |= ~low
    words.sort(axis=1)
    return (words & low).astype(np.int64)


def _words(peer_keys: Keys, count: int) -> Keys:
    return _mixed(peer_keys[:, None] + np.arange(1, count + 1, dtype=np.uint64) * _PLACE)


def _mixed(words: Keys) -> Keys:
    words = (words ^ (words >> np.uint64(30))) * _FIRST
    words = (words ^ (words >> np.uint64(27))) * _SECOND
    return words ^ (words >> np.uint64(31))
