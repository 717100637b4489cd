"""Convolutions peer by peer, and one population in several processes: the same bits, whoever dies on the way."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from crew_helpers import population
from torch import nn
from torch.nn.functional import cross_entropy

from quidnunc.crypto.errors import ConfigError
from quidnunc.gossip.learning.params import layout, scoped_rng
from quidnunc.sim.batched.engine import Engine
from quidnunc.sim.batched.loops import LoopNet
from quidnunc.sim.batched.modules import ModuleNet
from quidnunc.sim.batched.net import net_of
from quidnunc.sim.scenarios import crew as crews
from quidnunc.sim.scenarios.crew import Crew
from quidnunc.sim.scenarios.prepare import Custom, prepare
from quidnunc.sim.scenarios.run import run
from quidnunc.sim.scenarios.text import to_scenario
from quidnunc.sim.trainer import FRAME_BYTES_MAX, Done, Work, read_frame, write_frame


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def table(shape: str = "cnn", **others: Any) -> dict[str, Any]:
    return population(shape, {"processes": 2}, others)


def convolutions() -> nn.Module:
    with scoped_rng(4):
        return nn.Sequential(
            nn.Unflatten(1, (1, 8, 8)), nn.Conv2d(1, 3, 3), nn.Tanh(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(27, 4)
        )


def losses(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return cross_entropy(outputs, targets, reduction="none")


@pytest.mark.parametrize("ragged", [False, True])
def test_peer_by_peer_is_what_batching_over_peers_gives(ragged: bool) -> None:
    module = convolutions()
    assert isinstance(net_of(module), LoopNet)
    slots = layout(module)
    named = dict(module.named_parameters())
    with scoped_rng(5):
        x, y = torch.randn(3, 5, 64), torch.randint(0, 4, (3, 5))
        start = [named[slot.name].detach() + 0.1 * torch.randn(3, *slot.shape) for slot in slots]
    counts = None
    if ragged:
        counts = torch.tensor([[0.2] * 5, [1 / 3] * 3 + [0.0] * 2, [1.0] + [0.0] * 4])
    results = []
    for net in (LoopNet(module, slots, losses), ModuleNet(module, slots, losses)):
        params = [tensor.clone() for tensor in start]
        velocity = [torch.full_like(tensor, 0.01) for tensor in start]
        trained = [net.train(params, None, x, y, counts, 0.3, 0.0), net.train(params, velocity, x, y, counts, 0.3, 0.9)]
        grads, spent = net.private(params, x, y, counts, 0.7)
        parts = torch.tensor([[0.5, 0.2, 0.0]])
        halfway = net.halfway([torch.stack([a, b]) for a, b in zip(params, start, strict=True)], parts, x, y, counts)
        results.append([*params, *velocity, *trained, *grads, spent, halfway, net.outputs(params, x[0])])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("model", "others"),
    [
        ("cnn", {"merge": {"rule": "repute"}, "conditions": {"slow": 0.5, "loss": 0.2}}),
        ("cnn", {"training": {"momentum": 0.9, "quasi_global": True}}),
        ("mlp", {"privacy": {"epsilon": 8.0}, "attack": {"name": "label_flip", "count": 1, "beyond": True}}),
    ],
)
def test_several_processes_give_the_bits_of_one(model: str, others: dict[str, Any], tmp_path: Path) -> None:
    given = table(model, **others)
    many = run(given, out=tmp_path / "many")
    alone = run(given, changes=["engine.processes=1"], out=tmp_path / "alone")
    assert np.array_equal(many.models[0], alone.models[0])
    assert (tmp_path / "many/metrics.jsonl").read_bytes() == (tmp_path / "alone/metrics.jsonl").read_bytes()


def test_small_work_is_shared_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """A crew of three on chunks of two peers: everybody gets some, and nothing is left behind at the end."""
    scenario = to_scenario(table(engine={"processes": 3}))
    setup = prepare(scenario, 0)
    with Crew(scenario, 0, Path(), setup) as crew:
        assert len(set(crew.pids)) == 3
        Engine(setup, crew).step()
        pids = crew.pids
    for pid in pids:
        assert not Path(f"/proc/{pid}").exists()


def test_a_killed_worker_is_replaced_and_nothing_is_lost() -> None:
    scenario = to_scenario(table())
    setup = prepare(scenario, 0)
    expected = Engine(setup)
    with Crew(scenario, 0, Path(), setup) as crew:
        engine = Engine(setup, crew)
        for at in range(3):
            before = crew.pids
            # Stopped first: it cannot have answered when it dies, whatever it was doing.
            os.kill(before[at % 2], signal.SIGSTOP)
            os.kill(before[at % 2], signal.SIGKILL)
            assert engine.step() == expected.step()
            assert crew.pids[at % 2] != before[at % 2]
            assert crew.pids[1 - at % 2] == before[1 - at % 2]
        assert np.array_equal(engine.params(), expected.params())


KILLED = """
import os, signal, sys
for _ in range(2):
    sys.stdin.buffer.read(int.from_bytes(sys.stdin.buffer.read(4), "big"))
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize(
    ("code", "says"),
    [
        (KILLED, "ended by signal 9, 3 times over the same peers"),
        ("raise RuntimeError('no such kernel')", "no such kernel"),
        ("pass", "ended with code 0"),
        ("import sys; sys.stdout.buffer.write(bytes([255]) * 9)", "ended with code 0"),
    ],
)
def test_workers_that_fail_give_one_error(code: str, says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crews, "COMMAND", (sys.executable, "-c", code))
    with pytest.raises(ConfigError, match=says) as refused:
        run(table())
    assert refused.value.message.startswith("engine.processes = 2: a worker failed: ")
    assert refused.value.hint


PARENT = """
import signal, sys
from pathlib import Path
# A shell starts what it puts into the background with this signal ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
from quidnunc.sim.batched.engine import Engine
from quidnunc.sim.scenarios.crew import Crew
from quidnunc.sim.scenarios.prepare import prepare
from quidnunc.sim.scenarios.text import parse_scenario
scenario = parse_scenario(sys.stdin.read())
setup = prepare(scenario, 0)
with Crew(scenario, 0, Path(), setup) as crew:
    engine = Engine(setup, crew)
    engine.step()
    print(*crew.pids, flush=True)
    while True:
        engine.step()
"""
TOML = "peers = 6\nrounds = 2\n[model]\nkind = 'cnn'\n[data]\nexamples = 20\n[engine]\nprocesses = 2\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_no_worker_outlives_its_parent(number: signal.Signals) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PARENT],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as parent:
        assert parent.stdin is not None
        assert parent.stdout is not None
        with closing(parent.stdin) as stdin:
            stdin.write(TOML)
        pids = [int(word) for word in parent.stdout.readline().split()]
        assert len(pids) == 2
        os.killpg(parent.pid, number)
        assert parent.wait() != 0
        assert parent.stderr is not None
        told = parent.stderr.read()
    assert ("KeyboardInterrupt" in told) == (number == signal.SIGINT)
    while any(_runs(pid) for pid in pids):
        time.sleep(0.05)


def _runs(pid: int) -> bool:
    """Whether a process is there and is no zombie that waits for an init that never comes."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


@pytest.mark.parametrize(
    ("others", "says"),
    [
        ({"data": {"source": "synthetic"}}, "examples of shape"),
        ({"model": {"kind": "cnn", "channels": [2] * 4}}, "4 layers that halve an image of 8 x 8"),
        ({"engine": {"processes": 2, "memory_gib": 1e-5}}, "5 states each"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_starts(others: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says) as refused:
        run(table(**others))
    assert refused.value.hint


def test_python_code_is_not_handed_to_processes() -> None:
    for custom in (Custom(model=lambda pool: convolutions()), Custom(loss=losses)):
        with pytest.raises(ConfigError, match="cannot be handed on"):
            run(table(), custom=custom)


def test_three_halvings_fit_an_image_of_eight() -> None:
    scenario = to_scenario(
        table(model="cnn", engine={"processes": 1}) | {"model": {"kind": "cnn", "channels": [2] * 3}}
    )
    assert isinstance(prepare(scenario, 0).net, LoopNet)


def test_frames_are_bounded_and_whole() -> None:
    file = io.BytesIO()
    write_frame(file, Work(1, 2))
    write_frame(file, Done(float("nan")))
    whole = file.getvalue()
    assert read_frame(io.BytesIO(whole)) == b"\x94\x01\x02\xff\x90"
    for cut in (0, 3, 7):
        assert read_frame(io.BytesIO(whole[:cut])) is None
    at_limit = FRAME_BYTES_MAX.to_bytes(4, "big") + bytes(FRAME_BYTES_MAX)
    assert len(read_frame(io.BytesIO(at_limit)) or b"") == FRAME_BYTES_MAX
    assert read_frame(io.BytesIO((FRAME_BYTES_MAX + 1).to_bytes(4, "big") + bytes(FRAME_BYTES_MAX + 1))) is None
