"""Checked columns to inputs in [0, 1]: by the schema's ranges alone, so that nothing of the data scales the data."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from quidnunc.gossip.tabular.examine import Examined
from quidnunc.gossip.tabular.schema import Column, Kind, Missing
from quidnunc.gossip.tabular.split import HOLDOUT, TEST, TRAIN

Part = tuple[NDArray[np.float32], NDArray[np.int64]]
"""Inputs [n, d] and targets [n], 1 for positive."""

_MIDDLE = 0.5


@dataclass(frozen=True, eq=False)
class Encoded:
    """Three parts over the same inputs; ``medians`` are those that were measured, by column name, in its unit."""

    features: tuple[str, ...]
    train: Part
    holdout: Part
    test: Part
    medians: dict[str, float]


def encode(examined: Examined, source: str = "") -> Encoded:
    """Encode the used rows. Raises DataFault, naming ``source``, when the table has an error."""
    examined.require(source)
    medians = {column.name: _median(examined, column) for column in examined.schema.inputs if _measures(column)}
    blocks = [_block(examined, column, medians.get(column.name)) for column in examined.schema.inputs]
    inputs = np.concatenate(blocks, axis=1).astype(np.float32)
    targets = examined.positive.astype(np.int64)

    def part(which: int) -> Part:
        rows = examined.part(which)
        return inputs[rows], targets[rows]

    return Encoded(examined.schema.features, part(TRAIN), part(HOLDOUT), part(TEST), medians)


def _measures(column: Column) -> bool:
    return column.missing == Missing.MEDIAN and column.median is None


def _median(examined: Examined, column: Column) -> float:
    """The median of the training rows, in the column's unit; the middle of the range where all cells are missing."""
    given = examined.values[column.name].data[examined.part(TRAIN)]
    given = given[~np.isnan(given)]
    return float(np.median(given)) if len(given) else column.low + _MIDDLE * (column.high - column.low)


def _block(examined: Examined, column: Column, median: float | None) -> NDArray[np.float64]:
    """The inputs of one column, [n, len(column.features)]."""
    values = examined.values[column.name]
    marked = [values.missing.astype(np.float64)] if column.missing == Missing.INDICATOR else []
    if column.kind == Kind.NUMBER:
        scaled = (values.data - column.low) / (column.high - column.low)
        fill = column.median if column.median is not None else median
        place = _MIDDLE if fill is None else (fill - column.low) / (column.high - column.low)
        return np.stack([np.where(np.isnan(scaled), place, scaled), *marked], axis=1)
    if len(column.values) == 2:
        return np.stack([np.where(values.missing, _MIDDLE, values.data == 1), *marked], axis=1)
    return np.stack(
        [*((values.data == index).astype(np.float64) for index in range(len(column.values))), *marked], axis=1
    )
