"""What codecs leave of published states: deltas against the replica that everybody holds, as the daemon sends them.

``int8`` rounds without bias to the same levels as ``gossip/learning/codec.py``, at the same scales. ``top_k`` sends the
largest coordinates as they are and carries the rest into the next delta (error feedback: Stich et al. 2018); no daemon
speaks it. What is published is what merges act on, the own part included.
"""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
import torch
from msgspec import Meta, Struct
from numpy.typing import NDArray
from torch import Tensor

from quidnunc.gossip.learning.codec import MAX_EXPONENT, MIN_EXPONENT
from quidnunc.sim.batched.draws import Indices, keys, uniforms
from quidnunc.sim.batched.net import Tensors

_LEVELS = 127
_BLOCK_BYTES = 16 << 20
_VALUE_BYTES, _PLACE_BYTES = 4, 4


class CodecSpec(Struct, frozen=True, forbid_unknown_fields=True):
    """How deltas are sent: ``float32`` as they are; ``share`` is the part of the coordinates that ``top_k`` sends."""

    kind: Literal["float32", "int8", "top_k"] = "float32"
    share: Annotated[float, Meta(gt=0.0, le=1.0)] = 0.05

    def kept(self, dim: int) -> int:
        """Coordinates that are sent of ``dim``."""
        return max(1, round(self.share * dim)) if self.kind == "top_k" else dim

    def size(self, dim: int) -> int:
        """Bytes of a delta of ``dim`` params."""
        if self.kind == "int8":
            return 1 + dim
        return self.kept(dim) * (_VALUE_BYTES + (_PLACE_BYTES if self.kind == "top_k" else 0))


class Codec:
    """The replicas of all peers, from ``genesis`` on, and what has not been sent yet. ``names`` are the scenario's."""

    def __init__(self, spec: CodecSpec, genesis: Tensors, names: Indices, seed: int) -> None:
        self._spec = spec
        self._names = names
        self._seed = seed
        start = torch.cat([tensor.reshape(-1) for tensor in genesis])
        self._replicas = start.repeat(len(names), 1)
        self._unsent = torch.zeros_like(self._replicas) if spec.kind == "top_k" else None

    def publish(self, states: Tensors, active: NDArray[np.bool_], number: int) -> None:
        """Put what everybody holds of the ``active`` peers after round ``number`` in place of their ``states``.

        ``states`` are one tensor [n, *shape] per slot.
        """
        rows = np.flatnonzero(active)
        step = max(1, _BLOCK_BYTES // (8 * self._replicas.shape[1]))
        for at in range(0, len(rows), step):
            some = rows[at : at + step]
            index = torch.from_numpy(some).to(states[0].device)
            trained = torch.cat([tensor.index_select(0, index).flatten(1) for tensor in states], dim=1)
            after = self._advance(some, trained.to(self._replicas.device), number).to(states[0].device)
            left = 0
            for tensor in states:
                right = left + tensor[0].numel()
                tensor.index_copy_(0, index, after[:, left:right].reshape(len(some), *tensor.shape[1:]))
                left = right

    def _advance(self, rows: Indices, trained: Tensor, number: int) -> Tensor:
        index = torch.from_numpy(rows)
        replicas = self._replicas.index_select(0, index)
        wanted = trained - replicas
        if self._unsent is None:
            replicas += self._rounded(wanted, rows, number)
        else:
            wanted += self._unsent.index_select(0, index)
            places = wanted.abs().topk(self._spec.kept(wanted.shape[1]), dim=1).indices
            sent = torch.zeros_like(wanted).scatter_(1, places, wanted.gather(1, places))
            self._unsent.index_copy_(0, index, wanted - sent)
            replicas += sent
        self._replicas.index_copy_(0, index, replicas)
        return replicas

    def _rounded(self, wanted: Tensor, rows: Indices, number: int) -> Tensor:
        """q * 2**e with q = floor(wanted / 2**e + uniform), e the least for which no q exceeds 127."""
        names = keys(self._seed, "codec", number, self._names[rows])
        values = wanted.numpy().astype(np.float64)
        largest = np.abs(values).max(axis=1)
        # A peer that has diverged publishes nothing that could be taken for params; the engine tells of it.
        values[~np.isfinite(largest)] = np.nan
        mantissa, exponent = np.frexp(np.where(np.isfinite(largest), largest, 1.0) / _LEVELS)
        exponent = np.clip(exponent - (mantissa == 0.5), MIN_EXPONENT, MAX_EXPONENT)[:, None]
        steps = np.floor(np.ldexp(values, -exponent) + uniforms(names, values.shape[1]))
        return torch.from_numpy(np.ldexp(np.clip(steps, -_LEVELS, _LEVELS), exponent).astype(np.float32))
