"""Run a scenario over its seeds: records for tables and files, the same for the same scenario and seeds."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray

from quidnunc.crypto.errors import ConfigError
from quidnunc.gossip.learning.accountant import epsilon_of
from quidnunc.sim.batched.alone import Alone
from quidnunc.sim.batched.engine import Engine, Evaluation, RoundFacts, Setup
from quidnunc.sim.batched.training import Workers
from quidnunc.sim.report.page import page
from quidnunc.sim.scenarios.connected import connected
from quidnunc.sim.scenarios.crew import Crew
from quidnunc.sim.scenarios.directory import REPORT, TOPOLOGY, RunDirectory
from quidnunc.sim.scenarios.prepare import Custom, model_for, prepare
from quidnunc.sim.scenarios.protocol import check_engine
from quidnunc.sim.scenarios.ray_crew import RayCrew, check_spread
from quidnunc.sim.scenarios.records import PER_PEER_MAX, Record, accuracies, against_alone, finite, under_attack
from quidnunc.sim.scenarios.spec import PROTOCOL, SimScenario
from quidnunc.sim.scenarios.stored import Graph, read_run
from quidnunc.sim.scenarios.text import read_scenario, to_scenario
from quidnunc.sim.scenarios.versions import versions
from quidnunc.sim.scenarios.virtual import Trial
from quidnunc.sim.topology.measure import measure
from quidnunc.sim.topology.picture import drawn_edges, positions

Progress = Callable[[int, int, Record | None], None]
"""Called with (seed, rounds done, the record of this round if it was measured) after every round."""


@dataclass(frozen=True, slots=True)
class Run:
    """What came of a scenario.

    ``records`` has one flat row per seed and measured round, ready for a DataFrame; ``facts`` one row per seed about
    data and topology. ``models`` maps a seed to everybody's final params, float32 [n, d]. ``directory`` is where it was
    written, None if nowhere.
    """

    scenario: SimScenario
    records: list[Record]
    facts: list[dict[str, Any]]
    models: dict[int, NDArray[np.float32]] = field(repr=False)
    directory: Path | None = None

    @property
    def final(self) -> list[Record]:
        """The last record of every seed."""
        last = {record["seed"]: record for record in self.records}
        return [last[seed] for seed in self.scenario.seeds]

    def mean(self, name: str) -> tuple[float, float]:
        """Mean and standard deviation over the seeds of a column of :attr:`final`; nan where it is empty."""
        values = [record[name] for record in self.final if record.get(name) is not None]
        if not values:
            return float("nan"), float("nan")
        return fmean(values), stdev(values) if len(values) > 1 else 0.0


def run(
    scenario: SimScenario | Mapping[str, Any] | str | Path,
    *,
    changes: Iterable[str] = (),
    out: Path | str | None = None,
    custom: Custom | None = None,
    progress: Progress | None = None,
    base: Path | None = None,
    ray: str = "",
) -> Run:
    """Run ``scenario``, a value, nested tables or the path of a TOML file, in this process.

    ``changes`` are ``key.path=value`` texts, or one; ``out`` a directory to write to (none by default); ``custom``
    a model, loss or merge rule of your own. Relative paths in the scenario are looked for in ``base``: beside its file
    if not given, else here. ``ray`` is the address of a Ray cluster whose nodes train and test the
    peers, to the same result.
    All seeds are prepared before the first one runs; raises ConfigError for what cannot be run.
    """
    if base is None:
        base = Path(scenario).parent if isinstance(scenario, str | Path) else Path()
    chosen = _scenario(scenario, [changes] if isinstance(changes, str) else list(changes))
    with _threads(chosen.engine.threads):
        facts = check(chosen, base, custom, ray)
    with _threads(chosen.engine.threads), connected(ray) if ray else nullcontext() as cluster:
        directory = None if out is None else RunDirectory(Path(out), _manifest(chosen, facts))
        records: list[Record] = []
        models: dict[int, NDArray[np.float32]] = {}
        begun = time.monotonic()
        status = "failed"
        try:
            if directory is not None:
                directory.write(TOPOLOGY, drawn_graph(prepare(chosen, chosen.seeds[0], base, custom)))
            for seed in chosen.seeds:
                setup = prepare(chosen, seed, base, custom)
                with _engine(chosen, seed, base, setup, custom, cluster) as engine:
                    for number, record in engine.rounds():
                        if record is not None:
                            records.append(record)
                            if directory is not None:
                                directory.record(record)
                        if progress is not None:
                            progress(seed, number, record)
                    models[seed] = engine.params()
            status = "complete"
        finally:
            if directory is not None:
                directory.finish(status, {"elapsed_s": round(time.monotonic() - begun, 3), "records": len(records)})
        if directory is not None:
            directory.write(REPORT, page(read_run(directory.path)))
    return Run(chosen, records, facts, models, None if directory is None else directory.path)


def check(scenario: SimScenario, base: Path, custom: Custom | None = None, ray: str = "") -> list[dict[str, Any]]:
    """The facts of every seed, for what a scenario's engine takes; raises ConfigError for what cannot be run.

    With ``ray``, also for what cannot be spread over a cluster.
    """
    if len(set(scenario.seeds)) != len(scenario.seeds):
        raise ConfigError(f"seeds = {list(scenario.seeds)[:8]}: one stands twice", hint="name every seed once")
    check_engine(scenario)
    return [_checked(scenario, prepare(scenario, seed, base, custom), custom, ray) for seed in scenario.seeds]


def _scenario(given: SimScenario | Mapping[str, Any] | str | Path, changes: list[str]) -> SimScenario:
    if isinstance(given, str | Path):
        return read_scenario(Path(given), changes)
    if isinstance(given, SimScenario):
        if not changes:
            return given
        return to_scenario(msgspec.to_builtins(given), changes=changes)
    if not isinstance(given, Mapping) or not all(isinstance(key, str) for key in given):
        raise ConfigError(
            f"scenario of type {type(given).__name__}: must be a path, tables with text keys, or a SimScenario",
            hint="for example {'peers': 8, 'rounds': 10}",
        )
    return to_scenario(given, changes=changes)


@contextmanager
def _engine(
    scenario: SimScenario, seed: int, base: Path, setup: Setup, custom: Custom | None, cluster: Any
) -> Iterator[Trial | _Batched]:
    """What plays a seed, with those who train beside this process, if anybody does: processes, or a Ray cluster."""
    if scenario.engine.kind == PROTOCOL:
        yield _trial(scenario, setup, custom)
    elif cluster is not None:
        with RayCrew(cluster, scenario, seed, base, setup) as fleet:
            yield _Batched(scenario, setup, fleet)
    elif scenario.engine.processes == 1:
        yield _Batched(scenario, setup, None)
    else:
        with Crew(scenario, seed, base, setup) as crew:
            yield _Batched(scenario, setup, crew)


def _trial(scenario: SimScenario, setup: Setup, custom: Custom | None) -> Trial:
    custom = custom or Custom()
    if custom.rule is not None:
        raise ConfigError("a merge rule of your own with engine.kind = 'protocol'", hint='set it to "batched"')
    make, pool = custom.model, setup.pool
    return Trial(scenario, setup, lambda: make(pool) if make else model_for(scenario.model, pool), custom.loss)


def _checked(scenario: SimScenario, setup: Setup, custom: Custom | None, ray: str) -> dict[str, Any]:
    """The facts of a seed that its engine takes; raises ConfigError where it does not."""
    if ray:
        check_spread(scenario, setup, custom)
    if scenario.engine.kind == PROTOCOL:
        _trial(scenario, setup, custom)
    return _facts(setup, setup.seed)


class _Batched:
    """One seed of a scenario in the batched engine."""

    def __init__(self, scenario: SimScenario, setup: Setup, workers: Workers | None) -> None:
        self._scenario = scenario
        self._engine = Engine(setup, workers)
        self._alone = Alone(setup, workers) if scenario.alone else None

    def rounds(self) -> Iterator[tuple[int, Record | None]]:
        """Every round, with its record if it is one to be measured."""
        scenario, engine = self._scenario, self._engine
        sent = lost = 0
        for number in range(1, scenario.rounds + 1):
            facts = engine.step()
            if self._alone is not None:
                self._alone.step()
            sent, lost = sent + facts.messages, lost + facts.lost
            measured = number % scenario.evaluate_every == 0 or number == scenario.rounds
            yield number, self._measured(number, facts, (sent, lost)) if measured else None

    def _measured(self, number: int, facts: RoundFacts, traffic: tuple[int, int]) -> Record:
        found = self._engine.evaluate()
        record = _record(self._engine, self._engine.setup.seed, number, facts, found, traffic)
        if self._alone is not None:
            record |= against_alone(found.accuracy, self._alone.accuracies(), found.present & found.honest)
        return record

    def params(self) -> NDArray[np.float32]:
        """Everybody's params, float32 [n, d]."""
        return self._engine.params()


def _record(
    engine: Engine, seed: int, number: int, facts: RoundFacts, found: Evaluation, traffic: tuple[int, int]
) -> Record:
    judged = found.present & found.honest
    privacy = engine.setup.privacy
    record: Record = {
        "seed": seed,
        "round": number,
        **accuracies(found.accuracy, found.loss, judged),
        "train_loss": finite(facts.loss),
        "consensus_distance": found.consensus,
        "peers_present": int(found.present.sum()),
        "messages": traffic[0],
        "messages_lost": traffic[1],
        "bytes_sent": traffic[0] * engine.setup.codec.size(engine.dim),
        "epsilon": None if privacy is None else epsilon_of(privacy.noise_multiplier, number, engine.setup.delta),
    }
    if engine.setup.attack is not None:
        record |= under_attack(found.held, found.present & ~found.honest)
    if found.triggered is not None:
        record["backdoor_rate"] = finite(found.triggered[judged].mean()) if judged.any() else None
    if engine.peers <= PER_PEER_MAX:
        record["accuracies"] = [round(float(value), 5) for value in found.accuracy]
        record["present"] = [bool(value) for value in found.present]
    return record


def _facts(setup: Setup, seed: int) -> dict[str, Any]:
    sizes = setup.shares.sizes
    return {
        "seed": seed,
        "data": setup.pool.name,
        "pool": len(setup.pool.labels),
        "test": len(setup.pool.test_labels),
        "examples_min": int(sizes.min()),
        "examples_median": float(np.median(sizes)),
        "examples_max": int(sizes.max()),
        "with_replacement": setup.shares.replaced,
        "shares": setup.shares.describe(len(setup.pool.labels)),
        "params": setup.net.slots[-1].stop,
        "net": type(setup.net).__name__,
        "device": setup.device,
        "holdout_median": None if setup.holdout is None else float(np.median([len(rows) for rows in setup.holdout])),
        "attackers": [] if setup.attack is None else list(setup.attack.peers),
        "noise_multiplier": None if setup.privacy is None else setup.privacy.noise_multiplier,
        "topology": asdict(measure(setup.topology)),
    }


def drawn_graph(setup: Setup) -> str:
    """The graph of a setup as it is drawn, in JSON: see :class:`quidnunc.sim.scenarios.stored.Graph`."""
    topology = setup.topology
    graph = Graph(
        setup.seed,
        topology.kind,
        topology.peers,
        len(topology.edges(1)),
        [(int(a), int(b)) for a, b in drawn_edges(topology)],
        [(round(float(x), 4), round(float(y), 4)) for x, y in positions(topology)],
        [] if setup.attack is None else list(setup.attack.peers),
    )
    return msgspec.json.encode(graph).decode()


def _manifest(scenario: SimScenario, facts: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "name": scenario.name,
        "status": "running",
        "scenario": msgspec.to_builtins(scenario),
        "seeds": facts,
        "versions": versions(),
    }


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """Inside, torch uses ``count`` threads; on a busy machine a second one was measured to cost up to 90 times."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
