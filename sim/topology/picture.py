"""A graph as a picture: dots of Braille in a terminal, or SVG without anything from outside."""

from __future__ import annotations

from collections.abc import Sequence
from xml.sax.saxutils import escape

import numpy as np

from quidnunc.sim.topology.catalog import Topology
from quidnunc.sim.topology.layout import layout
from quidnunc.sim.topology.measure import Measures
from quidnunc.sim.topology.mixing import Indices, Reals

COLUMNS, ROWS = 48, 18
"""Characters of a terminal picture, 2 x 4 dots each."""
EDGES_DRAWN_MAX = 20_000
_DOTS = ((0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80))
_PANEL, _GAP, _CAPTION = 260, 24, 54
_LINE, _DOT, _INK = "#56b4e9", "#d55e00", "#222222"


def terminal_picture(topology: Topology, columns: int = COLUMNS, rows: int = ROWS) -> list[str]:
    """The graph as lines of Braille characters; edges dotted, peers as small blocks."""
    edges = drawn_edges(topology)
    places = layout(topology, edges)
    canvas = np.zeros((2 * columns, 4 * rows), dtype=bool)
    scale = np.array([2 * columns - 1, 4 * rows - 1])
    dots = np.rint(places * scale).astype(np.int64)
    for one, other in edges:
        steps = int(np.abs(dots[one] - dots[other]).max()) + 1
        line = np.rint(np.linspace(dots[one], dots[other], steps)).astype(np.int64)[::2]
        canvas[line[:, 0], line[:, 1]] = True
    for x, y in dots:
        canvas[max(0, x - 1) : x + 1, max(0, y - 1) : y + 1] = True
    return [_text(canvas[:, 4 * row : 4 * row + 4]) for row in range(rows)]


def _text(strip: np.ndarray[tuple[int, int], np.dtype[np.bool_]]) -> str:
    """One line of characters from a strip of dots [2 * columns, 4]."""
    codes = np.zeros(len(strip) // 2, dtype=np.int64)
    for side in range(2):
        for row in range(4):
            codes |= np.where(strip[side::2, row], _DOTS[side][row], 0)
    return "".join(chr(0x2800 + code) for code in codes).rstrip("\u2800")


def svg(pictures: Sequence[tuple[Topology, Measures]]) -> str:
    """All graphs beside each other in one SVG document, each with a caption of its numbers."""
    across = min(4, len(pictures))
    down = -(-len(pictures) // across)
    width = across * (_PANEL + _GAP) + _GAP
    height = down * (_PANEL + _CAPTION + _GAP) + _GAP
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        'font-family="sans-serif" role="img">',
        f"<title>{escape(', '.join(topology.kind for topology, _ in pictures))}</title>",
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
    ]
    for at, (topology, measures) in enumerate(pictures):
        x = _GAP + at % across * (_PANEL + _GAP)
        y = _GAP + at // across * (_PANEL + _CAPTION + _GAP)
        parts += [f'<g transform="translate({x} {y})">', *_panel(topology, measures), "</g>"]
    return "\n".join([*parts, "</svg>", ""])


def _panel(topology: Topology, measures: Measures) -> list[str]:
    edges = drawn_edges(topology)
    places = layout(topology, edges) * _PANEL
    radius = max(1.5, min(5.0, 60 / topology.peers**0.6))
    lines = "".join(f"M{places[a, 0]:.1f} {places[a, 1]:.1f}L{places[b, 0]:.1f} {places[b, 1]:.1f}" for a, b in edges)
    opacity = max(0.08, min(0.8, 120 / max(1, len(edges))))
    dots = "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}"/>' for x, y in places)
    rounds = "never" if measures.rounds is None else f"{measures.rounds:,} rounds"
    caption = (
        f"degree {measures.degree_min} to {measures.degree_max}, diameter {measures.diameter}, gap {measures.gap:.3g}"
    )
    head = f"{escape(topology.kind)}, {topology.peers:,} peers"
    return [
        f'<path d="{lines}" stroke="{_LINE}" stroke-opacity="{opacity:.2f}" fill="none"/>',
        f'<g fill="{_DOT}">{dots}</g>',
        f'<text y="{_PANEL + 18}" font-size="14" font-weight="bold" fill="{_INK}">{head}</text>',
        f'<text y="{_PANEL + 34}" font-size="11" fill="{_INK}">{caption}</text>',
        f'<text y="{_PANEL + 49}" font-size="11" fill="{_INK}">to consensus: {rounds}</text>',
    ]


def drawn_edges(topology: Topology) -> Indices:
    """The edges that a picture shows, [m, 2]: all up to EDGES_DRAWN_MAX, else evenly chosen ones."""
    edges = topology.edges(1)
    if len(edges) <= EDGES_DRAWN_MAX:
        return edges
    chosen = np.linspace(0, len(edges) - 1, EDGES_DRAWN_MAX).astype(np.int64)
    return edges[chosen]


def positions(topology: Topology) -> Reals:
    """Where :func:`svg` draws the peers, x and y in [0, 1], float64 [n, 2]: for pictures made elsewhere."""
    return layout(topology, drawn_edges(topology))
