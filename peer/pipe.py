"""The pipe between the daemon and its compute process: frames, and jobs and results as bytes.

A frame is a 4-byte little-endian length and that many bytes. A message is msgpack ``[class name, {field:
value}]``; a decoder knows a fixed set of classes, checks every type, and refuses what it would not have
written itself. Nothing that arrives can name code to be run.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec
import trio

from quidnunc.crypto.errors import LocalProtocolError, Malformed
from quidnunc.crypto.pairwise import PairKey
from quidnunc.gossip import jobs
from quidnunc.gossip.jobs import Job, JobFailed
from quidnunc.gossip.task import Plan, Site, Training

FRAME_BYTES_MAX = 1024 * 1024
"""Messages name params by hash, so that a merge of a thousand neighbors fits."""

WHY_CHARS_MAX = 500
"""Characters of a failure's cause that travel."""

NOTES_MAX = 256
NOTE_CHARS_MAX = 300
"""Remarks on the data that travel, and characters of each."""

_LENGTH = struct.Struct("<I")


@dataclass(frozen=True, slots=True)
class Setup:
    """The first frame to a compute process: what it computes with. ``noise_key`` is 32 secret bytes, used
    once.

    ``path`` to ``blank`` are a :class:`quidnunc.gossip.task.Site`; ``genesis_seed`` to
    ``merge_options`` are the charter's plan; the rest is this site's configuration. ``pairs`` are secret as well: the
    keys of a private sum's pairs. ``side`` is the descriptor of a socket for advancing replicas of ``dim`` params.
    """

    task: str
    blobs: str
    noise_key: bytes = field(default=b"", repr=False)
    path: str = ""
    index: int = 0
    peers: int = 1
    alpha: float = 0.5
    seed: int = 0
    options: Mapping[str, str | int | float | bool] = field(default_factory=dict)
    schema: str = ""
    blank: bool = False
    genesis_seed: int = 0
    codec: int = 1
    learning_rate: float = 0.1
    momentum: float = 0.9
    local_steps: int = 1
    batch_size: int = 32
    prox: float = 0.0
    merge_rule: str = "repute"
    merge_options: Mapping[str, float] = field(default_factory=dict)
    attack: str = ""
    threads: int = 1
    memory_bytes: int = 0
    blob_bytes_max: int = 256 * 1024 * 1024
    private: bool = False
    rounds: int = 0
    personal: tuple[str, ...] = ()
    pairs: tuple[PairKey, ...] = field(default=(), repr=False)
    dim: int = 0
    side: int = -1
    beat_s: float = 1.0

    def site(self) -> Site:
        """Where the task function runs."""
        return Site(
            *(self.index, self.peers, self.alpha, self.seed, self.path, self.options),
            schema=self.schema,
            blank=self.blank,
        )

    def plan(self) -> Plan:
        """The charter's plan. Raises ConfigError for values out of range."""
        training = Training(self.learning_rate, self.momentum, self.local_steps, self.batch_size, self.prox)
        return Plan(
            *(self.genesis_seed, self.codec, training, self.merge_rule, self.merge_options, self.private, self.rounds),
            self.personal,
        )


@dataclass(frozen=True, slots=True)
class Ready:
    """The task is loaded and jobs may come. What runs there: versions of this program and of torch."""

    program: str = ""
    torch: str = ""


@dataclass(frozen=True, slots=True)
class Noted:
    """What the task, now that it is built, remarks on the local data; comes before the answer to a job."""

    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SetupFailed:
    """The task cannot be loaded; the process ends.

    ``message`` and ``hint`` are those of a ConfigError, or of a StoreUnwritable if ``unwritable``.
    """

    message: str
    hint: str
    unwritable: bool = False


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """Sent while something is being computed. ``progress`` grows as long as the computation gets anywhere."""

    progress: int


class Codec:
    """Bytes for a fixed set of dataclasses, tagged by class name."""

    def __init__(self, *classes: type) -> None:
        self._decoders: dict[str, msgspec.msgpack.Decoder[Any]] = {
            cls.__name__: msgspec.msgpack.Decoder(cls) for cls in classes
        }
        self._envelope = msgspec.msgpack.Decoder(tuple[str, msgspec.Raw])
        self._encoder = msgspec.msgpack.Encoder()

    def encode(self, message: object) -> bytes:
        """``message`` as bytes. Raises LocalProtocolError when its class or a field is not one of ours."""
        name = type(message).__name__
        decoder = self._decoders.get(name)
        if decoder is None:
            raise LocalProtocolError(f"a {name} does not travel on this pipe")
        try:
            checked = decoder.decode(self._encoder.encode(message))
        except (msgspec.ValidationError, TypeError, OverflowError, UnicodeEncodeError) as error:
            raise LocalProtocolError(f"{name}: {error}") from error
        return self._encoder.encode((name, checked))

    def decode(self, data: bytes) -> Any:
        """The message that ``data`` encodes. Raises Malformed for what this codec would not have written."""
        try:
            name, body = self._envelope.decode(data)
            message = self._decoders[name].decode(body)
        except KeyError:
            raise Malformed(f"pipe message of an unknown class {name[:40]!r}") from None
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise Malformed(f"pipe message: {error}") from error
        if self._encoder.encode((name, message)) != data:
            raise Malformed(f"pipe message {name}: not in canonical form")
        return message


_JOBS = (
    jobs.DescribeJob,
    jobs.AccountJob,
    jobs.TrainJob,
    jobs.AdvanceJob,
    jobs.AdoptJob,
    jobs.MergeJob,
    jobs.MedianJob,
    jobs.EvaluateJob,
)
_RESULTS = (
    jobs.Described,
    jobs.Accounted,
    jobs.Trained,
    jobs.Advanced,
    jobs.Rejected,
    jobs.Merged,
    jobs.Adopted,
    jobs.Evaluated,
    jobs.JobFailed,
)

TO_CHILD = Codec(Setup, *_JOBS)
TO_PARENT = Codec(Ready, Noted, SetupFailed, Heartbeat, *_RESULTS)


def failed(job: Job, why: str, missing: bytes = b"") -> JobFailed:
    """The failure of ``job``, with the author and number it was about, if it was about one."""
    return JobFailed(
        type(job).__name__,
        plain(why),
        missing=missing,
        author=getattr(job, "author", b""),
        number=getattr(job, "number", 0),
    )


def plain(text: str) -> str:
    """What user code had to say, as one printable line of at most WHY_CHARS_MAX characters."""
    line = "".join(char if char.isprintable() else " " for char in text[: WHY_CHARS_MAX + 1])
    return line if len(line) <= WHY_CHARS_MAX else line[: WHY_CHARS_MAX - 3] + "..."


def frame(data: bytes) -> bytes:
    """``data`` with its length in front. Raises LocalProtocolError over FRAME_BYTES_MAX."""
    if len(data) > FRAME_BYTES_MAX:
        raise LocalProtocolError(f"pipe frame of {len(data)} bytes, limit is {FRAME_BYTES_MAX}")
    return _LENGTH.pack(len(data)) + data


def write_frame(descriptor: int, data: bytes) -> None:
    """Write one frame, blocking. Raises BrokenPipeError when the reader is gone."""
    view = memoryview(frame(data))
    while view:
        view = view[os.write(descriptor, view) :]


def read_frame(descriptor: int) -> bytes | None:
    """Read one frame, blocking; None at the end. Raises Malformed for a frame over the cap or cut short."""
    head = _read_exactly(descriptor, _LENGTH.size)
    if not head:
        return None
    if len(head) < _LENGTH.size:
        raise Malformed("pipe ended inside a frame")
    size = _checked_length(head)
    body = _read_exactly(descriptor, size)
    if len(body) < size:
        raise Malformed("pipe ended inside a frame")
    return body


class FrameReader:
    """Frames out of a trio stream. A cancelled :meth:`read` loses nothing: the next one goes on there."""

    def __init__(self, stream: trio.abc.ReceiveStream) -> None:
        self._stream = stream
        self._buffer = bytearray()

    async def read(self) -> bytes | None:
        """The next frame, or None at the end. Raises Malformed for a frame over the cap or cut short."""
        while True:
            if len(self._buffer) >= _LENGTH.size:
                end = _LENGTH.size + _checked_length(self._buffer)
                if len(self._buffer) >= end:
                    body = bytes(self._buffer[_LENGTH.size : end])
                    del self._buffer[:end]
                    return body
            chunk = await self._stream.receive_some(65536)
            if not chunk:
                if self._buffer:
                    raise Malformed("pipe ended inside a frame")
                return None
            self._buffer += chunk


def _checked_length(head: bytes | bytearray) -> int:
    size: int = _LENGTH.unpack_from(head)[0]
    if size > FRAME_BYTES_MAX:
        raise Malformed(f"pipe frame of {size} bytes, limit is {FRAME_BYTES_MAX}")
    return size


def _read_exactly(descriptor: int, size: int) -> bytes:
    buffer = bytearray()
    while len(buffer) < size:
        chunk = os.read(descriptor, size - len(buffer))
        if not chunk:
            break
        buffer += chunk
    return bytes(buffer)
