"""One simulator in a process of its own, for bench/simulator.py: ``ours``, ``loop`` or ``gossipy``.

Reads one NPZ file with the whole task (pool, shares, edges, first params), runs rounds on one thread, prints one JSON
object. All three do the same: every peer takes one pass over its examples in batches of 32 by plain SGD, then averages
with its neighbors by equal weights. Evaluation is not timed.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import json
import statistics
import sys
import time
import types
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy

BATCH = 32


def main() -> None:
    """Arguments: which, the NPZ file, rounds, learning rate, seed."""
    which, path, rounds, rate, seed = sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4]), int(sys.argv[5])
    torch.set_num_threads(1)
    with np.load(path) as file:
        task = dict(file)
    make = {"ours": ours, "loop": loop, "gossipy": gossipy}[which]
    step, params = make(task, rate, seed)
    wall, cpu, mixing = [], [], []
    for _ in range(rounds):
        begun, spent, mixed = time.perf_counter(), time.process_time(), sum(MIXING)
        step()
        cpu.append(time.process_time() - spent)
        wall.append(time.perf_counter() - begun)
        mixing.append(sum(MIXING) - mixed)
    measured = (wall[1:], cpu[1:], mixing[1:]) if rounds > 1 else (wall, cpu, mixing)
    print(
        json.dumps(
            {
                "wall_s": statistics.median(measured[0]),
                "cpu_s": statistics.median(measured[1]),
                "mixing_s": statistics.median(measured[2]),
                "accuracy": accuracy(task, params()),
                "rss_mib": peak_mib(),
            }
        )
    )


def peak_mib() -> float:
    """Largest resident size of this process so far; getrusage would count what the parent had before."""
    with open("/proc/self/status", encoding="ascii") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


MIXING: list[float] = []
"""Seconds of processor of every mixing so far, of ``ours``."""


def timed(merge: Callable[..., Any]) -> Callable[..., Any]:
    """``merge``, whose times are kept."""

    def merged(*args: Any) -> Any:
        begun = time.process_time()
        found = merge(*args)
        MIXING.append(time.process_time() - begun)
        return found

    return merged


Step = Callable[[], None]
Params = Callable[[], list[torch.Tensor]]


def ours(task: dict[str, Any], rate: float, seed: int) -> tuple[Step, Params]:
    """The batched engine."""
    from quidnunc.gossip.task import Training
    from quidnunc.sim.batched.engine import Engine, Setup
    from quidnunc.sim.batched.net import net_of
    from quidnunc.sim.data.pool import Pool
    from quidnunc.sim.data.shares import Shares
    from quidnunc.sim.topology.catalog import Topology
    from quidnunc.sim.topology.mixing import metropolis

    rows = task["rows"]
    pool = Pool("bench", task["x"], task["y"], task["tx"], task["ty"], int(task["sizes"][2]), task["x"].shape[1:])
    net = net_of(model(task))
    mixing = metropolis(len(rows), task["edges"])
    named = dict(model(task).named_parameters())
    setup = Setup(
        net,
        [named[slot.name].detach() for slot in net.slots],
        pool,
        Shares(list(rows), True),
        Topology("bench", len(rows), lambda r: mixing),
        Training(rate, 0.0, rows.shape[1] // BATCH, BATCH),
        seed=seed,
    )
    engine = Engine(setup)
    engine._merger.merge = timed(engine._merger.merge)  # type: ignore[method-assign]

    def params() -> list[torch.Tensor]:
        flat = torch.from_numpy(engine.params())
        found = {slot.name: flat[:, slot.start : slot.stop].reshape(-1, *slot.shape) for slot in net.slots}
        return [found[name] for name in named]

    return lambda: void(engine.step()), params


def void(_: object) -> None:
    """Nothing."""


def loop(task: dict[str, Any], rate: float, seed: int) -> tuple[Step, Params]:
    """One module and one optimizer per peer, the plain way to write it in torch."""
    generator = torch.Generator().manual_seed(seed)
    x, y, rows = torch.from_numpy(task["x"]), torch.from_numpy(task["y"]), torch.from_numpy(task["rows"])
    peers = [model(task) for _ in rows]
    optimizers = [torch.optim.SGD(peer.parameters(), lr=rate) for peer in peers]
    data = [(x[mine], y[mine]) for mine in rows]
    near = neighbors(task)

    def step() -> None:
        for peer, optimizer, (mine, goals) in zip(peers, optimizers, data, strict=True):
            order = torch.randperm(len(mine), generator=generator)
            for at in range(0, len(mine), BATCH):
                pick = order[at : at + BATCH]
                optimizer.zero_grad()
                cross_entropy(peer(mine[pick]), goals[pick]).backward()
                optimizer.step()
        with torch.no_grad():
            states = [torch.cat([p.reshape(-1) for p in peer.parameters()]) for peer in peers]
            for at, peer in enumerate(peers):
                merged = sum((states[other] for other in near[at]), states[at]) / (len(near[at]) + 1)
                left = 0
                for p in peer.parameters():
                    p.copy_(merged[left : left + p.numel()].view_as(p))
                    left += p.numel()

    return step, lambda: [torch.stack(list(parts)) for parts in zip(*(p.parameters() for p in peers), strict=True)]


def gossipy(task: dict[str, Any], rate: float, seed: int) -> tuple[Step, Params]:
    """gossipy 0.0.1's nodes, messages, cache and model handler, all to all neighbors.

    That release has no all-to-all simulator (a later one on GitHub has), so the loop over nodes is ours; a node sends
    by its own ``send``, and merges all it received and trains by its own handler. Equal weights are right here because
    the graph is regular.
    """
    _stand_ins()
    from gossipy import CACHE
    from gossipy.core import AntiEntropyProtocol

    network, nodes = _gossipy_nodes(task, rate)
    first = [True]

    def exchange() -> list[list[Any]]:
        inbox: list[list[Any]] = [[] for _ in nodes]
        for node in nodes:
            for peer in network.get_peers(node.idx):
                inbox[peer].append(node.send(0, peer, AntiEntropyProtocol.PUSH).value[0])
        return [[CACHE.pop(key) for key in keys] for keys in inbox]

    def step() -> None:
        # Nodes have trained at initialization; the last exchange has no training behind it (see params).
        if first[0]:
            first[0] = False
            return
        for node, received in zip(nodes, exchange(), strict=True):
            node.model_handler(received, node.data[0])

    def params() -> list[torch.Tensor]:
        for node, received in zip(nodes, exchange(), strict=True):
            node.model_handler._merge(received)
        return [
            torch.stack(list(parts)) for parts in zip(*(p.model_handler.model.parameters() for p in nodes), strict=True)
        ]

    return step, params


def _gossipy_nodes(task: dict[str, Any], rate: float) -> tuple[Any, list[Any]]:
    """gossipy's network and one trained node per peer."""
    from gossipy.core import CreateModelMode, StaticP2PNetwork
    from gossipy.model import TorchModel
    from gossipy.model.handler import TorchModelHandler
    from gossipy.node import GossipNode

    class Net(TorchModel):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.net = model(task)

        def init_weights(self) -> None:
            """They are set already, the same for everybody."""

        def forward(self, x: torch.Tensor) -> Any:
            return self.net(x)

    x, y = torch.from_numpy(task["x"]), torch.from_numpy(task["y"])
    n, near = len(task["rows"]), neighbors(task)
    adjacency = np.zeros((n, n))
    for at, others in enumerate(near):
        adjacency[at, others] = 1
    network = StaticP2PNetwork(n, adjacency)
    nodes = []
    for at, mine in enumerate(task["rows"]):
        handler = TorchModelHandler(
            Net(), torch.optim.SGD, {"lr": rate}, cross_entropy, 1, BATCH, CreateModelMode.MERGE_UPDATE
        )
        nodes.append(GossipNode(at, ((x[mine], y[mine]), None), 100, handler, network))
        nodes[-1].init_model(local_train=True)
    return network, nodes


def _stand_ins() -> None:
    """Packages that gossipy imports and that nothing measured here uses: empty modules in the place of missing ones."""
    import sklearn.datasets
    import sklearn.metrics  # noqa: F401  it looks for pandas itself, and must not find an empty one

    for name in ("pandas", "torchvision", "matplotlib", "dill", "pyparsing"):
        if importlib.util.find_spec(name) is None:
            stub = types.ModuleType(name)
            stub.__spec__ = importlib.machinery.ModuleSpec(name, None)
            stub.__dict__.update(ParseSyntaxException=ValueError, __path__=[])
            sys.modules[name] = stub
            if name == "matplotlib":
                sys.modules["matplotlib.pyplot"] = types.ModuleType("matplotlib.pyplot")


def model(task: dict[str, Any]) -> nn.Module:
    """The MLP with the task's first params."""
    inputs, hidden, classes = (int(size) for size in task["sizes"])
    net = nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, classes))
    with torch.no_grad():
        for at, p in enumerate(net.parameters()):
            p.copy_(torch.from_numpy(task[f"p{at}"]))
    return net


def neighbors(task: dict[str, Any]) -> list[list[int]]:
    """Who is read by whom."""
    near: list[list[int]] = [[] for _ in task["rows"]]
    for one, other in task["edges"].tolist():
        near[one].append(other)
        near[other].append(one)
    return near


def accuracy(task: dict[str, Any], params: list[torch.Tensor]) -> float:
    """Mean test accuracy of all peers; ``params`` in the order of the module."""
    x, y = torch.from_numpy(task["tx"]), torch.from_numpy(task["ty"])
    found = []
    with torch.no_grad():
        for weight, bias, out, shift in zip(*params, strict=True):
            hidden = (x @ weight.T + bias).relu()
            found.append(float(((hidden @ out.T + shift).argmax(1) == y).double().mean()))
    return statistics.fmean(found)


if __name__ == "__main__":
    main()
