"""What only the page about a ledger writes: links between its parts, and the letters of members."""

from __future__ import annotations

from collections.abc import Iterable

from quidnunc.gossip.markup import text


def link(anchor: str, label: object) -> str:
    """A link to ``#anchor`` on this page, which is letters and digits and needs no quotes."""
    return f"<a href=#{anchor}>{text(label)}</a>"


def links(anchors: Iterable[tuple[str, object]], limit: int) -> str:
    """Links one after the other; those above ``limit`` are counted."""
    found = list(anchors)
    shown = " ".join(link(*each) for each in found[:limit])
    return f"{shown} and {len(found) - limit} more" if len(found) > limit else shown


def code_of(index: int) -> str:
    """The letters by which charts call the member of this index: A, B, ... Z, AA, AB ..."""
    letters = ""
    index += 1
    while index:
        index, rest = divmod(index - 1, 26)
        letters = chr(65 + rest) + letters
    return letters
