"""Small stacks of linear layers, for the tests of the simulator's compiled code."""

from __future__ import annotations

from itertools import pairwise

from torch import nn

from quidnunc.gossip.learning.params import scoped_rng


def stack(*widths: int, bias: bool = True, between: type[nn.Module] | None = nn.ReLU) -> nn.Module:
    """Linear layers of these widths."""
    with scoped_rng(4):
        parts: list[nn.Module] = []
        for above, units in pairwise(widths):
            parts += [nn.Linear(above, units, bias), *([between()] if between is not None else [])]
        return nn.Sequential(*parts[: len(parts) - (between is not None)])
