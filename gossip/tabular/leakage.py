"""A column that alone tells the target is rarely a cause: more often it was written after the outcome was known."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from quidnunc.gossip.tabular.findings import Code, Finding
from quidnunc.gossip.tabular.schema import Column, Kind
from quidnunc.gossip.tabular.values import Values

AUC_SUSPICIOUS = 0.99
"""From here on (or one minus it, downwards) a column alone is suspicious."""

_CLASS_MIN = 5
_ROWS_PER_VALUE = 4


def auc(scores: NDArray[np.float64], positive: NDArray[np.bool_]) -> float:
    """The chance that a positive row scores above a negative, ties counted half (Mann-Whitney); nan for one class."""
    wins = int(positive.sum())
    losses = len(positive) - wins
    if not wins or not losses:
        return float("nan")
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    ranks = (last - (counts - 1) / 2)[inverse]
    return float((ranks[positive].sum() - wins * (wins + 1) / 2) / (wins * losses))


def leaks(column: Column, values: Values, positive: NDArray[np.bool_], used: NDArray[np.bool_]) -> list[Finding]:
    """A warning where one column, by its values or by where they are missing, ranks the used rows almost perfectly."""
    there = used & ~values.missing
    found = _suspicious(_scores(column, values, positive, there), positive[there])
    how = "alone"
    if found is None:
        found = _suspicious(values.missing[used].astype(np.float64), positive[used])
        how = "by where it is missing"
    if found is None:
        return []
    what = f"{how} tells the target (area under the curve {found:.3f}): was it written after the outcome was known?"
    return [Finding(Code.LEAKAGE, what, 'if so: kind = "ignore" in the schema', column=column.name)]


def _scores(
    column: Column, values: Values, positive: NDArray[np.bool_], there: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Numbers as they are; categories by the share of positive rows among each, if there are enough to tell."""
    if column.kind == Kind.NUMBER:
        return values.data[there].astype(np.float64)
    codes = values.data[there].astype(np.int64)
    if len(codes) < _ROWS_PER_VALUE * len(column.values):
        return np.zeros(len(codes))
    totals = np.bincount(codes, minlength=len(column.values))
    hits = np.bincount(codes, weights=positive[there].astype(np.float64), minlength=len(column.values))
    rates: NDArray[np.float64] = (hits / np.maximum(totals, 1))[codes]
    return rates


def _suspicious(scores: NDArray[np.float64], positive: NDArray[np.bool_]) -> float | None:
    wins = int(positive.sum())
    if min(wins, len(positive) - wins) < _CLASS_MIN:
        return None
    area = auc(scores, positive)
    return area if area > AUC_SUSPICIOUS or area < 1 - AUC_SUSPICIOUS else None
