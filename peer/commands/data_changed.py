"""Whether a start would find other training records than those of the newest release, without starting."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import trio

from quidnunc.gossip.federation.charter import Charter
from quidnunc.gossip.jobs import Described
from quidnunc.peer.blobs import FileBlobs
from quidnunc.peer.compute import ComputeProcess
from quidnunc.peer.config import Config
from quidnunc.peer.data_change import DATASET_SALT, change_since, commitment, newest_release
from quidnunc.peer.home import Home
from quidnunc.peer.ledger.store import Store
from quidnunc.peer.task_setup import compute_setup, describe


def data_changed(home: Home, config: Config, charter: Charter) -> str | None:
    """What a start would say of changed records; None where it would say nothing.

    The task is built in a process of its own, and only where something was released before. Raises DataRefused where
    it cannot be built.
    """
    with Store.open(home.ledger, readonly=True) as store:
        salt, newest = store.get_meta(DATASET_SALT), newest_release(list(store.entries()))
    if salt is None or newest is None:
        return None
    with tempfile.TemporaryDirectory(prefix="quidnunc-") as blobs:
        described = trio.run(_described, home, config, charter, Path(blobs))
    return change_since(newest, commitment(salt, described))


async def _described(home: Home, config: Config, charter: Charter, blobs: Path) -> Described:
    setup = replace(compute_setup(charter, config, home), blobs=str(blobs))
    kept = FileBlobs(blobs, max_bytes=config.limits.blob_bytes_max)
    async with ComputeProcess(setup, stall_s=config.training.stall_s) as computer:
        return await describe(computer, charter, home, kept)
