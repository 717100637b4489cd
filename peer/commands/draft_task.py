"""The task of a draft: what its model is, and how it is trained where nobody says otherwise."""

from __future__ import annotations

import argparse
import math
import tempfile
from typing import TYPE_CHECKING

from quidnunc.crypto.errors import ConfigError
from quidnunc.gossip.federation.charter import Charter
from quidnunc.gossip.federation.terms import TrainingSpec
from quidnunc.gossip.jobs import Described, DescribeJob, JobFailed, Result, Unit
from quidnunc.peer.commands.draft_numbers import micro

if TYPE_CHECKING:
    from quidnunc.gossip.learning.builtin import Defaults


def describe(charter: Charter, site_peers: int, path: str, timeout_s: float) -> Described:
    """What the task's model is, found out in a compute process: this one never loads torch or user code."""
    import trio

    from quidnunc.peer.compute import ComputeProcess
    from quidnunc.peer.pipe import Setup

    plan = charter.plan()

    async def ask(blobs: str) -> Result:
        setup = Setup(
            task=charter.task.reference,
            blobs=blobs,
            path=path,
            peers=site_peers,
            options=charter.task.options,
            schema=charter.task.data_schema,
            blank=True,
            genesis_seed=plan.seed,
            codec=plan.codec,
            learning_rate=plan.training.learning_rate,
            momentum=plan.training.momentum,
            local_steps=plan.training.local_steps,
            batch_size=plan.training.batch_size,
            merge_rule=plan.merge_rule,
            private=plan.private,
            personal=plan.personal,
        )
        async with ComputeProcess(setup, stall_s=timeout_s, start_s=timeout_s) as compute:
            return await compute.run(DescribeJob())

    with tempfile.TemporaryDirectory(prefix="quidnunc-") as blobs:
        result = trio.run(ask, blobs)
    if isinstance(result, Described):
        return result
    why = result.why if isinstance(result, JobFailed) else f"answered with {type(result).__name__}"
    hint = "it is built here once, to name its model"
    if not path and ":" in charter.task.reference:
        hint += "; does it read data? name some with --data-path"
    raise ConfigError(f"task {charter.task.reference!r}: {why}", hint=hint)


def defaults(task: str) -> Defaults:
    """How that task is trained unless flags say otherwise."""
    from quidnunc.gossip.learning.builtin import DEFAULTS, Defaults
    from quidnunc.gossip.task import Training

    own = Defaults(
        plain=Training(learning_rate=0.1, momentum=0.9, local_steps=4, batch_size=32),
        private=Training(learning_rate=0.5),
        clip=1.0,
    )
    return DEFAULTS.get(task, own)


def training(args: argparse.Namespace, defaults: Defaults) -> TrainingSpec:
    """The training that the flags name."""
    plain = math.isinf(args.epsilon) or args.privacy_unit == Unit.SITE.label
    base = defaults.plain if plain else defaults.private
    return TrainingSpec(
        learning_rate_u=micro("--lr", base.learning_rate if args.lr is None else args.lr),
        momentum_u=micro("--momentum", base.momentum if args.momentum is None else args.momentum),
        local_steps=base.local_steps if args.local_steps is None else args.local_steps,
        batch_size=base.batch_size if args.batch is None else args.batch,
        prox_u=micro("--prox", args.prox) if args.prox else 0,
    )
