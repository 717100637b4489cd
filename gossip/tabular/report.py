"""What a check tells: a row per column, the sizes of the parts, how often the target is positive. For its owner."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from quidnunc.gossip.tabular.examine import Examined
from quidnunc.gossip.tabular.findings import Finding
from quidnunc.gossip.tabular.repeats import Repeats
from quidnunc.gossip.tabular.schema import Column, Kind
from quidnunc.gossip.tabular.split import PARTS


@dataclass(frozen=True, slots=True)
class ColumnReport:
    """One column. ``least`` to ``most`` is what a number takes, ``counts`` how often each value of a category comes.

    ``outside`` counts cells outside of the range or the values; ``missing`` and ``outside`` are of all rows.
    """

    name: str
    kind: str
    unit: str
    missing: int
    missing_percent: float
    outside: int
    low: float | None = None
    high: float | None = None
    least: float | None = None
    most: float | None = None
    counts: dict[str, int] | None = None


@dataclass(frozen=True, slots=True)
class Report:
    """A whole check."""

    rows_read: int
    rows_used: int
    rows_dropped: int
    parts: dict[str, int]
    target: str
    rule: str
    positive_percent: float | None
    features: int
    columns: tuple[ColumnReport, ...]
    findings: tuple[Finding, ...]
    repeats: Repeats

    def to_value(self) -> dict[str, Any]:
        """JSON-ready."""
        value = asdict(self)
        value["columns"] = [asdict(column) for column in self.columns]
        value["findings"] = [finding_value(finding) for finding in self.findings]
        return value


def finding_value(finding: Finding) -> dict[str, Any]:
    """A finding, JSON-ready."""
    return {
        "code": finding.code.value,
        "severity": finding.severity.value,
        "message": finding.message,
        "row": finding.row or None,
        "column": finding.column or None,
        "value": finding.value or None,
        "bound": finding.bound or None,
        "remedy": finding.remedy,
        "count": finding.count,
    }


def report(examined: Examined) -> Report:
    """Summarize a check."""
    schema, used = examined.schema, int(examined.used.sum())
    positives = int(examined.positive[examined.used].sum())
    return Report(
        rows_read=examined.rows,
        rows_used=used,
        rows_dropped=examined.rows - used,
        parts={name: len(examined.part(part)) for part, name in enumerate(PARTS)},
        target=schema.target.column.name,
        rule=schema.target.rule.text,
        positive_percent=round(100 * positives / used, 1) if used else None,
        features=len(schema.features),
        columns=tuple(_column(examined, column) for column in schema.columns),
        findings=examined.findings,
        repeats=examined.repeats,
    )


def _column(examined: Examined, column: Column) -> ColumnReport:
    values = examined.values.get(column.name)
    if values is None:
        return ColumnReport(column.name, column.kind.value, column.unit, 0, 0.0, 0)
    missing = int(values.missing.sum())
    percent = round(100 * missing / examined.rows, 1) if examined.rows else 0.0
    if column.kind == Kind.NUMBER:
        given = values.data[~np.isnan(values.data)]
        least, most = (float(given.min()), float(given.max())) if len(given) else (None, None)
        return ColumnReport(
            column.name, "number", column.unit, missing, percent, values.outside, column.low, column.high, least, most
        )
    totals = np.bincount(values.data[values.data >= 0].astype(np.int64), minlength=len(column.values))
    counts = dict(zip(column.values, totals.tolist(), strict=True))
    outside = examined.rows - missing - int(totals.sum())
    return ColumnReport(column.name, "category", "", missing, percent, outside, counts=counts)
