"""What ``quidnunc demo --data`` says of its members: rows before the start, and afterwards who gained and who lost."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from quidnunc.peer.commands.demo_data import Silo, Survey
from quidnunc.peer.output import Line, Outcome, Styled

_Z95 = 1.96


def silo_lines(silos: Sequence[Silo]) -> list[str]:
    """The rows of every table, before anything is started."""
    width = max(12, *(len(silo.name) for silo in silos))
    lines = [f"{'table':{width}} {'rows':>6} {'used':>6} {'train':>6} {'holdout':>8} {'test':>6}"]
    for silo in silos:
        lines.append(
            f"{silo.name:{width}} {silo.rows_read:6} {silo.rows_used:6} {silo.rows_train:6} "
            f"{silo.rows_holdout:8} {silo.rows_test:6}"
        )
    return lines


def with_silos(outcome: Outcome, found: Survey) -> Outcome:
    """The outcome of a demo with each member's rows, the worst off, and those that lost by joining."""
    if not isinstance(outcome.data, dict):
        return outcome
    by_name = {silo.name: silo for silo in found.silos}
    rows = [{**row, **by_name[row["name"]].facts()} for row in outcome.data["peers"]]
    compared = [row for row in rows if row["accuracy"] is not None]
    worst = min(compared, key=lambda row: row["accuracy"], default=None)
    losers = sorted((row for row in compared if change(row) < 0), key=change)
    data = {
        **outcome.data,
        "peers": rows,
        "worst": None if worst is None else _facts(worst),
        "losers": [_facts(row) for row in losers],
        "schema_inferred": found.inferred,
    }
    lines = [*_table(rows), "", *_verdict(worst, losers), *outcome.lines]
    return replace(outcome, data=data, lines=lines)


def change(row: dict[str, Any]) -> float:
    """Accuracy together less accuracy alone."""
    difference: float = row["accuracy"] - row["alone_accuracy"]
    return difference


def margin(accuracy: float, rows: int) -> float:
    """Half the width of the 95% interval of an accuracy measured on so many rows (Wilson's score interval)."""
    shrink = 1 + _Z95**2 / rows
    return _Z95 / shrink * math.sqrt(accuracy * (1 - accuracy) / rows + _Z95**2 / (4 * rows**2))


def _table(rows: Sequence[dict[str, Any]]) -> list[Line]:
    """Accuracies, each with the rows and the uncertainty that it rests on."""
    width = max(12, *(len(row["name"]) for row in rows))
    lines: list[Line] = [
        "",
        f"{'table':{width}} {'rows':>6} {'used':>6} {'tested on':>10} {'alone':>6} {'together':>9} {'+-':>6} "
        f"{'change':>7} {'constant guess':>15}",
    ]
    for row in rows:
        known = row["accuracy"] is not None
        together = f"{row['accuracy']:.3f}" if known else "-"
        spread = f"{margin(row['accuracy'], row['rows_test']):.3f}" if known else "-"
        points = f"{100 * change(row):+.1f}" if known else "-"
        text = (
            f"{row['name']:{width}} {row['rows_read']:6} {row['rows_used']:6} {row['rows_test']:10} "
            f"{row['alone_accuracy']:6.3f} {together:>9} {spread:>6} {points:>7} {row['guess_accuracy']:15.3f}"
        )
        lines.append(Styled(text, "warn") if known and change(row) < 0 else text)
    lines.append("+- is half of the 95% interval of the accuracy together; a change smaller than it may be chance")
    return lines


def _verdict(worst: dict[str, Any] | None, losers: Sequence[dict[str, Any]]) -> list[Line]:
    if worst is None:
        return []
    lines: list[Line] = [
        f"worst off: {worst['name']} with {worst['accuracy']:.3f} together, {worst['alone_accuracy']:.3f} alone: "
        f"{100 * change(worst):+.1f} points on {worst['rows_test']} test rows"
    ]
    if losers:
        names = ", ".join(f"{row['name']} ({100 * change(row):+.1f} points)" for row in losers)
        lines.append(Styled(f"worse together than alone: {names}", "warn"))
    else:
        lines.append(Styled("nobody is worse together than alone", "good"))
    return lines


def _facts(row: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": row["name"],
        "accuracy": row["accuracy"],
        "alone_accuracy": row["alone_accuracy"],
        "change": change(row),
        "rows_test": row["rows_test"],
    }
