"""No bytes surprise a decoder: what is accepted is canonical, and every refusal is of one type."""

from __future__ import annotations

import random

import pytest
from fuzzing import SEED, Decoder, decoders, mutate

MUTATIONS = 20_000
"""Of each decoder: 240,000 in all."""

DECODERS = decoders()


@pytest.mark.parametrize("decoder", DECODERS, ids=lambda each: each.name)
def test_golden_messages_are_accepted(decoder: Decoder) -> None:
    assert all(decoder.try_one(data) for data in decoder.golden)


@pytest.mark.parametrize("seed", [SEED])
@pytest.mark.parametrize("decoder", DECODERS, ids=lambda each: each.name)
def test_mutations_are_refused_or_canonical(decoder: Decoder, seed: int) -> None:
    rng = random.Random(f"{seed} {decoder.name}")
    everything = [data for each in DECODERS for data in each.golden]
    accepted = 0
    for number in range(MUTATIONS):
        corpus = decoder.golden if number % 4 else everything
        accepted += decoder.try_one(mutate(decoder.golden[number % len(decoder.golden)], corpus, rng))
    assert 0 < accepted < MUTATIONS // 2, "mutations that all pass or all fail test nothing"


@pytest.mark.parametrize("seed", [SEED])
@pytest.mark.parametrize("decoder", DECODERS, ids=lambda each: each.name)
def test_any_bytes_are_refused_or_canonical(decoder: Decoder, seed: int) -> None:
    rng = random.Random(f"{seed} any {decoder.name}")
    for _ in range(500):
        decoder.try_one(rng.randbytes(int(rng.random() ** 3 * 300)))
