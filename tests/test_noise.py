"""The noise stream: ChaCha20 by another implementation, the normal distribution, and no repetition."""

from __future__ import annotations

import copy
import hashlib
import math
import pickle
import subprocess
import sys
from importlib.util import find_spec

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from quidnunc.crypto import noise
from quidnunc.crypto.errors import LocalProtocolError
from quidnunc.crypto.noise import MAX_BYTES, NoiseStream

KEY = bytes(range(32))
N = 100_000

needs_numba = pytest.mark.skipif(find_spec("numba") is None, reason="the extra [fast] is not installed")


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


WAYS = ["numpy", pytest.param("compiled", marks=needs_numba)]


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Noise is added by numpy, and by compiled code, whatever the size."""
    monkeypatch.setattr(noise, "LEAST_COMPILED", 0 if request.param == "compiled" else MAX_BYTES + 1)
    return str(request.param)


def noised(n: int, sigma: float, name: bytes, at: float = 0.0) -> NDArray[np.float64]:
    values = np.full(n, at)
    NoiseStream(KEY, name).add_noise(values, sigma)
    return values


@pytest.mark.parametrize("sigma", [1.0, 0.999, 37.3, 1e-9])
def test_added_noise_is_normal_and_lies_on_a_grid(sigma: float, way: str) -> None:
    sample = noised(N, sigma, b"added")
    step = 2.0 ** math.floor(math.log2(sigma / 2**16))
    assert sigma / 2**17 < step <= sigma / 2**16
    np.testing.assert_array_equal(np.round(sample / step) * step, sample)
    moments_of_the_normal_distribution(sample / sigma)
    assert distance_to_normal(sample / sigma) < 1.95 / math.sqrt(N)


def test_tails_of_added_noise_are_those_of_the_normal_distribution(way: str) -> None:
    sample = np.abs(noised(2**22, 1.0, b"tails"))
    for bound in (2.0, 3.0, 3.5, 4.0, 4.5, 5.0):
        expected = 2**22 * math.erfc(bound / math.sqrt(2))
        assert abs(np.count_nonzero(sample > bound) - expected) < 5 * math.sqrt(expected) + 1, bound
    # Two numbers of one pair are independent in their tails, too.
    half = sample.reshape(-1, 2, 2**13)
    both = np.count_nonzero((half[:, 0] > 2) & (half[:, 1] > 2))
    expected = 2**21 * math.erfc(2 / math.sqrt(2)) ** 2
    assert abs(both - expected) < 5 * math.sqrt(expected)


def test_added_noise_is_one_gaussian_by_box_and_muller(way: str) -> None:
    n, sigma, values = 7, 3.0, np.array([0.0, 1e-3, -5.0, 1 / 3, 1e6, 2.0, -1e-9])
    half = 4
    words = [int(word) for word in np.frombuffer(draw(KEY, b"add", 0, 16 * half), dtype="<u8")]
    expected = []
    for place in range(n):
        radius = math.sqrt(-2 * math.log((words[place % half] + 0.5) / 2**64))
        angle = 2 * math.pi * words[half + place % half] / 2**64
        expected.append(values[place] + sigma * radius * (math.cos(angle) if place < half else math.sin(angle)))
    got = values.copy()
    NoiseStream(KEY, b"add").add_noise(got, sigma)
    step = 2.0**-15
    assert got.tolist() == (np.rint(np.array(expected) / step) * step).tolist()


def pairs(radii: list[int], angles: list[int], way: str) -> tuple[NDArray[np.float64], ...]:
    """R cos a and R sin a in parts of 2**-48."""
    add = noise._kernel() if way == "compiled" else noise._noised
    assert add is not None
    out = np.zeros(2 * len(radii))
    add(np.array(radii, dtype="<u8"), np.array(angles, dtype="<u8").view("<i8"), out, -2.0 * 2.0**96, 0.0, 2.0**-48)
    return out[: len(radii)], out[len(radii) :]


def test_no_word_is_lost_in_logarithm_sine_or_cosine(way: str) -> None:
    """Zeros, ones, powers of two, and both sides of where the polynomials change, against the math library.

    An error of 5e-15 is less than a part in 10**9 of a step of the grid.
    """
    edges = [0, 1, 2, 3, 2**31, 2**32 - 1, 2**62, 13043817825332782212, 13043817825332782213, 2**63, 2**64 - 2**11]
    radii = [*edges, 2**64 - 1]
    eighths = [(turn * 2**61 + near) % 2**64 for turn in range(8) for near in (-1, 0, 1)]
    chosen = [(radius, angle) for radius in radii for angle in eighths]
    cosine, sine = pairs([radius for radius, _ in chosen], [angle for _, angle in chosen], way)
    for (word, turn), x, y in zip(chosen, cosine, sine, strict=True):
        radius = math.sqrt(-2 * math.log((word + 0.5) / 2**64))
        angle = 2 * math.pi * (turn / 2**64)
        assert x == pytest.approx(radius * math.cos(angle), abs=5e-15), (word, turn)
        assert y == pytest.approx(radius * math.sin(angle), abs=5e-15), (word, turn)


@pytest.mark.parametrize("radius", [0.5, 1.0, 3.0, 5.0])
def test_words_next_to_each_other_fill_a_step_evenly_along_any_ray(radius: float, way: str) -> None:
    """As the argument for the grid has it (docs/design.md, 67): by 2**64 r exp(-r**2/2) words for a unit of length."""
    count = 2**12
    word = int(math.exp(-(radius**2) / 2) * 2**64)
    apart = round(word * radius * 2.0**-17 / count)
    for angle in (0, 2**60, 2**61 + 12345, 3 * 2**60):
        cosine, sine = pairs([word - apart * i for i in range(count)], [angle] * count, way)
        lengths = np.hypot(cosine, sine) - radius
        # So many words apart they are a step of the grid's 2**-17 divided by their number from each other.
        np.testing.assert_allclose(np.diff(lengths), 2.0**-17 / count, rtol=1e-3)


def test_where_in_a_step_noise_falls_is_even(way: str) -> None:
    """Before rounding, by the position within steps of 2**-17; the most that floating point leaves is 1e-9."""
    drawn = np.frombuffer(NoiseStream(KEY, b"within").bytes(16 * 2**18), dtype="<u8").tolist()
    for part in pairs(drawn[: 2**18], drawn[2**18 :], way):
        counts = np.histogram((part * 2**17) % 1.0, bins=64, range=(0, 1))[0]
        chi_squared = float(((counts - 2**12) ** 2 / 2**12).sum())
        assert chi_squared < 63 + 5 * math.sqrt(2 * 63)


@pytest.mark.parametrize("kind", [np.float32, np.float64])
@pytest.mark.parametrize("n", [0, 1, 2, 5, 16_384, 40_001])
def test_noise_is_added_in_float64_and_multiplied_by_a_factor(kind: type, n: int, way: str) -> None:
    values = np.linspace(-3, 3, n).astype(kind)
    scaled, expected = values.copy(), values.astype(np.float64)
    NoiseStream(KEY, b"to").add_noise(expected, 0.7)
    NoiseStream(KEY, b"to").add_noise(scaled, 0.7, 0.1)
    np.testing.assert_array_equal(scaled, (expected * 2**17 * (0.1 / 2**17)).astype(kind))
    NoiseStream(KEY, b"to").add_noise(values, 0.7)
    np.testing.assert_array_equal(values, expected.astype(kind))
    NoiseStream(KEY, b"to").add_noise(scaled, 0.0, 0.5)
    np.testing.assert_array_equal(scaled, (expected * 2**17 * (0.1 / 2**17)).astype(kind) * 0.5)


def test_noise_for_what_is_no_vector_is_refused() -> None:
    for values in (np.zeros((2, 3)), np.array(1.0)):
        with pytest.raises(LocalProtocolError, match="must be"):
            NoiseStream(KEY, b"x").add_noise(values, 1.0)


CHILD = """
import sys
{before}
import hashlib
import numpy as np
from quidnunc.crypto.noise import LEAST_COMPILED, NoiseStream
values = np.zeros(LEAST_COMPILED - {less})
NoiseStream(bytes(32), b"child").add_noise(values, 1.0)
print(sys.modules.get("numba") is not None, hashlib.sha256(values.tobytes()).hexdigest())
"""


@needs_numba
def test_with_numba_and_without_it_is_the_same_noise_and_small_models_do_not_load_it() -> None:
    """They might differ by a step in one of 10**9 numbers, where the last bit of a logarithm decides; not in these."""

    def child(before: str, less: int) -> list[str]:
        code = CHILD.format(before=before, less=less)
        return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()

    used, compiled = child("", 0)
    missing, plain = child("sys.modules['numba'] = None", 0)
    assert (used, missing) == ("True", "False")
    assert compiled == plain
    assert child("", 1)[0] == "False"


def test_last_bits_do_not_tell_what_the_noise_was_added_to(way: str) -> None:
    """The attack of Mironov: which results can be had from one value and not from another? All from both."""
    one, other = (set(noised(2**21, 1.0, b"bits/%d" % (at > 0), at).tolist()) for at in (0.0, 1 / 3))
    near = {step / 2**16 for step in range(-128, 128)}
    assert near <= one
    assert near <= other
    # Without the grid hardly any result is common to both.
    loose = [set((at + NoiseStream(KEY, b"loose").gaussian(2**12)).tolist()) for at in (0.0, 1 / 3)]
    assert len(loose[0] & loose[1]) < 2**12 / 4


def test_added_noise_repeats_by_name_and_only_so_and_chunks_do_not_share_it() -> None:
    sample = noised(50_001, 1.0, b"one")
    assert sample.tolist() == noised(50_001, 1.0, b"one").tolist()
    assert np.count_nonzero(sample == noised(50_001, 1.0, b"two")) < 50
    stream = NoiseStream(KEY, b"one")
    twice = np.zeros((2, 50_001))
    for row in twice:
        stream.add_noise(row, 1.0)
    assert twice[0].tolist() == sample.tolist()
    for lag in (1, 8192, 16_384, 25_000):
        for f in (lambda x: x, lambda x: x**2 - 1):
            one, other = f(sample[:-lag]), f(sample[lag:])
            assert abs((one * other).mean()) < 5 * one.std() * other.std() / math.sqrt(len(one)), lag
    assert abs(np.corrcoef(twice)[0, 1]) < 5 / math.sqrt(50_001)


@pytest.mark.parametrize("n", [0, 1, 2, 3, 16_383, 16_384, 16_385])
def test_noise_is_added_to_every_value(n: int) -> None:
    assert np.count_nonzero(noised(n, 1.0, b"size", at=100.0) != 100.0) >= n - n // 500


def test_no_noise_is_no_change_and_wild_ones_are_refused() -> None:
    values = np.array([1 / 3, -2.0])
    NoiseStream(KEY, b"x").add_noise(values, 0.0)
    assert values.tolist() == [1 / 3, -2.0]
    for sigma in (-1.0, math.inf, math.nan, 1e-101, 1e101):
        with pytest.raises(LocalProtocolError, match="must be 0 or from 1e-100 to 1e100"):
            NoiseStream(KEY, b"x").add_noise(values, sigma)
    for sigma in (1e-100, 1e100):
        assert np.isfinite(noised(100, sigma, b"x")).all()


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
