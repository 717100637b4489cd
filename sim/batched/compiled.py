"""Compiled sums, steps and evidence of the engine, where numba is installed (extra ``[fast]``) and a run large enough.

Making the code takes seconds, once in a process. Mixing has the same bits either way; steps and evidence agree to
rounding, so that whether they are compiled depends on the setup alone, and whoever trains parts of a population has the
same bits.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from types import ModuleType
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from torch import Tensor

from quidnunc.sim.batched.draws import Indices
from quidnunc.sim.batched.stacks import Linears, StackNet

if TYPE_CHECKING:
    from quidnunc.sim.batched.apart import Apart
    from quidnunc.sim.batched.descent import Descent
    from quidnunc.sim.batched.probe import Probe
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


@cache
def _insight() -> tuple[ModuleType, ModuleType] | None:
    try:
        from quidnunc.sim.batched import apart, probe
    except (ImportError, OSError):
        return None
    return apart, probe


def descent_for(setup: Setup) -> Descent | None:
    """Compiled steps for plain SGD of linear layers and relu on the CPU; None where they do not apply or pay."""
    linears = _worth_compiling(setup)
    module = None if linears is None else _descent()
    if module is None or linears is None:
        return None
    return module.Descent(linears, int(_batches(setup).max()))  # type: ignore[no-any-return]


def insight_for(setup: Setup) -> Insight | None:
    """What REPUTE looks at in compiled code, in the runs whose steps are: None in others."""
    linears = _worth_compiling(setup)
    modules = None if linears is None else _insight()
    if modules is None or linears is None:
        return None
    apart, probe = modules
    most = 0 if setup.holdout is None else max(map(len, setup.holdout))
    return Insight(apart.apart, probe.Probe(linears, most) if most else None)


class Insight(NamedTuple):
    """How far neighbors are (``apart.py``), and what they lose on the holdout (``probe.py``), None without one."""

    apart: Callable[[list[Tensor], Indices], Apart]
    probe: Probe | None


def _batches(setup: Setup) -> Indices:
    """How many examples a batch of everybody has."""
    found: Indices = np.minimum(setup.shares.sizes, setup.training.batch_size)
    return found


def _worth_compiling(setup: Setup) -> Linears | None:
    """The layers of a model whose steps are plain SGD and of which a run has enough; None of others."""
    training, net = setup.training, setup.net
    if setup.device != "cpu" or setup.privacy is not None or setup.quasi_global or training.momentum or training.prox:
        return None
    if not isinstance(net, StackNet) or net.linears is None:
        return None
    widths = net.linears.widths
    if widths[0] != setup.pool.features or widths[-1] < setup.pool.classes:
        return None  # It does not fit, and compiled code checks no bounds: torch says what is wrong.
    steps = training.local_steps * (setup.rounds or ROUNDS)
    products = net.slots[-1].stop * int(_batches(setup).sum()) * steps
    return net.linears if products >= LEAST_PRODUCTS else None
