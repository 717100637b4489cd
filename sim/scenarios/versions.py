"""What a run's numbers depend on besides the scenario and the machine."""

from __future__ import annotations

from importlib.metadata import version


def versions() -> dict[str, str]:
    """The versions of this program and of what computes for it, by name."""
    return {name: version(name) for name in ("quidnunc", "torch", "numpy")}
