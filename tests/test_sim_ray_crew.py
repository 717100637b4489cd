"""One population on a Ray cluster: the bits of one process, whoever is lost on the way.

What a node does, and what this process does with its answers, is tested without Ray; the rest where Ray is installed.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from cli_helpers import quidnunc as command
from crew_helpers import population
from torch import nn

from quidnunc.crypto.errors import ConfigError
from quidnunc.sim.batched import training
from quidnunc.sim.batched.engine import Engine
from quidnunc.sim.batched.training import Trainer, of_part
from quidnunc.sim.scenarios.connected import connected
from quidnunc.sim.scenarios.prepare import Custom, prepare
from quidnunc.sim.scenarios.ray_crew import RayCrew
from quidnunc.sim.scenarios.run import run
from quidnunc.sim.scenarios.text import to_scenario
from quidnunc.sim.station import Founding, Given, Returned, Station, packed, unpacked
from quidnunc.sim.trainer import Done

CASES: list[tuple[str, dict[str, Any]]] = [
    ("cnn", {"merge": {"rule": "repute"}, "conditions": {"slow": 0.5, "loss": 0.2}}),
    ("mlp", {"training": {"momentum": 0.9, "quasi_global": True}}),
    ("mlp", {"privacy": {"epsilon": 8.0}, "attack": {"name": "label_flip", "count": 1, "beyond": True}}),
]


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """One thread, and several pieces of work in a round."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.setattr(training, "CHUNK_BYTES", 50_000)
    monkeypatch.setattr(training, "EVALUATED_BYTES", 100_000)
    yield
    torch.set_num_threads(before)


def table(shape: str = "cnn", **others: Any) -> dict[str, Any]:
    return population(shape, {}, others)


class Lost(Exception):
    """In place of Ray's errors."""


class Failed(Lost):
    """In place of an error in what Ray runs."""


class NoRay:
    """Ray's interface as far as it is used: what is asked for is done at once, by a station in this process."""

    exceptions = SimpleNamespace(RayError=Lost, RayTaskError=Failed)

    def __init__(self, cpus: int = 2) -> None:
        self.cpus, self.begun, self.ended = cpus, 0, 0

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": float(self.cpus)}

    def remote(self, **options: Any) -> Any:
        assert options == {"scheduling_strategy": "SPREAD"}
        return lambda station: SimpleNamespace(remote=lambda founding: self._begin(station(founding)))

    def _begin(self, station: Any) -> Any:
        self.begun += 1
        return SimpleNamespace(work=SimpleNamespace(remote=lambda given: _Answer(station, given)))

    def wait(self, answers: list[Any]) -> tuple[list[Any], list[Any]]:
        # The last one first: answers come in any order.
        return answers[-1:], answers[:-1]

    def get(self, answer: Any) -> bytes:
        found: bytes = answer.station.work(answer.given)
        return found

    def kill(self, _: Any) -> None:
        self.ended += 1


class _Answer:
    def __init__(self, station: Any, given: bytes) -> None:
        self.station, self.given = station, given


@pytest.mark.parametrize(("shape", "others"), CASES)
def test_pieces_of_work_come_to_the_bits_of_one_process(shape: str, others: dict[str, Any]) -> None:
    scenario = to_scenario(table(shape, **others))
    setup = prepare(scenario, 0)
    ray, alone = NoRay(), Engine(setup)
    with RayCrew(ray, scenario, 0, Path(), setup) as crew:
        engine = Engine(setup, crew)
        for _ in range(2):
            assert engine.step() == alone.step()
        assert np.array_equal(engine.evaluate().loss, alone.evaluate().loss)
    assert np.array_equal(engine.params(), alone.params())
    assert len(Trainer(setup).chunks()) >= 2
    assert (ray.begun, ray.ended) == (2, 2)


@pytest.mark.parametrize(("cpus", "processes", "begun"), [(5, 1, 3), (1, 1, 1), (0, 1, 1), (8, 2, 2)])
def test_there_are_as_many_workers_as_processors_or_as_are_asked_for(cpus: int, processes: int, begun: int) -> None:
    scenario = to_scenario(table(engine={"device": "cpu", "processes": processes}))
    ray = NoRay(cpus)
    with RayCrew(ray, scenario, 0, Path(), prepare(scenario, 0)):
        assert ray.begun == begun


@pytest.mark.parametrize("times", [2, 3])
def test_work_of_a_lost_worker_is_given_out_twice_more(times: int) -> None:
    scenario = to_scenario(table())
    setup = prepare(scenario, 0)
    lost = [0]

    class Dying(Station):
        def work(self, given: bytes) -> bytes:
            if msgspec.msgpack.decode(given, type=Given).work.low == 2 and lost[0] < times:
                lost[0] += 1
                raise Lost("the actor died")
            return super().work(given)

    ray, alone = NoRay(), Engine(setup)
    with RayCrew(ray, scenario, 0, Path(), setup, Dying) as crew:
        engine = Engine(setup, crew)
        if times == 3:
            with pytest.raises(ConfigError, match="--ray: a worker failed: the actor died") as refused:
                engine.step()
            assert refused.value.hint
        else:
            assert engine.step() == alone.step()
            assert np.array_equal(engine.params(), alone.params())
    assert ray.begun == ray.ended == 4


def _answering(**changes: Any) -> type[Station]:
    class Other(Station):
        def work(self, given: bytes) -> bytes:
            answer = msgspec.msgpack.decode(super().work(given), type=Returned)
            return msgspec.msgpack.encode(msgspec.structs.replace(answer, **changes))

    return Other


class Broken(Station):
    """Fails by itself."""

    def work(self, given: bytes) -> bytes:
        raise Failed("no such kernel")


@pytest.mark.parametrize(
    ("station", "says"),
    [
        (_answering(params=b"1234"), "a node sent 4 bytes of params for 2 peers"),
        (_answering(versions={"torch": "0"}), "results would differ"),
        (_answering(problem="no such file"), "a node says: no such file"),
        (Broken, "no such kernel"),
    ],
)
def test_what_a_node_answers_is_looked_at(station: type[Station], says: str) -> None:
    scenario = to_scenario(table())
    setup = prepare(scenario, 0)
    with RayCrew(NoRay(), scenario, 0, Path(), setup, station) as crew, pytest.raises(ConfigError, match=says):
        Engine(setup, crew).step()


def test_a_node_that_tested_too_few_is_refused() -> None:
    scenario = to_scenario(table())
    setup = prepare(scenario, 0)
    params = [tensor.expand(6, *tensor.shape) for tensor in setup.genesis]
    crew = RayCrew(NoRay(), scenario, 0, Path(), setup, _answering(done=Done(0.0, (), (1.0,))))
    with pytest.raises(ConfigError, match="a node tested 0 of"):
        crew.test(params)


def test_what_a_node_cannot_prepare_is_told_and_not_tried_again(tmp_path: Path) -> None:
    scenario = to_scenario(table("mlp", data={"source": "csv", "path": "sites"}))
    station = Station(msgspec.msgpack.encode(Founding(scenario, 0, str(tmp_path))))
    answer = msgspec.msgpack.decode(station.work(b""), type=Returned)
    assert "sites" in answer.problem


def test_params_travel_as_they_stand_in_memory() -> None:
    setup = prepare(to_scenario(table("mlp")), 0)
    slots = setup.net.slots
    given = [torch.randn(6, *slot.shape) for slot in slots]
    some = of_part(given, (1, 4))
    body = packed(some)
    assert len(body) == 4 * 3 * slots[-1].stop
    for one, other in zip(some, unpacked(body, 3, slots), strict=True):
        assert torch.equal(one, other)
    for wrong in (body[:-1], body + b"\0", b""):
        with pytest.raises(ValueError, match="bytes of params, must be"):
            unpacked(wrong, 3, slots)


@pytest.mark.parametrize(
    ("changes", "custom", "says"),
    [
        (["engine.kind=protocol"], None, "its nodes live in one process"),
        ([], Custom(model=lambda pool: nn.Sequential(nn.Linear(pool.features, pool.classes))), "cannot be handed on"),
    ],
)
def test_what_cannot_be_spread_is_refused_before_anything_is_written(
    changes: list[str], custom: Custom | None, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(init=lambda **_: None, shutdown=lambda: None))
    with pytest.raises(ConfigError, match=says) as refused:
        run(table("mlp"), changes=changes, custom=custom, out=tmp_path / "out", ray="auto")
    assert refused.value.hint
    assert not (tmp_path / "out").exists()


def test_the_command_asks_for_a_cluster_before_it_writes(tmp_path: Path) -> None:
    """Where nobody is at the address, or Ray is not installed."""
    (tmp_path / "s.toml").write_text("peers = 6\nrounds = 1\n")
    found = command("sim", "run", tmp_path / "s.toml", "--out", tmp_path / "out", "--ray", "127.0.0.1:1")
    assert found.code == 64
    assert "--ray" in found.err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("shape", "others"), CASES)
def test_a_cluster_gives_the_bits_of_one_process(
    shape: str, others: dict[str, Any], ray_cluster: Any, tmp_path: Path
) -> None:
    given = table(shape, **others)
    alone = run(given, out=tmp_path / "alone")
    spread = run(given, out=tmp_path / "spread", ray=ray_cluster.address)
    assert np.array_equal(spread.models[0], alone.models[0])
    assert (tmp_path / "spread/metrics.jsonl").read_bytes() == (tmp_path / "alone/metrics.jsonl").read_bytes()


def test_a_killed_worker_and_a_lost_node_change_nothing(ray_cluster: Any, tmp_path: Path) -> None:
    scenario = to_scenario(table(engine={"device": "cpu", "processes": 3}))
    setup = prepare(scenario, 0)
    alone, folder = Engine(setup), str(tmp_path)

    # Within the test, so that it travels by value: nodes do not know this file.
    class Dying(Station):
        def work(self, given: bytes) -> bytes:
            (Path(folder) / str(os.getpid())).touch()
            try:
                os.rename(f"{folder}/kill", f"{folder}/killed")
            except FileNotFoundError:
                return super().work(given)
            os.kill(os.getpid(), signal.SIGKILL)
            return b""

    third = ray_cluster.add_node(num_cpus=1, object_store_memory=100 << 20)
    with connected(ray_cluster.address) as ray, RayCrew(ray, scenario, 0, Path(), setup, Dying) as crew:
        engine = Engine(setup, crew)
        assert engine.step() == alone.step()
        (tmp_path / "kill").touch()
        assert engine.step() == alone.step()
        assert (tmp_path / "killed").exists()
        ray_cluster.remove_node(third)
        assert engine.step() == alone.step()
        assert np.array_equal(engine.evaluate().loss, alone.evaluate().loss)
        pids = [int(file.name) for file in tmp_path.iterdir() if file.name.isdecimal()]
    assert np.array_equal(engine.params(), alone.params())
    assert len(pids) >= 4
    while any(_runs(pid) for pid in pids):
        time.sleep(0.05)


def _runs(pid: int) -> bool:
    """Whether a worker is there and is no zombie."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"
