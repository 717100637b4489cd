"""The keys of one log: which of them may sign a checkpoint follows from its size.

A log begins with the key of its genesis. Where entry ``seq`` brings another one, the checkpoint that ends with this
entry, of ``seq + 1`` entries, is the last that the old key signs: both keys are bound to one history.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from quidnunc.crypto.errors import LocalProtocolError
from quidnunc.crypto.merkle import MAX_SIZE


class KeySpan(NamedTuple):
    """A log's public key, and the sizes of the checkpoints that it may sign: ``first`` to ``last``, both included."""

    public: bytes
    first: int = 0
    last: int = MAX_SIZE


@dataclass(frozen=True, slots=True)
class LogKeys:
    """The keys of a log by epoch, from 0. ``revoked`` are (epoch, size): what that key signed beyond does not count.

    What was taken in before a revocation was known stays what it is; :attr:`counting` is for what comes in.
    """

    spans: tuple[KeySpan, ...]
    revoked: tuple[tuple[int, int], ...] = ()

    @classmethod
    def of(cls, public: bytes) -> LogKeys:
        """The keys of a log that has only had this one."""
        return cls((KeySpan(public),))

    @property
    def epoch(self) -> int:
        """The newest epoch."""
        return len(self.spans) - 1

    def epoch_at(self, size: int) -> int:
        """The epoch of the key for checkpoints of ``size`` entries, and of the last entry under them."""
        epoch = self.epoch
        while self.spans[epoch].first > size:
            epoch -= 1
        return epoch

    def at(self, size: int) -> bytes | None:
        """The public key for checkpoints of ``size`` entries, None where the one there was does not count."""
        span = self.spans[self.epoch_at(size)]
        return span.public if size <= span.last else None

    @property
    def counting(self) -> LogKeys:
        """The same keys, each only for what it signed before it was revoked."""
        ends = dict(self.revoked)
        spans = tuple(
            span._replace(last=min(span.last, ends.get(epoch, span.last))) for epoch, span in enumerate(self.spans)
        )
        return LogKeys(spans)

    def rotated(self, seq: int, public: bytes) -> LogKeys:
        """With ``public`` as the key behind entry ``seq``."""
        *before, old = self.spans
        if seq + 1 < old.first:
            raise LocalProtocolError(f"a key from entry {seq} on, the one before it begins at {old.first} entries")
        return LogKeys((*before, old._replace(last=seq + 1), KeySpan(public, seq + 2)), self.revoked)

    def without(self, epoch: int, since: int) -> LogKeys:
        """With the key of ``epoch`` revoked from ``since`` entries on; never later than it was before."""
        ends = dict(self.revoked)
        ends[epoch] = min(since, ends.get(epoch, since))
        return LogKeys(self.spans, tuple(sorted(ends.items())))


Keys = bytes | LogKeys
"""The public key of a log that has only ever had one, or all of its keys."""


def key_at(keys: Keys, size: int) -> bytes | None:
    """The public key for checkpoints of ``size`` entries, None where it does not count."""
    return keys.at(size) if isinstance(keys, LogKeys) else keys
