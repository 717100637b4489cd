"""``ledger verify --deep``: do the arithmetic again, from the blobs that are still held.

The other layers show that a ledger is whole and signed; this one shows that it is true where it speaks of numbers. A
merge must be the function of its inputs that its entry states, an update the replica before plus the delta, bit for
bit. Replaced vectors are kept for a few rounds only, so older entries count as not held, never as failed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np

from quidnunc.crypto.errors import RemoteProtocolError
from quidnunc.gossip.learning import codec
from quidnunc.gossip.merging import STEP_ADOPTED
from quidnunc.gossip.provenance import Merge, UpdatePublished
from quidnunc.gossip.rules.linear import Vector, recompute
from quidnunc.gossip.rules.median import coordinate_median
from quidnunc.peer.ledger.findings import Layer

Blob = Callable[[bytes], bytes | None]


@dataclass(slots=True)
class Arithmetic:
    """What was computed again: ``layer`` counts and names differences, ``not_held`` counts entries without blobs.

    ``not_linear`` counts merges by a rule that weights alone do not determine.
    """

    layer: Layer = field(default_factory=lambda: Layer("arithmetic"))
    not_held: int = 0
    not_linear: int = 0


def check_arithmetic(
    records: Iterable[tuple[int, UpdatePublished | Merge]], blob: Blob, dim: int, code: int, rule: str = ""
) -> Arithmetic:
    """Compute every merge and update of ``records`` (seq, record) again; ``dim``, ``code`` and ``rule`` are the
    charter's, ``rule`` empty where rows are mixed before it: what it was given is in no entry.
    """
    found = Arithmetic()
    for seq, record in records:
        try:
            if isinstance(record, Merge):
                _merge(found, seq, record, blob, dim, rule)
            else:
                _update(found, seq, record, blob, dim, code)
        except _NotHeld:
            found.not_held += 1
        except RemoteProtocolError as error:
            found.layer.checked += 1
            found.layer.report("I12", seq, f"a vector it names is not one of this task: {error.message}")
    return found


class _NotHeld(Exception):
    """A blob that is needed is not there."""


def _merge(found: Arithmetic, seq: int, record: Merge, blob: Blob, dim: int, rule: str) -> None:
    median = record.step == STEP_ADOPTED or (record.approximate and rule == "median")
    if record.approximate and not median:
        found.not_linear += 1
        return
    states = [codec.parse_state(_held(blob, row.state), dim) for row in record.rows]
    if median:
        result = coordinate_median(np.stack(states))
    else:
        weighted = zip(states[1:], (row.effective for row in record.rows[1:]), strict=True)
        result = recompute(states[0], list(weighted))
    _compare(found, seq, result, record.result, "merging its inputs")


def _update(found: Arithmetic, seq: int, record: UpdatePublished, blob: Blob, dim: int, code: int) -> None:
    before = codec.parse_state(_held(blob, record.replica_before), dim)
    after = codec.advance(before, _held(blob, record.delta), code)
    _compare(found, seq, after, record.replica_after, "adding its delta")


def _compare(found: Arithmetic, seq: int, result: Vector, wanted: bytes, how: str) -> None:
    found.layer.checked += 1
    name = hashlib.sha256(codec.state_bytes(result)).digest()
    if name != wanted:
        found.layer.report("I12", seq, f"{how} gives state {name.hex()[:16]}, the entry says {wanted.hex()[:16]}")


def _held(blob: Blob, name: bytes) -> bytes:
    data = blob(name)
    if data is None:
        raise _NotHeld
    return data
