"""The drawn parts of the page: time line, lineage, contributions, witness lag. Shapes are SVG, text is text."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping

from quidnunc.crypto.entry import EntryType
from quidnunc.gossip.jobs import PPB
from quidnunc.gossip.lineage import Place
from quidnunc.gossip.markup import PALETTE, label, line, svg, text, ticks
from quidnunc.gossip.provenance import Merge, UpdatePublished
from quidnunc.peer.page.gather import Gathered
from quidnunc.peer.page.index import Index
from quidnunc.peer.page.markup import code_of, moment, time_ticks

_LEFT = 150
_LANE = 26
_COLUMN = 24
_WIDTH = 1000

Scale = Callable[[float], float]
"""From a value to a coordinate."""

GROUPS: Mapping[str, frozenset[int]] = {
    "published": frozenset({EntryType.UPDATE_PUBLISHED}),
    "merged": frozenset({EntryType.MERGE}),
    "received": frozenset({EntryType.UPDATE_RECEIVED}),
    "refused": frozenset({EntryType.MESSAGE_REFUSED}),
    "privacy": frozenset({EntryType.DP_SPEND, EntryType.DP_EXHAUSTED}),
    "trust": frozenset({EntryType.REPUTATION_CHANGE, EntryType.EQUIVOCATION_PROOF}),
    "other": frozenset(),
}


def timeline(found: Gathered) -> str:
    """Every entry of the newest ones as a stroke at the time it claims, one lane per kind; other ledgers below."""
    times = [t for each in found.ledgers for t, _ in each.times]
    if not times:
        return "<p>no entries yet</p>"
    low, high = min(times), max(max(times), min(times) + 1)

    def x(t_ms: int) -> int:
        return round(_LEFT + (t_ms - low) / (high - low) * (_WIDTH - _LEFT - 40))

    lanes = [(name, [t for t, kind in found.main.times if _group(kind) == name]) for name in GROUPS]
    lanes = [(name, lane) for name, lane in lanes if lane]
    lanes += [(each.name, [t for t, _ in each.times]) for each in found.ledgers[1:]]
    bottom = 10 + len(lanes) * _LANE
    parts = []
    for t_ms, told in time_ticks(low, high, 8):
        parts.append(line(x(t_ms), 6, x(t_ms), bottom + 4, "grid"))
        parts.append(label(x(t_ms), bottom + 20, told, "small", "middle"))
    for row, (name, lane) in enumerate(lanes):
        top = 10 + row * _LANE
        parts.append(label(_LEFT - 10, top + 17, f"{_short(name)} ({len(lane)})", "", "end"))
        parts.append(f'<path class="stroke" d="{_strokes(sorted({x(t) for t in lane}), top + 4)}"/>')
    parts.append(
        label(_WIDTH / 2, bottom + 38, f"time claimed by the entries (UTC), from {_day(low)}", "axis-name", "middle")
    )
    return svg(_WIDTH, bottom + 46, "time line: entries by kind over the time they claim", parts)


def _strokes(places: list[int], top: int) -> str:
    """Strokes of 16 down from ``top``; each begins where the last one ended, which takes fewer digits."""
    steps = [f"m{at - before}-16v16" for before, at in itertools.pairwise(places)]
    return f"M{places[0]} {top}v16{''.join(steps)}"


def lineage(found: Gathered, index: Index) -> str:
    """One node per update, one line per input of a merge, as thick as its effective weight."""
    rounds = sorted(index.rounds)
    order = found.order
    if not rounds:
        return "<p>no models yet</p>"
    column = {number: at for at, number in enumerate(rounds)}
    height = 30 + len(order) * 40
    nodes, where = _nodes(found, index, column)
    parts = []
    for number in ticks(rounds[0], rounds[-1], 31):
        if number in column:
            x = _LEFT + column[number] * _COLUMN + 12
            parts.append(line(x, 10, x, height - 12, "grid"))
            shown = label(x, height + 4, number, "small", "middle")
            parts.append(f"<a href=#r{number}>{shown}</a>" if number in index.round_entry else shown)
    for row, log_id in enumerate(order):
        frozen = " FROZEN" if any(log_id in each.frozen for each in found.ledgers) else ""
        parts.append(
            label(_LEFT - 10, 34 + row * 40, f"{code_of(row)} {_short(found.names[log_id])}{frozen}", "", "end")
        )
    parts += _edges(found, index, where)
    parts += nodes
    width = _LEFT + len(rounds) * _COLUMN + 20
    parts.append(label(_LEFT + (width - _LEFT) / 2, height + 24, "round of the member's own", "axis-name", "middle"))
    return svg(width, height + 32, "lineage: which updates were merged into which", parts)


def _nodes(
    found: Gathered, index: Index, column: Mapping[int, int]
) -> tuple[list[str], dict[Place, tuple[int, int, int]]]:
    """Circles, and (x, y, member) of every place that has one."""
    rows = {log_id: row for row, log_id in enumerate(found.order)}
    parts: list[str] = []
    where: dict[Place, tuple[int, int, int]] = {}
    drawn = [(each.log_id, row) for each in found.ledgers for row in each.made]
    held = {each.log_id for each in found.ledgers}
    places = [(Place(log_id, row.seq), row.record) for log_id, row in drawn]
    for taken in found.taken:
        place = Place(taken.log_id, taken.seq)
        if taken.log_id not in held and place in index.at:
            places.append((place, _event(found, place)))
    for place, record in places:
        number = getattr(record, "round", None)
        row = rows.get(place.log_id)
        if not isinstance(number, int) or number not in column or row is None:
            continue
        x, y = _LEFT + column[number] * _COLUMN + 12, 30 + row * 40
        where[place] = (x, y, row)
        state = index.at.get(place)
        if isinstance(record, UpdatePublished) and state is not None:
            kind = "node" if record.steps else "node beat"
            told = f"{code_of(row)} update {record.number}, round {number}"
            parts.append(
                f'<a href=#{state.anchor}><circle class="{kind} f{row % PALETTE}" cx={x} cy={y} r=6>'
                f"<title>{text(told)}</title></circle></a>"
            )
    return parts, where


def _event(found: Gathered, place: Place) -> object:
    try:
        return found.lineage.event(place)
    except KeyError:
        return None


def _edges(found: Gathered, index: Index, where: Mapping[Place, tuple[int, int, int]]) -> list[str]:
    """Lines from inputs to merges: one path for each member and thickness."""
    paths: dict[tuple[int, int], list[str]] = {}
    for each in found.ledgers:
        for row in each.made:
            target = where.get(Place(each.log_id, row.seq))
            if target is None or not isinstance(row.record, Merge):
                continue
            for source in row.record.rows[1:]:
                if source.log_id is None or source.seq is None or not source.effective:
                    continue
                begin = where.get(Place(source.log_id, source.seq))
                if begin is None:
                    continue
                share = source.effective / PPB
                thick = 3 if share >= 0.2 else 2 if share >= 0.05 else 1
                step = f"M{begin[0]} {begin[1]}l{target[0] - begin[0]} {target[1] - begin[1]}"
                paths.setdefault((begin[2], thick), []).append(step)
    return [
        f'<path class="edge w{thick} l{member % PALETTE}" d="{"".join(steps)}"/>'
        for (member, thick), steps in sorted(paths.items())
    ]


def contributions(found: Gathered) -> str:
    """A stacked area: whose training stands in the main ledger's model, round by round."""
    if not found.traces:
        return "<p>no models yet</p>"
    order = found.order
    height, width = 260, _WIDTH - 180
    count = len(found.traces)

    def x(at: float) -> float:
        return round(_LEFT + (at / max(1, count - 1)) * (width - _LEFT), 1)

    def y(part: float) -> float:
        return round(10 + (1 - part) * height, 1)

    layers: list[list[float]] = []
    for log_id in order:
        layers.append([])
        for _, trace in found.traces:
            explained = 1 - min(1.0, sum(trace.unexplained.values()))
            share = sum(each.share for each in trace.shares if each.log_id == log_id)
            layers[-1].append(share * explained)
    parts = []
    for percent in range(0, 101, 25):
        at = y(percent / 100)
        parts.append(line(_LEFT, at, width, at, "grid") + label(_LEFT - 8, at + 4, f"{percent} %", "small", "end"))
    base = [0.0] * count
    ends: list[tuple[float, str]] = []
    for row, layer in enumerate(layers):
        top = [low + part for low, part in zip(base, layer, strict=True)]
        parts.append(_area(x, y, base, top, f"area f{row % PALETTE}"))
        if layer[-1] > 0:
            ends.append(((base[-1] + top[-1]) / 2, f"{code_of(row)} {_short(found.names[order[row]])} {layer[-1]:.1%}"))
        base = top
    if base[-1] < 0.9995 or any(part < 0.9995 for part in base):
        parts.append(_area(x, y, base, [1.0] * count, "area unknown"))
        ends.append(((base[-1] + 1) / 2, f"not explained {1 - base[-1]:.1%}"))
    parts += _end_labels(ends, y, width)
    for place, (number, _) in enumerate(found.traces):
        if place % max(1, -(-count // 15)) == 0:
            parts.append(label(x(place), height + 28, number, "small", "middle"))
    parts.append(label((_LEFT + width) / 2, height + 46, "round", "axis-name", "middle"))
    parts.append(label(12, height / 2, "share of the model", "axis-name turned"))
    return svg(_WIDTH + 40, height + 54, "contribution of every member over rounds", parts)


def _area(x: Scale, y: Scale, low: list[float], high: list[float], kind: str) -> str:
    """The area between two lines over the rounds; of a single round a narrow bar."""
    if len(low) == 1:
        return f'<rect class="{kind}" x="{x(0)}" y="{y(high[0])}" width="24" height="{y(low[0]) - y(high[0]):.1f}"/>'
    there = [f"{x(at):g} {y(part):g}" for at, part in enumerate(high)]
    back = [f"{x(at):g} {y(low[at]):g}" for at in reversed(range(len(low)))]
    return f'<path class="{kind}" d="M{"L".join(there + back)}Z"/>'


def _end_labels(ends: list[tuple[float, str]], y: Scale, x: float) -> list[str]:
    """Names beside the ends of the areas, moved apart where they would cover each other."""
    parts, above = [], math.inf
    for middle, told in ends:
        at = min(y(middle) + 4, above - 14)
        above = at
        parts.append(label(x + 8, at, told, "small"))
    return parts


def witness_lag(found: Gathered) -> str:
    """Bars: how many entries of the main ledger each witness has not cosigned yet."""
    main = found.main
    seen = {each.log_id: each for each in main.vouched.seen}
    rows = [(each, main.size - seen[each].size if each in seen else None) for each in found.order[1:]]
    if not rows:
        return "<p>nobody else is known who could be a witness</p>"
    most = max([lag for _, lag in rows if lag is not None] + [1])
    width, bottom = 700, 10 + len(rows) * _LANE
    parts = []
    for tick in ticks(0, most, 8):
        x = _LEFT + tick / most * (width - _LEFT - 160)
        parts.append(line(x, 6, x, bottom, "grid") + label(x, bottom + 16, tick, "small", "middle"))
    for row, (log_id, lag) in enumerate(rows):
        top = 10 + row * _LANE
        parts.append(label(_LEFT - 10, top + 16, f"{code_of(row + 1)} {_short(found.names[log_id])}", "", "end"))
        if lag is None:
            parts.append(label(_LEFT + 4, top + 16, "has cosigned nothing", "small"))
            continue
        long = lag / most * (width - _LEFT - 160)
        at = seen[log_id]
        parts.append(f'<rect class="bar" x="{_LEFT}" y="{top + 4}" width="{max(long, 1.5):.1f}" height="16"/>')
        told = f"{lag} behind: {at.size} at {moment(at.time * 1000)}"
        parts.append(label(_LEFT + max(long, 1.5) + 6, top + 16, told, "small"))
    parts.append(label((_LEFT + width - 160) / 2, bottom + 34, "entries not cosigned yet", "axis-name", "middle"))
    return svg(width + 100, bottom + 42, "witness lag: entries that each witness has not cosigned", parts)


def _group(kind: int) -> str:
    return next((name for name, kinds in GROUPS.items() if kind in kinds), "other")


def _short(name: str) -> str:
    return name if len(name) <= 16 else f"{name[:15]}…"


def _day(t_ms: int) -> str:
    return moment(t_ms)[:10]
