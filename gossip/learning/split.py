"""A model's vector in two parts: the params that are exchanged, and those a member keeps (``gossip/personal.py``)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from quidnunc.gossip.learning.codec import Vector
from quidnunc.gossip.learning.params import Slot
from quidnunc.gossip.personal import chosen

Stack = NDArray[np.float32]


class Split:
    """Which coordinates of a model's vector [D] are shared params [d], and which are personal [D - d].

    ``names`` are those of the charter; both parts keep the order of the slots. Raises ConfigError as
    :func:`quidnunc.gossip.personal.chosen` does.
    """

    def __init__(self, slots: Sequence[Slot], names: Sequence[str]) -> None:
        flags = chosen(names, [slot.name for slot in slots])
        self.shared_slots = tuple(slot for slot, personal in zip(slots, flags, strict=True) if not personal)
        self._mine = np.zeros(slots[-1].stop, dtype=np.bool_)
        for slot, personal in zip(slots, flags, strict=True):
            self._mine[slot.start : slot.stop] = personal
        self.personal_dim = int(self._mine.sum())
        self.dim = len(self._mine) - self.personal_dim

    def shared(self, vector: Vector) -> Vector:
        """The params of a whole vector [D]."""
        return vector[~self._mine] if self.personal_dim else vector

    def personal(self, vector: Vector) -> Vector:
        """The personal part of a whole vector [D]."""
        return vector[self._mine]

    def join(self, shared: Stack, personal: Vector) -> Stack:
        """Whole vectors [..., D] of params [..., d] and one personal part."""
        if not self.personal_dim:
            return shared
        whole = np.empty((*shared.shape[:-1], len(self._mine)), np.float32)
        whole[..., ~self._mine] = shared
        whole[..., self._mine] = personal
        return whole
