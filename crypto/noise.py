"""Random numbers for privacy: ChaCha20 under a secret key, and Gaussians whose last bits tell nothing.

Differential privacy keeps its promise only while nobody can guess the noise. General-purpose generators
(Mersenne Twister, PCG) can be recovered from their output, so the stream here is libsodium's
``randombytes_buf_deterministic``: ChaCha20 (RFC 8439) with the nonce ``LibsodiumDRG`` and the counter at 0.
The host draws the key from the operating system; a fixed key makes a run repeatable and voids its privacy.

Numbers repeat bit for bit on one machine. Another machine's logarithm or cosine may differ in the last bit.
"""

from __future__ import annotations

import builtins
from typing import NoReturn

import numpy as np
from nacl.utils import randombytes_deterministic
from numpy.typing import NDArray

from quidnunc.crypto.errors import LocalProtocolError
from quidnunc.crypto.identity import tagged_hash

KEY_BYTES = 32
MAX_BYTES = 2**30
"""The most bytes, uniforms or Gaussians of one call."""

_TERMS = 4
_CHUNK = 16_384
"""Gaussians made at once: the arrays stay in the processor's cache."""


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
        return self._draw(_checked(n))

    def uniform(self, n: int) -> NDArray[np.float64]:
        """``n`` float64 in [0, 1), multiples of 2**-53: shape [n]."""
        words = np.frombuffer(self._draw(8 * _checked(n)), dtype="<u8")
        return (words >> np.uint64(11)).astype(np.float64) * 2.0**-53

    def gaussian(self, n: int) -> NDArray[np.float64]:
        """``n`` float64 from the standard normal distribution: shape [n].

        Each is half the sum of four Gaussians by Box and Muller (1958). One textbook Gaussian in floating
        point takes only certain values, so that the last bits of a noised value can tell which true value it
        was added to (Mironov, CCS 2012, for Laplace noise). Searching for four independent terms at once is
        out of reach (Holohan and Braghin, ESORICS 2021; Opacus does the same in its ``secure_mode``). Sine
        and cosine of one pair go to different outputs.
        """
        out = np.empty(_checked(n), dtype=np.float64)
        for start in range(0, n, _CHUNK):
            part = out[start : start + _CHUNK]
            half = (part.size + 1) // 2
            radius, angle = self.uniform(2 * _TERMS * half).reshape(2, _TERMS, half)
            # 1 - u is in (0, 1]: the logarithm is finite.
            np.subtract(1.0, radius, out=radius)
            np.log(radius, out=radius)
            radius *= -2.0
            np.sqrt(radius, out=radius)
            angle *= 2.0 * np.pi
            part[:half] = (radius * np.cos(angle)).sum(axis=0)
            part[half:] = (radius * np.sin(angle)).sum(axis=0)[: part.size - half]
            part *= 0.5
        return out

    def _draw(self, size: int) -> builtins.bytes:
        seed = tagged_hash("noise", self._key, self._name, self._counter.to_bytes(8, "big"))
        self._counter += 1
        return randombytes_deterministic(size, seed) if size else b""

    def __reduce__(self) -> NoReturn:
        raise LocalProtocolError("a noise stream cannot be copied: two would make the same noise")

    def __repr__(self) -> str:
        return f"NoiseStream(name={self._name!r}, draws={self._counter})"


def _checked(n: int) -> int:
    if not 0 <= n <= MAX_BYTES:
        raise LocalProtocolError(f"{n} random numbers in one call, must be from 0 to {MAX_BYTES}")
    return n
