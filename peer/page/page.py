"""The page as one string: style, charts and tables, with a policy that lets nothing in and nothing run."""

from __future__ import annotations

from importlib.resources import files

from quidnunc.gossip.markup import PALETTE, document, section, text
from quidnunc.peer.page import charts, tables
from quidnunc.peer.page.claims import claims
from quidnunc.peer.page.gather import Gathered
from quidnunc.peer.page.index import Index
from quidnunc.peer.page.markup import code_of

_SHARES = "Shares are algebra on weights, not causes: no share says what the model would be without a member."


def page(found: Gathered) -> str:
    """An HTML document that holds everything it shows. All text from ledgers and charters is escaped."""
    style = files("quidnunc.peer.page").joinpath("page.css").read_text(encoding="utf-8").strip()
    index = Index(found)
    title = f"Ledger of {found.main.name}"
    parts = [
        f"<header><h1>{text(title)}</h1><p>{_about(found, index)}</p>{_legend(found)}</header>",
        section("ledgers", "Ledgers on this page", tables.ledgers(found)),
        section("timeline", "Timeline", charts.timeline(found)),
        section(
            "lineage",
            "Lineage",
            "<p>A circle is an update (hollow: a heartbeat), a line an input of a merge: thin below 5 %, thick from "
            f"20 % of the weight. Circles lead to the state they made, rounds to their first entry.</p>"
            f"{charts.lineage(found, index)}",
        ),
        section(
            "contributions",
            "Contribution over rounds",
            f"<p>{_SHARES}</p>{charts.contributions(found)}{claims(found)}",
        ),
        section(
            "acceptance",
            "Who accepted whom",
            "<p>How many updates of the member above the column the one before the row has accepted, the stronger the "
            "color the more; beneath, what it refused and how far it trusts that member less.</p>"
            f"{tables.acceptance(found)}",
        ),
        section("witnesses", "Witness lag", charts.witness_lag(found) + tables.cosigning(found)),
        section("states", "States", tables.states(found, index)),
        section("entries", "Entries", tables.entries(found, index)),
    ]
    return document(title, style, "".join(parts))


def _about(found: Gathered, index: Index) -> str:
    """What is on the page, and what was left out of it."""
    told = []
    if found.charter is not None:
        purpose = f": {text(found.charter.purpose)}" if found.charter.purpose else ""
        told.append(f"Federation <code>{found.charter.federation_id.hex()}</code>{purpose}.")
    shown = len(found.main.rows)
    if shown < found.main.size:
        told.append(f"The newest {shown} of {found.main.size} entries are listed, from entry {index.first} on.")
    if index.rounds and min(index.rounds) > 1:
        told.append(f"Lineage and contributions are drawn from round {min(index.rounds)} on.")
    if len(found.ledgers) == 1:
        told.append("Drawn from one ledger: of other members only what it took in.")
    told.append("Exported by <code>quidnunc ledger export</code>; check with <code>quidnunc ledger verify</code>.")
    return " ".join(told)


def _legend(found: Gathered) -> str:
    """The letter, the color and the name of every member."""
    rows = "".join(
        f'<li><svg width="14" height="14" aria-hidden="true"><circle class="node f{at % PALETTE}" cx="7" cy="7" r="6"/>'
        f"</svg> <b>{code_of(at)}</b> {text(found.names[log_id])}</li>"
        for at, log_id in enumerate(found.order)
    )
    return f'<ul class="legend">{rows}</ul>'
