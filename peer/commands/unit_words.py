"""Whom an epsilon is about, in words that never let one account pass for another."""

from __future__ import annotations

from collections.abc import Mapping

from quidnunc.gossip.jobs import Unit

SUFFIX = {Unit.EXAMPLE: "", Unit.SITE: " for the whole site", Unit.SUM: " of a private sum, against few"}
"""Behind a number, where it is not of one record against everybody."""

_KEYS = {Unit.EXAMPLE: "epsilon", Unit.SITE: "epsilon_site", Unit.SUM: "epsilon_sum"}


def by_label(label: str) -> str:
    """:data:`SUFFIX` of the unit that ``--json`` names ``label``."""
    return next((SUFFIX[unit] for unit in Unit if unit.label == label), "")


def epsilons(spent_u: Mapping[Unit, int]) -> dict[str, float]:
    """What a log has spent, JSON-ready: that of records always, the others where there are any."""
    shown = {Unit.EXAMPLE: 0, **spent_u}
    return {_KEYS[unit]: micro / 1e6 for unit, micro in sorted(shown.items())}
