"""Advancing a neighbor's replica: two IEEE-exact elementwise steps and a hash, without torch.

It is cheap and must never wait behind a training: a daemon's compute process does it on a lane of its own.
"""

from __future__ import annotations

import hashlib

from quidnunc.crypto.errors import LocalProtocolError, Reason, RemoteProtocolError
from quidnunc.gossip.blobs import Blobs
from quidnunc.gossip.jobs import AdoptJob, Advanced, AdvanceJob, Job, JobFailed, Rejected
from quidnunc.gossip.learning import codec


def advance(job: Job, blobs: Blobs, dim: int, code: int) -> Advanced | Rejected | JobFailed:
    """Do an AdvanceJob or AdoptJob on params [dim] with codec ``code``; bad remote data gives Rejected."""
    if not isinstance(job, AdvanceJob | AdoptJob):
        raise LocalProtocolError(f"{type(job).__name__} is not a light job")
    try:
        if isinstance(job, AdoptJob):
            codec.parse_state(_blob(blobs, job.state), dim)
            return Advanced(job.author, job.number, job.state)
        data = codec.advance_state(_blob(blobs, job.base), _blob(blobs, job.delta), dim, code)
    except _Missing as error:
        why = f"blob {error.name.hex()} is not in the store"
        return JobFailed(type(job).__name__, why, error.name, job.author, job.number)
    except RemoteProtocolError as error:
        return Rejected(job.author, job.number, error.reason, error.message)
    name = hashlib.sha256(data).digest()
    if name != job.result:
        why = f"delta leads to state {name.hex()[:16]}, the header says {job.result.hex()[:16]}"
        return Rejected(job.author, job.number, Reason.BAD_RESULT, why)
    blobs.put(data)
    return Advanced(job.author, job.number, name)


class _Missing(Exception):
    def __init__(self, name: bytes) -> None:
        super().__init__(name.hex())
        self.name = name


def _blob(blobs: Blobs, name: bytes) -> bytes:
    data = blobs.get(name)
    if data is None:
        raise _Missing(name)
    return data
