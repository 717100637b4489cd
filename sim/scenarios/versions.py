"""What a run's numbers depend on besides the scenario and the machine."""

from __future__ import annotations

from importlib.metadata import version
from importlib.util import find_spec


def versions() -> dict[str, str]:
    """The versions of this program and of what computes for it, by name; numba's where it is installed."""
    fast = ("numba",) if find_spec("numba") is not None else ()
    return {name: version(name) for name in ("quidnunc", "torch", "numpy", *fast)}
