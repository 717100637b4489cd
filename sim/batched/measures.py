"""What a round comes to: messages, and how far everybody is from everybody."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from quidnunc.sim.batched.conditions import Links
from quidnunc.sim.batched.net import Tensors


def traffic(links: Links, active: NDArray[np.bool_]) -> tuple[int, int]:
    """Messages sent this round, one per link whose sender took a turn, and those that were not heard."""
    senders = active[links.mixing.indices]
    heard = links.mixing.weights > 0 if links.ages is None else (links.mixing.weights > 0) & (links.ages == 0)
    sent = int(senders.sum())
    return sent, sent - int((senders & heard).sum())


def consensus(params: Tensors, present: NDArray[np.bool_]) -> float:
    """Mean distance of the ``present`` peers' params to their average; 0 where nobody is."""
    rows = torch.from_numpy(np.flatnonzero(present)).to(params[0].device)
    if not len(rows):
        return 0.0
    square = torch.zeros(len(rows), dtype=torch.float64, device=params[0].device)
    for tensor in params:
        mean = tensor.index_select(0, rows).mean(0)
        for at in range(0, len(rows), 256):
            part = rows[at : at + 256]
            square[at : at + 256] += (tensor.index_select(0, part) - mean).flatten(1).double().square().sum(1)
    return float(square.sqrt().mean())
