"""HTML and SVG from plain values: text that is safe in markup, axes, charts, and a policy under which nothing runs.

Pure functions on strings. They stand here because the daemon's page about a ledger and the simulator's report draw with
them, and have no other layer in common.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence

PALETTE = 8
"""Colors that color-blind people can tell apart (Okabe and Ito 2008); members beyond repeat them."""


_MARKUP = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#x27;"})
"""As html.escape, whose module brings a table of all names there are: every command imports this file."""


def escape(text: str) -> str:
    """``text`` with control, invisible and direction-changing characters written out, for example ``\\x1b``.

    Newlines and tabs too: what is printed is one line.
    """
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def text(value: object) -> str:
    """``value`` as text that is nothing but text in HTML: markup, control and direction-changing characters are not."""
    return escape(str(value)).translate(_MARKUP)


def svg(width: int, height: int, title: str, parts: Sequence[str]) -> str:
    """One chart that scrolls sideways in a narrow window, with ``title`` for those who do not see it."""
    body = "".join(parts)
    return (
        f'<div class="scroll"><svg viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img" '
        f'aria-label="{text(title)}">{body}</svg></div>'
    )


def label(x: float, y: float, value: object, kind: str = "", anchor: str = "") -> str:
    """Text in a chart; ``anchor`` is ``middle`` or ``end`` where it does not start at ``x``."""
    classes = f' class="{kind}"' if kind else ""
    where = f' text-anchor="{anchor}"' if anchor else ""
    return f'<text x="{x:g}" y="{y:g}"{classes}{where}>{text(value)}</text>'


def line(x1: float, y1: float, x2: float, y2: float, kind: str = "axis") -> str:
    """A straight line in a chart."""
    return f'<path class="{kind}" d="M{x1:g} {y1:g}L{x2:g} {y2:g}"/>'


def ticks(low: int, high: int, count: int) -> list[int]:
    """At most ``count`` round numbers from ``low`` to ``high``, evenly apart."""
    step = 1
    factors = (2, 5, 10)
    while (high - low) // step + 1 > count:
        base = 10 ** (len(str(step)) - 1)
        step = next(base * factor for factor in factors if base * factor > step)
    first = -(-low // step) * step
    return list(range(first, high + 1, step))


def style_policy(style: str) -> str:
    """A content security policy that allows exactly this style sheet and nothing else (CSP level 3)."""
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode("ascii")
    return f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"


def document(title: str, style: str, body: str) -> str:
    """A whole HTML document that holds everything it shows; ``body`` is markup, ``title`` is not."""
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{style_policy(style)}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark"><meta name="referrer" content="no-referrer">'
        f"<title>{text(title)}</title><style>{style}</style></head><body>{body}</body></html>\n"
    )


def section(anchor: str, title: str, body: str) -> str:
    """A part of a page under a heading that can be linked to."""
    return f'<section id="{anchor}"><h2><a href="#{anchor}">{title}</a></h2>{body}</section>'
