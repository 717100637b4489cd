"""Histories for tests of proofs: logs with all their headers, honest ones and forked ones, all made from seeds."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

from quidnunc.crypto.checkpoint import Checkpoint, cosign_checkpoint, origin_of, sign_checkpoint
from quidnunc.crypto.encoding import Encodable, encode
from quidnunc.crypto.entry import Entry, EntryType, log_id_of
from quidnunc.crypto.fork import KeySpan, KnownKeys
from quidnunc.crypto.identity import SecretKey
from quidnunc.crypto.log import Log
from quidnunc.crypto.note import Verifier
from quidnunc.crypto.token import make_token

T_MS = 1_760_000_000_000


def key_of(name: str) -> SecretKey:
    """The key that this name always gives."""
    return SecretKey(hashlib.sha256(name.encode()).digest())


@dataclass
class History:
    """One log, every header in it, and the key that signs it now."""

    name: str
    key: SecretKey = field(init=False)
    log: Log = field(init=False)
    entries: list[Entry] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.key = key_of(self.name)
        self.log = Log(log_id_of(self.name.encode()))

    @property
    def origin(self) -> str:
        return self.log.origin

    @property
    def headers(self) -> list[bytes]:
        return [entry.header for entry in self.entries]

    @property
    def verifier(self) -> Verifier:
        return Verifier(self.origin, self.key.public)

    def grow(self, count: int, mark: str = "", *, step_ms: int = 1000) -> History:
        """``count`` more entries, every second an update with the next number; ``mark`` makes them differ."""
        for _ in range(count):
            seq = self.log.size
            kind = EntryType.UPDATE_PUBLISHED if seq % 2 else EntryType.EVAL
            payload: dict[str, Encodable] = {"fe": b"f" * 32, "un": seq // 2 + 1, "mark": mark}
            self.add(kind, encode(payload), t_ms=T_MS + seq * step_ms)
        return self

    def add(self, kind: int, payload: bytes, *, t_ms: int = T_MS) -> Entry:
        """One entry of any kind."""
        salt = hashlib.sha256(self.name.encode() + self.log.size.to_bytes(8, "big")).digest()[:16]
        self.entries.append(self.log.append(kind, payload, salt=salt, t_ms=t_ms))
        return self.entries[-1]

    def fork(self, at: int) -> History:
        """Another history of the same log and key with the first ``at`` entries of this one."""
        other = History(self.name)
        other.key = self.key
        for entry in self.entries[:at]:
            other.log.replay(entry)
            other.entries.append(entry)
        return other

    def note(self, size: int | None = None, key: SecretKey | None = None) -> bytes:
        """The signed checkpoint over the first ``size`` entries."""
        size = self.log.size if size is None else size
        return sign_checkpoint(Checkpoint(self.origin, size, self.log.root_at(size)), key or self.key)

    def token(self, seq: int, size: int | None = None) -> bytes:
        """The token of entry ``seq`` in the tree of ``size``."""
        return make_token(self.entries[seq], self.log.inclusion(seq, size), self.note(size))


def witness(name: str) -> tuple[bytes, SecretKey]:
    """The log id and the witness key of the member ``name``."""
    return log_id_of(name.encode()), key_of(f"{name} witness")


def cosigned(note: bytes, *names: str, time: int = T_MS // 1000) -> bytes:
    """``note`` with the cosignatures of these members, the first at ``time`` and each a second after."""
    for number, name in enumerate(names):
        log_id, key = witness(name)
        note = cosign_checkpoint(note, log_id, key, time=time + number)
    return note


def known(*histories: History, witnesses: tuple[str, ...] = ()) -> KnownKeys:
    """The keys of these logs, valid for every size, and of these witnesses."""
    logs = {history.origin: [KeySpan(history.key.public)] for history in histories}
    return KnownKeys(logs, {origin_of(witness(name)[0]): [witness(name)[1].public] for name in witnesses})
