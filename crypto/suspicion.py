"""Suspicion: what a peer holds against another and cannot prove to a third party.

Silence proves nothing: a log that does not answer may be unreachable, and nobody can show that it was asked. So
a suspicion has a type of its own that :func:`quidnunc.crypto.fork.verify_fork` refuses. Whoever has one stops
merging, and takes it back (``suspicion.cleared``) when it is answered.

A canonical array ``["quidnunc/v1/suspicion", kind, log id, deadline, challenge, material]``: the time in
milliseconds by which an answer was due, the SHA-256 of the request that was sent, and what it was about: the
checkpoint note that no consistency proof came for (kinds E, E2, E3), or the token under whose checkpoint the log
does not show its entries (kind F).
"""

from __future__ import annotations

import re
from enum import StrEnum
from typing import NamedTuple

from quidnunc.crypto.encoding import decode, encode
from quidnunc.crypto.errors import LocalProtocolError, Malformed, Reason, RemoteProtocolError
from quidnunc.crypto.identity import DOMAIN
from quidnunc.crypto.merkle import HASH_BYTES

SUSPICION_TAG = DOMAIN + "suspicion"
MAX_SUSPICION_BYTES = 24_576
MAX_MATERIAL_BYTES = 16_384

_MAX_T_MS = 2**64 - 1
_SERIES = re.compile(r"quidnunc/v[0-9]{1,9}/suspicion")


class SuspicionKind(StrEnum):
    """What is missing. The letters stand in stored evidence and never change."""

    NO_CONSISTENCY = "E"
    NO_ANSWER = "E2"
    STALE_HEAD = "E3"
    OMISSION = "F"

    @property
    def label(self) -> str:
        """The name as it stands in JSON and on the terminal, for example ``no_answer``."""
        return self.name.lower()


class Suspicion(NamedTuple):
    """``log_id`` owes an answer to ``challenge``, a hash, since ``deadline_ms``; ``material`` is what it is about."""

    kind: SuspicionKind
    log_id: bytes
    deadline_ms: int
    challenge: bytes
    material: bytes


def encode_suspicion(suspicion: Suspicion) -> bytes:
    """The bytes of ``suspicion``; :func:`parse_suspicion` gives the same one back."""
    wrong = _wrong(suspicion)
    if wrong:
        raise LocalProtocolError(wrong)
    return encode([SUSPICION_TAG, *suspicion])


def parse_suspicion(data: bytes) -> Suspicion:
    """The suspicion with exactly these bytes.

    Anything else raises :class:`Malformed`; one of a later version of the format raises
    :class:`RemoteProtocolError` with :attr:`Reason.VERSION`.
    """
    match decode(data, max_bytes=MAX_SUSPICION_BYTES):
        case [str(tag), *_] if tag != SUSPICION_TAG and _SERIES.fullmatch(tag):
            raise RemoteProtocolError(Reason.VERSION, f"suspicion of format {tag}, known is {SUSPICION_TAG}")
        case [tag, str(kind), bytes(log_id), int(deadline), bytes(challenge), bytes(material)] if tag == SUSPICION_TAG:
            if kind not in set(SuspicionKind):
                raise Malformed(f"no kind of suspicion is {kind[:16]!a}")
            suspicion = Suspicion(SuspicionKind(kind), log_id, deadline, challenge, material)
            wrong = _wrong(suspicion)
            if wrong:
                raise Malformed(wrong)
            return suspicion
    raise Malformed(f"not a suspicion: an array of {SUSPICION_TAG!r}, kind, log id, deadline, challenge and material")


def _wrong(suspicion: Suspicion) -> str:
    """What is wrong with the fields of ``suspicion``, "" if nothing is."""
    if len(suspicion.log_id) != HASH_BYTES or len(suspicion.challenge) != HASH_BYTES:
        return f"the log id and the challenge of a suspicion must be {HASH_BYTES} bytes"
    if isinstance(suspicion.deadline_ms, bool) or not 0 <= suspicion.deadline_ms <= _MAX_T_MS:
        return f"the deadline of a suspicion must be 0 to {_MAX_T_MS} milliseconds"
    if len(suspicion.material) > MAX_MATERIAL_BYTES:
        return f"material of {len(suspicion.material)} bytes in a suspicion, limit is {MAX_MATERIAL_BYTES}"
    return ""
