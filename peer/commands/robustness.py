"""Said before anybody signs or starts: whether the noise leaves a merge rule anything to see."""

from __future__ import annotations

from typing import Any

from quidnunc.gossip.feasibility import Feasibility, feasibility
from quidnunc.gossip.federation.charter import Charter
from quidnunc.gossip.federation.member import Member
from quidnunc.gossip.jobs import Unit
from quidnunc.peer.cli import Context

UNTOLD_MAX = 100
"""So many records nearly everybody has: nothing is said of cards that tell no number."""


def gate_of(charter: Charter, member: Member) -> Feasibility | None:
    """The gate with as many records as ``member`` has by its card, at least; None where its card does not tell."""
    if not member.size_bucket and charter.privacy.unit == Unit.EXAMPLE:
        return None
    return feasibility(charter.privacy, charter.merge, charter.task.dim, 2**member.size_bucket)


def warn(gate: Feasibility | None, member: Member, context: Context) -> None:
    """Warn if robustness cannot be claimed."""
    if gate is not None and not gate.robust:
        whom = "every member" if gate.unit == Unit.SITE else f"{member.name}, by its card"
        context.out.warn(f"{whom}: {gate.sentence()}")


def warn_of_noise(charter: Charter, context: Context) -> list[dict[str, Any]]:
    """Warn of every member whose noise hides attackers; what was found of each that tells its size, JSON-ready."""
    found: list[dict[str, Any] | None] = []
    for member in charter.members:
        gate = gate_of(charter, member)
        if charter.privacy.unit == Unit.EXAMPLE or not found:
            warn(gate, member, context)  # once where it is the same for everybody
        found.append(plain(gate, member))
    _warn_of_untold(charter, context)
    return [each for each in found if each is not None]


def _warn_of_untold(charter: Charter, context: Context) -> None:
    """Warn of members whose cards tell no number of records, if the noise asks for more than a few."""
    gate = feasibility(charter.privacy, charter.merge, charter.task.dim, 1)
    untold = [member.name for member in charter.members if not member.size_bucket]
    if gate is None or gate.unit != Unit.EXAMPLE or not untold or gate.needed <= UNTOLD_MAX:
        return
    context.out.warn(
        f"no robustness is claimed for members with fewer than {gate.needed} records: their noise hides attackers; the "
        f"cards of {', '.join(untold[:8])}{' and others' if len(untold) > 8 else ''} do not tell how many they have"
    )


def plain(gate: Feasibility | None, member: Member) -> dict[str, Any] | None:
    """JSON-ready."""
    if gate is None:
        return None
    ratio = round(gate.ratio, 4)
    return {"member": member.name, "examples": gate.examples, "noise_ratio": ratio, "feasible": gate.robust}
