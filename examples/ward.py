"""A task of one's own: will a patient be back within 30 days? A CSV per hospital, which never leaves it.

A task function takes the site it runs at and returns a model, a loss and three splits of local data; training,
privacy and merging are not its business. See README.md in this directory for the commands.
"""

from __future__ import annotations

import csv
from pathlib import Path

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from quidnunc.gossip.task import Site, Task

RANGES = {"age": (18, 98), "heart_rate": (40, 140), "systolic": (80, 180), "oxygen": (80, 100), "stay_days": (0, 30)}
"""Where a column's values usually lie; outliers are cut. Public knowledge: measured ones would tell about the data."""


def make(site: Site) -> Task:
    """The task on the CSV file at ``site.path``: the columns of ``RANGES``, and ``readmitted``, 0 or 1."""
    with Path(site.path).open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    scaled = [[(float(row[name]) - low) / (high - low) for name, (low, high) in RANGES.items()] for row in rows]
    inputs = torch.tensor(scaled).clamp(0.0, 1.0)
    targets = torch.tensor([int(row["readmitted"]) for row in rows])
    fifth = torch.arange(len(rows)) % 5
    splits = [(inputs[part], targets[part]) for part in (fifth > 1, fifth == 1, fifth == 0)]
    return Task(
        lambda: nn.Sequential(nn.Linear(len(RANGES), 8), nn.Tanh(), nn.Linear(8, 2)),
        lambda outputs, targets: cross_entropy(outputs, targets, reduction="none"),
        *splits,
    )
