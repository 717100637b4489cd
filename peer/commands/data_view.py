"""How a check of a table is shown: a row per column, what is used for what, findings with their remedies."""

from __future__ import annotations

from pathlib import Path

from quidnunc.gossip.tabular.findings import Finding, Severity, errors_of, printable
from quidnunc.gossip.tabular.repeats import Repeats
from quidnunc.gossip.tabular.report import ColumnReport, Report, finding_value
from quidnunc.peer.output import ExitCode, Line, Outcome, Output, Styled

_NAME_WIDTH = 28
_VALUES_SHOWN = 6


def checked(path: Path, schema: str, report: Report, out: Output) -> Outcome:
    """The outcome of a check that could read the table."""
    data = {"file": str(path), "schema": schema, **report.to_value()}
    lines: list[Line] = [*_table(report.columns), "", *_summary(report)]
    for finding in report.findings:
        if finding.severity == Severity.WARNING:
            out.warn(f"{finding.message}; {finding.remedy}")
        elif finding.severity == Severity.HINT:
            lines.append(f"hint {finding.code}: {finding.message}; {finding.remedy}")
    errors = errors_of(report.findings)
    if not errors:
        lines.append(Styled(f"{path}: no errors under schema {schema}", "good"))
        return Outcome(data, lines)
    if len(errors) == 1:
        return _one(path, errors[0], data, lines)
    for finding in errors:
        lines += [Styled(f"error {finding.code}: {finding.message}", "bad"), f"  {finding.remedy}"]
    message = f"{path}: {len(errors)} errors, the first: {errors[0].message}"
    return Outcome(data, lines, ExitCode.CHECK_FAILED, message, errors[0].remedy)


def refused(path: Path, finding: Finding) -> Outcome:
    """The outcome where the table could not even be read."""
    data = {"file": str(path), "findings": [finding_value(finding)]}
    return _one(path, finding, data, [])


def _one(path: Path, finding: Finding, data: object, lines: list[Line]) -> Outcome:
    message = f"{path}: {finding.message} [{finding.code}]"
    return Outcome(data, lines, ExitCode.CHECK_FAILED, message, finding.remedy)


def _summary(report: Report) -> list[Line]:
    parts = ", ".join(f"{name} {size}" for name, size in report.parts.items())
    lines: list[Line] = [
        Styled(f"{report.rows_read} rows read, {report.rows_used} used, {report.rows_dropped} dropped", "strong"),
        f"split      {parts}",
        f"inputs     {report.features}",
    ]
    if report.positive_percent is not None:
        lines.append(
            f"target     {printable(report.target)} {printable(report.rule)}: {report.positive_percent:.1f}% positive"
        )
    return lines + _repeats(report.repeats)


def _repeats(found: Repeats) -> list[Line]:
    """How many rows may be of one person, what that means for epsilon, and what to do."""
    lines: list[Line] = []
    if found.rows:
        first = f"the first is row {found.row}, like row {found.like}"
        lines.append(
            Styled(f"repeated   {found.rows} rows are like an earlier one in all that is read; {first}", "warn")
        )
    if found.groups:
        text = f"{found.grouped_rows} rows are of {found.groups} groups that have several, up to {found.largest}"
        lines.append(Styled(f"grouped    {text}", "warn"))
    if not lines:
        return []
    return [
        *lines,
        "           where they are one person's, epsilon for single records does not cover that person as one: k rows",
        "           are protected as by a k-th of the noise. Delete copies, keep one row per person, or agree on",
        "           --privacy-unit site, which covers all rows together (docs/privacy.md)",
    ]


def _table(columns: tuple[ColumnReport, ...]) -> list[Line]:
    rows = [("column", "kind", "unit", "missing", "outside", "values")]
    for column in columns:
        known = column.least is not None or column.counts is not None
        missing = f"{column.missing_percent:.1f}%" if known or column.missing else ""
        outside = str(column.outside) if known else ""
        rows.append((printable(column.name), column.kind, column.unit, missing, outside, _values(column)))
    widths = [min(_NAME_WIDTH, max(len(row[index]) for row in rows)) for index in range(5)]
    right = (False, False, False, True, True)
    lines: list[Line] = []
    for row in rows:
        cells = [
            cell[:width].rjust(width) if flush else cell[:width].ljust(width)
            for cell, width, flush in zip(row, widths, right, strict=False)
        ]
        lines.append("  ".join([*cells, row[5]]).rstrip())
    lines[0] = Styled(str(lines[0]), "strong")
    return lines


def _values(column: ColumnReport) -> str:
    if column.least is not None:
        return f"{column.least:.6g} to {column.most:.6g} (range {column.low:.6g} to {column.high:.6g})"
    if column.counts is None:
        return "" if column.kind != "number" else "none"
    shown = [f"{printable(value)}: {count}" for value, count in column.counts.items()]
    more = f", and {len(shown) - _VALUES_SHOWN} more" if len(shown) > _VALUES_SHOWN else ""
    return ", ".join(shown[:_VALUES_SHOWN]) + more
