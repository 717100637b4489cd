"""What a start does about own params that its disk has lost: rebuild them from what is left, or name the file and end.

The ledger says which params they are. The own replica follows from any older one and the deltas published since; a
merge result is only where the next training would have begun, and the own replica serves for that too.
"""

from __future__ import annotations

import hashlib
import logging

from quidnunc.crypto.errors import BlobLost
from quidnunc.gossip.blobs import Blobs
from quidnunc.gossip.federation.charter import Charter
from quidnunc.gossip.learning import codec
from quidnunc.gossip.message import open_update
from quidnunc.gossip.provenance import UpdatePublished
from quidnunc.gossip.resume import Resume
from quidnunc.gossip.rounds import OWN_REPLICA

log = logging.getLogger("quidnunc.peer")


def restore(resume: Resume, blobs: Blobs, charter: Charter, log_id: bytes, public: bytes) -> None:
    """Make sure that ``resume.replica`` and ``resume.base`` are readable; ``public`` is the own log key.

    Raises BlobLost when the own replica is lost for good. A lost base gives way to the own replica and a merge.
    """
    replica, base = resume.replica, resume.base
    if replica is not None and blobs.get(replica) is None:
        updates = [open_update(token, log_id=log_id, public=public).update for _, token in resume.tokens]
        _rebuild(replica, updates, blobs, charter)
        log.warning("blob %s, the own replica, was missing or damaged; rebuilt from its deltas", replica.hex())
    if base is not None and not resume.unmerged and blobs.get(base) is None:
        log.warning("blob %s, the last merge, is missing or damaged; merging again", base.hex())
        resume.base, resume.unmerged = replica, True


def _rebuild(replica: bytes, updates: list[UpdatePublished], blobs: Blobs, charter: Charter) -> None:
    """Go back through ``updates``, oldest first, to params that are still there, and forward again by the deltas."""
    steps: list[bytes] = []
    start, data = replica, None
    for update in reversed(updates):
        delta = blobs.get(update.delta)
        if update.replica_after != start or delta is None:
            break
        steps.append(delta)
        start = update.replica_before
        data = blobs.get(start)
        if data is not None:
            break
    if data is None:
        raise BlobLost(replica, OWN_REPLICA)
    vector = codec.parse_state(data, charter.task.dim)
    for delta in reversed(steps):
        vector = codec.advance(vector, delta, charter.codec)
    data = codec.state_bytes(vector)
    if hashlib.sha256(data).digest() != replica:
        raise BlobLost(replica, OWN_REPLICA)
    blobs.put(data, durable=True)
