"""The attacks that a real daemon can act out, and the names of those that it cannot."""

from __future__ import annotations

from typing import TYPE_CHECKING

from quidnunc.crypto.errors import ConfigError
from quidnunc.gossip import spelling
from quidnunc.gossip.learning.attack import ATTACKS, DATA_ATTACKS, EXAMPLE_ATTACKS, TIMED_ATTACKS, flip_labels, poisoned
from quidnunc.gossip.learning.insider import INSIDER_ATTACKS
from quidnunc.gossip.learning.malformed import MALFORMED

if TYPE_CHECKING:
    from torch import Tensor

DRILLS = (*ATTACKS, *TIMED_ATTACKS, *DATA_ATTACKS, *EXAMPLE_ATTACKS, *INSIDER_ATTACKS, *MALFORMED)
"""Every attack of a daemon by name."""

ELSEWHERE = {
    "spectral": "it needs the states of all peers: quidnunc sim run with attack.name = 'spectral'",
    "sybil": "identities stand in the charter: take more --attackers, or quidnunc sim run with attack.name = 'sybil'",
    "replacement": "as a drill it is backdoor; by itself quidnunc sim run with attack.name = 'replacement'",
    "equivocation": "a daemon signs one history: see docs/robustness.md for how two are made and frozen",
    "size_liar": "sizes stand on the cards: init --data with other rows, and federation create --size-cap",
}
"""Attacks that no daemon acts out, and what to do instead."""


def check_drill(name: str) -> None:
    """Raise ConfigError unless ``name`` is one of DRILLS or empty (honest)."""
    if name in ELSEWHERE:
        raise ConfigError(f"attack {name} is not for a daemon", hint=ELSEWHERE[name])
    if name and name not in DRILLS:
        known = f"known are {', '.join(DRILLS)}"
        raise ConfigError(f"attack {name[:64]} is unknown", hint=spelling.hint(name, DRILLS, otherwise=known))


def examples_of(name: str, train: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """The training examples (inputs, targets) of the attacker ``name``; its own where it leaves them."""
    if name == "slow":
        return train[0], flip_labels(train[1])
    return poisoned(name, train)
