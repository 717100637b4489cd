"""Four hospitals' heart records: accuracy alone, together and pooled, per hospital, at the demo's settings.

The tables lie in ``heart/`` under ``QUIDNUNC_TEST_DATA`` (default: ``shared/data`` beside the checkout) and are read by
``examples/heart/schema.toml``. Test sets are small, so that every number is a mean over several splits; ``pooled`` is
one model trained without privacy on everybody's rows in one place, which is what the members may not do.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean

import numpy as np
import torch
from common import Row, main

from quidnunc.crypto.noise import NoiseStream
from quidnunc.gossip.blobs import MemoryBlobs
from quidnunc.gossip.jobs import Described, DescribeJob, Evaluated, EvaluateJob, PrivacyStep, Trained, TrainJob
from quidnunc.gossip.learning.builtin import DEFAULTS
from quidnunc.gossip.learning.compute import Compute
from quidnunc.gossip.tabular.encode import Encoded, Part, encode
from quidnunc.gossip.tabular.examine import examine
from quidnunc.gossip.tabular.options import Options
from quidnunc.gossip.tabular.schema import Schema, parse_schema
from quidnunc.gossip.tabular.table import Table
from quidnunc.gossip.tabular.task import table_task
from quidnunc.gossip.task import Plan, Site, Task, Training
from quidnunc.peer.table_file import load_table
from quidnunc.sim.federation import Scenario, build
from quidnunc.sim.network import Link
from quidnunc.sim.trials import PACE, accuracy

ROOT = Path(__file__).resolve().parent.parent
HOSPITALS = ("cleveland", "hungarian", "switzerland", "va")
ROUNDS = 50


@dataclass(frozen=True, slots=True)
class Setting:
    """How private, how long, with which training."""

    epsilon: float | None
    rounds: int = ROUNDS
    training: Training | None = None

    @property
    def chosen(self) -> Training:
        defaults = DEFAULTS["csv"]
        return self.training or (defaults.plain if self.epsilon is None else defaults.private)


@dataclass(frozen=True, slots=True)
class Result:
    """Test accuracies, one per hospital."""

    alone: list[float]
    together: list[float]
    pooled: list[float]
    guess: list[float]


def measured(tables: Sequence[Table], schema: Schema, setting: Setting, seed: int) -> Result:
    """One split, one federation."""
    sites = [encode(examine(table, replace(schema, seed=seed))) for table in tables]
    scenario = Scenario(
        task=lambda site: table_task(sites[site.index], Options()),
        training=setting.chosen,
        peers=len(sites),
        reference="csv",
        rounds=setting.rounds,
        epsilon=setting.epsilon,
        clip=DEFAULTS["csv"].clip,
        lead=4 if setting.epsilon is None else 2,
        link=Link(0.05, 0.05),
        settings=PACE,
        seed=seed,
    )
    world = build(scenario)
    for peer in world.peers:
        world.start(peer.index)
    world.run(20 * setting.rounds, stop=lambda: all(p.node is not None and p.node.rounds.finished for p in world.peers))
    world.run(world.now + 5)
    privacy = world.charter.privacy_step()
    plain = Training(DEFAULTS["csv"].plain.learning_rate, 0.0, 4, 32)
    return Result(
        alone=[trained(table_task(site, Options()), setting.chosen, setting.rounds, privacy, seed) for site in sites],
        together=[accuracy(peer) for peer in world.peers],
        pooled=[trained(pooled(sites, site), plain, 4 * ROUNDS, None, seed) for site in sites],
        guess=[max(float(site.test[1].mean()), 1 - float(site.test[1].mean())) for site in sites],
    )


def pooled(sites: Sequence[Encoded], own: Encoded) -> Task:
    """Everybody's training rows in one place, tested on one hospital's."""

    def joined(parts: Sequence[Part]) -> Part:
        return np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])

    return table_task(replace(own, train=joined([site.train for site in sites])), Options())


def trained(task: Task, training: Training, rounds: int, privacy: PrivacyStep | None, seed: int) -> float:
    """Test accuracy after so many rounds of local training and nothing else."""
    blobs = MemoryBlobs()
    key = seed.to_bytes(32, "big")
    compute = Compute(lambda site: task, Site(), Plan(seed, 1, training), blobs, NoiseStream(key, b"alone"))
    described = compute.handle(DescribeJob())
    assert isinstance(described, Described), described
    state = described.genesis
    for number in range(1, rounds + 1):
        result = compute.handle(TrainJob(number, number, state, state, True, 1.0, privacy))
        assert isinstance(result, Trained), result
        state = result.result
    found = compute.handle(EvaluateJob(rounds, state))
    assert isinstance(found, Evaluated), found
    return found.accuracy


def load() -> tuple[list[Table], Schema]:
    """The four tables and the example's schema; FileNotFoundError where there are none."""
    data = Path(os.environ.get("QUIDNUNC_TEST_DATA", ROOT.parent / "shared" / "data")) / "heart"
    files = [data / f"{name}.csv" for name in HOSPITALS]
    for file in files:
        if not file.exists():
            raise FileNotFoundError(str(file))
    return [load_table(file) for file in files], parse_schema((ROOT / "examples/heart/schema.toml").read_text())


def means(results: Sequence[Result], what: str) -> list[float]:
    """Per hospital, over splits."""
    return [fmean(column) for column in zip(*(getattr(each, what) for each in results), strict=True)]


def measure(quick: bool) -> list[Row]:
    """Per hospital and in the mean, without privacy and at the demo's epsilon."""
    try:
        tables, schema = load()
    except FileNotFoundError as error:
        return [Row("four hospitals", None, "accuracy", note=f"no data: {error}")]
    torch.set_num_threads(1)  # the models are tiny: more threads only wait for each other
    rows = []
    for epsilon in (None, 8.0):
        results = [measured(tables, schema, Setting(epsilon), seed) for seed in range(2 if quick else 10)]
        alone, together, joined = (means(results, what) for what in ("alone", "together", "pooled"))
        name = "no privacy" if epsilon is None else f"epsilon {epsilon:g}"
        for i, hospital in enumerate(HOSPITALS):
            rows.append(Row(f"{hospital}, {name}", together[i], "accuracy", "alone", alone[i]))
            rows.append(Row(f"{hospital}, {name}", together[i], "accuracy", "pooled", joined[i]))
        rows.append(Row(f"mean of four, {name}", fmean(together), "accuracy", "alone", fmean(alone)))
        rows.append(Row(f"mean of four, {name}", fmean(together), "accuracy", "pooled", fmean(joined)))
    return rows


if __name__ == "__main__":
    raise SystemExit(main(__doc__, measure))
