"""Four hospitals' heart-disease records: accuracy together, beside alone and beside all rows in one place.

The task ``csv`` under examples/heart/schema.toml with the default settings, 50 rounds of the real nodes in the virtual
world; every seed is another split of the rows, another start and other noise. One hospital's test rows are few (20 to
60 per split): one split says next to nothing. So every split has a row, and behind each mean stands how the change from
alone to together spreads over the splits.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, stdev

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
from quidnunc.gossip.tabular.schema import parse_schema
from quidnunc.gossip.tabular.table import Table
from quidnunc.gossip.tabular.task import table_task
from quidnunc.gossip.task import Plan, Site, Task
from quidnunc.peer.table_file import load_table
from quidnunc.sim.federation import Scenario, build
from quidnunc.sim.network import Link
from quidnunc.sim.trials import PACE
from quidnunc.sim.world import World

ROOT = Path(__file__).resolve().parent.parent
HOSPITALS = ("cleveland", "hungarian", "switzerland", "va")
ROUNDS = 50
SPLITS, QUICK_SPLITS = 10, 2
LOSS_ALLOWED = 0.03
"""No hospital may lose more by joining."""


@dataclass(frozen=True, slots=True)
class Accuracy:
    """Per hospital, on its own test rows."""

    alone: list[float]
    together: list[float]
    pooled: list[float]


def once(tables: list[Table], epsilon: float | None, seed: int) -> Accuracy:
    """One split, one start."""
    text = (ROOT / "examples" / "heart" / "schema.toml").read_text("utf-8")
    schema = replace(parse_schema(text), seed=seed)
    tasks = [table_task(encode(examine(table, schema)), Options()) for table in tables]
    world = founded(tasks, epsilon, seed)
    for peer in world.peers:
        world.start(peer.index)
    world.run(10 * ROUNDS, stop=lambda: all(p.node is not None and p.node.rounds.finished for p in world.peers))
    world.run(world.now + 5)
    together = [accuracy(peer.worker, peer.node.rounds.base) for peer in world.peers if peer.node is not None]
    plan, privacy = world.charter.plan(), world.charter.privacy_step()
    alone = [trained(task, [task], plan, privacy, seed)[0] for task in tasks]
    return Accuracy(alone, together, trained(merged(tasks), tasks, plan, privacy, seed))


def founded(tasks: list[Task], epsilon: float | None, seed: int) -> World:
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
    return [accuracy(worker(each).handle, state) for each in tested]


def accuracy(worker: object, state: bytes) -> float:
    """Test accuracy of a state."""
    result = worker(EvaluateJob(0, state))  # type: ignore[operator]
    assert isinstance(result, Evaluated), result
    return result.accuracy


def measure(quick: bool) -> list[Row]:
    """Each hospital and their mean, without privacy and at two epsilons."""
    base = Path(os.environ.get("QUIDNUNC_TEST_DATA", ROOT.parent / "shared" / "data")) / "heart"
    paths = [base / f"{name}.csv" for name in HOSPITALS]
    if not all(path.exists() for path in paths):
        return [Row("four hospitals", None, "accuracy", note=f"{base} is not there (QUIDNUNC_TEST_DATA)")]
    torch.set_num_threads(1)
    tables = [load_table(path) for path in paths]
    rows = []
    for epsilon in (None, 8.0) if quick else (None, 8.0, 2.0):
        runs = [once(tables, epsilon, seed) for seed in range(QUICK_SPLITS if quick else SPLITS)]
        rows += compared(runs, "no privacy" if epsilon is None else f"epsilon {epsilon:g}")
    return rows


def compared(runs: list[Accuracy], privacy: str) -> list[Row]:
    """Each hospital and their mean over all splits, then every split by itself."""
    rows = []
    for index, name in enumerate((*HOSPITALS, "mean of the four")):
        alone, together, pooled = (
            [_pick(getattr(run, kind), index) for run in runs] for kind in ("alone", "together", "pooled")
        )
        label, bound = f"{name}, {privacy}", fmean(alone) - LOSS_ALLOWED
        note = spread([one - other for one, other in zip(together, alone, strict=True)])
        rows.append(Row(label, fmean(together), "accuracy", "alone", fmean(alone), at_least=bound, note=note))
        rows.append(Row(label, fmean(together), "accuracy", "pooled", fmean(pooled)))
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
