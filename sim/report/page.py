"""The report as one string; everything in it comes from the run directory."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.resources import files

import msgspec

from quidnunc.gossip.markup import document, section, text
from quidnunc.sim.report import charts
from quidnunc.sim.scenarios.columns import COLUMNS
from quidnunc.sim.scenarios.columns import spread as written
from quidnunc.sim.scenarios.compare import leaves
from quidnunc.sim.scenarios.spec import PROTOCOL
from quidnunc.sim.scenarios.stored import StoredRun

BYTES_MAX = 500_000
"""What a report may have; parts that grow with the number of peers are cut far below."""
HELD_BACK_MAX = 24
READERS_MAX = 24
SEEDS_MAX = 24


def page(found: StoredRun) -> str:
    """An HTML document that holds everything it shows and asks for nothing."""
    style = files("quidnunc.sim.report").joinpath("report.css").read_text(encoding="utf-8").strip()
    manifest, title = found.manifest, f"Simulation {found.manifest.name}"
    bad = set(found.graph.attackers) if found.graph is not None else set()
    seeds = len(found.final)
    band = (
        "Bands reach from the least to the greatest seed."
        if seeds > 1
        else "One seed: nothing tells how much is chance."
    )
    parts = [
        f"<header><h1>{text(title)}</h1>{_about(found)}</header>",
        section("result", "After the last round", _headline(found)),
        section(
            "rounds",
            "Over rounds",
            f'<p>{band}</p><div class="pair">{charts.accuracy(found)}{charts.losses(found)}'
            f"{charts.consensus(found)}{charts.traffic(found)}{charts.epsilon(found)}</div>",
        ),
    ]
    if manifest.scenario.attack is not None and bad:
        parts.append(section("attack", "Attackers", _attack(found, bad)))
    if found.graph is not None:
        parts.append(section("graph", "Who reads whom", _graph(found)))
    parts.append(section("peers", "Every peer", f"<p>{_multiples_words(found)}</p>{charts.multiples(found, bad)}"))
    parts.append(section("seeds", "Seeds", _seeds(found)))
    parts.append(section("scenario", "Scenario", _scenario(found)))
    return document(title, style, "".join(parts))


def _about(found: StoredRun) -> str:
    manifest, scenario = found.manifest, found.manifest.scenario
    facts = manifest.seeds[0] if manifest.seeds else {}
    told = [
        f"{scenario.peers:,} peers, {scenario.rounds:,} rounds, merge rule {scenario.merge.rule}, "
        f"{facts.get('params', 0):,} params.",
        f"Data: {facts.get('data', '')}, {scenario.data.partition}; {facts.get('shares', '')}.",
    ]
    if scenario.engine.kind == PROTOCOL:
        told.append("Played by real nodes with signatures and ledgers, in virtual time.")
    if scenario.attack is not None:
        count = len(facts.get("attackers", []))
        told.append(f"Attack: {scenario.attack.name} by {count} peers; accuracies are of honest peers.")
    if scenario.privacy is not None:
        told.append("The privacy noise here is simulated and protects nobody.")
    if manifest.status != "complete":
        told.append(f"This run is {manifest.status}: what is here ends where it ended.")
    return "".join(f"<p>{text(sentence)}</p>" for sentence in told)


def _headline(found: StoredRun) -> str:
    rows = []
    for name, title, shape in COLUMNS:
        value = found.mean(name)
        if value is not None:
            spread = written(shape, value[1]) if len(found.final) > 1 else ""
            rows.append(f"<tr><td>{text(title)}<td class=n>{shape.format(value[0])}<td class=n>{spread}")
    head = "<tr><th>measure<th>mean over seeds<th>standard deviation"
    return f'<div class="scroll"><table>{head}{"".join(rows)}</table></div>'


def _attack(found: StoredRun, bad: set[int]) -> str:
    words = (
        "<p>The weight of attackers is the part of an honest peer's merge that comes from them, under the rule and by "
        "mixing weights alone. Detection is the area under the ROC curve of the part of its mixing weight that each "
        "neighbor keeps: 1 tells attackers from honest neighbors perfectly, 0.5 not at all.</p>"
    )
    drawn = f"{charts.attackers(found)}{charts.detection(found)}{charts.roc(found, bad)}"
    return f'{words}<div class="pair">{drawn}</div>{_held_back(found, bad)}'


def _held_back(found: StoredRun, bad: set[int]) -> str:
    """Whom honest peers counted for less than their mixing weight, the most refused first, and who refused them."""
    kept = sorted(charts.kept_by_peer(found).items(), key=lambda pair: pair[1])
    shown = [(peer, part) for peer, part in kept if part < charts.KEPT_FULL]
    if not shown:
        return "<p>Nobody was held back: every neighbor kept at least 90 % of its mixing weight.</p>"
    by = _refused_by(found)
    rows = "".join(
        f"<tr><td class=n>{peer}<td>{'attacker' if peer in bad else 'honest'}<td class=n>{part:.1%}<td>{by(peer)}"
        for peer, part in shown[:HELD_BACK_MAX]
    )
    more = f"<p>and {len(shown) - HELD_BACK_MAX} more</p>" if len(shown) > HELD_BACK_MAX else ""
    head = (
        "<tr><th>peer<th>role<th>part of its mixing weight kept (second half of the first seed)"
        "<th>refused by (kept less than half; its last measured round)"
    )
    return f'<h3>Who was held back, and by whom</h3><div class="scroll"><table>{head}{rows}</table></div>{more}'


def _refused_by(found: StoredRun) -> Callable[[int], str]:
    """The readers that refused a peer when the first seed was last measured, as text."""
    first = [record for record in found.records if record.seed == found.records[0].seed]
    pairs = first[-1].refused or []

    def told(peer: int) -> str:
        readers = [reader for reader, refused in pairs if refused == peer]
        more = f" and {len(readers) - READERS_MAX} more" if len(readers) > READERS_MAX else ""
        return ", ".join(map(str, readers[:READERS_MAX])) + more or "nobody"

    return told


def _graph(found: StoredRun) -> str:
    graph = found.graph
    assert graph is not None
    facts = found.manifest.seeds[0].get("topology", {}) if found.manifest.seeds else {}
    rounds = facts.get("rounds")
    speed = "never" if rounds is None else f"in {rounds:,} rounds"
    words = (
        f"{graph.kind}, {graph.peers:,} peers, {graph.edges_in_all:,} edges, degree {facts.get('degree_mean', 0):.3g}, "
        f"spectral gap {facts.get('gap', 0):.3g}, consensus by mixing alone {speed} (the graph of seed {graph.seed})."
    )
    legend = "".join(
        '<li><svg width="16" height="16" aria-hidden="true">'
        f'<path class="dot {kind}" stroke-width="11" d="M8 8h.1"/></svg> {name}'
        for kind, name in (
            ("full", "honest, counted in full"),
            ("some", f"honest, kept less than {charts.KEPT_FULL:.0%} of its weight"),
            ("little", f"honest, kept less than {charts.KEPT_HALF:.0%}"),
            ("evil", "attacker (square)"),
        )
    )
    legend = f'<ul class="legend">{legend}</ul>' if found.manifest.scenario.attack is not None else ""
    return f"<p>{text(words)}</p>{legend}{charts.picture(graph, charts.kept_by_peer(found))}"


def _multiples_words(found: StoredRun) -> str:
    alone = " Dashed: the same peer by itself." if any(record.alone for record in found.records) else ""
    return (
        f"Test accuracy from 0 to 1 over all rounds, seed {found.records[0].seed}; the number is the last value.{alone}"
    )


def _seeds(found: StoredRun) -> str:
    names = [(name, title, shape) for name, title, shape in COLUMNS if found.mean(name) is not None]
    head = "<tr><th>seed" + "".join(f"<th>{text(title)}" for _, title, _ in names)
    rows = []
    for record in found.final[:SEEDS_MAX]:
        cells = [getattr(record, name) for name, _, _ in names]
        told = ["" if cell is None else shape.format(cell) for cell, (_, _, shape) in zip(cells, names, strict=True)]
        rows.append(f"<tr><td class=n>{record.seed}" + "".join(f"<td class=n>{cell}" for cell in told))
    more = f"<p>and {len(found.final) - SEEDS_MAX} more seeds</p>" if len(found.final) > SEEDS_MAX else ""
    return f'<div class="scroll"><table>{head}{"".join(rows)}</table></div>{more}'


def _scenario(found: StoredRun) -> str:
    manifest = found.manifest
    rows = "".join(
        f"<tr><td><code>{text(path)}</code><td><code>{text(json.dumps(value)[:400])}</code>"
        for path, value in leaves(msgspec.to_builtins(manifest.scenario))
    )
    versions = ", ".join(f"{name} {version}" for name, version in manifest.versions.items())
    spent = "" if manifest.elapsed_s is None else f" in {manifest.elapsed_s:,.1f} s"
    return (
        f"<p>{text(versions)}{spent}. The same scenario gives the same numbers on the same machine.</p>"
        f'<div class="scroll"><table><tr><th>key<th>value{rows}</table></div>'
    )
