"""The own log as a node writes it: entries pile up, then one signed checkpoint makes them one commit."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from quidnunc.crypto.checkpoint import Checkpoint, sign_checkpoint
from quidnunc.crypto.entry import Entry, EntryType, commit_private, parse_header
from quidnunc.crypto.errors import Reason
from quidnunc.crypto.identity import SecretKey
from quidnunc.crypto.log import Log
from quidnunc.crypto.token import make_token
from quidnunc.gossip.events import Commit, Effect, Refuse
from quidnunc.gossip.provenance import (
    LogRecover,
    MessageRefused,
    Record,
    UpdatePublished,
    parse_record,
    payload_of,
)

Entropy = Callable[[int], bytes]
SALT_BYTES = 16


@dataclass(slots=True)
class _Refusals:
    """Refusals of one (sender, reason) in the current round that have no entry yet; ``first`` is a message's hash."""

    count: int
    size: int
    first: bytes


class Recorder:
    """Appends typed entries to the own log and hands them out as commits.

    ``entropy(n)`` returns n fresh random bytes (salts); it is the host's, because this layer has no randomness.
    ``refused`` counts every refusal of this log, those without an entry of their own included.
    ``signed`` is the size of the newest commit, ``note`` its checkpoint once there was one in this run.
    ``key_epoch`` is that of ``key``.
    """

    def __init__(
        self,
        log: Log,
        key: SecretKey,
        entropy: Entropy,
        *,
        refusals_per_round: int,
        refused: int = 0,
        key_epoch: int = 0,
    ) -> None:
        self.log = log
        self._key = key
        self._key_epoch = key_epoch
        self._entropy = entropy
        self._pending: list[Entry] = []
        self._tokens: list[tuple[bytes, bytes, int, bytes]] = []
        self._proofs: list[bytes] = []
        self._cosigned: dict[bytes, tuple[int, bytes]] = {}
        self._refused: dict[tuple[bytes | None, Reason], _Refusals] = {}
        self._slots_used: dict[bytes | None, int] = {}
        self._refusals_per_round = refusals_per_round
        self.refused = refused
        self.signed = log.size
        self.note = b""

    @property
    def size(self) -> int:
        """Number of entries, pending ones included; the seq of the next one."""
        return self.log.size

    def append(self, record: Record, now: float) -> int:
        """Append a record and return its seq; it becomes durable with the next commit."""
        return self._append(record.TYPE, payload_of(record), now)

    def append_raw(self, kind: int, payload: bytes, now: float) -> int:
        """Append ready payload bytes (the genesis entry) and return the seq."""
        return self._append(kind, payload, now)

    def seal_private(self, data: bytes) -> tuple[bytes, bytes]:
        """A fresh salt and the commitment to ``data`` that goes into a payload as ``pv``."""
        salt = self._entropy(SALT_BYTES)
        return salt, commit_private(salt, data)

    def append_sealed(self, record: Record, private: bytes, private_salt: bytes, now: float) -> int:
        """Append a record whose ``pv`` commits to ``private``."""
        return self._append(record.TYPE, payload_of(record), now, private, private_salt)

    def _append(self, kind: int, payload: bytes, now: float, private: bytes = b"", private_salt: bytes = b"") -> int:
        entry = self.log.append(
            int(kind),
            payload,
            salt=self._entropy(SALT_BYTES),
            t_ms=int(now * 1000),
            key_epoch=self._key_epoch,
            private=private,
            private_salt=private_salt,
        )
        self._pending.append(entry)
        return self.log.size - 1

    def keep_token(self, token_hash: bytes, author: bytes, number: int, token: bytes) -> None:
        """Have a token stored with the next commit."""
        self._tokens.append((token_hash, author, number, token))

    def keep_proof(self, proof: bytes) -> None:
        """Have a proof of equivocation, or a notice, stored with the next commit."""
        self._proofs.append(proof)

    def keep_cosigned(self, witness: bytes, size: int, note: bytes) -> None:
        """Have a cosignature stored with the next commit; it is no reason for one."""
        self._cosigned[witness] = (size, note)

    @property
    def pending(self) -> int:
        """Entries that the next commit will hold."""
        return len(self._pending)

    def refuse(self, sender: bytes | None, reason: Reason, size: int, digest: bytes, now: float) -> bool:
        """Record a refusal that blames no author; True if that made an entry at once, else it is only counted.

        What is counted becomes one entry per (sender, reason) when the round closes.
        """
        key = (sender, reason)
        if key in self._refused or not self.take_refusal_slot(sender):
            self.count_refusal(sender, reason, size, digest)
            return False
        self.refused += 1
        self._refused[key] = _Refusals(0, 0, digest)
        self.append(MessageRefused(sender, int(reason), 1, size, digest), now)
        return True

    def count_refusal(self, sender: bytes | None, reason: Reason, size: int, digest: bytes) -> None:
        """Count a refusal that gets no entry before the round closes."""
        self.refused += 1
        counted = self._refused.setdefault((sender, reason), _Refusals(0, 0, digest))
        counted.count += 1
        counted.size += size

    def take_refusal_slot(self, sender: bytes | None) -> bool:
        """Whether this round may still have an entry of its own for a refusal of ``sender``'s."""
        used = self._slots_used.get(sender, 0)
        if used >= self._refusals_per_round:
            return False
        self._slots_used[sender] = used + 1
        return True

    def close_round(self, now: float) -> None:
        """Write what was only counted in the round that ends, and start counting afresh."""
        for (sender, reason), counted in sorted(self._refused.items(), key=lambda i: (i[0][0] or b"", i[0][1])):
            if counted.count:
                record = MessageRefused(sender, int(reason), counted.count, counted.size, counted.first)
                self.append(record, now)
        self._refused.clear()
        self._slots_used.clear()

    def flush(self) -> Commit | None:
        """The pending entries as one commit under a fresh checkpoint; None if there are none."""
        if not self._pending:
            return None
        return self._commit(self.log.checkpoint(self._key))

    def evidence_first(self, out: list[Effect]) -> list[Effect]:
        """``out`` behind a commit of what is pending if it refuses anything: evidence is durable before its sender
        learns of the refusal."""
        commit = self.flush() if any(isinstance(effect, Refuse) for effect in out) else None
        return out if commit is None else [commit, *out]

    def publish(
        self, record: UpdatePublished, author: bytes, now: float, private: bytes = b""
    ) -> tuple[Commit, bytes, int]:
        """Append an update, with its ``private`` part if it has one, and commit.

        Returns the commit, the update's token and its seq.
        """
        if private:
            salt, commitment = self.seal_private(private)
            seq = self.append_sealed(replace(record, private=commitment), private, salt, now)
        else:
            seq = self.append(record, now)
        note = self.log.checkpoint(self._key)
        token = make_token(self._pending[-1], self.log.inclusion(seq), note)
        self.keep_token(hashlib.sha256(token).digest(), author, record.number, token)
        return self._commit(note), token, seq

    def sign_with(self, key: SecretKey, epoch: int) -> None:
        """Sign with ``key``, the log key of ``epoch``, from here on."""
        self._key, self._key_epoch = key, epoch

    def recover(
        self,
        entries: Sequence[Entry],
        note: bytes,
        author: bytes,
        record: LogRecover,
        now: float,
        keep: int,
        changed: Sequence[tuple[int, SecretKey]] = (),
    ) -> Commit:
        """Make ``entries``, which ``note`` signed long ago, the next ones of this log, and ``record`` that.

        The newest ``keep`` updates among them get tokens under ``note``, to be served again. ``changed`` are (seq, key)
        of those that changed the log keys: the checkpoint that ends with such an entry, which ``key`` signed, is made
        again, byte for byte, since others are shown it. Raises LedgerCorrupt for entries that do not follow.
        """
        for entry in entries:
            self.log.replay(entry)
        self._pending += entries
        updates = []
        for entry in entries:
            header = parse_header(entry.header)
            update = parse_record(header.type, entry.payload) if header.type == EntryType.UPDATE_PUBLISHED else None
            if isinstance(update, UpdatePublished):
                updates.append((header.seq, entry, update.number))
        for seq, entry, number in updates[-keep:]:
            token = make_token(entry, self.log.inclusion(seq, record.to), note)
            self.keep_token(hashlib.sha256(token).digest(), author, number, token)
        self.append(record, now)
        commit = self._commit(self.log.checkpoint(self._key))
        ends = (Checkpoint(self.log.origin, seq + 1, self.log.root_at(seq + 1)) for seq, _ in changed)
        earlier = tuple((end.size, sign_checkpoint(end, key)) for end, (_, key) in zip(ends, changed, strict=True))
        return replace(commit, earlier=earlier)

    def _commit(self, note: bytes) -> Commit:
        self.signed, self.note = self.log.size, note
        cosigned = tuple((witness, *each) for witness, each in self._cosigned.items())
        commit = Commit(tuple(self._pending), note, tuple(self._tokens), tuple(self._proofs), cosigned)
        for kept in (self._pending, self._tokens, self._proofs, self._cosigned):
            kept.clear()
        return commit
