"""What REPUTE looks at in neighborhoods: distances, and losses on the holdout of params on the way to the neighbors'.

Either states are gathered block by block, and numpy and torch go over them; or, in long runs where numba is installed,
compiled code takes one peer after the other, whose neighbors' rows it reads where they are. The two agree to rounding.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

import numpy as np
from torch import Tensor

from quidnunc.gossip.rules.linear import Reals
from quidnunc.gossip.rules.neighborhoods import Buffers, dots, geometries, spreads
from quidnunc.sim.batched.compiled import Insight
from quidnunc.sim.batched.draws import Indices
from quidnunc.sim.batched.gathering import Group, gathered, together, width_of
from quidnunc.sim.batched.holdout import Holdout


class Sight(Protocol):
    """Some peers and their neighbors: ``norms`` [b] of the own states, ``away`` [b, k] the distances from them."""

    norms: Reals
    away: Reals

    def losses(self, parts: Reals, peers: Indices) -> Reals:
        """The own losses of ``peers`` [b], and those at ``parts`` [k, b] of the way to each neighbor: [k+1, b]."""
        ...

    def spreads(self) -> Reals:
        """Everybody's distance to the coordinate median, the own first, [b, k+1]. Nothing is asked afterwards."""
        ...


class Sights:
    """How neighborhoods are looked at; ``insight`` is the compiled way, if the run has it."""

    def __init__(self, holdout: Holdout | None, insight: Insight | None) -> None:
        self._holdout = holdout
        self._insight = insight
        self._buffers = Buffers()

    def parts(self, group: Group, dim: int) -> Iterable[Group]:
        """What of a group is looked at together: compiled code needs no room for its states."""
        return group.blocks(dim) if self._insight is None else (group,)

    def look(self, ring: list[Tensor], index: Indices) -> Sight:
        """At the neighborhoods whose rows in the ring are ``index`` [k+1, b], the peer's own first."""
        if self._insight is None:
            return _Gathered(ring, index, self._holdout, self._buffers)
        return _InPlace(ring, index, self._holdout, self._insight)

    def shares(self, ring: list[Tensor], index: Indices) -> Reals:
        """What each state holds of the median of the others, [b, k+1]; see :func:`geometries`."""
        many, peers = index.shape
        found, step = np.empty((peers, many)), together(width_of(ring), many)
        for at in range(0, peers, step):
            some = index[:, at : at + step]
            states = gathered(ring, some, self._buffers.array("again", (*some.shape, width_of(ring))))
            found[at : at + step] = geometries(list(states), self._buffers).share
        return found


class _Gathered:
    """Rows are copied, each with its part of the block together, and become steps from the own."""

    def __init__(self, ring: list[Tensor], index: Indices, holdout: Holdout | None, buffers: Buffers) -> None:
        self._holdout, self._buffers = holdout, buffers
        self._states = gathered(ring, index, buffers.array("states", (*index.shape, width_of(ring))))
        own, steps = self._states[0], self._states[1:]
        steps -= own
        self.away: Reals = np.sqrt(dots(steps, steps)).T
        self.norms: Reals = np.sqrt(dots(own, own))

    def losses(self, parts: Reals, peers: Indices) -> Reals:
        """See :class:`Sight`."""
        assert self._holdout is not None
        return self._holdout.halfway(self._states, parts, peers)

    def spreads(self) -> Reals:
        """See :class:`Sight`."""
        # Seen from the own state, which is not looked at any more, that is no step away.
        self._states[0].fill(0.0)
        return spreads(list(self._states), self._buffers)


class _InPlace:
    """Rows are read where they are: every distance in one pass, losses in another."""

    def __init__(self, ring: list[Tensor], index: Indices, holdout: Holdout | None, insight: Insight) -> None:
        self._rows = [tensor.view(-1, *tensor.shape[2:]) for tensor in ring]
        self._index, self._holdout = index, holdout
        self.norms, self.away, self._spreads = insight.apart(self._rows, index)

    def losses(self, parts: Reals, peers: Indices) -> Reals:
        """See :class:`Sight`."""
        assert self._holdout is not None
        return self._holdout.in_place(self._rows, self._index, parts, peers)

    def spreads(self) -> Reals:
        """See :class:`Sight`."""
        return self._spreads
