"""Which blobs may be forgotten: a replaced vector is kept for a few rounds, because a job may still read it."""

from __future__ import annotations

from collections.abc import Iterable


class Retention:
    """Blobs that were let go, and the round in which that happened."""

    def __init__(self, keep_rounds: int) -> None:
        self._keep_rounds = keep_rounds
        self._let_go: dict[bytes, int] = {}
        self._round = 0

    def let_go(self, name: bytes) -> None:
        """The node no longer needs ``name``, unless it comes to use it again."""
        self._let_go[name] = self._round

    def next_round(self, in_use: Iterable[bytes]) -> tuple[bytes, ...]:
        """Names let go ``keep_rounds`` rounds ago and not in use now."""
        self._round += 1
        due = [name for name, since in self._let_go.items() if since + self._keep_rounds <= self._round]
        if not due:
            return ()
        used = set(in_use)
        for name in due:
            del self._let_go[name]
        return tuple(name for name in due if name not in used)
