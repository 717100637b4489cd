"""The drawn parts of a report: accuracy, agreement, attackers, cost; small multiples; the graph by role."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import fmean

from quidnunc.gossip.markup import label, line, svg
from quidnunc.sim.report.axes import Axis, Series, chart, figure, path, thinned
from quidnunc.sim.scenarios.stored import Graph, Record, StoredRun

MULTIPLES_MAX = 48
MULTIPLE_POINTS = 40
EDGES_MAX = 4000
DOTS_MAX = 3000
NUMBERED_MAX = 40
KEPT_FULL, KEPT_HALF = 0.9, 0.5
"""From which part of its mixing weight on a peer counts as trusted in full, or in part."""
_SIDE = 420

BLUE, ORANGE, GREEN, PINK, SKY, RED = range(6)


def _over_rounds(found: StoredRun) -> dict[int, list[Record]]:
    by_round: dict[int, list[Record]] = {}
    for record in found.records:
        by_round.setdefault(record.round, []).append(record)
    return dict(sorted(by_round.items()))


def _column(found: StoredRun, name: str, over: Callable[[list[float]], float] = fmean) -> list[float | None]:
    rows = []
    for records in _over_rounds(found).values():
        values = [value for record in records if (value := getattr(record, name)) is not None]
        rows.append(over(values) if values else None)
    return rows


def _series(found: StoredRun, name: str, column: str, color: int, *, dashed: bool = False) -> Series:
    """The mean of a column over the seeds, with the band between its least and greatest."""
    band = _column(found, column, min), _column(found, column, max)
    return Series(name, _column(found, column), color, band, dashed)


def accuracy(found: StoredRun) -> str:
    """Median, tenth percentile and worst peer over rounds, and the mean of peers by themselves."""
    lines = [
        _series(found, "median peer", "accuracy_median", BLUE),
        _series(found, "10th percentile", "accuracy_p10", GREEN, dashed=True),
        _series(found, "worst peer", "accuracy_worst", RED),
        _series(found, "alone, mean", "alone_mean", PINK, dashed=True),
    ]
    return chart("test accuracy over rounds", list(_over_rounds(found)), lines, Axis("test accuracy", low=0, high=1))


def losses(found: StoredRun) -> str:
    """Training and test loss."""
    lines = [
        _series(found, "test loss", "test_loss", BLUE),
        _series(found, "training loss", "train_loss", ORANGE, dashed=True),
    ]
    return chart("loss over rounds", list(_over_rounds(found)), lines, Axis("cross entropy", low=0))


def consensus(found: StoredRun) -> str:
    """How far the peers' params are from their average."""
    lines = [_series(found, "mean distance", "consensus_distance", BLUE)]
    axis = Axis("distance to the average", "{:.3g}", low=0)
    return chart("consensus distance over rounds", list(_over_rounds(found)), lines, axis)


def attackers(found: StoredRun) -> str:
    """What attackers have of an honest peer's merge."""
    lines = [
        _series(found, "with the rule", "attacker_weight", RED),
        _series(found, "mixing alone", "attacker_mixing_weight", BLUE, dashed=True),
    ]
    axis = Axis("part of a merge", "{:.2f}", low=0)
    return chart("weight of attackers over rounds", list(_over_rounds(found)), lines, axis)


def detection(found: StoredRun) -> str:
    """How well the weights given to neighbors tell attackers from honest peers."""
    lines = [_series(found, "AUROC", "detection_auroc", BLUE)]
    if any(record.backdoor_rate is not None for record in found.records):
        lines.append(_series(found, "backdoor taken", "backdoor_rate", RED, dashed=True))
    return chart("detection over rounds", list(_over_rounds(found)), lines, Axis("AUROC", low=0, high=1))


def traffic(found: StoredRun) -> str:
    """Bytes of params sent by all peers together."""
    sent = [None if value is None else value / 1e6 for value in _column(found, "bytes_sent")]
    axis = Axis("megabytes, all peers", "{:,.4g}", low=0)
    return chart("bytes sent over rounds", list(_over_rounds(found)), [Series("sent", sent, BLUE)], axis)


def epsilon(found: StoredRun) -> str:
    """Privacy spent; empty without privacy."""
    if all(record.epsilon is None for record in found.records):
        return ""
    lines = [Series("epsilon", _column(found, "epsilon"), PINK)]
    return chart("epsilon over rounds", list(_over_rounds(found)), lines, Axis("epsilon spent", "{:.3g}", low=0))


def kept_by_peer(found: StoredRun) -> dict[int, float]:
    """The part of its mixing weight that each peer kept with honest readers, over the second half of the first seed."""
    records = [record for record in found.records if record.seed == found.records[0].seed and record.weight_kept]
    total: dict[int, list[float]] = {}
    for record in records[len(records) // 2 :]:
        for peer, value in enumerate(record.weight_kept or ()):
            if value is not None:
                total.setdefault(peer, []).append(value)
    return {peer: fmean(values) for peer, values in total.items()}


def roc(found: StoredRun, bad: set[int]) -> str:
    """Attackers found against honest peers suspected, by the weight each kept; empty without both."""
    kept = kept_by_peer(found)
    low = sorted(value for peer, value in kept.items() if peer in bad)
    high = sorted(value for peer, value in kept.items() if peer not in bad)
    if not low or not high:
        return ""
    points = [(0.0, 0.0)]
    for bound in sorted({*low, *high}):
        points.append((sum(v <= bound for v in high) / len(high), sum(v <= bound for v in low) / len(low)))
    left, size = 62, 190
    chosen = [points[at] for at in thinned(len(points))]

    def y(part: float) -> float:
        return round(10 + (1 - part) * size, 1)

    parts = []
    for mark in (0.0, 0.25, 0.5, 0.75, 1.0):
        x = left + mark * size
        parts += [line(left, y(mark), left + size, y(mark), "grid"), line(x, y(0), x, y(1), "grid")]
        parts += [label(left - 6, y(mark) + 4, f"{mark:g}", "small", "end")]
        parts += [label(x, y(0) + 16, f"{mark:g}", "small", "middle")]
    parts.append(line(left, y(0), left + size, y(1), "axis dashed"))
    parts.append(path([left + a * size for a, _ in chosen], [b for _, b in chosen], y, f"line l{BLUE}"))
    parts.append(label(left + size / 2, size + 44, "honest peers suspected", "axis-name", "middle"))
    parts.append(label(10, 10 + size / 2, "attackers found", "axis-name turned"))
    title = "attackers told by the weight they kept (ROC)"
    return figure(title, svg(left + size + 30, size + 52, title, parts))


def multiples(found: StoredRun, bad: set[int]) -> str:
    """A small chart for each peer of the first seed; of many the worst half and evenly chosen others."""
    records = [r for r in found.records if r.seed == found.records[0].seed and r.accuracies is not None]
    if not records:
        return "<p>More than 256 peers: what each of them reached was not kept.</p>"
    records = [records[at] for at in thinned(len(records), MULTIPLE_POINTS)]
    last = records[-1].accuracies or []
    peers = _shown(last)
    told = "" if len(peers) == len(last) else f"<p>{len(peers)} of {len(last)} peers: the worst, and every so many.</p>"
    return f'{told}<div class="many">{"".join(_one(records, peer, peer in bad) for peer in peers)}</div>'


def _shown(last: Sequence[float]) -> list[int]:
    peers = sorted(range(len(last)), key=lambda peer: last[peer])
    if len(peers) > MULTIPLES_MAX:
        half = MULTIPLES_MAX // 2
        rest = peers[half:]
        peers = peers[:half] + [rest[at] for at in thinned(len(rest), half)]
    return sorted(peers)


def _one(records: Sequence[Record], peer: int, evil: bool) -> str:
    values = [record.accuracies[peer] if record.accuracies else None for record in records]
    width, height = 108, 62
    span = max(1, len(values) - 1)
    places = [round(4 + at / span * (width - 8), 1) for at in range(len(values))]

    def y(value: float) -> float:
        return round(18 + (1 - value) * (height - 22), 1)

    end = "" if values[-1] is None else f"{values[-1]:.2f}"
    role = "attacker " if evil else ""
    parts = [
        label(4, 12, f"{role}{peer}", "small"),
        label(width - 4, 12, end, "small", "end"),
        line(4, y(0), width - 4, y(0)),
        line(4, y(1), width - 4, y(1), "grid"),
        path(places, values, y, f"line l{RED if evil else BLUE}"),
    ]
    if not evil and any(record.alone for record in records):
        alone = [record.alone[peer] if record.alone else None for record in records]
        parts.append(path(places, alone, y, f"line l{PINK} dashed"))
    return (
        f'<svg viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img" '
        f'aria-label="accuracy of {role or "peer "}{peer}">{"".join(parts)}</svg>'
    )


def picture(graph: Graph, kept: dict[int, float]) -> str:
    """The graph: attackers are squares, honest peers are dots, colored by what their readers let them count for."""
    edges = [graph.edges[at] for at in thinned(len(graph.edges), EDGES_MAX)]
    at = [(round(x * _SIDE), round(y * _SIDE)) for x, y in graph.places]
    lines = "".join(f"M{at[a][0]} {at[a][1]}L{at[b][0]} {at[b][1]}" for a, b in edges)
    size = max(3.0, min(13.0, 150 / max(1, graph.peers) ** 0.6))
    parts = [f'<path class="edge" d="{lines}" stroke-opacity="{max(0.1, min(0.7, 90 / max(1, len(edges)))):.2f}"/>']
    groups: dict[str, list[int]] = {}
    for peer in thinned(graph.peers, DOTS_MAX):
        groups.setdefault(_role(peer, graph, kept), []).append(peer)
    for role, peers in sorted(groups.items()):
        dots = "".join(f"M{at[peer][0]} {at[peer][1]}h.1" for peer in peers)
        parts.append(f'<path class="dot {role}" stroke-width="{size:.1f}" d="{dots}"/>')
    if graph.peers <= NUMBERED_MAX:
        parts += [label(round(x + size * 0.6 + 1, 1), y + 3, peer, "small halo") for peer, (x, y) in enumerate(at)]
    return svg(_SIDE + 20, _SIDE + 10, f"{graph.kind} on {graph.peers} peers, colored by role", parts)


def _role(peer: int, graph: Graph, kept: dict[int, float]) -> str:
    if peer in graph.attackers:
        return "evil"
    part = kept.get(peer)
    if part is None or part >= KEPT_FULL:
        return "full"
    return "some" if part >= KEPT_HALF else "little"
