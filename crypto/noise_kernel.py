"""The pass that adds noise, as numba compiles it: one read and one write instead of twenty.

Box and Muller's Gaussian like ``noise.py``, with logarithm, sine and cosine by the polynomials of fdlibm (Sun
Microsystems, 1993), which are right to about a unit in the last place and vectorize. Rounded to the grid it gives the
numbers of numpy's path but for one in some 10**9. Imported only where numba is installed (extra ``[fast]``).
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

Floats = NDArray[np.float64] | NDArray[np.float32]

_LN2 = math.log(2.0)
_RADIANS = 2.0 * math.pi * 2.0**-64
_MANTISSA = np.int64(52)
_SQRT_HALF = np.int64(0x3FE6A09E667F3BCD)
"""The bits of the square root of a half, from which on mantissas count up to that of two."""
_BIAS = np.int64(64)
_ONE, _TWO = np.int64(1), np.int64(2)
_QUARTER, _EIGHTH = np.int64(62), np.int64(1 << 61)


@njit(nogil=True, fastmath={"contract"}, error_model="numpy")  # type: ignore[untyped-decorator]
def noised(
    radii: NDArray[np.uint64],
    angles: NDArray[np.int64],
    values: Floats,
    square: float,
    inverse: float,
    factor: float,
) -> None:
    """Make ``values`` [n] rint(values * inverse + noise) * factor: see ``_noised`` in ``noise.py``."""
    half = len(radii)
    first, second = values[:half], values[half:]
    for i in range(len(second)):
        cosine, sine = pair(radii[i], angles[i], square)
        first[i] = np.rint(first[i] * inverse + cosine) * factor
        second[i] = np.rint(second[i] * inverse + sine) * factor
    if len(second) < half:
        cosine, sine = pair(radii[half - 1], angles[half - 1], square)
        first[half - 1] = np.rint(first[half - 1] * inverse + cosine) * factor


@njit(nogil=True, fastmath={"contract"}, error_model="numpy")  # type: ignore[untyped-decorator]
def pair(radius: np.uint64, angle: np.int64, square: float) -> tuple[float, float]:
    """R cos a and R sin a; R, a and the rest as in ``noise.py``."""
    # radius = 2**k (1 + f) with 1 + f between the roots of a half and of two; ln (1 + f) = 2 artanh(s).
    bits = np.float64(np.float64(radius) + 0.5).view(np.int64)
    k = (bits - _SQRT_HALF) >> _MANTISSA
    f = np.int64(bits - (k << _MANTISSA)).view(np.float64) - 1.0
    s = f / (f + 2.0)
    z = s * s
    p = 1.479819860511658591e-01
    p = p * z + 1.531383769920937332e-01
    p = p * z + 1.818357216161805012e-01
    p = p * z + 2.222219843214978396e-01
    p = p * z + 2.857142874366239149e-01
    p = p * z + 3.999999999940941908e-01
    p = p * z + 6.666666666666735130e-01
    scale = math.sqrt(square * (s * (2.0 + z * p) + np.float64(k - _BIAS) * _LN2))
    # The nearest quarter of a turn, and what is left: at most an eighth.
    quarter = (angle + _EIGHTH) >> _QUARTER
    x = np.float64(angle - (quarter << _QUARTER)) * _RADIANS
    y = x * x
    c = -1.13596475577881948265e-11
    c = c * y + 2.08757232129817482790e-09
    c = c * y - 2.75573143513906633035e-07
    c = c * y + 2.48015872894767294178e-05
    c = c * y - 1.38888888888741095749e-03
    c = c * y + 4.16666666666666019037e-02
    c = c * y - 0.5
    c = c * y + 1.0
    t = 1.58969099521155010221e-10
    t = t * y - 2.50507602534068634195e-08
    t = t * y + 2.75573137070700676789e-06
    t = t * y - 1.98412698298579493134e-04
    t = t * y + 8.33333333332248946124e-03
    t = t * y - 1.66666666666666324348e-01
    t = x + x * y * t
    odd = (quarter & _ONE) != 0
    cosine, sine = scale * (t if odd else c), scale * (c if odd else t)
    cosine = cosine if ((quarter + _ONE) & _TWO) == 0 else -cosine
    return cosine, sine if (quarter & _TWO) == 0 else -sine
