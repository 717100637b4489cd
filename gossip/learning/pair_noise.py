"""Noise that two members add and subtract: the same bits at both ends, from the key that only they hold."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from quidnunc.crypto.errors import ConfigError
from quidnunc.crypto.noise import NoiseStream
from quidnunc.crypto.pairwise import PairKey


def pair_noise(pairs: Sequence[PairKey], round_: int, dim: int) -> NDArray[np.float64]:
    """The sum of this member's pair noise in ``round_``, standard normal for each pair: float64 [dim].

    It depends on the keys and the round alone: a round that is computed again has the same. The last bit of a number
    may differ between the machines of two members, which is all that is then left of the pair. Raises ConfigError
    without pairs: a release that lacked its pair noise would claim more than it keeps.
    """
    if not pairs:
        raise ConfigError(
            "a private sum without the keys of its pairs", hint="only a daemon in its federation has them"
        )
    total = np.zeros(dim)
    for key, sign in pairs:
        total += sign * NoiseStream(key, b"pair").child(b"round/%d" % round_).gaussian(dim)
    return total
