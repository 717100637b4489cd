"""A network in virtual time: delay, bandwidth, loss, reordering and cuts between peers, from one seeded generator."""

from __future__ import annotations

import random
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Link:
    """How messages travel: ``delay_s`` + Exp(``jitter_s``) seconds each, lost with probability ``loss``.

    With jitter, messages overtake each other. ``duplicate`` is the probability that one arrives twice. ``mbit_s`` is
    how many megabits a second go over the link each way, one message after the other; 0: no limit.
    """

    delay_s: float = 0.02
    jitter_s: float = 0.2
    loss: float = 0.0
    duplicate: float = 0.0
    mbit_s: float = 0.0


@dataclass(slots=True)
class Network:
    """Which messages arrive, and when. ``cuts`` holds unordered pairs of peers that cannot reach each other.

    ``links`` are those of pairs that differ from ``link``.
    """

    link: Link
    rng: random.Random
    links: dict[frozenset[int], Link] = field(default_factory=dict)
    cuts: set[frozenset[int]] = field(default_factory=set)
    sent: int = 0
    lost: int = 0
    bytes_sent: int = 0
    _busy_until: dict[tuple[int, int], float] = field(default_factory=dict)

    def arrivals(self, sender: int, receiver: int, size: int, now: float) -> list[float]:
        """Delays after which a message of ``size`` bytes sent at ``now`` arrives: none if lost, two if duplicated."""
        pair = frozenset((sender, receiver))
        link = self.links.get(pair, self.link)
        self.sent += 1
        self.bytes_sent += size
        through = self._pass(sender, receiver, link, size, now)
        if pair in self.cuts or self.rng.random() < link.loss:
            self.lost += 1
            return []
        copies = 1 + (self.rng.random() < link.duplicate)
        jitter = link.jitter_s
        return [
            through + link.delay_s + (self.rng.expovariate(1 / jitter) if jitter > 0 else 0.0) for _ in range(copies)
        ]

    def _pass(self, sender: int, receiver: int, link: Link, size: int, now: float) -> float:
        """Seconds until the last byte has left, after what was sent before; what is lost has taken its time, too."""
        if link.mbit_s <= 0:
            return 0.0
        free = max(now, self._busy_until.get((sender, receiver), now)) + 8e-6 * size / link.mbit_s
        self._busy_until[sender, receiver] = free
        return free - now
