"""What a start does about params that its disk has lost: rebuild them from what is left, or know what to ask for.

The ledger says which params they are. The own replica follows from any older one and the deltas published since, else
neighbors have it (``gossip/recall.py``); a merge result is only where the next training would have begun, and the own
replica serves for that too.
"""

from __future__ import annotations

import hashlib
import logging

from quidnunc.crypto.errors import BlobLost
from quidnunc.crypto.log_keys import Keys
from quidnunc.gossip.blobs import Blobs
from quidnunc.gossip.federation.charter import Charter
from quidnunc.gossip.provenance import UpdatePublished
from quidnunc.gossip.resume import Resume
from quidnunc.gossip.rounds import OWN_REPLICA
from quidnunc.gossip.signed_update import open_update

log = logging.getLogger("quidnunc.peer")


def restore(resume: Resume, blobs: Blobs, charter: Charter, log_id: bytes, public: Keys) -> None:
    """Look for all params that ``resume`` leads to, and rebuild what can be; ``public`` are the own log keys.

    Of an own replica that is lost for good ``resume.recall`` says as of which updates neighbors may give it back, and
    ``resume.missing`` which states of neighbors are lost. A lost base gives way to the own replica and a merge. Raises
    BlobLost when the tokens that say what a neighbor would have to give back are lost as well.
    """
    replica, base = resume.replica, resume.base
    if replica is not None and blobs.get(replica) is None:
        updates = [open_update(token, log_id=log_id, public=public).update for _, token in resume.tokens]
        resume.recall = _rebuild(replica, updates, blobs, charter)
        how = "neighbors are asked for it" if resume.recall else "rebuilt from its deltas"
        log.warning("blob %s, the own replica, was missing or damaged; %s", replica.hex(), how)
    if base is not None and not resume.unmerged and blobs.get(base) is None:
        log.warning("blob %s, the last merge, is missing or damaged; merging again", base.hex())
        resume.base, resume.unmerged = replica, True
    if resume.personal and blobs.get(resume.personal) is None:
        log.warning("blob %s, the personal tensors, is missing or damaged; they begin anew", resume.personal.hex())
        resume.personal = b""
    states = {tracked.state for tracked in resume.tracked.values()}
    resume.missing = {state for state in states if blobs.get(state) is None}


def _rebuild(
    replica: bytes, updates: list[UpdatePublished], blobs: Blobs, charter: Charter
) -> tuple[UpdatePublished, ...]:
    """Go back through ``updates``, oldest first, to params that are still there, and forward again by the deltas.

    Returns nothing when that worked, else the updates, oldest first, from any of whose ends the deltas lead forward.
    """
    steps: list[bytes] = []
    ends: list[UpdatePublished] = []
    start, data = replica, None
    for update in reversed(updates):
        if update.replica_after != start:
            break
        ends.append(update)
        delta = blobs.get(update.delta)
        if delta is None:
            break
        steps.append(delta)
        start = update.replica_before
        data = blobs.get(start)
        if data is not None:
            break
    if data is None:
        if not ends:
            raise BlobLost(replica, OWN_REPLICA)
        return tuple(reversed(ends))
    from quidnunc.gossip.learning import codec  # numpy: only a start that has lost params needs it

    vector = codec.parse_state(data, charter.task.dim)
    for delta in reversed(steps):
        vector = codec.advance(vector, delta, charter.codec)
    data = codec.state_bytes(vector)
    if hashlib.sha256(data).digest() != replica:
        raise BlobLost(replica, OWN_REPLICA)
    blobs.put(data, durable=True)
    return ()
