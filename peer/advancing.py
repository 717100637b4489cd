"""The compute process's second lane: replicas are advanced whatever is computed meanwhile.

One thread, one socket, one job at a time. Torch lets other threads run while it computes, and so does Python itself.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

from quidnunc.crypto.errors import Malformed
from quidnunc.gossip.jobs import Job, Result
from quidnunc.peer.blobs import FileBlobs
from quidnunc.peer.pipe import TO_CHILD, Setup, read_frame, write_frame


class Advancer:
    """Does AdvanceJobs and AdoptJobs for params as ``setup`` has them."""

    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        self._blobs: FileBlobs | None = None

    def handle(self, job: Job) -> Result:
        """Answer one job; raises StoreUnwritable, and LocalProtocolError for any other job."""
        from quidnunc.gossip.advance import advance  # numpy: not before it is needed

        setup = self._setup
        if self._blobs is None:
            self._blobs = FileBlobs(Path(setup.blobs), max_bytes=setup.blob_bytes_max)
        return advance(job, self._blobs, setup.dim, setup.codec)


def serve(descriptor: int, answer: Callable[[Job], bytes]) -> None:
    """Answer the jobs that come from ``descriptor`` until its other end is closed; garbage ends the process."""
    try:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            while (data := read_frame(descriptor)) is not None:
                write_frame(descriptor, answer(TO_CHILD.decode(data)))
    except Malformed:
        os._exit(1)
