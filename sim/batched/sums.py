"""Weighted sums of rows as numba compiles them: every row is read once, and nothing is copied.

Rows are added in their order, the first one to zero, each by one multiply-add: these are torch's bits where its kernel
does the same, and next to them elsewhere. Imported only where numba is installed (extra ``[fast]``).
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from quidnunc.sim.batched.draws import Indices

Floats = NDArray[np.float32]

COLUMNS = 4096
"""So many columns of everybody's rows at a time: what several peers read stays in a cache."""


@njit(nogil=True, fastmath={"contract"})  # type: ignore[untyped-decorator]
def weighted_sums(rows: Floats, index: Indices, starts: Indices, factors: Floats, result: Floats) -> None:
    """result[i] = sum of factors[at] * rows[index[at]] over starts[i] <= at < starts[i+1].

    ``rows`` [m, d], ``result`` [n, d], ``starts`` [n+1]; no sum is empty.
    """
    zero = np.float32(0)
    for left in range(0, result.shape[1], COLUMNS):
        right = min(result.shape[1], left + COLUMNS)
        for i in range(result.shape[0]):
            out = result[i, left:right]
            at, end = starts[i], starts[i + 1]
            a, f = rows[index[at], left:right], factors[at]
            if end - at >= 3:
                b, c = rows[index[at + 1], left:right], rows[index[at + 2], left:right]
                g, h = factors[at + 1], factors[at + 2]
                for k in range(len(out)):
                    # Each step is one multiply-add; written as one sum, their order would be the compiler's.
                    held = zero + f * a[k]
                    held = held + g * b[k]
                    out[k] = held + h * c[k]
                at += 3
            else:
                for k in range(len(out)):
                    out[k] = zero + f * a[k]
                at += 1
            while end - at >= 2:
                a, b = rows[index[at], left:right], rows[index[at + 1], left:right]
                f, g = factors[at], factors[at + 1]
                for k in range(len(out)):
                    held = out[k] + f * a[k]
                    out[k] = held + g * b[k]
                at += 2
            if at < end:
                a, f = rows[index[at], left:right], factors[at]
                for k in range(len(out)):
                    out[k] = out[k] + f * a[k]
