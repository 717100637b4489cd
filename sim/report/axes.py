"""Charts of lines over rounds: scales, marks, bands, names at the ends of lines."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from quidnunc.gossip.markup import label, line, svg, text, ticks

POINTS_MAX = 200
"""Points of one line; of more rounds evenly chosen ones are drawn, the last always."""
_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 560, 250, 62, 128, 10, 40
_END_LABEL = 14
_MARKS = 6

Values = Sequence[float | None]


class Series(NamedTuple):
    """One line: name, values (None is a gap), the number of its color, a band around it, and whether it is dashed."""

    name: str
    values: Values
    color: int
    band: tuple[Values, Values] | None = None
    dashed: bool = False


class Axis(NamedTuple):
    """The vertical axis: name, how a mark is written, and its ends where they are fixed."""

    name: str
    shape: str = "{:.2f}"
    low: float | None = None
    high: float | None = None


def chart(title: str, rounds: Sequence[int], lines: Sequence[Series], axis: Axis) -> str:
    """``lines`` over ``rounds``; a sentence where there is nothing to draw."""
    chosen = thinned(len(rounds))
    rounds = [rounds[at] for at in chosen]
    lines = [_thin(each, chosen) for each in lines if any(value is not None for value in each.values)]
    if not lines:
        return f"<p>{title}: nothing was measured</p>"
    low, high = _ends(lines, axis)
    first, last = rounds[0], max(rounds[-1], rounds[0] + 1)

    def x(number: float) -> float:
        return round(_LEFT + (number - first) / (last - first) * (_WIDTH - _LEFT - _RIGHT), 1)

    def y(value: float) -> float:
        part = (min(max(value, low), high) - low) / (high - low)
        return round(_TOP + (1 - part) * (_HEIGHT - _TOP - _BOTTOM), 1)

    parts = _frame(axis, (low, high), (first, last), x, y)
    places = [x(number) for number in rounds]
    for each in lines:
        if each.band is not None:
            parts += _band(places, each.band, y, each.color)
    parts += [path(places, each.values, y, f"line l{each.color}{' dashed' if each.dashed else ''}") for each in lines]
    parts += _names(lines, places, y)
    return figure(title, svg(_WIDTH, _HEIGHT, title, parts))


def figure(title: str, drawn: str) -> str:
    """A drawing under its title."""
    return f"<figure><figcaption>{text(title)}</figcaption>{drawn}</figure>"


def _frame(
    axis: Axis,
    ends: tuple[float, float],
    rounds: tuple[int, int],
    x: Callable[[float], float],
    y: Callable[[float], float],
) -> list[str]:
    parts, bottom = [], _HEIGHT - _BOTTOM
    for mark in marks(*ends, _MARKS):
        parts.append(line(_LEFT, y(mark), _WIDTH - _RIGHT, y(mark), "grid"))
        parts.append(label(_LEFT - 6, y(mark) + 4, axis.shape.format(mark), "small", "end"))
    for number in ticks(rounds[0], rounds[1], 8):
        parts.append(line(x(number), bottom, x(number), bottom + 4))
        parts.append(label(x(number), bottom + 16, f"{number:,}", "small", "middle"))
    parts.append(line(_LEFT, bottom, _WIDTH - _RIGHT, bottom))
    parts.append(label((_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 6, "round", "axis-name", "middle"))
    parts.append(label(10, (_TOP + bottom) / 2, axis.name, "axis-name turned"))
    return parts


def path(places: Sequence[float], values: Values, y: Callable[[float], float], kind: str) -> str:
    """One line with gaps; a single point between gaps is a dot."""
    steps, pen = [], "M"
    for at, (place, value) in enumerate(zip(places, values, strict=True)):
        if value is None:
            pen = "M"
            continue
        alone = pen == "M" and (at + 1 == len(values) or values[at + 1] is None)
        steps.append(f"{pen}{place:g} {y(value):g}{'h.1' if alone else ''}")
        pen = "L"
    return f'<path class="{kind}" d="{"".join(steps)}"/>'


def _band(places: Sequence[float], band: tuple[Values, Values], y: Callable[[float], float], color: int) -> list[str]:
    known = [
        (place, low, high)
        for place, low, high in zip(places, *band, strict=True)
        if low is not None and high is not None
    ]
    if len(known) < 2 or all(low == high for _, low, high in known):
        return []
    there = [f"{place:g} {y(high):g}" for place, _, high in known]
    back = [f"{place:g} {y(low):g}" for place, low, _ in reversed(known)]
    return [f'<path class="band f{color}" d="M{"L".join(there + back)}Z"/>']


def _names(lines: Sequence[Series], places: Sequence[float], y: Callable[[float], float]) -> list[str]:
    """Names beside the ends of the lines, moved apart where they would cover each other."""
    ends = []
    for each in lines:
        at = max(at for at, value in enumerate(each.values) if value is not None)
        value = each.values[at]
        assert value is not None
        ends.append((y(value) + 4, places[at], each))
    parts: list[str] = []
    above = -math.inf
    ends.sort(key=lambda end: end[0])
    # From the bottom up if there is no room below the lowest.
    room = _HEIGHT - _BOTTOM + 8 - _END_LABEL * (len(ends) - 1)
    for number, (height, _, each) in enumerate(ends):
        above = max(min(height, room + _END_LABEL * number), above + _END_LABEL)
        left = _WIDTH - _RIGHT + 6
        kind = f"line l{each.color}{' dashed' if each.dashed else ''}"
        parts.append(line(left, round(above - 4, 1), left + 14, round(above - 4, 1), kind))
        parts.append(label(left + 18, round(above, 1), each.name, "small"))
    return parts


def _ends(lines: Sequence[Series], axis: Axis) -> tuple[float, float]:
    values = [value for each in lines for value in each.values if value is not None]
    for each in lines:
        if each.band is not None:
            values += [value for side in each.band for value in side if value is not None]
    low = min(values) if axis.low is None else axis.low
    high = max(values) if axis.high is None else axis.high
    if high <= low:
        high = low + 1
    # Up to a mark, so that the highest value can be read.
    steps = marks(low, high, _MARKS)
    step = steps[1] - steps[0] if len(steps) > 1 else high - low
    return low, high if axis.high is not None or steps[-1] >= high else steps[-1] + step


def marks(low: float, high: float, count: int) -> list[float]:
    """Up to ``count`` round numbers from ``low`` to ``high``, evenly apart."""
    raw = (high - low) / max(1, count - 1)
    base = 10.0 ** math.floor(math.log10(raw))
    step = next(base * factor for factor in (1, 2, 5, 10) if base * factor >= raw * (1 - 1e-9))
    first = math.ceil(low / step - 1e-9)
    return [round(at * step, 12) for at in range(first, math.floor(high / step + 1e-9) + 1)]


def thinned(count: int, most: int = POINTS_MAX) -> list[int]:
    """Up to ``most`` of ``count`` places, the first and the last among them."""
    if count <= most:
        return list(range(count))
    return [round(at * (count - 1) / (most - 1)) for at in range(most)]


def _thin(each: Series, chosen: list[int]) -> Series:
    band = each.band
    if band is not None:
        band = [band[0][at] for at in chosen], [band[1][at] for at in chosen]
    return each._replace(values=[each.values[at] for at in chosen], band=band)
