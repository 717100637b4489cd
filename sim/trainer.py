"""A part of a simulated population in a process of its own: ``python -m quidnunc.sim.trainer``.

Frames on stdin and stdout: a length of four bytes, then msgpack. The first one in is a :class:`Post`: from it and the
scenario's files this process prepares the same setup as its parent. Every :class:`Work` after it is answered by one
:class:`Done`. Params stand in memory that both map: what is given is never written to, so that work can be given again
to another process if this one dies. The end of stdin ends it, whatever became of the parent.
"""

from __future__ import annotations

import os
import struct
import sys
from pathlib import Path
from typing import IO

import msgspec
import numpy as np
import torch

from quidnunc.gossip.learning.params import Slot
from quidnunc.sim.batched.net import Tensors
from quidnunc.sim.batched.training import Trainer, of_part
from quidnunc.sim.scenarios.prepare import prepare
from quidnunc.sim.scenarios.spec import SimScenario

FRAME_BYTES_MAX = 64 << 20
GIVEN, TAKEN, DRIFT = range(3)
"""Places of the shared memory: params that are given, params that came of them, momentum of the merged model."""

_LENGTH = struct.Struct(">I")


class Post(msgspec.Struct, frozen=True, array_like=True):
    """What a worker works on; ``memory`` is an inherited descriptor of float32 [places, n * d]."""

    scenario: SimScenario
    seed: int
    base: str
    memory: int
    places: int


class Work(msgspec.Struct, frozen=True, array_like=True):
    """Train the peers ``low`` to ``high`` that are ``active`` for a round, or test them (``number`` -1)."""

    low: int
    high: int
    number: int = -1
    active: tuple[bool, ...] = ()


class Done(msgspec.Struct, frozen=True, array_like=True):
    """The sum of training losses; accuracy and loss of each peer that was tested."""

    loss: float = 0.0
    accuracies: tuple[float, ...] = ()
    losses: tuple[float, ...] = ()


def write_frame(file: IO[bytes], message: msgspec.Struct) -> None:
    """One message on a pipe."""
    body = msgspec.msgpack.encode(message)
    file.write(_LENGTH.pack(len(body)) + body)
    file.flush()


def read_frame(file: IO[bytes]) -> bytes | None:
    """The next message's bytes; None where the pipe has ended, in the middle of one or not."""
    head = file.read(_LENGTH.size)
    if len(head) < _LENGTH.size or _LENGTH.unpack(head)[0] > FRAME_BYTES_MAX:
        return None
    (length,) = _LENGTH.unpack(head)
    body = file.read(length)
    return body if len(body) == length else None


def mapped(memory: int, places: int, peers: int, slots: tuple[Slot, ...]) -> list[Tensors]:
    """The shared memory as one tensor [n, *shape] per slot, for each of its places."""
    dim = slots[-1].stop
    with os.fdopen(os.dup(memory), "r+b") as file:
        whole = torch.from_numpy(np.memmap(file, np.float32, "r+", shape=(places, peers * dim)))
    return [
        [place[peers * slot.start : peers * slot.stop].view(peers, *slot.shape) for slot in slots] for place in whole
    ]


def main() -> int:
    """Work until there is no more."""
    source, target = sys.stdin.buffer, sys.stdout.buffer
    first = read_frame(source)
    if first is None:
        return 0
    post = msgspec.msgpack.decode(first, type=Post)
    torch.set_num_threads(post.scenario.engine.threads)
    setup = prepare(post.scenario, post.seed, Path(post.base))
    shared = mapped(post.memory, post.places, len(setup.shares.rows), setup.net.slots)
    trainer = Trainer(setup)
    decoder = msgspec.msgpack.Decoder(Work)
    while (body := read_frame(source)) is not None:
        write_frame(target, _done(trainer, shared, decoder.decode(body)))
    return 0


def _done(trainer: Trainer, shared: list[Tensors], work: Work) -> Done:
    part = work.low, work.high
    given, taken = of_part(shared[GIVEN], part), of_part(shared[TAKEN], part)
    if work.number < 0:
        return done(trainer, work, given, None)
    for before, after in zip(given, taken, strict=True):
        after.copy_(before)
    return done(trainer, work, taken, of_part(shared[DRIFT], part) if len(shared) > DRIFT else None)


def done(trainer: Trainer, work: Work, params: Tensors, drift: Tensors | None) -> Done:
    """Do it to the ``params`` of its peers: training changes them."""
    if work.number < 0:
        found = trainer.test_part(params)
        return Done(0.0, tuple(found.accuracy.tolist()), tuple(found.loss.tolist()))
    with torch.no_grad():
        loss = trainer.train_part(params, (work.low, work.high), np.array(work.active), work.number, drift)
    return Done(loss)


if __name__ == "__main__":
    raise SystemExit(main())
