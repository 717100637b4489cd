"""A user's own task that reads a table by the schema its charter carries: one column name per line of the schema."""

from __future__ import annotations

import csv
from pathlib import Path

import torch
from torch import nn

from quidnunc.gossip.task import Site, Task


def task(site: Site) -> Task:
    """Column ``y`` from the columns that the schema lists; without data while a charter is being drafted."""
    columns = site.schema.split()
    rows = [dict.fromkeys([*columns, "y"], "0")] * 5
    if not site.blank:
        with Path(site.path).open(newline="") as file:
            rows = list(csv.DictReader(file))
    inputs = torch.tensor([[float(row[name]) for name in columns] for row in rows])
    targets = torch.tensor([int(row["y"]) for row in rows])
    splits = [(inputs[i::5], targets[i::5]) for i in range(3)]
    return Task(lambda: nn.Linear(len(columns), 2), loss, *splits)


def loss(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Cross-entropy per example."""
    return nn.functional.cross_entropy(outputs, targets, reduction="none")
