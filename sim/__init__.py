"""Deterministic world: the same node under virtual time, and thousands of peers in batches.

``quidnunc.sim.run(...)`` runs a scenario in this process and returns a :class:`~quidnunc.sim.scenarios.run.Run`. It is
imported when first asked for, because it loads torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from quidnunc.sim.scenarios.prepare import Custom
    from quidnunc.sim.scenarios.run import Run, run
    from quidnunc.sim.scenarios.spec import SimScenario

__all__ = ["Custom", "Run", "SimScenario", "run"]

_HOMES = {"Custom": "prepare", "Run": "run", "run": "run", "SimScenario": "spec"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.scenarios.{_HOMES[name]}"), name)
