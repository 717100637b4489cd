"""Noise transport messages in bulk: a length and a sealed plaintext each, many of them in one buffer. No IO.

What follows the handshake of https://noiseprotocol.org/noise.html (revision 34, sections 5.1 and 11.4) on libp2p's
wire (https://github.com/libp2p/specs/tree/master/noise): every message is its length in two bytes, big-endian, and a
ChaCha20-Poly1305 ciphertext under a counter. libp2p's own code handles one message at a time, with some ten
copies and a dozen awaits for each; this code seals and opens in place, several messages to a system call.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

MESSAGE_BYTES = 65_535
TAG_BYTES = 16
PLAIN_BYTES = MESSAGE_BYTES - TAG_BYTES
"""The most that one message carries."""
_LENGTH = struct.Struct(">H")
_NONCE = struct.Struct("<4xQ")


class BadMessage(Exception):
    """A message that is too short or does not authenticate: the channel is over."""


class Sealer:
    """Seals plaintexts written to ``plain`` into a buffer of up to ``messages`` messages.

    ``counter`` is the nonce of the next message under ``key``, as the handshake left it.
    """

    def __init__(self, key: bytes, counter: int, messages: int) -> None:
        self._cipher = ChaCha20Poly1305(key)
        self._counter = counter
        self._plain = memoryview(bytearray(PLAIN_BYTES))
        self._sealed = memoryview(bytearray(messages * (_LENGTH.size + MESSAGE_BYTES)))
        self._used = 0

    @property
    def plain(self) -> memoryview:
        """Where the plaintext of the next message goes."""
        return self._plain

    @property
    def full(self) -> bool:
        """Whether there is no room for another message of any size."""
        return len(self._sealed) - self._used < _LENGTH.size + MESSAGE_BYTES

    def seal(self, size: int) -> None:
        """Add a message of the first ``size`` bytes of ``plain``; the sealer must not be full."""
        start, end = self._used + _LENGTH.size, self._used + _LENGTH.size + size + TAG_BYTES
        _LENGTH.pack_into(self._sealed, self._used, size + TAG_BYTES)
        nonce = _NONCE.pack(self._counter)
        self._cipher.encrypt_into(nonce, self._plain[:size], None, self._sealed[start:end])
        self._counter += 1
        self._used = end

    def take(self) -> memoryview:
        """Everything sealed since the last call; valid until the next :meth:`seal`."""
        sealed = self._sealed[: self._used]
        self._used = 0
        return sealed


class Opener:
    """Opens the messages in a byte stream that is received into ``room`` and begins with ``early``."""

    def __init__(self, key: bytes, counter: int, messages: int, early: bytes | bytearray = b"") -> None:
        self._cipher = ChaCha20Poly1305(key)
        self._counter = counter
        self._received = memoryview(bytearray(messages * (_LENGTH.size + MESSAGE_BYTES)))
        self._plain = memoryview(bytearray(PLAIN_BYTES))
        self._filled = len(early)
        self._received[: self._filled] = early

    @property
    def room(self) -> memoryview:
        """Where the next bytes from the network go; never empty between calls of :meth:`opened`."""
        return self._received[self._filled :]

    def opened(self, count: int) -> Iterator[memoryview]:
        """The plaintexts that ``count`` more bytes in ``room`` complete, each valid until the next.

        Raises BadMessage. To be exhausted before ``room`` is used again.
        """
        self._filled += count
        at = 0
        while self._filled - at >= _LENGTH.size:
            size = _LENGTH.unpack_from(self._received, at)[0]
            start, end = at + _LENGTH.size, at + _LENGTH.size + size
            if end > self._filled:
                break
            yield self._open(self._received[start:end])
            at = end
        left = self._filled - at
        self._received[:left] = self._received[at : self._filled]
        self._filled = left

    def _open(self, sealed: memoryview) -> memoryview:
        size = len(sealed) - TAG_BYTES
        if size < 0:
            raise BadMessage(f"message of {len(sealed)} bytes, must be {TAG_BYTES} or more")
        plain = self._plain[:size]
        try:
            self._cipher.decrypt_into(_NONCE.pack(self._counter), sealed, None, plain)
        except InvalidTag:
            raise BadMessage(f"message {self._counter} does not authenticate") from None
        self._counter += 1
        return plain
