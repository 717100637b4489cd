"""Deltas: bounded error, one spelling, refusals, and the same bits in every kernel."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from quidnunc.crypto.errors import LocalProtocolError, Reason, RemoteProtocolError
from quidnunc.crypto.noise import NoiseStream
from quidnunc.gossip.learning import codec
from quidnunc.gossip.learning.codec import FLOAT32, INT8, Vector

NORMAL = st.floats(-(2.0**60), 2.0**60, width=32, allow_subnormal=False)
VECTORS = arrays(np.float32, st.integers(1, 40), elements=NORMAL)
SETTINGS = settings(deadline=None, max_examples=200)


def uniform(n: int, name: bytes = b"u") -> np.ndarray:
    return NoiseStream(bytes(32), name).uniform(n)


def refusal(code: int, data: bytes, dim: int) -> Reason:
    with pytest.raises(RemoteProtocolError) as caught:
        codec.decode(code, data, dim)
    return caught.value.reason


@SETTINGS
@given(VECTORS, st.binary(max_size=4))
def test_int8_is_within_one_step_and_survives_the_trip(vector: Vector, name: bytes) -> None:
    data = codec.encode_int8(vector, uniform(len(vector), name))
    assert len(data) == codec.encoded_size(INT8, len(vector))
    values = codec.decode(INT8, data, len(vector))
    step = max(2.0 * float(np.abs(vector).max()) / 127, 2.0**-100)
    assert (np.abs(values.astype(np.float64) - vector) <= step).all()


@SETTINGS
@given(VECTORS)
def test_float32_is_lossless(vector: Vector) -> None:
    assert (codec.decode(FLOAT32, codec.encode_float32(vector), len(vector)) == vector).all()


@SETTINGS
@given(st.binary(min_size=2, max_size=12))
def test_int8_has_one_spelling(data: bytes) -> None:
    """Whatever is accepted is what the encoder writes for that value: decode, then encode exactly, gives the bytes."""
    dim = len(data) - 1
    try:
        values = codec.decode(INT8, data, dim)
    except RemoteProtocolError:
        return
    assert codec.encode_int8(values, np.zeros(dim)) == data


@SETTINGS
@given(st.integers(-100, 64), st.lists(st.integers(-127, 127), min_size=1, max_size=8))
def test_int8_spellings_are_accepted_exactly_when_normal(exponent: int, levels: list[int]) -> None:
    data = exponent.to_bytes(1, "big", signed=True) + np.array(levels, np.int8).tobytes()
    if exponent == -100 or max(map(abs, levels)) >= 64:
        assert codec.encode_int8(codec.decode(INT8, data, len(levels)), np.zeros(len(levels))) == data
    else:
        assert refusal(INT8, data, len(levels)) is Reason.BAD_CODEC


def test_zero_and_tiny_deltas() -> None:
    assert codec.encode_int8(np.zeros(3, np.float32), uniform(3)) == b"\x9c\0\0\0"
    tiny = np.full(3, 1e-38, np.float32)
    values = codec.decode(INT8, codec.encode_int8(tiny, uniform(3)), 3)
    assert (np.abs(values) <= 2.0**-100).all()


def test_quantization_is_unbiased() -> None:
    vector = np.array([1.0, 0.3, -0.7, 0.001], np.float32)
    stream = NoiseStream(bytes(32), b"bias")
    trials = [codec.decode(INT8, codec.encode_int8(vector, stream.uniform(4)), 4) for _ in range(4000)]
    # One step is 2**-6; the mean of 4000 draws is within 5 standard errors of half a step.
    assert np.abs(np.mean(trials, axis=0) - vector).max() < 5 * 0.5 * 2.0**-6 / 4000**0.5


def test_refusals_name_their_reason() -> None:
    assert refusal(7, b"\0\x40", 1) is Reason.BAD_CODEC
    assert refusal(INT8, b"\0\x40\x40", 1) is Reason.BAD_SHAPE
    assert refusal(INT8, b"", 1) is Reason.BAD_SHAPE
    assert refusal(INT8, b"\0\x80", 1) is Reason.BAD_CODEC
    assert refusal(INT8, (65).to_bytes(1, "big") + b"\x7f", 1) is Reason.BAD_CODEC
    assert refusal(INT8, (-101).to_bytes(1, "big", signed=True) + b"\x7f", 1) is Reason.BAD_CODEC
    assert refusal(FLOAT32, np.array([np.nan], "<f4").tobytes(), 1) is Reason.NON_FINITE
    assert refusal(FLOAT32, b"\0" * 5, 1) is Reason.BAD_SHAPE


@pytest.mark.parametrize("bad", [np.nan, np.inf, 3e38])
def test_what_cannot_be_written_is_our_error(bad: float) -> None:
    with pytest.raises(LocalProtocolError):
        codec.encode(INT8, np.array([bad], np.float32), np.zeros(1))


def test_states_are_checked() -> None:
    state = codec.state_bytes(np.array([1.0, -2.0], np.float32))
    assert codec.parse_state(state, 2).tolist() == [1.0, -2.0]
    for data, reason in ((state[:-1], Reason.BAD_SHAPE), (b"\0\0\xc0\x7f" * 2, Reason.NON_FINITE)):
        with pytest.raises(RemoteProtocolError) as caught:
            codec.parse_state(data, 2)
        assert caught.value.reason is reason


def test_an_advance_past_the_largest_float_is_refused() -> None:
    big = np.full(1, 3e38, np.float32)
    with pytest.raises(RemoteProtocolError) as caught:
        codec.advance(big, codec.encode_float32(big), FLOAT32)
    assert caught.value.reason is Reason.NON_FINITE


@given(VECTORS, st.sampled_from([FLOAT32, INT8]))
@SETTINGS
def test_a_stored_state_advances_to_the_same_bits_and_stays_what_it_was_for_others(vector: Vector, code: int) -> None:
    delta = codec.encode(code, vector / 3, uniform(len(vector)))
    state = codec.state_bytes(vector)
    copy = bytes(bytearray(state))
    expected = codec.state_bytes(codec.advance(vector, delta, code))
    assert codec.advance_state(state, delta, len(vector), code) == expected
    assert state == copy
    assert codec.advance_state(bytes(bytearray(state)), delta, len(vector), code) == expected


@pytest.mark.parametrize(
    ("state", "delta", "reason"),
    [
        ([1.0], [1.0, 2.0], Reason.BAD_SHAPE),
        ([1.0, 2.0], [1.0], Reason.BAD_SHAPE),
        ([1.0, np.nan], [1.0, 2.0], Reason.NON_FINITE),
        ([1.0, 2.0], [1.0, np.inf], Reason.NON_FINITE),
        ([1.0, 3e38], [1.0, 3e38], Reason.NON_FINITE),
    ],
)
def test_a_stored_state_advances_by_nothing_wrong(state: list[float], delta: list[float], reason: Reason) -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        codec.advance_state(np.array(state, "<f4").tobytes(), np.array(delta, "<f4").tobytes(), 2, FLOAT32)
    assert caught.value.reason is reason


def test_a_stored_state_that_nobody_else_holds_needs_no_second_vector() -> None:
    dim = 1_000_000
    delta = bytes(4 * dim)
    tracemalloc.start()
    try:
        codec.advance_state(bytes(4 * dim), delta, dim, FLOAT32)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 7 * dim, "the state itself and a mask of one byte per param"


def kernels(x: torch.Tensor, q: torch.Tensor, s: float) -> list[torch.Tensor]:
    """Other ways to compute x + q * s: fused, wider, in place."""
    scaled = q.to(torch.float32)
    return [
        torch.add(x, scaled, alpha=s),
        torch.addcmul(x, scaled, torch.tensor(s)),
        (x.double() + scaled.double() * s).float(),
        x.clone().add_(scaled * s),
        x + q * s,
    ]


def test_a_power_of_two_scale_gives_every_kernel_the_same_bits() -> None:
    stream = NoiseStream(bytes(32), b"kernels")
    start = stream.gaussian(100_003).astype(np.float32)
    data = codec.encode_int8((0.05 * stream.gaussian(100_003)).astype(np.float32), stream.uniform(100_003))
    expected = codec.advance(start, data, INT8)
    levels = torch.from_numpy(np.frombuffer(data, np.int8, offset=1).copy())
    scale = 2.0 ** int.from_bytes(data[:1], "big", signed=True)
    for other in kernels(torch.from_numpy(start), levels, scale):
        assert other.numpy().tobytes() == expected.tobytes()


def test_a_free_scale_does_not() -> None:
    """The negative control of the test above: with a free scale, a fused add rounds once instead of twice."""
    stream = NoiseStream(bytes(32), b"kernels")
    start = torch.from_numpy(stream.gaussian(100_003).astype(np.float32))
    levels = torch.from_numpy(np.clip(40 * stream.gaussian(100_003), -127, 127).astype(np.int8))
    scale = float(np.float32(0.17 / 127))
    unfused = start + levels.to(torch.float32) * scale
    different = (torch.add(start, levels.to(torch.float32), alpha=scale) != unfused).float().mean()
    assert different > 0.05
