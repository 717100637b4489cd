"""Which versions run here."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

UNINSTALLED = "0+uninstalled"


def program_version() -> str:
    """The installed version of quidnunc, or ``0+uninstalled`` when the program runs from a source tree."""
    try:
        return version("quidnunc")
    except PackageNotFoundError:
        return UNINSTALLED


def torch_version() -> str:
    """The installed version of torch, without importing it."""
    try:
        return version("torch")
    except PackageNotFoundError:
        return "none"
