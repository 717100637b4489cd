"""What every benchmark shares: rows beside their baselines, the machine they were measured on, table and JSON.

A script defines ``measure(quick) -> list[Row]`` and ends with ``raise SystemExit(main(__doc__, measure))``.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

PACKAGES = ("torch", "numpy", "libp2p")


@dataclass(frozen=True, slots=True)
class Row:
    """One measured value, what it is held against, and the bound it must keep.

    ``at_least`` and ``at_most`` are the target; with neither, the row informs. ``value`` None: could not be measured,
    and ``note`` says why.
    """

    name: str
    value: float | None
    unit: str = ""
    baseline: str = ""
    baseline_value: float | None = None
    at_least: float | None = None
    at_most: float | None = None
    note: str = ""

    @property
    def target(self) -> str:
        """The bound in words; empty for none."""
        low = "" if self.at_least is None else f">= {self.at_least:g}"
        high = "" if self.at_most is None else f"<= {self.at_most:g}"
        return " and ".join(part for part in (low, high) if part)

    @property
    def met(self) -> bool | None:
        """Whether the value keeps its bound; None without one. What could not be measured is not met."""
        if not self.target:
            return None
        if self.value is None:
            return False
        above = self.at_least is None or self.value >= self.at_least
        return above and (self.at_most is None or self.value <= self.at_most)

    @property
    def ratio(self) -> float | None:
        """Value over baseline."""
        if self.value is None or not self.baseline_value:
            return None
        return self.value / self.baseline_value

    def to_json(self) -> dict[str, Any]:
        """The row as one JSON object."""
        return {
            "name": self.name,
            "value": self.value,
            "unit": self.unit,
            "baseline": self.baseline,
            "baseline_value": self.baseline_value,
            "ratio": self.ratio,
            "target": self.target,
            "met": self.met,
        } | ({"note": self.note} if self.note else {})


def machine() -> dict[str, Any]:
    """Where the numbers come from."""
    facts: dict[str, Any] = {
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "python": platform.python_version(),
    }
    for package in PACKAGES:
        try:
            facts[package] = version(package)
        except PackageNotFoundError:
            facts[package] = None
    return facts


def _cpu() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else platform.processor()


def main(title: str | None, measure: Callable[[bool], Sequence[Row]]) -> int:
    """Measure and print; 0 even where a target is missed, because the rows say so."""
    parser = argparse.ArgumentParser(description=title, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="smaller sizes, done within a minute")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    args = parser.parse_args()
    rows = measure(args.quick)
    if args.json:
        print(json.dumps({"machine": machine(), "rows": [row.to_json() for row in rows]}, indent=2))
    else:
        facts = ", ".join(f"{name} {value}" for name, value in machine().items())
        print(f"{(title or '').strip().splitlines()[0]}\n{facts}\n")
        print(table(rows))
    sys.stdout.flush()
    return 0


def table(rows: Sequence[Row]) -> str:
    """The rows as aligned text."""
    head = ("", "value", "unit", "target", "met", "baseline", "value", "ratio")
    cells = [head] + [
        (
            row.name,
            number(row.value),
            row.unit,
            row.target,
            {None: "", True: "yes", False: "NO"}[row.met],
            row.baseline,
            number(row.baseline_value),
            number(row.ratio),
        )
        for row in rows
    ]
    widths = [max(len(line[column]) for line in cells) for column in range(len(head))]
    right = {1, 6, 7}
    lines = []
    for line, row in zip(cells, [None, *rows], strict=True):
        padded = [
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        note = f"  ({row.note})" if row is not None and row.note else ""
        lines.append("  ".join(padded).rstrip() + note)
    return "\n".join(lines)


def number(value: float | None) -> str:
    """Four significant digits, thousands unshortened."""
    if value is None:
        return ""
    return f"{value:.0f}" if abs(value) >= 10_000 or value == int(value) else f"{value:.4g}"
