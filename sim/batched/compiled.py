"""Compiled sums and steps of the engine, where numba is installed (extra ``[fast]``) and a run is large enough.

Making the code takes seconds, once in a process. Mixing has the same bits either way; steps agree to rounding, so that
whether they are compiled depends on the setup alone, and whoever trains parts of a population has the same bits.
"""

from __future__ import annotations

from functools import cache
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np

from quidnunc.sim.batched.stacks import StackNet

if TYPE_CHECKING:
    from quidnunc.sim.batched.descent import Descent
    from quidnunc.sim.batched.setup import Setup

LEAST_PARAMS = 1 << 21
"""Params of everybody from which on mixing is compiled."""
LEAST_PRODUCTS = 1 << 36
"""Params times examples of all local steps of a run from which on steps are compiled: they save then what making the
code takes, some four seconds."""
ROUNDS = 1000
"""What a run of unknown length is taken for."""


@cache
def sums() -> ModuleType | None:
    """Weighted sums in compiled code; None where numba is missing, refuses this numpy, or may not make code."""
    try:
        from quidnunc.sim.batched import sums
    except (ImportError, OSError):  # the latter where the system forbids writable memory to be executed
        return None
    return sums


@cache
def _descent() -> ModuleType | None:
    try:
        from quidnunc.sim.batched import descent
    except (ImportError, OSError):
        return None
    return descent


def descent_for(setup: Setup) -> Descent | None:
    """Compiled steps for plain SGD of linear layers and relu on the CPU; None where they do not apply or pay."""
    training, net = setup.training, setup.net
    if setup.device != "cpu" or setup.privacy is not None or setup.quasi_global or training.momentum or training.prox:
        return None
    if not isinstance(net, StackNet) or net.linears is None:
        return None
    widths = net.linears.widths
    if widths[0] != setup.pool.features or widths[-1] < setup.pool.classes:
        return None  # It does not fit, and compiled code checks no bounds: torch says what is wrong.
    sizes = np.minimum(setup.shares.sizes, training.batch_size)
    products = net.slots[-1].stop * int(sizes.sum()) * training.local_steps * (setup.rounds or ROUNDS)
    module = _descent() if products >= LEAST_PRODUCTS else None
    return None if module is None else module.Descent(net.linears, int(sizes.max()))
