"""Rows that stand in a table more than once, and groups of several rows: privacy of single records covers each alone.

What a table cannot say is whose a row is. Equal rows may be different people, and rows of one person may differ; who
names the persons' column as group learns how many of them have several rows.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quidnunc.gossip.tabular.rule import plain_word

_AT_ONCE = 1024


@dataclass(frozen=True, slots=True)
class Repeats:
    """Of the used rows: how many are like an earlier one, and how many are of a group that has several.

    ``row`` is the place of the first that is like an earlier one, that of row ``like`` (0: none). ``groups`` counts
    groups of several rows, ``largest`` the rows of the largest; both are 0 where the schema names no group.
    """

    rows: int = 0
    row: int = 0
    like: int = 0
    groups: int = 0
    grouped_rows: int = 0
    largest: int = 0

    @property
    def any(self) -> bool:
        return bool(self.rows or self.groups)


def find_repeats(
    columns: Sequence[NDArray[Any]], used: NDArray[np.bool_], lines: Sequence[int], groups: Sequence[str] | None
) -> Repeats:
    """What repeats among the ``used`` [n] rows of ``columns`` ([n] numbers each), which stand in ``lines`` [n].

    ``groups`` are the cells that say whose each row is, if there are any.
    """
    rows = np.flatnonzero(used)
    equals = first_equals(columns, rows)
    again = np.flatnonzero(equals != rows)
    row = like = 0
    if len(again):
        row, like = lines[int(rows[again[0]])], lines[int(equals[again[0]])]
    sizes: Counter[str] = Counter()
    if groups is not None:
        sizes.update(plain_word(groups[index]) for index in rows.tolist())
    several = [size for size in sizes.values() if size > 1]
    return Repeats(len(again), row, like, len(several), sum(several), max(several, default=0))


def first_equals(columns: Sequence[NDArray[Any]], rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """For each of ``rows`` [m] the first of them whose entries in all ``columns`` ([n] numbers each) are the same.

    nan equals nan, and zero its negative.
    """
    first: dict[bytes, int] = {}
    found = np.empty(len(rows), dtype=np.int64)
    for start in range(0, len(rows), _AT_ONCE):
        some = rows[start : start + _AT_ONCE]
        block = np.stack([column[some].astype(np.float64) + 0.0 for column in columns], axis=1)
        for index, row in enumerate(some.tolist()):
            digest = hashlib.blake2b(block[index].tobytes(), digest_size=16).digest()
            found[start + index] = first.setdefault(digest, row)
    return found
