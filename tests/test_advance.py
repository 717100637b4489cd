"""Advancing a neighbor's replica without torch: the same bits for everybody, and one verdict for what is wrong."""

from __future__ import annotations

import hashlib
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quidnunc.crypto.errors import LocalProtocolError, Reason
from quidnunc.gossip.advance import advance
from quidnunc.gossip.blobs import MemoryBlobs
from quidnunc.gossip.jobs import AdoptJob, Advanced, AdvanceJob, DescribeJob, JobFailed, Rejected, Result
from quidnunc.gossip.learning import codec

DIM = 5
AUTHOR = b"a" * 32
BOUNDED = settings(deadline=None, max_examples=150)
FLOATS = st.lists(st.floats(-1e6, 1e6, width=32), min_size=DIM, max_size=DIM)


def name_of(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def apply(base: bytes, delta: bytes, result: bytes, code: int = codec.INT8) -> tuple[Result, MemoryBlobs]:
    blobs = MemoryBlobs()
    job = AdvanceJob(AUTHOR, 3, blobs.put(base), blobs.put(delta), result)
    return advance(job, blobs, DIM, code), blobs


@BOUNDED
@given(base=FLOATS, step=FLOATS, code=st.sampled_from([codec.FLOAT32, codec.INT8]))
def test_a_holder_comes_to_the_state_its_publisher_signed(base: list[float], step: list[float], code: int) -> None:
    before = np.array(base, np.float32)
    delta = codec.encode(code, np.array(step, np.float32), np.full(DIM, 0.5))
    after = codec.state_bytes(codec.advance(before, delta, code))
    result, blobs = apply(codec.state_bytes(before), delta, name_of(after), code)
    assert result == Advanced(AUTHOR, 3, name_of(after))
    assert blobs.get(name_of(after)) == after


@BOUNDED
@given(delta=st.binary(max_size=40), code=st.sampled_from([codec.FLOAT32, codec.INT8]))
def test_arbitrary_deltas_are_rejected_and_write_nothing(delta: bytes, code: int) -> None:
    base = bytes(4 * DIM)
    result, blobs = apply(base, delta, b"r" * 32, code)
    assert isinstance(result, Rejected)
    assert (result.author, result.number) == (AUTHOR, 3)
    assert set(blobs.data) == {name_of(base), name_of(delta)}


def test_another_result_than_the_one_signed_is_rejected() -> None:
    delta = codec.encode(codec.INT8, np.ones(DIM, np.float32), np.zeros(DIM))
    result, blobs = apply(bytes(4 * DIM), delta, b"r" * 32)
    assert isinstance(result, Rejected)
    assert result.reason == Reason.BAD_RESULT
    assert len(blobs.data) == 2


def test_missing_blobs_fail_the_job_and_blame_nobody() -> None:
    blobs = MemoryBlobs()
    job = AdvanceJob(AUTHOR, 3, b"b" * 32, b"d" * 32, b"r" * 32)
    assert advance(job, blobs, DIM, codec.INT8) == failed("AdvanceJob", b"b" * 32)
    base = blobs.put(bytes(4 * DIM))
    job = AdvanceJob(AUTHOR, 3, base, b"d" * 32, b"r" * 32)
    assert advance(job, blobs, DIM, codec.INT8) == failed("AdvanceJob", b"d" * 32)
    assert advance(AdoptJob(AUTHOR, 3, b"s" * 32), blobs, DIM, codec.INT8) == failed("AdoptJob", b"s" * 32)


def failed(job: str, name: bytes) -> JobFailed:
    return JobFailed(job, f"blob {name.hex()} is not in the store", name, AUTHOR, 3)


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        (bytes(4 * DIM - 1), Reason.BAD_SHAPE),
        (bytes(4 * DIM + 4), Reason.BAD_SHAPE),
        (np.full(DIM, np.nan, "<f4").tobytes(), Reason.NON_FINITE),
        (np.full(DIM, -np.inf, "<f4").tobytes(), Reason.NON_FINITE),
    ],
)
def test_a_snapshot_that_is_no_state_is_rejected(state: bytes, reason: Reason) -> None:
    blobs = MemoryBlobs()
    result = advance(AdoptJob(AUTHOR, 3, blobs.put(state)), blobs, DIM, codec.INT8)
    assert isinstance(result, Rejected)
    assert result.reason == reason


def test_a_snapshot_that_is_a_state_is_adopted() -> None:
    blobs = MemoryBlobs()
    name = blobs.put(np.arange(DIM, dtype="<f4").tobytes())
    assert advance(AdoptJob(AUTHOR, 3, name), blobs, DIM, codec.INT8) == Advanced(AUTHOR, 3, name)


def test_a_heavy_job_is_not_done_here() -> None:
    with pytest.raises(LocalProtocolError):
        advance(DescribeJob(), MemoryBlobs(), DIM, codec.INT8)


def test_it_needs_no_torch() -> None:
    code = "import sys, quidnunc.gossip.advance, quidnunc.gossip.node; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
