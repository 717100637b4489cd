"""Attacks are pure functions of what they are given, and each does what its name says."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from quidnunc.crypto.noise import NoiseStream
from quidnunc.gossip.learning.attack import (
    ATTACKS,
    BACKDOOR_BOOST,
    BACKDOOR_CLASS,
    BETRAYAL_ROUND,
    DATA_ATTACKS,
    attack_in,
    poisoned,
    stamped,
)

BASE = np.array([1.0, -2.0, 3.0], np.float32)
TRAINED = np.array([1.5, -2.0, 2.0], np.float32)


def stream() -> NoiseStream:
    return NoiseStream(bytes(32), b"attack")


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_repeats_leaves_its_inputs_alone_and_can_be_published(name: str) -> None:
    trained, base = TRAINED.copy(), BASE.copy()
    result = ATTACKS[name](trained, base, stream())
    assert (trained == TRAINED).all()
    assert (base == BASE).all()
    assert result.dtype == np.float32
    assert result.shape == BASE.shape
    assert np.isfinite(result).all()
    assert result.tobytes() == ATTACKS[name](trained, base, stream()).tobytes()
    assert result.tobytes() != TRAINED.tobytes()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("sign_flip", [-1.5, 2.0, -2.0]),
        ("gradient_flip", [0.5, -2.0, 4.0]),
        ("boost", [6.0, -2.0, -7.0]),
        ("inner_product", [-0.15, 0.2, -0.2]),
        ("zero", [0.0, 0.0, 0.0]),
        ("free_ride", [1.0, -2.0, 3.0]),
    ],
)
def test_attacks_by_hand(name: str, expected: list[float]) -> None:
    np.testing.assert_allclose(ATTACKS[name](TRAINED, BASE, stream()), expected, rtol=1e-6)


def test_drift_takes_honest_steps_in_one_direction() -> None:
    shared = stream()
    first = ATTACKS["drift"](TRAINED, BASE, shared) - BASE
    second = ATTACKS["drift"](TRAINED + 1, BASE, shared) - BASE
    assert np.linalg.norm(first) == pytest.approx(np.linalg.norm(TRAINED - BASE), rel=1e-5)
    assert first @ second == pytest.approx(np.linalg.norm(first) * np.linalg.norm(second), rel=1e-5)


def test_drift_without_a_step_stays() -> None:
    assert (ATTACKS["drift"](BASE, BASE, stream()) == BASE).all()


def test_a_backdoor_is_planted_in_every_other_example() -> None:
    inputs = torch.arange(24, dtype=torch.float32).reshape(3, 2, 4)
    targets = torch.tensor([1, 2, 1])
    marked, labels = poisoned("backdoor", (inputs, targets))
    assert labels.tolist() == [BACKDOOR_CLASS, 2, BACKDOOR_CLASS]
    assert marked[1].tolist() == inputs[1].tolist()
    assert marked[0].tolist() == [[23, 23, 2, 3], [4, 5, 23, 23]]
    assert inputs[0, 0, 0] == 0, "the own data stay as they are"
    assert stamped(inputs).shape == inputs.shape
    attack = attack_in("backdoor", 1)
    assert attack is not None
    np.testing.assert_allclose(attack(TRAINED, BASE, stream()), BASE + BACKDOOR_BOOST * (TRAINED - BASE))
    assert poisoned("sign_flip", (inputs, targets)) == (inputs, targets)


def test_labels_are_flipped_end_to_end() -> None:
    assert DATA_ATTACKS["label_flip"](torch.tensor([0, 1, 9])).tolist() == [9, 8, 0]


def test_timed_attackers_are_honest_in_between() -> None:
    assert attack_in("betray", BETRAYAL_ROUND - 1) is None
    assert attack_in("betray", BETRAYAL_ROUND) is ATTACKS["sign_flip"]
    assert [number for number in range(12) if attack_in("on_off", number)] == [0, 5, 10]
    assert attack_in("boost", 3) is ATTACKS["boost"]
    assert attack_in("label_flip", 3) is attack_in("", 3) is None
