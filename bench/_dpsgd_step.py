"""One engine, one model, one batch size: processor time and peak memory of a training step, in a process of its own.

    python _dpsgd_step.py ENGINE MODEL BATCH STEPS

ENGINE is plain, quidnunc, quidnunc-clip (no noise), or opacus-hooks, opacus-ew, opacus-functorch, opacus-ghost. Prints
one JSON object: ``ms`` of processor time per step (lower quartile), and ``mib`` of memory above that before the first
step.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

CLIP, NOISE, RATE = 1.0, 1.0, 0.1
WARM = 2


def mlp() -> tuple[nn.Module, tuple[int, ...]]:
    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)), (64,)


def wide() -> tuple[nn.Module, tuple[int, ...]]:
    return nn.Sequential(nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 10)), (784,)


def cnn() -> tuple[nn.Module, tuple[int, ...]]:
    layers = [nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(16, 32, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*layers, nn.MaxPool2d(2), nn.Flatten(), nn.Linear(32 * 7 * 7, 10)), (1, 28, 28)


MODELS = {"mlp": mlp, "wide": wide, "cnn": cnn}


def plain(module: nn.Module, inputs: Tensor, targets: Tensor) -> Callable[[], None]:
    optimizer = torch.optim.SGD(module.parameters(), lr=RATE)

    def step() -> None:
        optimizer.zero_grad()
        cross_entropy(module(inputs), targets).backward()
        optimizer.step()

    return step


def ours(module: nn.Module, inputs: Tensor, targets: Tensor, *, noised: bool) -> Callable[[], None]:
    import numpy as np

    from quidnunc.crypto.noise import NoiseStream
    from quidnunc.gossip.jobs import PrivacyStep
    from quidnunc.gossip.learning.functional import Functional
    from quidnunc.gossip.learning.losses import row_cross_entropy
    from quidnunc.gossip.learning.params import to_vector
    from quidnunc.gossip.learning.privacy import private_gradient
    from quidnunc.gossip.task import Task

    data = (inputs, targets)
    net = Functional(module, Task(lambda: module, row_cross_entropy, data, data, data))
    vector, stream = to_vector(module), NoiseStream(bytes(32), b"bench")
    how = PrivacyStep(CLIP, NOISE if noised else 0.0)

    def step() -> None:
        nonlocal vector
        gradient, _ = private_gradient(net, vector, inputs, targets, how, stream)
        gradient *= np.float32(RATE)
        vector -= gradient

    return step


def opacus(module: nn.Module, inputs: Tensor, targets: Tensor, mode: str) -> Callable[[], None]:
    from opacus import PrivacyEngine
    from torch.utils.data import DataLoader, TensorDataset

    optimizer = torch.optim.SGD(module.parameters(), lr=RATE)
    loader = DataLoader(TensorDataset(inputs, targets), batch_size=len(inputs))
    criterion = nn.CrossEntropyLoss()
    made = PrivacyEngine().make_private(
        module=module,
        optimizer=optimizer,
        data_loader=loader,
        criterion=criterion,
        noise_multiplier=NOISE,
        max_grad_norm=CLIP,
        poisson_sampling=False,
        grad_sample_mode=mode,
    )
    private, optimizer = made[0], made[1]
    loss = made[2] if mode == "ghost" else criterion

    def step() -> None:
        optimizer.zero_grad()
        loss(private(inputs), targets).backward()
        optimizer.step()

    return step


def peak_kib() -> int:
    """The most memory this process has held, in KiB, since :func:`forget`."""
    with open("/proc/self/status", encoding="ascii") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def forget() -> None:
    """Start counting the peak again from what is held now."""
    with open("/proc/self/clear_refs", "w", encoding="ascii") as file:
        file.write("5")


def main(engine: str, model: str, batch: int, steps: int) -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    module, shape = MODELS[model]()
    inputs, targets = torch.randn(batch, *shape), torch.randint(0, 10, (batch,))
    if engine == "plain":
        step = plain(module, inputs, targets)
    elif engine.startswith("opacus-"):
        step = opacus(module, inputs, targets, engine.removeprefix("opacus-"))
    else:
        step = ours(module, inputs, targets, noised=engine == "quidnunc")
    forget()
    before = peak_kib()
    for _ in range(WARM):
        step()
    times = []
    for _ in range(steps):
        at = time.process_time()
        step()
        times.append(time.process_time() - at)
    print(json.dumps({"ms": 1000 * sorted(times)[len(times) // 4], "mib": (peak_kib() - before) / 1024}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
