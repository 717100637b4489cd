"""What only the page about a ledger writes: links between its parts, and the letters of members."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime

from quidnunc.gossip.markup import text, ticks


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


_STEPS_S = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10_800, 21_600, 43_200)
_DAY_S = 86_400


def time_ticks(low: int, high: int, count: int) -> list[tuple[int, str]]:
    """At most ``count`` round times from ``low`` to ``high`` (ms since 1970, UTC), evenly apart, and how they are told.

    As hours, minutes and seconds, with thousandths where they are less than a second apart, as days where they are
    days apart.
    """
    span = high - low
    step = next((each * 1000 for each in _STEPS_S if span // (each * 1000) + 1 <= count), 0)
    if span < 1000 * (count - 1):
        found = ticks(low, high, count)
        whole = all(each % 1000 == 0 for each in found)
        return [(each, moment(each)[11:] + ("" if whole else f".{each % 1000:03}")) for each in found]
    if step:
        times = range(-(-low // step) * step, high + 1, step)
        clock = step < 60_000 or low // (_DAY_S * 1000) == high // (_DAY_S * 1000)
        return [(each, moment(each)[11:] if clock else moment(each)[5:16]) for each in times]
    days = ticks(-(-low // (_DAY_S * 1000)), high // (_DAY_S * 1000), count)
    return [(day * _DAY_S * 1000, moment(day * _DAY_S * 1000)[:10]) for day in days]


def moment(t_ms: int) -> str:
    """A time as ``YYYY-MM-DD HH:MM:SS`` in UTC; one that no calendar has as a number."""
    try:
        return datetime.fromtimestamp(t_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")
    except (ValueError, OverflowError, OSError):
        return f"{t_ms} ms"
