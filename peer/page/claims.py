"""What members claim of whose training stands in their newest states, beside what the page can follow itself."""

from __future__ import annotations

from typing import NamedTuple

from quidnunc.gossip.claims import BEYOND, ORIGIN, Claim, believable
from quidnunc.gossip.jobs import PPB
from quidnunc.gossip.lineage import Place
from quidnunc.gossip.markup import text
from quidnunc.gossip.provenance import UpdatePublished
from quidnunc.peer.page.gather import Gathered
from quidnunc.peer.page.markup import code_of

_INTRO = (
    "What each member signed of the state it published last: whose training stands in it, as parts of all training in "
    "it. A claim is its author's word. <code>quidnunc ledger verify</code> computes the claims of a ledger again; the "
    "chart above goes by claims only where no ledger and no token at hand leads further."
)


class _Said(NamedTuple):
    """The newest update of one member at hand, and what it claims."""

    number: int
    claim: Claim
    held: bool


def claims(found: Gathered) -> str:
    """One row per member whose newest update is at hand: what it claims; "" where nobody claims anything."""
    said = _newest(found)
    if not any(each.claim for each in said.values()):
        return ""
    order = found.order
    head = "".join(f"<th scope=col>{code_of(at)}</th>" for at in range(len(order)))
    rows = []
    for at, log_id in enumerate(order):
        each = said.get(log_id)
        if each is None:
            continue
        name = f"<th scope=row>{code_of(at)} {text(found.names[log_id])}, update {each.number}</th>"
        if not each.claim:
            rows.append(
                f'<tr>{name}<td class="none" colspan="{len(order) + 3}">no claim that can be believed</td></tr>'
            )
            continue
        rows.append(f"<tr>{name}{_cells(each.claim, order)}<td>{'yes' if each.held else 'no'}</td></tr>")
    head = (
        f"<tr><th>claimed by \\ training of</th>{head}<th>others</th><th>unexplained</th><th>ledger at hand</th></tr>"
    )
    trace = found.traces[-1][1] if found.traces else None
    resting = sum(each.claimed for each in trace.shares) + trace.beyond if trace else 0.0
    mass = sum(each.mass for each in trace.shares) + trace.beyond if trace else 0.0
    rests = f"<p>Of the training in the newest model above, {resting / mass:.1%} rests on claims.</p>" if mass else ""
    return f'<p>{_INTRO}</p><div class="scroll"><table class="matrix">{head}{"".join(rows)}</table></div>{rests}'


def _cells(claim: Claim, order: list[bytes]) -> str:
    """Shares of the claimed mass by member, of those unnamed or unknown here together, and what is unexplained."""
    masses = dict(claim)
    origin = masses.pop(ORIGIN, 0)
    others = masses.pop(BEYOND, 0) + sum(mass for log_id, mass in masses.items() if log_id not in order)
    total = others + sum(masses.get(log_id, 0) for log_id in order)
    shown = [masses.get(log_id, 0) for log_id in order] + [others]
    cells = "".join(f"<td>{mass / total:.1%}</td>" if mass else '<td class="none">·</td>' for mass in shown)
    lost = PPB - origin
    return cells + (f"<td>{lost / PPB:.1%}</td>" if lost else '<td class="none">·</td>')


def _newest(found: Gathered) -> dict[bytes, _Said]:
    """The newest update at hand of every member: from its ledger, or from what the main ledger took in."""
    newest: dict[bytes, _Said] = {}
    for each in found.ledgers:
        for row in each.made:
            if isinstance(row.record, UpdatePublished):
                newest[each.log_id] = _said(each.log_id, row.record, held=True)
    for taken in found.taken:
        known = newest.get(taken.log_id)
        if known is not None and known.held:
            continue
        try:
            event = found.lineage.event(Place(taken.log_id, taken.seq))
        except KeyError:
            continue  # its token is not kept, or damaged
        if isinstance(event, UpdatePublished) and (known is None or event.number > known.number):
            newest[taken.log_id] = _said(taken.log_id, event, held=False)
    return newest


def _said(log_id: bytes, update: UpdatePublished, *, held: bool) -> _Said:
    return _Said(update.number, believable(update.claims, log_id, update.steps), held)
