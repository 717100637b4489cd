"""A task that trains in no time and needs nothing but torch, for daemons under test.

What a test wants of a running compute process is asked for in files, since its environment is fixed at its start:
``TINY_TASK`` names a directory; while ``hang`` lies there a loss takes forever, while ``fail`` does it raises, while
``slow`` does it takes a tenth of a second longer, and while ``hungry`` does it asks for three GiB.
``TINY_WIDTH`` makes another model of it.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import torch
from torch import nn

from quidnunc.gossip.task import Site, Task

CLASSES = 3


def task(site: Site) -> Task:
    """Gaussian clusters: every site draws its own examples around the same centers."""
    width = int(os.environ.get("TINY_WIDTH", "6"))
    common = torch.Generator().manual_seed(site.seed)
    centers = 2 * torch.randn(CLASSES, width, generator=common)
    own = torch.Generator().manual_seed(1000 + site.index)

    def split(count: int) -> tuple[torch.Tensor, torch.Tensor]:
        targets = torch.randint(CLASSES, (count,), generator=own)
        return centers[targets] + torch.randn(count, width, generator=own), targets

    return Task(lambda: nn.Linear(width, CLASSES), loss, split(60), split(20), split(20))


def loss(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Cross-entropy per example, unless a test wants trouble."""
    switches = os.environ.get("TINY_TASK", "")
    if switches:
        if (Path(switches) / "fail").exists():
            raise RuntimeError("the scanner of ward 7 is on fire")
        if (Path(switches) / "slow").exists():
            time.sleep(0.1)
        if (Path(switches) / "hungry").exists():
            torch.zeros(3 * 2**30, dtype=torch.uint8)
        while (Path(switches) / "hang").exists():
            time.sleep(0.05)
    return nn.functional.cross_entropy(outputs, targets, reduction="none")
