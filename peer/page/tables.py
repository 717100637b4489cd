"""The tables of the page: ledgers, who accepts whom, states, and every entry with what it leads to.

The two long tables leave out the end tags that HTML does not ask for: there are thousands of them.
"""

from __future__ import annotations

from quidnunc.gossip.markup import text
from quidnunc.gossip.provenance import Merge, UpdatePublished, UpdateReceived
from quidnunc.peer.commands.charter_view import when
from quidnunc.peer.commands.entry_links import cited_entries, made_state
from quidnunc.peer.commands.entry_view import STANDINGS, nth, type_label
from quidnunc.peer.page.gather import Gathered, Row, Seen
from quidnunc.peer.page.index import Index, State
from quidnunc.peer.page.markup import code_of, link, links

LINKS_MAX = 12
"""Links back that one row shows."""

_STRONG = 5
_HALF = 32


def ledgers(found: Gathered) -> str:
    """One row per ledger at hand: what it is, whether it verifies, and who vouches for it."""
    rows = []
    for each in found.ledgers:
        verdict = f'<td class="bad">BROKEN: {text(each.problem)}</td>' if each.problem else "<td>verifies</td>"
        rows.append(
            f"<tr><th scope=row>{text(each.name)}</th><td><code>{each.log_id.hex()}</code></td>"
            f"<td class=n>{each.size}</td><td><code>{each.root.hex()}</code></td>{verdict}"
            f"<td>{text(each.vouched.label)}</td></tr>"
        )
    head = "<tr><th>ledger of</th><th>log id</th><th>entries</th><th>root</th><th>checks</th><th>witnesses</th></tr>"
    return f'<div class="scroll"><table class="wrap">{head}{"".join(rows)}</table></div>'


def acceptance(found: Gathered) -> str:
    """Receivers down, senders across: updates accepted, and what was refused. Shades repeat what the numbers say."""
    order = found.order
    held = {each.log_id: each for each in found.ledgers}
    head = "".join(f"<th scope=col>{code_of(at)}</th>" for at in range(len(order)))
    rows = []
    for at, receiver in enumerate(order):
        name = f"<th scope=row>{code_of(at)} {text(found.names[receiver])}</th>"
        seen = held.get(receiver)
        if seen is None:
            rows.append(f'<tr>{name}<td class="none" colspan="{len(order)}">ledger not at hand</td></tr>')
            continue
        cells = "".join(_cell(found, seen, sender) for sender in order)
        rows.append(f"<tr>{name}{cells}</tr>")
    head = f"<tr><th>receiver \\ sender</th>{head}</tr>"
    return f'<div class="scroll"><table class="matrix">{head}{"".join(rows)}</table></div>'


def _cell(found: Gathered, seen: Seen, sender: bytes) -> str:
    if sender == seen.log_id:
        return '<td class="none">·</td>'
    accepted, refused = seen.accepted[sender], seen.refused[sender]
    most = max(seen.accepted.values(), default=0) or 1
    shade = f"a{round(accepted / most * _STRONG)}"
    first = seen.first_refused.get(sender)
    told = f"{refused} refused"
    if first is not None and seen is found.main and first >= (found.main.rows[0].seq if found.main.rows else 0):
        told = link(f"e{first}", told)
    bad = f'<br><span class="bad">{told}</span>' if refused else ""
    frozen = '<br><span class="bad">frozen</span>' if sender in seen.frozen else ""
    standing = seen.standing.get(sender, 0)
    fallen = f'<br><span class="bad">{text(nth(STANDINGS, standing))}</span>' if standing else ""
    return f'<td class="{shade}">{accepted}{bad}{fallen}{frozen}</td>'


def cosigning(found: Gathered) -> str:
    """Ledgers down, witnesses across: entries not cosigned yet; "" where only one ledger is at hand."""
    if len(found.ledgers) < 2:
        return ""
    order = found.order
    head = "".join(f"<th scope=col>{code_of(at)}</th>" for at in range(len(order)))
    rows = []
    for each in found.ledgers:
        sizes = {seen.log_id: seen.size for seen in each.vouched.seen}
        cells = []
        for log_id in order:
            size = sizes.get(log_id)
            told = "·" if log_id == each.log_id else "never" if size is None else str(each.size - size)
            cells.append(f"<td class=n>{told}</td>")
        rows.append(f"<tr><th scope=row>{text(each.name)}</th>{''.join(cells)}</tr>")
    table = f'<table class="matrix"><tr><th>ledger \\ witness</th>{head}</tr>{"".join(rows)}</table>'
    return f'<p>Entries that each member has not cosigned, ledger by ledger:</p><div class="scroll">{table}</div>'


def states(found: Gathered, index: Index) -> str:
    """Every state on the page: its hash, who made it where, and what was made of it."""
    rows = []
    for state in sorted(index.states.values(), key=lambda each: each.number):
        used = links(index.entries(list(dict.fromkeys(state.used))), LINKS_MAX)
        # In full where the main ledger is concerned; 128 bits do where it is not.
        name = state.hash.hex() if used or state.made else f"{state.hash.hex()[:_HALF]}…"
        rows.append(
            f"<tr id={state.anchor}><td>{name}<td>{text(_maker(found, state))}<td>{_made(index, state)}<td>{used}"
        )
    head = "<tr><th>state (SHA-256)</th><th>made by</th><th>in entry</th><th>named by entries</th></tr>"
    return f'<div class="scroll"><table class="states">{head}{"".join(rows)}</table></div>'


def _maker(found: Gathered, state: State) -> str:
    if state.told:
        return state.told
    if found.charter is not None and state.hash == found.charter.task.genesis:
        return "the charter: genesis"
    return "not known here"


def _made(index: Index, state: State) -> str:
    if state.made:
        return links(index.entries(state.made), LINKS_MAX)
    if state.maker is None:
        return ""
    leaf = f" <code>{state.leaf.hex()[:16]}</code>" if state.leaf else ""
    return f"{state.maker.seq} of its log{leaf}"


def entries(found: Gathered, index: Index) -> str:
    """The newest entries of the main ledger, one a row."""
    rows = "".join(_entry(found, index, row) for row in found.main.rows)
    titles = ("entry", "claimed time (UTC)", "type", "says", "leads to", "named by", "hash")
    head = f"<tr>{''.join(f'<th>{title}</th>' for title in titles)}</tr>"
    return f'<div class="scroll"><table class="entries">{head}{rows}</table></div>'


def _entry(found: Gathered, index: Index, row: Row) -> str:
    number = getattr(row.record, "round", None)
    mark = ""
    if isinstance(number, int) and index.round_entry.get(number) == row.seq:
        mark = f"<span id=r{number}></span>"
    cites = links(index.entries(list(cited_entries(found.main.log_id, row.record))), 64)
    states_of = " ".join(link(index.states[name].anchor, name.hex()[:8]) for name in _named(row.record, index))
    back = links(index.entries(index.cited_by.get(row.seq, [])), LINKS_MAX)
    kind = type_label(row.kind)
    return (
        f"<tr id=e{row.seq}><td>{mark}{link(f'e{row.seq}', row.seq)}<td>{text(when(row.t_ms)[:-1])}"
        f"<td>{text(kind)}<td>{text(row.summary)}<td>{states_of} {cites}<td>{back}<td>{row.leaf.hex()}"
    )


def _named(record: object, index: Index) -> list[bytes]:
    """The states that a record makes or names, the made one first."""
    made = made_state(record)
    found = [made] if made is not None else []
    match record:
        case Merge(rows=rows):
            found += [row.state for row in rows]
        case UpdatePublished(base=base, replica_before=before):
            found += [base, before]
        case UpdateReceived(replica=state):
            found.append(state)
    return [name for name in dict.fromkeys(found) if name in index.states]
