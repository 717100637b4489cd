"""Runs beside each other: what differs between their scenarios, and what came of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from quidnunc.crypto.errors import ConfigError
from quidnunc.sim.scenarios.columns import COLUMNS
from quidnunc.sim.scenarios.columns import spread as written
from quidnunc.sim.scenarios.directory import MANIFEST
from quidnunc.sim.scenarios.stored import StoredRun, read_run

RUNS_MAX = 10_000
SHOWN = (
    "accuracy_mean",
    "accuracy_p10",
    "accuracy_worst",
    "gain_mean",
    "gain_worst",
    "consensus_distance",
    "bytes_sent",
    "epsilon",
    "attacker_weight",
    "detection_auroc",
    "backdoor_rate",
)
"""The columns of the table for people; ``--json`` has all."""


def runs_in(paths: Sequence[Path]) -> list[Path]:
    """The run directories named, and those inside a directory that is none itself, in order of their names.

    Raises ConfigError where there are none, or too many.
    """
    found: list[Path] = []
    for path in paths:
        inside = [path] if (path / MANIFEST).exists() else sorted(each.parent for each in path.glob(f"*/{MANIFEST}"))
        if not inside:
            raise ConfigError(f"{path}: no run directory", hint="name what quidnunc sim run or sweep has written")
        found += [each for each in inside if each not in found]
    if len(found) > RUNS_MAX:
        raise ConfigError(f"{len(found):,} runs, at most {RUNS_MAX:,}", hint="name fewer directories")
    return found


def compared(runs: Sequence[StoredRun]) -> list[dict[str, Any]]:
    """One flat row per run: directory, name, status, seed_count, the keys that differ, mean and ``_sd`` of columns."""
    told = [
        {key: value for key, value in leaves(msgspec.to_builtins(run.manifest.scenario)) if value != {}} for run in runs
    ]
    differing = [key for key in dict.fromkeys(key for each in told for key in each) if _differs(key, told)]
    # What only some have comes last, whichever run happens to stand first.
    differing.sort(key=lambda key: not all(key in each for each in told))
    rows = []
    for run, keys in zip(runs, told, strict=True):
        row: dict[str, Any] = {"directory": str(run.path), "name": run.manifest.name, "status": run.manifest.status}
        row["seed_count"] = len(run.final)
        row |= {key: keys.get(key) for key in differing}
        for name, _, _ in COLUMNS:
            found = run.mean(name)
            row[name], row[f"{name}_sd"] = (None, None) if found is None else found
        rows.append(row)
    return rows


def _differs(key: str, told: Sequence[dict[str, Any]]) -> bool:
    first = told[0].get(key)
    return key != "name" and any(each.get(key) != first for each in told)


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every value of nested tables under its dotted path; lists are values."""
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from leaves(inner, f"{path}.{key}" if path else str(key))
    else:
        yield path, value


def table(rows: Sequence[dict[str, Any]]) -> list[str]:
    """The rows for people: what differs, then mean +- spread over seeds of what was measured in any of them."""
    fixed = {
        "directory",
        "name",
        "status",
        "seed_count",
        *(n for n, _, _ in COLUMNS),
        *(f"{n}_sd" for n, _, _ in COLUMNS),
    }
    differing = [key for key in rows[0] if key not in fixed]
    shown = [(name, title, shape) for name, title, shape in COLUMNS if name in SHOWN]
    shown = [each for each in shown if any(row[each[0]] is not None for row in rows)]
    lines = [["run", *differing, "seeds", *(title for _, title, _ in shown)]]
    for row in rows:
        state = "" if row["status"] == "complete" else f" ({row['status']})"
        cells = [
            f"{Path(row['directory']).name}{state}",
            *(_word(row[key]) for key in differing),
            str(row["seed_count"]),
        ]
        for name, _, shape in shown:
            mean, spread = row[name], row[f"{name}_sd"]
            shown_mean = "-" if mean is None else shape.format(mean)
            alone = mean is None or row["seed_count"] == 1
            cells.append(shown_mean if alone else f"{shown_mean} +- {written(shape, spread)}")
        lines.append(cells)
    widths = [max(len(line[at]) for line in lines) for at in range(len(lines[0]))]
    left = 1 + len(differing)
    told = []
    for line in lines:
        pairs = enumerate(zip(line, widths, strict=True))
        told.append("  ".join(cell.ljust(width) if at < left else cell.rjust(width) for at, (cell, width) in pairs))
    return [each.rstrip() for each in told]


def read_runs(paths: Sequence[Path]) -> list[StoredRun]:
    """Every run of :func:`runs_in`."""
    return [read_run(path, unmeasured=True) for path in runs_in(paths)]


def _word(value: Any) -> str:
    if value is None or value == {} or value == []:
        return "-"
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
