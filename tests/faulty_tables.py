"""Tables with a fault in them, and what must be said of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from four_sites import text_of

from quidnunc.gossip.tabular.findings import Code

Rows = list[dict[str, str]]


class Bad(NamedTuple):
    """A fault: how it is made, and what must be said of it."""

    name: str
    make: Callable[[Rows], bytes]
    code: Code
    row: int = 0
    column: str = ""
    value: str = ""
    count: int = 0
    remedy: str = ""


def changed(column: str, value: str | Callable[[str], str], *at: int) -> Callable[[Rows], bytes]:
    """A change of cells: of the rows ``at``, or of all."""

    def make(table: Rows) -> bytes:
        for index in at or range(len(table)):
            table[index][column] = value if isinstance(value, str) else value(table[index][column])
        return text_of(table).encode()

    return make


def text(change: Callable[[str], str], encoding: str = "utf-8") -> Callable[[Rows], bytes]:
    return lambda table: change(text_of(table)).encode(encoding)


def renamed(old: str, new: str) -> Callable[[Rows], bytes]:
    return text(lambda found: found.replace(old, new, 1))


def without(column: str) -> Callable[[Rows], bytes]:
    return lambda table: text_of([{k: v for k, v in row.items() if k != column} for row in table]).encode()


def lines(found: str) -> list[str]:
    return found.splitlines(keepends=True)
