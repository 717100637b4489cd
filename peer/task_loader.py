"""From the name of a task to its function: where user code comes in."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from quidnunc.crypto.errors import ConfigError
from quidnunc.gossip.spelling import nearest

if TYPE_CHECKING:
    from quidnunc.gossip.task import Site, Task

CSV = "csv"
"""The built-in task that reads a table of the site's own; see peer/csv_task.py."""


def load_task(reference: str) -> Callable[[Site], Task]:
    """The task function that ``reference`` names: a built-in (``digits``) or ``package.module:function``.

    Modules are looked for where Python looks, and last in the current directory, so that a file there cannot
    take the place of an installed module. Raises ConfigError naming module, attribute and what is there.
    """
    if ":" not in reference:
        return _built_in(reference)
    name, _, attribute = reference.partition(":")
    module = _import(reference, name)
    found = module
    for part in attribute.split("."):
        found = getattr(found, part, None) if part else None
    if not callable(found):
        there = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        meant = nearest(attribute, there)
        what = "is not callable" if found is not None else "is not there"
        raise ConfigError(
            f"task {reference!r}: {attribute!r} {what} in {getattr(module, '__file__', name)}",
            hint=f"did you mean {name}:{meant}?" if meant else f"callable there: {', '.join(there[:8]) or 'nothing'}",
        )
    function: Callable[[Site], Task] = found
    return function


def _built_in(name: str) -> Callable[[Site], Task]:
    if name == CSV:
        from quidnunc.peer.csv_task import csv_task

        return csv_task
    from quidnunc.gossip.learning.builtin import BUILTIN

    if name not in BUILTIN:
        raise ConfigError(
            f"no built-in task {name!r}; there are: {', '.join(sorted((*BUILTIN, CSV)))}",
            hint="your own is written package.module:function",
        )
    return BUILTIN[name]


def _import(reference: str, name: str) -> Any:
    here = os.getcwd()
    if here not in sys.path:
        sys.path.append(here)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if missing and (name == missing or name.startswith(f"{missing}.")):
            raise ConfigError(
                f"task {reference!r}: no module {missing!r}",
                hint=f"install it, set PYTHONPATH, or start the daemon in its directory (now {here})",
            ) from error
        raise ConfigError(f"task {reference!r}: {name} needs {missing!r}, which is not installed") from error
    except (ValueError, TypeError) as error:
        raise ConfigError(f"task {reference!r}: not of the form package.module:function") from error
