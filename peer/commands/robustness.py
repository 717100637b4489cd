"""Said before anybody signs or starts: whether the noise leaves a merge rule anything to see."""

from __future__ import annotations

from typing import Any

from quidnunc.gossip.feasibility import Feasibility, feasibility
from quidnunc.gossip.federation.charter import Charter
from quidnunc.gossip.federation.member import Member
from quidnunc.gossip.jobs import Unit
from quidnunc.peer.cli import Context


def gate_of(charter: Charter, member: Member) -> Feasibility | None:
    """The gate with as many records as ``member`` has by its card, at least; None where its card does not tell."""
    if not member.size_bucket:
        return None
    return feasibility(charter.privacy, charter.merge, charter.task.dim, 2**member.size_bucket)


def warn(gate: Feasibility | None, member: Member, context: Context) -> None:
    """Warn if robustness cannot be claimed."""
    if gate is not None and not gate.robust:
        context.out.warn(f"{member.name}, by its card: {gate.sentence()}")


def warn_of_noise(charter: Charter, context: Context) -> list[dict[str, Any]]:
    """Warn of every member whose noise hides attackers; what was found of each that tells its size, JSON-ready."""
    if charter.privacy.unit == Unit.SITE:
        # The same for everybody, whatever the cards say.
        gate = feasibility(charter.privacy, charter.merge, charter.task.dim, 1)
        if gate is not None and not gate.robust:
            context.out.warn(f"every member: {gate.sentence()}")
        return []
    found = []
    for member in charter.members:
        gate = gate_of(charter, member)
        warn(gate, member, context)
        found.append(plain(gate, member))
    return [each for each in found if each is not None]


def plain(gate: Feasibility | None, member: Member) -> dict[str, Any] | None:
    """JSON-ready."""
    if gate is None:
        return None
    ratio = round(gate.ratio, 4)
    return {"member": member.name, "examples": gate.examples, "noise_ratio": ratio, "feasible": gate.robust}
