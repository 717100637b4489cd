"""What an entry refers to: earlier entries of its log, entries of other logs, states of models, and blobs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from quidnunc.gossip.provenance import Merge, ReputationChange, UpdatePublished, UpdateReceived


class Foreign(NamedTuple):
    """An entry of another log, named by log id and sequence number."""

    log_id: bytes
    seq: int


def cited_entries(log_id: bytes, record: object) -> tuple[int, ...]:
    """Sequence numbers of the entries of its own log ``log_id`` that ``record`` names, each once, in order."""
    found: list[int] = []
    match record:
        case UpdatePublished(privacy=claim) if claim is not None:
            found.append(claim.spend_seq)
        case Merge(rows=rows, received=received):
            found += [row.seq for row in rows if row.log_id == log_id and row.seq is not None]
            found += received
        case ReputationChange(evidence=evidence):
            found += evidence
    return tuple(dict.fromkeys(found))


def foreign_entries(log_id: bytes, record: object) -> tuple[Foreign, ...]:
    """Entries of other logs than ``log_id`` that ``record`` names, each once, in order."""
    match record:
        case UpdateReceived(sender=sender, seq=seq):
            return (Foreign(sender, seq),)
        case Merge(rows=rows):
            named = (Foreign(row.log_id, row.seq) for row in rows if row.log_id is not None and row.seq is not None)
            return tuple(dict.fromkeys(each for each in named if each.log_id != log_id))
    return ()


def made_state(record: object) -> bytes | None:
    """The state that came into being with ``record``: a merge's result, the replica after an update; or None."""
    match record:
        case Merge(result=state) | UpdatePublished(replica_after=state):
            return state
    return None


def read_states(record: object) -> tuple[bytes, ...]:
    """The states that ``record`` was made from or speaks of, each once, in order."""
    match record:
        case Merge(rows=rows):
            return tuple(dict.fromkeys(row.state for row in rows))
        case UpdatePublished(base=base, replica_before=before):
            return tuple(dict.fromkeys((base, before)))
        case UpdateReceived(replica=state):
            return (state,)
    return ()


def blobs_of(record: object) -> Iterator[tuple[str, bytes]]:
    """(what it is, SHA-256) of the blobs behind ``record``, held or not."""
    match record:
        case Merge(result=result):
            yield "result", result
        case UpdatePublished(delta=delta, replica_after=replica):
            yield from (("delta", delta), ("replica", replica))
        case UpdateReceived(delta=delta, replica=replica):
            yield from (("delta", delta), ("replica", replica))
