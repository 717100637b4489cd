"""A checked table as a :class:`quidnunc.gossip.task.Task`: two classes, a logistic or a small two-layer model."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from quidnunc.gossip.tabular.encode import Encoded, Part
from quidnunc.gossip.tabular.options import Options
from quidnunc.gossip.tabular.schema import Schema
from quidnunc.gossip.task import Task

if TYPE_CHECKING:
    from torch import Tensor, nn

CLASSES = 2


def table_task(encoded: Encoded, options: Options) -> Task:
    """The task on encoded rows. The model depends on the schema and the options alone, not on the rows."""
    return _task(len(encoded.features), (encoded.train, encoded.holdout, encoded.test), options)


def blank_task(schema: Schema, options: Options) -> Task:
    """A task with the right model and one row of zeros in each part: enough to draft a charter without any data."""
    width = len(schema.features)
    row = np.zeros((1, width), dtype=np.float32), np.zeros(1, dtype=np.int64)
    return _task(width, (row, row, row), options)


def _task(width: int, parts: tuple[Part, Part, Part], options: Options) -> Task:
    import torch

    from quidnunc.gossip.learning.losses import row_cross_entropy

    def tensors(part: Part) -> tuple[Tensor, Tensor]:
        return torch.from_numpy(part[0].copy()), torch.from_numpy(part[1].copy())

    train, holdout, test = (tensors(part) for part in parts)
    return Task(
        model=lambda: _model(width, options),
        loss=row_cross_entropy,
        train=train,
        holdout=holdout,
        test=test,
    )


def _model(width: int, options: Options) -> nn.Module:
    from torch import nn

    if options.model == "logistic":
        return nn.Sequential(nn.Linear(width, CLASSES))
    return nn.Sequential(nn.Linear(width, options.hidden), nn.ReLU(), nn.Linear(options.hidden, CLASSES))
