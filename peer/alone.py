"""What a peer would reach without anybody: the same local training and privacy, no exchange.

``python -m quidnunc.peer.alone HOME...`` prints one JSON object, home -> test accuracy. It is the baseline that the
demo prints beside gossip; nothing of it is published and no ledger records it.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from quidnunc.crypto.errors import QuidnuncError
from quidnunc.crypto.noise import NoiseStream
from quidnunc.gossip.blobs import MemoryBlobs
from quidnunc.gossip.federation.charter import Charter
from quidnunc.gossip.federation.founding import open_charter
from quidnunc.gossip.federation.terms import MICRO
from quidnunc.gossip.jobs import Described, DescribeJob, Evaluated, EvaluateJob, PrivacyStep, Trained, TrainJob, Unit
from quidnunc.gossip.learning.compute import Compute
from quidnunc.gossip.task import Site
from quidnunc.peer.config import Config, load
from quidnunc.peer.home import Home
from quidnunc.peer.task_loader import load_task
from quidnunc.peer.trainer import die_with_parent


class AloneFailed(QuidnuncError):
    """The baseline could not be computed."""


def train_alone(charter: Charter, config: Config) -> float:
    """Test accuracy after the charter's rounds of local training, each step quantized as it would be for sending."""
    data = config.data
    options = {**data.options, **charter.task.options}
    site = Site(data.index, data.peers, data.alpha, data.seed, data.path, options, charter.task.data_schema)
    blobs = MemoryBlobs()
    noise = NoiseStream(os.urandom(32), b"alone")
    compute = Compute(load_task(charter.task.reference), site, charter.plan(), blobs, noise)
    described = compute.handle(DescribeJob())
    if not isinstance(described, Described):
        raise AloneFailed(f"the task cannot be built: {described}")
    state, personal = described.genesis, b""
    privacy = charter.privacy_step()
    if privacy is not None and privacy.unit == Unit.SUM:
        # Nobody is there whose noise would cancel: as much as the same promise takes by oneself.
        privacy = PrivacyStep(privacy.clip, charter.privacy.total_u / MICRO)
    for number in range(1, charter.rounds.count + 1):
        trained = compute.handle(TrainJob(number, number, state, state, True, 1.0, privacy, personal))
        if not isinstance(trained, Trained):
            raise AloneFailed(f"round {number} failed: {trained}")
        blobs.discard(state)
        blobs.discard(trained.delta)
        state, personal = trained.result, trained.personal
    measured = compute.handle(EvaluateJob(charter.rounds.count, state, personal))
    if not isinstance(measured, Evaluated):
        raise AloneFailed(f"evaluation failed: {measured}")
    return measured.accuracy


def main(homes: Sequence[str]) -> int:
    """Print the accuracies of ``homes`` as JSON; ends with the process that asked."""
    die_with_parent()
    import torch

    torch.set_num_threads(1)
    found = {}
    for name in homes:
        home = Home.at(Path(name))
        charter = open_charter(home.charter.read_bytes()).charter
        found[name] = train_alone(charter, load(home.config))
    sys.stdout.write(json.dumps(found) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
