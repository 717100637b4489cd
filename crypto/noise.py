"""Random numbers for privacy: ChaCha20 under a secret key, and Gaussian noise whose last bits tell nothing.

Differential privacy keeps its promise only while nobody can guess the noise. General-purpose generators
(Mersenne Twister, PCG) can be recovered from their output, so the stream here is ChaCha20 (RFC 8439) with the
nonce ``LibsodiumDRG`` and the counter at 0, which is libsodium's ``randombytes_buf_deterministic``. OpenSSL
makes the same bytes several times faster. The host draws the key from the operating system; a fixed key makes
a run repeatable and voids its privacy.

Numbers repeat bit for bit on one machine. Another machine's logarithm or tangent may differ in the last bit.
"""

from __future__ import annotations

import builtins
import math
from collections.abc import Callable
from functools import cache
from typing import NoReturn, cast

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20
from numpy.typing import NDArray

from quidnunc.crypto.errors import LocalProtocolError
from quidnunc.crypto.identity import tagged_hash

KEY_BYTES = 32
MAX_BYTES = 2**30
"""The most bytes, uniforms or Gaussians of one call. A draw is at most 2**33 bytes, 2**27 blocks: the counter of
32 bits does not come round.
"""
GRID_BITS = 16
"""Released noise comes in steps of at most 2**-16 of its standard deviation."""

LEAST_COMPILED = 1 << 17
"""Numbers of one call from which on noise is added by compiled code, where numba is installed: code is made in one or
two seconds, once in a process, and saves 5 ns of each number's 8.
"""

Floats = NDArray[np.float64] | NDArray[np.float32]
Noised = Callable[[NDArray[np.uint64], NDArray[np.int64], Floats, float, float, float], None]

_SIGMAS = (1e-100, 1e100)
_COUNTER_AND_NONCE = builtins.bytes(4) + b"LibsodiumDRG"
_TERMS = 4
_CHUNK = 16_384
"""Gaussians made at once: the arrays stay in the processor's cache."""
_ZEROS = memoryview(builtins.bytes(8 * _CHUNK))


class NoiseStream:
    """An endless stream of random numbers, determined by a 32-byte ``key`` and a ``name``.

    Every draw runs ChaCha20 under a seed of its own, SHA-256("quidnunc/v1/noise" 00 key name counter:u64be):
    knowing one draw, or its seed, says nothing about another.
    """

    __slots__ = ("_counter", "_key", "_name")

    def __init__(self, key: bytes, name: bytes) -> None:
        if len(key) != KEY_BYTES:
            raise LocalProtocolError(f"a noise key is {len(key)} bytes, must be {KEY_BYTES}")
        self._key = builtins.bytes(key)
        self._name = builtins.bytes(name)
        self._counter = 0

    def child(self, name: bytes) -> NoiseStream:
        """A stream of its own for ``name``; the same at any time, however much was drawn here."""
        length = len(self._name).to_bytes(4, "big")
        return NoiseStream(tagged_hash("noise-child", self._key, length, self._name), name)

    def bytes(self, n: int) -> builtins.bytes:
        """``n`` random bytes."""
        return self._draw(_checked(n)).tobytes()

    def uniform(self, n: int) -> NDArray[np.float64]:
        """``n`` float64 in [0, 1), multiples of 2**-53: shape [n]."""
        words = self._draw(8 * _checked(n)).view("<u8")
        return (words >> np.uint64(11)).astype(np.float64) * 2.0**-53

    def gaussian(self, n: int) -> NDArray[np.float64]:
        """``n`` float64 from the standard normal distribution: shape [n].

        Each is half the sum of four Gaussians by Box and Muller (1958). One textbook Gaussian in floating
        point takes only certain values, so that the last bits of a noised value can tell which true value it
        was added to (Mironov, CCS 2012, for Laplace noise). Searching for four independent terms at once is
        out of reach (Holohan and Braghin, ESORICS 2021; Opacus does the same in its ``secure_mode``). Sine
        and cosine of one pair go to different outputs. What is released takes :meth:`add_noise`.
        """
        out = np.empty(_checked(n), dtype=np.float64)
        for start in range(0, n, _CHUNK):
            part = out[start : start + _CHUNK]
            half = (part.size + 1) // 2
            square, angle = self.uniform(2 * _TERMS * half).reshape(2, _TERMS, half)
            # 1 - u is in (0, 1]: the logarithm is finite.
            np.subtract(1.0, square, out=square)
            np.log(square, out=square)
            square *= -2.0
            angle *= np.pi
            cosine, sine = _box_muller(square, angle)
            part[:half] = cosine.sum(axis=0)
            part[half:] = sine.sum(axis=0)[: part.size - half]
            part *= 0.5
        return out

    def add_noise(self, values: Floats, sigma: float, factor: float = 1.0) -> None:
        """Add Gaussian noise of standard deviation ``sigma`` to ``values`` [n] in place, in whole steps of a grid.

        Then everything is multiplied by ``factor``. Values are float64 or float32, what is between is float64.

        The step is a power of two, between 2**-17 and 2**-16 of ``sigma``. Rounding to a public grid is
        post-processing of the Gaussian mechanism, whatever the values, and every step of the grid is reached from
        any values: there are no last bits that could tell (compare Google's differential privacy library, "Secure
        noise generation", 2020). What remains of floating point is how evenly one Gaussian by Box and Muller, whose
        radius has 64 random bits and whose angle as many, fills steps of that size: to a part in 10**9 of each step's
        own probability where all but 10**-5 of the noise lies, in 10**7 for all but 10**-7 (docs/design.md, 67).
        With ``sigma`` 0 nothing is added and nothing rounded. Raises LocalProtocolError unless ``sigma`` is 0 or from
        1e-100 to 1e100.
        """
        if sigma != 0.0 and not _SIGMAS[0] <= sigma <= _SIGMAS[1]:
            raise LocalProtocolError(f"noise of standard deviation {sigma}, must be 0 or from 1e-100 to 1e100")
        if values.ndim != 1:
            raise LocalProtocolError(f"noise for shape {values.shape}, must be [n]")
        n = _checked(values.size)
        if sigma == 0.0:
            values *= factor
            return
        step = 2.0 ** (math.frexp(sigma)[1] - 1 - GRID_BITS)
        square, inverse, factor = -2.0 * (sigma / step) ** 2, 1.0 / step, step * factor
        noised = _kernel() if n >= LEAST_COMPILED else None
        noised = noised or _noised
        stream, words = self._next(), np.empty(min(_CHUNK, n + 1), dtype="<u8")
        for start in range(0, n, _CHUNK):
            part = values[start : start + _CHUNK]
            half = (part.size + 1) // 2
            stream.update_into(_ZEROS[: 16 * half], words.view(np.uint8)[: 16 * half].data)
            noised(words[:half], words[half : 2 * half].view("<i8"), part, square, inverse, factor)

    def _draw(self, size: int) -> NDArray[np.uint8]:
        stream = self._next()
        out = np.empty(size, dtype=np.uint8)
        for start in range(0, size, len(_ZEROS)):
            part = out[start : start + len(_ZEROS)]
            stream.update_into(_ZEROS[: part.size], part.data)
        return out

    def _next(self) -> CipherContext:
        """The key stream of the next draw: what it makes of zeros."""
        seed = tagged_hash("noise", self._key, self._name, self._counter.to_bytes(8, "big"))
        self._counter += 1
        return Cipher(ChaCha20(seed, _COUNTER_AND_NONCE), mode=None).encryptor()

    def __reduce__(self) -> NoReturn:
        raise LocalProtocolError("a noise stream cannot be copied: two would make the same noise")

    def __repr__(self) -> str:
        return f"NoiseStream(name={self._name!r}, draws={self._counter})"


def _noised(
    radii: NDArray[np.uint64],
    angles: NDArray[np.int64],
    values: Floats,
    square: float,
    inverse: float,
    factor: float,
) -> None:
    """Make ``values`` [n] rint(values * inverse + noise) * factor, with noise from n/2 words, rounded up.

    The noise is R cos a for the first half and R sin a for the second, with R**2 = ``square`` ln((w + 1/2) / 2**64) for
    a word w of ``radii``, and a = 2 pi v / 2**64 for the word v of ``angles`` at its place.
    """
    half = len(radii)
    logarithm = np.multiply(radii, 2.0**-64)
    logarithm += 2.0**-65
    np.log(logarithm, out=logarithm)
    logarithm *= square
    cosine, sine = _box_muller(logarithm, np.multiply(angles, np.pi * 2.0**-64))
    rounded = values.astype(np.float64)
    rounded *= inverse
    rounded[:half] += cosine
    rounded[half:] += sine[: len(values) - half]
    np.rint(rounded, out=rounded)
    rounded *= factor
    values[:] = rounded


@cache
def _kernel() -> Noised | None:
    """:func:`_noised` in machine code; None where numba is missing, refuses this numpy, or may not make code."""
    try:
        from quidnunc.crypto.noise_kernel import noised
    except (ImportError, OSError):  # the latter where the system forbids writable memory to be executed
        return None
    return cast(Noised, noised)


def _box_muller(square: NDArray[np.float64], half: NDArray[np.float64]) -> tuple[NDArray[np.float64], ...]:
    """R cos a and R sin a from R**2 and a/2, which are overwritten.

    By t = tan(a/2): numpy has a vector tangent of float64 and neither sine nor cosine. The largest t is 2**54.
    """
    radius = np.sqrt(square, out=square)
    tangent = np.tan(half, out=half)
    scaled = tangent * tangent
    scaled += 1.0
    np.divide(radius, scaled, out=scaled)
    scaled *= 2.0
    tangent *= scaled
    scaled -= radius
    return scaled, tangent


def _checked(n: int) -> int:
    if not 0 <= n <= MAX_BYTES:
        raise LocalProtocolError(f"{n} random numbers in one call, must be from 0 to {MAX_BYTES}")
    return n
