"""``quidnunc sim``: topologies before anything runs, scenarios, and what came of them.

A verb is one module of ``sim/commands`` with a function ``register(verbs)``, listed in :data:`VERBS`.
"""

from __future__ import annotations

from typing import Any

from quidnunc.sim.commands import compare, report, run, sweep, topologies

VERBS = (topologies.register, run.register, sweep.register, compare.register, report.register)


def register(parser: Any) -> None:
    """The second word; ``parser`` is the command line's CommandParser."""
    verbs = parser.verbs("action")
    for add in VERBS:
        add(verbs)
