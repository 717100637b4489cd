"""What a demo tells of its attackers: how much their honest neighbors still let them count for."""

from __future__ import annotations

from statistics import fmean
from typing import Any

from quidnunc.gossip.reputation import StandingClass
from quidnunc.peer.client import NotReachable, ask
from quidnunc.peer.output import Line, Styled
from quidnunc.peer.rehearsal import Actor

ISOLATED = 0.01
"""Who keeps less than this part of its mixing weight is called isolated."""


def held_by_attackers(actors: list[Actor]) -> list[dict[str, Any]]:
    """One row per attacker, from what its honest neighbors' daemons say of it now; to be asked while they run.

    ``kept`` is the part of its mixing weight that it had in their last merges, None where nobody knows it.
    """
    rows: dict[str, list[dict[str, Any]]] = {actor.name: [] for actor in actors if actor.attacker}
    for actor in actors if rows else ():
        if actor.attacker or actor.ended is not None:
            continue
        try:
            found = ask(actor.home.socket(), "/v1/peers")["peers"]
        except NotReachable:
            continue
        for each in found:
            if each["name"] in rows:
                rows[each["name"]].append(each)
    return [_attacker(name, seen) for name, seen in rows.items()]


def _attacker(name: str, seen: list[dict[str, Any]]) -> dict[str, Any]:
    kept = [each["last_weight"] / each["weight"] for each in seen if each["weight"]]
    out = (StandingClass.EXCLUDED, "quarantined")
    return {
        "name": name,
        "neighbors": len(seen),
        "excluded_by": sum(each["standing"] in out for each in seen),
        "refused": sum(each["refused"] for each in seen),
        "kept": fmean(kept) if kept else None,
    }


def drill_lines(rows: list[dict[str, Any]], attack: str) -> list[Line]:
    """One line per attacker."""
    lines: list[Line] = []
    for row in rows:
        if row["kept"] is None:
            lines.append(Styled(f"{row['name']} ({attack}): no honest neighbor has heard of it", "warn"))
            continue
        what = (
            f"{row['name']} ({attack}) keeps {row['kept']:.1%} of its weight; excluded by {row['excluded_by']} of "
            f"{row['neighbors']} honest neighbors, {row['refused']} of its messages refused"
        )
        lines.append(Styled(what, "good" if row["kept"] < ISOLATED else "warn"))
    return lines
