"""Params: the trainable tensors of a module as one flat vector, sorted by name.

Buffers (running statistics, position tables) and frozen tensors are never part of it; since every peer builds
the module under the same genesis seed, frozen tensors start out the same everywhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from quidnunc.crypto.encoding import Encodable, encode
from quidnunc.crypto.errors import ConfigError, LocalProtocolError
from quidnunc.crypto.identity import tagged_hash
from quidnunc.gossip.learning.codec import Vector
from quidnunc.gossip.task import Task


class Slot(NamedTuple):
    """Where a tensor lies in the vector: ``vector[start:stop].reshape(shape)``."""

    name: str
    shape: tuple[int, ...]
    start: int
    stop: int


def layout(module: nn.Module) -> tuple[Slot, ...]:
    """The slots of all trainable tensors of ``module``, sorted by name and without gaps.

    Raises ConfigError if there are none, or if one is not float32.
    """
    slots, start = [], 0
    for name, tensor in _trainable(module):
        if tensor.dtype != torch.float32:
            raise ConfigError(
                f"model parameter {name} is {tensor.dtype}, must be torch.float32", hint="call model.float()"
            )
        stop = start + tensor.numel()
        slots.append(Slot(name, tuple(tensor.shape), start, stop))
        start = stop
    if not slots:
        raise ConfigError("model has no trainable parameters", hint="set requires_grad on what is to be learned")
    return tuple(slots)


def schema_of(slots: Sequence[Slot]) -> bytes:
    """SHA-256 that names a layout: two models whose shared ``slots`` have the same schema can exchange params."""
    rows: list[Encodable] = [[slot.name, "float32", list(slot.shape)] for slot in slots]
    return tagged_hash("schema", encode(rows))


def to_vector(module: nn.Module) -> Vector:
    """A copy of the module's params, float32 [d]."""
    layout(module)
    flat = torch.cat([tensor.detach().reshape(-1) for _, tensor in _trainable(module)])
    return np.array(flat.numpy(), dtype=np.float32)


def load_vector(module: nn.Module, vector: Vector) -> None:
    """Write ``vector`` [d] into the module. Raises LocalProtocolError for another length."""
    slots = layout(module)
    if vector.shape != (slots[-1].stop,):
        raise LocalProtocolError(f"vector has shape {vector.shape}, the model takes [{slots[-1].stop}]")
    flat = torch.tensor(vector)
    with torch.no_grad():
        for slot, (_, tensor) in zip(slots, _trainable(module), strict=True):
            tensor.copy_(flat[slot.start : slot.stop].view(slot.shape))


def build(task: Task, seed: int) -> nn.Module:
    """The task's model with its own initialization, reproducible by ``seed``; the caller's torch RNG is untouched."""
    with scoped_rng(seed):
        return task.model()


def genesis(task: Task, seed: int) -> Vector:
    """The params every member starts from, float32 [d]."""
    return to_vector(build(task, seed))


@contextmanager
def scoped_rng(seed: int) -> Iterator[None]:
    """Inside, torch's CPU random numbers follow ``seed``; outside, nothing has changed."""
    with torch.random.fork_rng(devices=[]):
        torch.set_rng_state(torch.Generator().manual_seed(seed).get_state())
        yield


def _trainable(module: nn.Module) -> list[tuple[str, nn.Parameter]]:
    named = [(name, tensor) for name, tensor in module.named_parameters() if tensor.requires_grad]
    return sorted(named, key=lambda pair: pair[0])
