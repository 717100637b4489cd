"""Conditions: what is wrong with a running peer now, and what was wrong of late.

A condition is found anew at every look, from the state as it is; :class:`Conditions` keeps since when each stands and
which ones have passed. So none has to be cleared by hand, and none outlives its cause.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

RECENT_KEPT = 50
"""Conditions that have passed and are still told."""


class Severity(StrEnum):
    """What a condition means for the peer: nothing yet, less than it should have, or that nothing moves."""

    NOTE = "note"
    DEGRADED = "degraded"
    STALLED = "stalled"


_RANK = {Severity.STALLED: 0, Severity.DEGRADED: 1, Severity.NOTE: 2}


@dataclass(frozen=True, slots=True)
class Condition:
    """One thing that is wrong. ``id`` is stable and documented, ``subject`` whom or what it is about."""

    id: str
    severity: Severity
    subject: str
    text: str


@dataclass(slots=True)
class _Spell:
    """A condition from when it was first seen to when it was seen last."""

    condition: Condition
    since: float
    worst: Severity
    seen: float


class Conditions:
    """The conditions of one peer over time; ``now`` is in seconds and never runs backwards."""

    def __init__(self) -> None:
        self._now: dict[tuple[str, str], _Spell] = {}
        self._past: deque[_Spell] = deque(maxlen=RECENT_KEPT)

    def observe(self, found: Iterable[Condition], now: float) -> None:
        """These conditions hold now, and no others."""
        current: dict[tuple[str, str], _Spell] = {}
        for condition in found:
            key = condition.id, condition.subject
            spell = self._now.pop(key, None) or _Spell(condition, now, condition.severity, now)
            spell.condition, spell.seen = condition, now
            spell.worst = min(spell.worst, condition.severity, key=_RANK.__getitem__)
            current[key] = spell
        for spell in self._now.values():
            spell.seen = now
            self._past.append(spell)
        self._now = current

    def current(self) -> list[dict[str, Any]]:
        """What holds, the worst first, JSON-ready; ``since`` in seconds."""
        spells = sorted(self._now.values(), key=lambda each: (_RANK[each.condition.severity], each.since))
        return [_plain(each, each.condition.severity) | {"since": round(each.since, 3)} for each in spells]

    def recent(self) -> list[dict[str, Any]]:
        """What has passed, the newest first, JSON-ready, with the worst severity it had."""
        spans = [(each, {"since": round(each.since, 3), "until": round(each.seen, 3)}) for each in self._past]
        return [_plain(each, each.worst) | span for each, span in reversed(spans)]


def _plain(spell: _Spell, severity: Severity) -> dict[str, Any]:
    condition = spell.condition
    return {
        "id": condition.id,
        "severity": str(severity),
        "subject": condition.subject,
        "text": condition.text,
    }
