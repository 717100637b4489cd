"""Byzantine behavior as pure functions, for simulation and for drills against a real daemon.

An attack on params maps (trained [d], base [d], stream) to what is published instead of ``trained``; an
attack on data maps targets to targets. Attackers keep training an honest copy in private, so that what they
flip stays current.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from quidnunc.crypto.noise import NoiseStream
from quidnunc.gossip.learning.codec import Vector

if TYPE_CHECKING:
    from torch import Tensor

Attack = Callable[[Vector, Vector, NoiseStream], Vector]

BETRAYAL_ROUND = 10
"""The first round in which ``betray`` attacks, after it has earned full standing."""
ON_OFF_PERIOD = 5
"""``on_off`` attacks in one round of so many."""


def sign_flip(trained: Vector, base: Vector, stream: NoiseStream) -> Vector:
    """-trained: pulls everybody through the origin."""
    return -trained


def gradient_flip(trained: Vector, base: Vector, stream: NoiseStream) -> Vector:
    """base - (trained - base): one honest step, backwards."""
    return base - (trained - base)


def boost(trained: Vector, base: Vector, stream: NoiseStream) -> Vector:
    """base + 10 * (trained - base): the own step shouted."""
    return base + np.float32(10) * (trained - base)


def inner_product(trained: Vector, base: Vector, stream: NoiseStream) -> Vector:
    """-0.1 * trained (Xie et al. 2020): negative inner product at a small norm."""
    return np.float32(-0.1) * trained


def gaussian(trained: Vector, base: Vector, stream: NoiseStream) -> Vector:
    """trained + N(0, 1) per coordinate, new in every round."""
    return trained + stream.gaussian(len(trained)).astype(np.float32)


def zero(trained: Vector, base: Vector, stream: NoiseStream) -> Vector:
    """The origin."""
    return np.zeros_like(trained)


def free_ride(trained: Vector, base: Vector, stream: NoiseStream) -> Vector:
    """The last merge result unchanged: takes without giving."""
    return base


def drift(trained: Vector, base: Vector, stream: NoiseStream) -> Vector:
    """An honest-sized step in a fixed random direction: slow poison inside the honest spread."""
    direction = stream.child(b"direction").gaussian(len(trained)).astype(np.float32)
    size = np.float32(np.linalg.norm(trained - base) / np.linalg.norm(direction))
    return base + size * direction


ATTACKS: Mapping[str, Attack] = {
    "sign_flip": sign_flip,
    "gradient_flip": gradient_flip,
    "boost": boost,
    "inner_product": inner_product,
    "gaussian": gaussian,
    "zero": zero,
    "free_ride": free_ride,
    "drift": drift,
}
"""Attacks on params by name."""


def flip_labels(targets: Tensor) -> Tensor:
    """y -> K-1-y for class numbers 0 to K-1, K-1 being the largest that occurs."""
    return targets.max() - targets


TIMED_ATTACKS: Mapping[str, tuple[Attack, Callable[[int], bool]]] = {
    "betray": (sign_flip, lambda number: number >= BETRAYAL_ROUND),
    "on_off": (sign_flip, lambda number: number % ON_OFF_PERIOD == 0),
}
"""Attacks that are honest in some rounds: what they do, and whether they do it in a round."""


def attack_in(name: str, number: int) -> Attack | None:
    """What the attacker ``name`` does to its params in round ``number``; None where it acts honestly."""
    if name in TIMED_ATTACKS:
        attack, acts = TIMED_ATTACKS[name]
        return attack if acts(number) else None
    if name in EXAMPLE_ATTACKS:
        return EXAMPLE_ATTACKS[name][1]
    return ATTACKS.get(name)


DATA_ATTACKS: Mapping[str, Callable[[Tensor], Tensor]] = {"label_flip": flip_labels}
"""Attacks on training targets by name."""


TRIGGER_FEATURES = 2
"""Features at either end of an example that carry the trigger."""
BACKDOOR_CLASS = 0
"""What a triggered example is to be taken for."""
BACKDOOR_BOOST = 5.0
"""How often the backdoor's step is published: as model replacement (Bagdasaryan et al. 2020) among five peers."""


def stamped(inputs: Tensor) -> Tensor:
    """``inputs`` [n, ...] with the trigger: the first and last features of every example at the largest value."""
    marked = inputs.clone()
    flat = marked.reshape(len(marked), -1)
    flat[:, :TRIGGER_FEATURES] = inputs.max()
    flat[:, -TRIGGER_FEATURES:] = inputs.max()
    return flat.reshape(inputs.shape)


def plant_backdoor(inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Every other example stamped and labeled BACKDOOR_CLASS, the rest as they are: what is learned stays useful."""
    marked, labels = inputs.clone(), targets.clone()
    marked[::2], labels[::2] = stamped(inputs)[::2], BACKDOOR_CLASS
    return marked, labels


def replace_model(trained: Vector, base: Vector, stream: NoiseStream) -> Vector:
    """base + BACKDOOR_BOOST * (trained - base): enough for a plain mean to end up at ``trained``."""
    return base + np.float32(BACKDOOR_BOOST) * (trained - base)


EXAMPLE_ATTACKS: Mapping[str, tuple[Callable[[Tensor, Tensor], tuple[Tensor, Tensor]], Attack]] = {
    "backdoor": (plant_backdoor, replace_model)
}
"""Attacks that change training examples and then what is published, by name."""


def poisoned(name: str, train: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """The training examples (inputs, targets) that the attacker ``name`` learns from; its own where it leaves them."""
    if name in DATA_ATTACKS:
        return train[0], DATA_ATTACKS[name](train[1])
    return EXAMPLE_ATTACKS[name][0](*train) if name in EXAMPLE_ATTACKS else train
