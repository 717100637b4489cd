"""What attackers had of a round's merges, and how well weights tell attackers from honest neighbors."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from quidnunc.gossip.rules.linear import Reals
from quidnunc.sim.batched.conditions import Flags, Links
from quidnunc.sim.batched.draws import Indices

REFUSED = 0.5
"""A reader that keeps less of a neighbor's mixing weight refuses it."""
REFUSED_MAX = 1024


class Held(NamedTuple):
    """Of the honest peers that merged with anybody.

    ``weight`` is the mean part of a merge's result that is attackers', ``given`` the same by mixing weights alone.
    ``detection`` is the area under the ROC curve of the part of its mixing weight that each neighbor kept, honest
    against attackers: 1 tells them apart, .5 does not; None without both kinds. ``kept`` [n] is the mean part of its
    mixing weight that each peer kept with its honest readers, nan for one without any, in the scenario's order.
    ``refused`` are pairs of an honest reader and a neighbor of which it keeps less than REFUSED, in order; of more than
    REFUSED_MAX those of which least is kept.
    """

    weight: float
    given: float
    detection: float | None
    kept: NDArray[np.float64]
    refused: tuple[tuple[int, int], ...]


def held(links: Links, counted: Reals, honest: Flags, order: Indices) -> Held | None:
    """From the links of a round and what each came to, [m] (nan where not known); None where nobody merged."""
    mixing = links.mixing
    receivers = mixing.receivers
    used = honest[receivers] & (mixing.weights > 0) & np.isfinite(counted)
    if not used.any():
        return None
    readers = len(np.unique(receivers[used]))
    evil = ~honest[mixing.indices]
    part = np.clip(counted, 0.0, None)
    kept = np.divide(part, mixing.weights, out=np.zeros_like(part), where=mixing.weights > 0)
    count = np.bincount(mixing.indices[used], minlength=mixing.peers)
    total = np.bincount(mixing.indices[used], weights=kept[used], minlength=mixing.peers)
    by_peer = np.full(mixing.peers, np.nan)
    by_peer[order] = np.where(count > 0, total / np.maximum(count, 1), np.nan)
    return Held(
        float(part[used & evil].sum() / readers),
        float(mixing.weights[used & evil].sum() / readers),
        auroc(kept[used & ~evil], kept[used & evil]),
        by_peer,
        _refused(order[receivers[used]], order[mixing.indices[used]], kept[used]),
    )


def _refused(readers: Indices, read: Indices, kept: Reals) -> tuple[tuple[int, int], ...]:
    chosen = np.flatnonzero(kept < REFUSED)
    if len(chosen) > REFUSED_MAX:
        chosen = chosen[np.argsort(kept[chosen], kind="stable")[:REFUSED_MAX]]
    return tuple(sorted(zip(readers[chosen].tolist(), read[chosen].tolist(), strict=True)))


def auroc(high: Reals, low: Reals) -> float | None:
    """The probability that one of ``high`` is above one of ``low``, ties counting half; None if either is empty."""
    if not len(high) or not len(low):
        return None
    _, inverse, counts = np.unique(np.concatenate([high, low]), return_inverse=True, return_counts=True)
    # The mean rank of equal values, from 1.
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    above = ranks[: len(high)].sum() - len(high) * (len(high) + 1) / 2
    return float(above / (len(high) * len(low)))
