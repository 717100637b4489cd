"""A network in virtual time: delay, loss, reordering and cuts between named peers, all from one seeded generator."""

from __future__ import annotations

import random
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Link:
    """How messages travel: ``delay_s`` + Exp(``jitter_s``) seconds each, lost with probability ``loss``.

    With jitter, messages overtake each other. ``duplicate`` is the probability that one arrives twice.
    """

    delay_s: float = 0.02
    jitter_s: float = 0.2
    loss: float = 0.0
    duplicate: float = 0.0


@dataclass(slots=True)
class Network:
    """Which messages arrive, and when. ``cuts`` holds unordered pairs of peers that cannot reach each other."""

    link: Link
    rng: random.Random
    cuts: set[frozenset[int]] = field(default_factory=set)
    sent: int = 0
    lost: int = 0
    bytes_sent: int = 0

    def arrivals(self, sender: int, receiver: int, size: int) -> list[float]:
        """Delays after which a message of ``size`` bytes arrives: none if lost, two if duplicated."""
        self.sent += 1
        self.bytes_sent += size
        if frozenset((sender, receiver)) in self.cuts or self.rng.random() < self.link.loss:
            self.lost += 1
            return []
        copies = 1 + (self.rng.random() < self.link.duplicate)
        jitter = self.link.jitter_s
        return [self.link.delay_s + (self.rng.expovariate(1 / jitter) if jitter > 0 else 0.0) for _ in range(copies)]
