"""Back from a long absence, or new: how far the federation went on meanwhile, and whether to adopt where it stands."""

from __future__ import annotations

from statistics import median

from quidnunc.gossip.merging import ADOPTION_MINIMUM
from quidnunc.gossip.neighbor import Neighbor
from quidnunc.gossip.publisher import Publisher
from quidnunc.gossip.replicas import Replicas
from quidnunc.gossip.settings import Settings


class Absence:
    """Compares where neighbors stood at our start, as far as we knew, with where they stand once they are heard."""

    def __init__(self, replicas: Replicas, publisher: Publisher, settings: Settings) -> None:
        self._replicas = replicas
        self._publisher = publisher
        self._settings = settings
        self._known = {n.log_id: n.number for n in replicas.neighbors.values()}

    def current(self) -> list[Neighbor]:
        """Neighbors heard since the start whose replica, as it stood then, is here."""
        everybody = self._replicas.neighbors.values()
        heard = [n for n in everybody if n.heard and not n.quarantined and n.retired is None]
        return [n for n in heard if n.number and n.number >= n.goal and not n.missing]

    def should_adopt(self) -> bool:
        """Back from a long absence, or new among experienced peers, with enough states for a median.

        A joiner has nothing of its own to keep: if the charter gives it fewer neighbors than a median takes, all of
        them are enough.
        """
        current = len(self.current())
        joins = not self._publisher.number and current == len(self._replicas.neighbors)
        return (current >= ADOPTION_MINIMUM or joins) and self.fell_behind()

    def fell_behind(self) -> bool:
        """Whether the federation went on without us for long.

        The median of what was missed: one neighbor that claims a large number must not send anybody back to the start.
        """
        missed = [self._missed(n) for n in self.current()]
        return bool(missed) and median(missed) > self._settings.absent_rounds

    def _missed(self, neighbor: Neighbor) -> float:
        """Own rounds missed: how far a neighbor had come when we heard of it again, at its speed relative to ours."""
        known, own = self._known[neighbor.log_id], self._publisher.number
        return (neighbor.goal - known) * (own / known if known and own else 1.0)
