"""The noise stream: ChaCha20 by another implementation, the normal distribution, and no repetition."""

from __future__ import annotations

import copy
import hashlib
import math
import pickle

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from quidnunc.crypto.errors import LocalProtocolError
from quidnunc.crypto.noise import MAX_BYTES, NoiseStream

KEY = bytes(range(32))
N = 100_000


def keystream(seed: bytes, nonce: bytes, size: int, counter: int = 0) -> bytes:
    cipher = Cipher(ChaCha20(seed, counter.to_bytes(4, "little") + nonce), mode=None)
    return cipher.encryptor().update(bytes(size))


def draw(key: bytes, name: bytes, counter: int, size: int) -> bytes:
    seed = hashlib.sha256(b"quidnunc/v1/noise\0" + key + name + counter.to_bytes(8, "big")).digest()
    return keystream(seed, b"LibsodiumDRG", size)


def test_the_independent_cipher_is_that_of_rfc_8439() -> None:
    # Section 2.3.2.
    nonce = bytes.fromhex("000000090000004a00000000")
    assert keystream(KEY, nonce, 64, counter=1).hex().startswith("10f1e7e4d13b5915500fdd1fa32071c4")


def test_bytes_are_chacha20_under_a_seed_per_draw() -> None:
    stream = NoiseStream(KEY, b"dp")
    assert stream.bytes(100) == draw(KEY, b"dp", 0, 100)
    assert stream.bytes(0) == b""
    assert stream.bytes(64) == draw(KEY, b"dp", 2, 64)


def test_uniforms_are_the_upper_53_bits() -> None:
    words = np.frombuffer(draw(KEY, b"u", 0, 8 * 1000), dtype="<u8")
    expected = [int(word >> np.uint64(11)) / 2**53 for word in words]
    assert NoiseStream(KEY, b"u").uniform(1000).tolist() == expected


def test_gaussians_are_half_the_sum_of_four_by_box_and_muller() -> None:
    n = 6
    words = np.frombuffer(draw(KEY, b"g", 0, 8 * 8 * (n // 2)), dtype="<u8")
    uniform = [int(word >> np.uint64(11)) / 2**53 for word in words]
    half = n // 2
    expected = [0.0] * n
    for term in range(4):
        for place in range(half):
            radius = math.sqrt(-2 * math.log(1 - uniform[term * half + place]))
            angle = 2 * math.pi * uniform[4 * half + term * half + place]
            expected[place] += radius * math.cos(angle) / 2
            expected[half + place] += radius * math.sin(angle) / 2
    assert NoiseStream(KEY, b"g").gaussian(n) == pytest.approx(expected, rel=1e-12)


def moments_of_the_normal_distribution(sample: NDArray[np.float64]) -> None:
    n = len(sample)
    # Five standard errors: by chance one run in a million; with a fixed key this never changes.
    assert abs(sample.mean()) < 5 / math.sqrt(n)
    assert abs((sample**2).mean() - 1) < 5 * math.sqrt(2 / n)
    assert abs((sample**3).mean()) < 5 * math.sqrt(15 / n)
    assert abs((sample**4).mean() - 3) < 5 * math.sqrt(96 / n)


def distance_to_normal(sample: NDArray[np.float64]) -> float:
    """The Kolmogorov-Smirnov statistic."""
    ordered = np.sort(sample)
    cdf = np.array([0.5 * math.erfc(-x / math.sqrt(2)) for x in ordered])
    steps = np.arange(len(sample) + 1) / len(sample)
    return float(max((steps[1:] - cdf).max(), (cdf - steps[:-1]).max()))


def test_gaussians_are_standard_normal() -> None:
    sample = NoiseStream(KEY, b"stats").gaussian(N)
    moments_of_the_normal_distribution(sample)
    assert distance_to_normal(sample) < 1.95 / math.sqrt(N)
    # What the bound is worth: a variance wrong by 2 % would be seen.
    assert distance_to_normal(sample * 1.02) > 1.95 / math.sqrt(N)


def test_neighbors_and_both_halves_of_a_chunk_are_independent() -> None:
    sample = NoiseStream(KEY, b"pairs").gaussian(2**14)
    first, second = sample[: 2**13], sample[2**13 :]
    for one, other in ((sample[:-1], sample[1:]), (first, second), (first**2 - 1, second**2 - 1)):
        assert abs((one * other).mean()) < 5 * one.std() * other.std() / math.sqrt(len(one))
    # A sum over both parts of one pair would be a single Gaussian again: its square would tell.
    moments_of_the_normal_distribution((first + second) / math.sqrt(2))


def test_uniforms_are_even() -> None:
    sample = NoiseStream(KEY, b"even").uniform(N)
    assert sample.min() >= 0
    assert sample.max() < 1
    counts = np.histogram(sample, bins=100, range=(0, 1))[0]
    chi_squared = float(((counts - N / 100) ** 2 / (N / 100)).sum())
    assert chi_squared < 99 + 5 * math.sqrt(2 * 99)


@given(st.binary(min_size=32, max_size=32), st.binary(max_size=20), st.lists(st.integers(0, 50), max_size=5))
@settings(deadline=None, max_examples=50)
def test_one_key_and_name_is_one_stream(key: bytes, name: bytes, sizes: list[int]) -> None:
    one, other = NoiseStream(key, name), NoiseStream(key, name)
    for size in sizes:
        assert one.gaussian(size).tobytes() == other.gaussian(size).tobytes()
        assert one.uniform(size).tobytes() == other.uniform(size).tobytes()
        assert one.bytes(size) == other.bytes(size)


def test_nothing_repeats() -> None:
    stream = NoiseStream(KEY, b"a")
    seen = [stream.bytes(16) for _ in range(50)]
    seen += [
        other.bytes(16)
        for other in (
            NoiseStream(KEY, b"b"),
            NoiseStream(bytes(32), b"a"),
            NoiseStream(KEY, b""),
            stream.child(b"a"),
            stream.child(b""),
            stream.child(b"a").child(b"b"),
            stream.child(b"ab"),
            NoiseStream(KEY, b"ab").child(b""),
            NoiseStream(KEY, b"").child(b"a"),
        )
    ]
    assert len(set(seen)) == len(seen)
    repeated = stream.gaussian(40_000)
    assert len(set(repeated.tolist())) == 40_000


def test_a_child_does_not_depend_on_what_was_drawn() -> None:
    stream = NoiseStream(KEY, b"a")
    before = stream.child(b"x").bytes(32)
    stream.gaussian(100)
    assert stream.child(b"x").bytes(32) == before


@pytest.mark.parametrize("n", [1, 2, 3, 16_383, 16_384, 16_385, 40_001])
def test_every_size_is_filled(n: int) -> None:
    sample = NoiseStream(KEY, b"size").gaussian(n)
    assert sample.shape == (n,)
    assert np.isfinite(sample).all()
    assert np.count_nonzero(sample) == n


def test_the_key_is_not_shown_and_the_stream_not_copied() -> None:
    stream = NoiseStream(KEY, b"dp")
    for shown in (repr(stream), str(stream)):
        assert KEY.hex() not in shown
        assert repr(KEY) not in shown
    for duplicate in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(LocalProtocolError, match="same noise"):
            duplicate(stream)


@pytest.mark.parametrize("n", [-1, MAX_BYTES + 1])
def test_wild_sizes_are_refused_before_anything_is_drawn(n: int) -> None:
    stream = NoiseStream(KEY, b"dp")
    for ask in (stream.bytes, stream.uniform, stream.gaussian):
        with pytest.raises(LocalProtocolError, match="must be from 0"):
            ask(n)
    assert stream.bytes(8) == draw(KEY, b"dp", 0, 8)


@pytest.mark.parametrize("size", [0, 16, 31, 33])
def test_a_key_is_32_bytes(size: int) -> None:
    with pytest.raises(LocalProtocolError, match=f"{size} bytes, must be 32"):
        NoiseStream(bytes(size), b"")
