"""Four hospitals' heart-disease records: accuracy together, beside alone and beside all rows in one place.

The task ``csv`` with the default settings, 50 rounds of the real nodes in the virtual world; every seed is another
split of the rows, another start and other noise. Together there is one model for all, or one whose bias every hospital
keeps to itself (``--personal 0.bias``). One hospital's test rows are few (16 to 94 per split): one split says next to
nothing. So every split has a row, and behind each mean stands how the change from alone to together spreads over them.

First with all rows under examples/heart/schema.toml; then with those that FLamby (du Terrail et al. 2022) keeps: ten
columns, complete rows only, 199/172/30/85 of them for training.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, stdev

import numpy as np
import torch
from common import Row, main

from quidnunc.crypto.noise import NoiseStream
from quidnunc.gossip.blobs import MemoryBlobs
from quidnunc.gossip.jobs import Described, DescribeJob, Evaluated, EvaluateJob, PrivacyStep, Trained, TrainJob
from quidnunc.gossip.learning.builtin import DEFAULTS
from quidnunc.gossip.learning.compute import Compute
from quidnunc.gossip.tabular.encode import encode
from quidnunc.gossip.tabular.examine import examine
from quidnunc.gossip.tabular.options import Options
from quidnunc.gossip.tabular.schema import Missing, Schema, parse_schema
from quidnunc.gossip.tabular.table import Table
from quidnunc.gossip.tabular.task import table_task
from quidnunc.gossip.task import Plan, Site, Task
from quidnunc.peer.table_file import load_table
from quidnunc.sim.federation import Scenario, build
from quidnunc.sim.network import Link
from quidnunc.sim.trials import PACE, accuracy
from quidnunc.sim.world import Worker, World

ROOT = Path(__file__).resolve().parent.parent
HOSPITALS = ("cleveland", "hungarian", "switzerland", "va")
ROUNDS = 50
SPLITS, QUICK_SPLITS = 10, 2
LOSS_ALLOWED = 0.03
"""No hospital may lose more by joining."""


FLAMBY_TRAINING = (199, 172, 30, 85)
FLAMBY_ROWS = (303, 261, 46, 130)
BIAS = ("0.bias",)


@dataclass(frozen=True, slots=True)
class Accuracy:
    """Per hospital, on its own test rows (``tested`` many): alone, with one model for all, with a bias each, pooled."""

    alone: list[float]
    together: list[float]
    personal: list[float]
    pooled: list[float]
    tested: list[int]

    def overall(self, kind: str) -> float:
        """Accuracy over the test rows of all hospitals."""
        right = sum(share * rows for share, rows in zip(getattr(self, kind), self.tested, strict=True))
        return float(right / sum(self.tested))


def example_schema() -> Schema:
    """The schema that the example comes with."""
    return parse_schema((ROOT / "examples" / "heart" / "schema.toml").read_text("utf-8"))


def as_agreed(tables: list[Table], seed: int) -> list[Task]:
    """All rows, split by the schema."""
    schema = replace(example_schema(), seed=seed)
    return [table_task(encode(examine(table, schema)), Options()) for table in tables]


def as_flamby(tables: list[Table], seed: int) -> list[Task]:
    """Complete rows only, zeros taken for what they are, as many for training as FLamby has; no holdout."""
    plain = [
        replace(each, missing=Missing.DROP, missing_values=(), low=0.0 if each.missing_values else each.low)
        for each in example_schema().columns
    ]
    schema = replace(example_schema(), columns=tuple(plain), holdout=0.0, rows_min=min(FLAMBY_TRAINING))
    tasks = []
    for index, (table, training) in enumerate(zip(tables, FLAMBY_TRAINING, strict=True)):
        encoded = encode(examine(table, schema))
        parts = (encoded.train, encoded.holdout, encoded.test)
        inputs, labels = (np.concatenate([part[which] for part in parts]) for which in (0, 1))
        assert len(labels) == FLAMBY_ROWS[index], (len(labels), FLAMBY_ROWS[index])
        order = np.random.Generator(np.random.PCG64([seed, index])).permutation(len(labels))
        train, test = order[:training], order[training:]
        held = replace(
            encoded,
            train=(inputs[train], labels[train]),
            holdout=(inputs[:0], labels[:0]),
            test=(inputs[test], labels[test]),
        )
        tasks.append(table_task(held, Options()))
    return tasks


def once(tasks: list[Task], epsilon: float | None, seed: int) -> Accuracy:
    """One split, one start."""
    together, world = learned(tasks, epsilon, seed, ())
    personal, _ = learned(tasks, epsilon, seed, BIAS)
    plan, privacy = world.charter.plan(), world.charter.privacy_step()
    alone = [trained(task, [task], plan, privacy, seed)[0] for task in tasks]
    pooled = trained(merged(tasks), tasks, plan, privacy, seed)
    return Accuracy(alone, together, personal, pooled, [len(task.test[0]) for task in tasks])


def learned(
    tasks: list[Task], epsilon: float | None, seed: int, personal: tuple[str, ...]
) -> tuple[list[float], World]:
    """Accuracy of every hospital at the end of a federation, and its world."""
    world = founded(tasks, epsilon, seed, personal)
    for peer in world.peers:
        world.start(peer.index)
    world.run(10 * ROUNDS, stop=lambda: all(p.node is not None and p.node.rounds.finished for p in world.peers))
    world.run(world.now + 5)
    return [accuracy(peer) for peer in world.peers], world


def founded(tasks: list[Task], epsilon: float | None, seed: int, personal: tuple[str, ...]) -> World:
    """The hospitals as peers, nobody started."""
    defaults = DEFAULTS["csv"]
    return build(
        Scenario(
            task=lambda site: tasks[site.index],
            reference="csv",
            training=defaults.plain if epsilon is None else defaults.private,
            peers=len(tasks),
            rounds=ROUNDS,
            epsilon=epsilon,
            clip=defaults.clip,
            lead=4 if epsilon is None else 2,
            link=Link(0.05, 0.05),
            settings=PACE,
            seed=seed,
            personal=personal,
        )
    )


def merged(tasks: list[Task]) -> Task:
    """All training rows in one place: what the hospitals may not do."""
    rows = torch.cat([task.train[0] for task in tasks]), torch.cat([task.train[1] for task in tasks])
    return replace(tasks[0], train=rows)


def trained(task: Task, tested: list[Task], plan: Plan, privacy: PrivacyStep | None, seed: int) -> list[float]:
    """Accuracy on the test rows of each of ``tested``, after the same rounds of training on ``task`` by itself."""
    blobs = MemoryBlobs()

    def worker(each: Task) -> Compute:
        noise = NoiseStream(bytes([seed, 1 + len(each.train[0]) % 250]) * 16, b"bench")
        return Compute(lambda site: each, Site(), plan, blobs, noise)

    learner = worker(task)
    described = learner.handle(DescribeJob())
    assert isinstance(described, Described), described
    state = described.genesis
    for number in range(1, ROUNDS + 1):
        result = learner.handle(TrainJob(number, number, state, state, True, 1.0, privacy))
        assert isinstance(result, Trained), result
        state = result.result
    return [measured(worker(each).handle, state) for each in tested]


def measured(worker: Worker, state: bytes) -> float:
    """Test accuracy of a state."""
    result = worker(EvaluateJob(0, state))
    assert isinstance(result, Evaluated), result
    return result.accuracy


def measure(quick: bool) -> list[Row]:
    """Each hospital and their mean, without privacy and at two epsilons; then on FLamby's rows."""
    base = Path(os.environ.get("QUIDNUNC_TEST_DATA", ROOT.parent / "shared" / "data")) / "heart"
    paths = [base / f"{name}.csv" for name in HOSPITALS]
    if not all(path.exists() for path in paths):
        return [Row("four hospitals", None, "accuracy", note=f"{base} is not there (QUIDNUNC_TEST_DATA)")]
    torch.set_num_threads(1)
    tables = [load_table(path) for path in paths]
    seeds = range(QUICK_SPLITS if quick else SPLITS)
    rows = []
    for epsilon in (None, 8.0) if quick else (None, 8.0, 2.0):
        runs = [once(as_agreed(tables, seed), epsilon, seed) for seed in seeds]
        rows += compared(runs, words(epsilon))
    for epsilon in (None, 8.0):
        runs = [once(as_flamby(tables, seed), epsilon, seed) for seed in seeds]
        rows += flamby_rows(runs, words(epsilon), quick)
    return rows


def words(epsilon: float | None) -> str:
    """A level of privacy as rows name it."""
    return "no privacy" if epsilon is None else f"epsilon {epsilon:g}"


def flamby_rows(runs: list[Accuracy], privacy: str, quick: bool) -> list[Row]:
    """A bias each, against alone; targets are for all splits and without privacy."""
    judged = privacy == words(None) and not quick
    rows = []
    for index, name in enumerate(HOSPITALS):
        alone, personal, together = (
            fmean(getattr(run, kind)[index] for run in runs) for kind in ("alone", "personal", "together")
        )
        bound = alone - LOSS_ALLOWED if judged else None
        label = f"FLamby's rows, a bias each, {name}, {privacy}"
        rows.append(Row(label, personal, "accuracy", "alone", alone, at_least=bound))
        rows.append(Row(label, personal, "accuracy", "one model", together))
    worst = min(fmean(run.personal[index] for run in runs) for index in range(len(HOSPITALS)))
    alone, personal, pooled = (fmean(run.overall(kind) for run in runs) for kind in ("alone", "personal", "pooled"))
    return [
        *rows,
        Row(f"FLamby's rows, worst hospital, {privacy}", worst, "accuracy", at_least=0.70 if judged else None),
        Row(
            *(f"FLamby's rows, a bias each, all, {privacy}", personal, "accuracy", "alone", alone),
            at_least=0.78 if judged else None,
        ),
        Row(f"FLamby's rows, pooled, all, {privacy}", pooled, "accuracy", at_least=0.72 if judged else None),
    ]


def compared(runs: list[Accuracy], privacy: str) -> list[Row]:
    """Each hospital and their mean over all splits, then every split by itself."""
    rows = []
    for index, name in enumerate((*HOSPITALS, "mean of the four")):
        alone, together, personal, pooled = (
            [_pick(getattr(run, kind), index) for run in runs] for kind in ("alone", "together", "personal", "pooled")
        )
        label, bound = f"{name}, {privacy}", fmean(alone) - LOSS_ALLOWED
        note = spread([one - other for one, other in zip(together, alone, strict=True)])
        rows.append(Row(label, fmean(together), "accuracy", "alone", fmean(alone), at_least=bound, note=note))
        rows.append(Row(label, fmean(together), "accuracy", "pooled", fmean(pooled)))
        note = spread([one - other for one, other in zip(personal, alone, strict=True)])
        rows.append(Row(f"{label}, a bias each", fmean(personal), "accuracy", "alone", fmean(alone), note=note))
    for seed, run in enumerate(runs):
        label = f"mean of the four, split {seed}, {privacy}"
        rows.append(Row(label, fmean(run.together), "accuracy", "alone", fmean(run.alone)))
    return rows


def spread(changes: list[float]) -> str:
    """How a change in accuracy differs from split to split, in points."""
    points = [100 * change for change in changes]
    gained = sum(change > 0 for change in points)
    return (
        f"change {fmean(points):+.1f} points, standard deviation {stdev(points):.1f}, {min(points):+.1f} to "
        f"{max(points):+.1f}, up in {gained} of {len(points)} splits"
    )


def _pick(values: list[float], index: int) -> float:
    return values[index] if index < len(values) else fmean(values)


if __name__ == "__main__":
    raise SystemExit(main(__doc__, measure))
