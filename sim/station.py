"""A part of a simulated population on a node of a cluster: params come and go as bytes, everything else is prepared.

A station prepares the same setup as whoever founded it, from the scenario and the files it names, so that no code and
no data travel. It keeps nothing from one piece of work to the next: another can do it as well if this one dies.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
import torch

from quidnunc.crypto.errors import ConfigError
from quidnunc.gossip.learning.params import Slot
from quidnunc.sim.batched.net import Tensors
from quidnunc.sim.batched.training import Trainer
from quidnunc.sim.scenarios.prepare import prepare
from quidnunc.sim.scenarios.spec import SimScenario
from quidnunc.sim.scenarios.versions import versions
from quidnunc.sim.trainer import Done, Work, done


class Founding(msgspec.Struct, frozen=True, array_like=True):
    """What a station is told once."""

    scenario: SimScenario
    seed: int
    base: str


class Given(msgspec.Struct, frozen=True, array_like=True):
    """A piece of work, the float32 params of its peers, and the momentum of the merged model (mostly none)."""

    work: Work
    params: bytes
    drift: bytes = b""


class Returned(msgspec.Struct, frozen=True, array_like=True):
    """What became of it: the params if they were trained, what was wrong (mostly nothing), and computed with what."""

    done: Done
    params: bytes
    problem: str
    versions: dict[str, str]


class Station:
    """Does any :class:`Given` of one population; its arguments and answers are msgpack."""

    def __init__(self, founding: bytes) -> None:
        told = msgspec.msgpack.decode(founding, type=Founding)
        torch.set_num_threads(told.scenario.engine.threads)
        self._problem = ""
        try:
            setup = prepare(told.scenario, told.seed, Path(told.base))
        except ConfigError as error:
            self._problem = error.message
            return
        self._slots, self._trainer = setup.net.slots, Trainer(setup)

    def work(self, given: bytes) -> bytes:
        """A :class:`Returned` for a :class:`Given`."""
        if self._problem:
            return msgspec.msgpack.encode(Returned(Done(), b"", self._problem, versions()))
        told = msgspec.msgpack.decode(given, type=Given)
        peers = told.work.high - told.work.low
        params = unpacked(told.params, peers, self._slots)
        drift = unpacked(told.drift, peers, self._slots) if told.drift else None
        found = done(self._trainer, told.work, params, drift)
        back = packed(params) if told.work.number >= 0 else b""
        return msgspec.msgpack.encode(Returned(found, back, "", versions()))


def packed(params: Tensors) -> bytes:
    """Params [c, *shape] of every slot, one slot after the other, float32 as it stands in memory."""
    return b"".join(tensor.contiguous().numpy().tobytes() for tensor in params)


def unpacked(body: bytes, peers: int, slots: Sequence[Slot]) -> Tensors:
    """The params that :func:`packed` made of those of ``peers``. Raises ValueError where there are more or fewer."""
    if len(body) != 4 * peers * slots[-1].stop:
        raise ValueError(f"{len(body)} bytes of params, must be {4 * peers * slots[-1].stop}")
    whole = torch.from_numpy(np.frombuffer(bytearray(body), np.float32))
    return [whole[peers * slot.start : peers * slot.stop].view(peers, *slot.shape) for slot in slots]
