"""What each row counted for under a rule that treats every coordinate by itself.

Such a rule has no weights of rows. What can be said is at how many coordinates a row had a part in the result, and how
large a part: a row that lies outside everywhere counts for nothing, however large its mixing weight is.
"""

from __future__ import annotations

import numpy as np

from quidnunc.gossip.rules.coordinate import ranked_mass
from quidnunc.gossip.rules.gram import Matrix
from quidnunc.gossip.rules.linear import Reals, Stack
from quidnunc.gossip.rules.terms import Options

SAMPLED_COORDINATES = 1 << 16
"""Coordinates looked at in all, evenly spaced: a share of them is within half a percent of the share of all."""


def coordinate_shares(name: str, stack: Stack, weights: Reals, options: Options, mixing: Matrix | None = None) -> Reals:
    """The mean part of each row of ``stack`` [k, d] in the coordinates of the result, float64 [k], summing to one.

    With ``mixing`` [k, k] the rule sees mixed rows, and what each of them decided is its parts' of ``stack``.
    ``name`` is ``median``, ``trimmed_mean`` or ``mass_trimmed_mean``. The two middle rows of an even median have half
    of the coordinate each. Of equal values the earlier row's is the smaller. Looks at every s-th coordinate from the
    first, s = ceil(d / SAMPLED_COORDINATES).
    """
    k, dim = stack.shape
    # Adding 0 turns -0 into +0, as the median does.
    some = stack[:, :: -(-dim // SAMPLED_COORDINATES)] + np.float32(0)
    if mixing is not None:
        some = some[:1] + mixing.astype(np.float32) @ (some - some[:1])
    if name == "mass_trimmed_mean":
        order, kept = ranked_mass(some, weights, options["mass"])
        part = kept / kept.sum(axis=0)
    else:
        order = np.argsort(some, axis=0, kind="stable")
        cut = (k - 1) // 2 if name == "median" else int(options["bad"])
        part = np.zeros(some.shape)
        part[cut : k - cut] = 1 / (k - 2 * cut)
    shares: Reals = np.bincount(order.ravel(), weights=part.ravel(), minlength=k) / some.shape[1]
    return shares if mixing is None else shares @ mixing
