"""The charter's task on this site's data, as the compute process is told it and as it answers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import trio

from quidnunc.crypto.errors import ConfigError
from quidnunc.gossip.federation.charter import Charter
from quidnunc.gossip.jobs import Described, DescribeJob, JobFailed
from quidnunc.peer.blobs import FileBlobs
from quidnunc.peer.compute import START_ATTEMPTS
from quidnunc.peer.config import Config
from quidnunc.peer.home import Home
from quidnunc.peer.home_name import quidnunc
from quidnunc.peer.model_file import installed_model
from quidnunc.peer.pipe import Setup
from quidnunc.peer.task_loader import CSV


class DataRefused(ConfigError):
    """The task could not be built from the local data."""


def compute_setup(charter: Charter, config: Config, home: Home) -> Setup:
    """What the compute process is told: the charter's task and plan, this site's data. The charter's options win."""
    plan = charter.plan()
    data = config.data
    return Setup(
        task=charter.task.reference,
        blobs=str(home.blobs),
        path=data.path,
        index=data.index,
        peers=data.peers,
        alpha=data.alpha,
        seed=data.seed,
        options={**data.options, **charter.task.options},
        schema=charter.task.data_schema,
        genesis_seed=plan.seed,
        codec=plan.codec,
        learning_rate=plan.training.learning_rate,
        momentum=plan.training.momentum,
        local_steps=plan.training.local_steps,
        batch_size=plan.training.batch_size,
        prox=plan.training.prox,
        merge_rule=plan.merge_rule,
        merge_options=dict(plan.merge_options),
        private=plan.private,
        rounds=plan.rounds,
        personal=plan.personal,
        dim=charter.task.dim,
        attack=config.drill.attack,
        threads=config.training.threads,
        memory_bytes=config.training.memory_mib * 1024 * 1024,
        blob_bytes_max=config.limits.blob_bytes_max,
    )


async def describe(computer: Any, charter: Charter, home: Home, blobs: FileBlobs) -> Described:
    """Have the compute process build the task; raises DataRefused with what the task said, or how often it died.

    A charter that begins with an earlier model names other params than the task makes: those installed in ``home``.
    """
    for _ in range(START_ATTEMPTS):
        died = computer.died
        result = await computer.run(DescribeJob())
        if isinstance(result, Described):
            return await _with_earlier_model(result, charter, home, blobs)
        if computer.died == died:
            break  # the task itself refuses: it would again
    why = result.why if isinstance(result, JobFailed) else repr(result)
    hint = "check [data] in config.toml and the task function"
    if charter.task.reference == CSV:
        hint = f"see everything that is wrong with it: {quidnunc(home)} data check"
    raise DataRefused(f"the task cannot be built: {why}", hint=hint)


async def _with_earlier_model(result: Described, charter: Charter, home: Home, blobs: FileBlobs) -> Described:
    task = charter.task
    if result.dim == task.dim and result.genesis != task.genesis:
        model = await trio.to_thread.run_sync(installed_model, home, task.genesis, task.dim)
        if model is not None:
            return replace(result, genesis=blobs.put(model, durable=True))
    return result
