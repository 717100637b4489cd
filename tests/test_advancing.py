"""Replicas advance in the compute process, whatever happens to what is computed there."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
import standin_trainer
import trio
from standin_trainer import Behavior

from quidnunc.crypto.errors import LocalProtocolError, Reason, StoreUnwritable
from quidnunc.gossip.jobs import AdoptJob, Advanced, AdvanceJob, EvaluateJob, JobFailed, Rejected, Result
from quidnunc.gossip.learning import codec
from quidnunc.peer import compute
from quidnunc.peer.blobs import FileBlobs
from quidnunc.peer.child import Death
from quidnunc.peer.compute import ComputeProcess
from quidnunc.peer.pipe import Setup

pytestmark = pytest.mark.trio

STAND_IN = (sys.executable, str(Path(standin_trainer.__file__)))
DIM = 7
AUTHOR = b"a" * 32


@pytest.fixture(autouse=True)
def _fast_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compute, "BACKOFF_FIRST_S", 0.01)


@pytest.fixture
def blobs(tmp_path: Path) -> FileBlobs:
    return FileBlobs(tmp_path / "blobs")


def process(blobs: FileBlobs | str, *, task: str = "plain", path: str = "", stall_s: float = 20.0) -> ComputeProcess:
    where = blobs if isinstance(blobs, str) else str(blobs.root)
    setup = Setup(task=task, blobs=where, path=path, dim=DIM, codec=codec.INT8)
    return ComputeProcess(setup, stall_s=stall_s, command=STAND_IN)


def step(blobs: FileBlobs) -> tuple[AdvanceJob, bytes]:
    """A job, and the state that its author came to by its own arithmetic."""
    before = np.linspace(-1, 1, DIM, dtype=np.float32)
    delta = codec.encode(codec.INT8, np.full(DIM, 0.3, np.float32), np.full(DIM, 0.5))
    after = codec.state_bytes(codec.advance(before, delta, codec.INT8))
    base = blobs.put(codec.state_bytes(before))
    return AdvanceJob(AUTHOR, 3, base, blobs.put(delta), FileBlobs(blobs.root.parent / "author").put(after)), after


async def hanging(child: ComputeProcess, results: list[Result]) -> None:
    results.append(await child.run(EvaluateJob(int(Behavior.HANG), b"s" * 32)))


async def appears(path: Path) -> int:
    while not path.exists() or not path.read_text():
        await trio.sleep(0.01)
    return int(path.read_text())


async def test_a_replica_advances_to_the_bits_of_its_author(blobs: FileBlobs) -> None:
    work, after = step(blobs)
    async with process(blobs) as child:
        assert await child.advance(work) == Advanced(AUTHOR, 3, work.result)
        assert blobs.get(work.result) == after
        assert await child.advance(AdoptJob(AUTHOR, 4, work.result)) == Advanced(AUTHOR, 4, work.result)
        refused = await child.advance(AdoptJob(AUTHOR, 5, work.delta))
        assert isinstance(refused, Rejected)
        assert refused.reason == Reason.BAD_SHAPE
        missing = await child.advance(AdoptJob(AUTHOR, 6, b"m" * 32))
        assert isinstance(missing, JobFailed)
        assert (missing.missing, missing.author, missing.number) == (b"m" * 32, AUTHOR, 6)


async def test_it_does_not_wait_for_a_job_that_hangs(blobs: FileBlobs, tmp_path: Path) -> None:
    work, _ = step(blobs)
    async with process(blobs, path=str(tmp_path / "running")) as child, trio.open_nursery() as nursery:
        nursery.start_soon(hanging, child, [])
        await appears(tmp_path / "running")
        with trio.fail_after(10):
            assert await child.advance(work) == Advanced(AUTHOR, 3, work.result)
        assert child.restarts == 0
        nursery.cancel_scope.cancel()


async def test_a_process_that_dies_under_it_is_no_failure_and_dies_once(blobs: FileBlobs, tmp_path: Path) -> None:
    """Stopped, so that the advance cannot be answered before the kill."""
    work, _ = step(blobs)
    results: list[Result] = []
    async with process(blobs, path=str(tmp_path / "running")) as child:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(hanging, child, results)
            pid = await appears(tmp_path / "running")
            os.kill(pid, signal.SIGSTOP)
            nursery.start_soon(_kill_soon, pid)
            assert await child.advance(work) == Advanced(AUTHOR, 3, work.result)
        assert child.restarts == 1
        assert child.died == 1
    (failure,) = results
    assert isinstance(failure, JobFailed)
    assert "SIGKILL" in failure.why


async def _kill_soon(pid: int) -> None:
    await trio.sleep(0.1)
    os.kill(pid, signal.SIGKILL)


async def test_a_process_that_answers_nothing_is_replaced_after_stall_s(blobs: FileBlobs) -> None:
    work, _ = step(blobs)
    async with process(blobs, stall_s=1.0) as child:
        assert child.pid is not None
        os.kill(child.pid, signal.SIGSTOP)
        assert await child.advance(work) == Advanced(AUTHOR, 3, work.result)
        assert child.restarts == child.died == 1
        trouble = child.trouble(0.0)
        assert trouble is not None
        assert trouble.death == Death.HUNG


async def test_a_process_that_cannot_start_again_fails_it_and_blames_nobody(
    blobs: FileBlobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    work, _ = step(blobs)
    async with process(blobs) as child:
        for command, words in (
            ((sys.executable, "-c", ""), "exited with status 0"),
            ((sys.executable, "-c", "raise SystemExit(4)"), "exited with status 4"),
        ):
            await child.stop()
            monkeypatch.setattr(child, "_command", command)
            failed = await child.advance(work)
            assert isinstance(failed, JobFailed)
            assert (failed.author, failed.number, failed.missing) == (AUTHOR, 3, b"")
            assert words in failed.why
        assert child.restarts == 2 * compute.START_ATTEMPTS


async def test_a_disk_that_fails_is_ours_to_tell() -> None:
    async with process("/dev/null/blobs") as child:
        with pytest.raises(StoreUnwritable, match="/dev/null/blobs"):
            await child.advance(AdoptJob(AUTHOR, 1, b"s" * 32))


async def test_another_job_is_not_done_there(blobs: FileBlobs) -> None:
    async with process(blobs) as child:
        failed = await child.advance(EvaluateJob(0, b"s" * 32))  # type: ignore[arg-type]
        assert isinstance(failed, JobFailed)
        assert "not a light job" in failed.why
        with pytest.raises(LocalProtocolError):
            await child.advance("nothing")  # type: ignore[arg-type]


async def test_cancelling_it_leaves_no_answer_for_the_next(blobs: FileBlobs) -> None:
    work, _ = step(blobs)
    async with process(blobs) as child:
        pid = child.pid
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
        with trio.move_on_after(0.1):
            await child.advance(work)
        assert child.pid is None
        assert await child.advance(AdoptJob(AUTHOR, 9, work.base)) == Advanced(AUTHOR, 9, work.base)
