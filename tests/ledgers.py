"""A ledger's author for tests: makes entries, checkpoints and tokens the way a node does."""

from __future__ import annotations

import hashlib

from quidnunc.crypto.encoding import encode
from quidnunc.crypto.entry import Entry, EntryType, commit_private, log_id_of
from quidnunc.crypto.identity import SecretKey
from quidnunc.crypto.log import Log
from quidnunc.crypto.token import make_token

Token = tuple[bytes, bytes, int, bytes]


class Author:
    """One log and the key that signs it. Everything it makes follows from ``seed``."""

    def __init__(self, seed: int = 1) -> None:
        self.key = SecretKey.from_seed(bytes([seed]) * 32)
        self.log = Log(log_id_of(bytes([seed])))

    @property
    def log_id(self) -> bytes:
        return self.log.log_id

    def entry(self, text: str = "", *, private: bytes = b"") -> Entry:
        """The next entry; with a private part if one is given."""
        seq = self.log.size
        payload: dict[str, str | int | bytes] = {"n": seq, "text": text}
        salt = hashlib.sha256(b"private salt" + bytes([seq % 256])).digest()[:16] if private else b""
        if private:
            payload["pv"] = commit_private(salt, private)
        return self.log.append(
            EntryType.EVAL,
            encode(payload),
            salt=hashlib.sha256(seq.to_bytes(8, "big")).digest()[:16],
            t_ms=1_760_000_000_000 + seq,
            private=private,
            private_salt=salt,
        )

    def entries(self, count: int) -> list[Entry]:
        """``count`` more entries, every third with a private part."""
        return [self.entry("x" * index, private=b"score" if self.log.size % 3 == 2 else b"") for index in range(count)]

    def note(self) -> bytes:
        """The signed checkpoint over all entries so far."""
        return self.log.checkpoint(self.key)

    def token(self, entry: Entry, number: int) -> Token:
        """The token of an entry, as Commit.tokens wants it."""
        seq = next(seq for seq in range(self.log.size) if self.log.leaf(seq) == entry.leaf)
        body = make_token(entry, self.log.inclusion(seq), self.note())
        return hashlib.sha256(body).digest(), self.log_id, number, body
