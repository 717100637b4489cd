"""Freeze Opacus's clipped gradient sums for tests/test_dpsgd_oracle.py.

Run with opacus 1.6.0 installed: ``python tools/make_opacus_vectors.py tests/vectors/opacus.json``.
Opacus forms every example's gradient with hooks on each layer, which shares no code with ours.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import opacus
import torch
from opacus import GradSampleModule
from opacus.optimizers import DPOptimizer
from torch.nn.functional import cross_entropy

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from opacus_cases import CASES, CLIPS, batch, wave


def clipped_sum(name: str, clip: float) -> list[float]:
    """The sum over examples of clipped gradients, all trainable tensors by name, flat."""
    make, shape = CASES[name]
    module = make().double()
    named = sorted(module.named_parameters())
    total = sum(tensor.numel() for _, tensor in named)
    at, params = 0, wave(total, 0.7).double() / 2
    for _, tensor in named:
        tensor.data = params[at : at + tensor.numel()].reshape(tensor.shape)
        at += tensor.numel()
    hooked = GradSampleModule(module, loss_reduction="sum")
    plain = torch.optim.SGD(hooked.parameters(), lr=1.0)
    optimizer = DPOptimizer(plain, noise_multiplier=0.0, max_grad_norm=clip, expected_batch_size=1)
    inputs, targets = batch(shape)
    cross_entropy(hooked(inputs.double()), targets, reduction="sum").backward()
    optimizer.clip_and_accumulate()
    return [float(x) for _, tensor in named for x in tensor.summed_grad.reshape(-1)]


def main() -> None:
    """Write the vectors to the file named."""
    rows = [{"case": name, "clip": clip, "sum": clipped_sum(name, clip)} for name in CASES for clip in CLIPS]
    Path(sys.argv[1]).write_text(json.dumps({"opacus": opacus.__version__, "rows": rows}, indent=0) + "\n")


if __name__ == "__main__":
    main()
