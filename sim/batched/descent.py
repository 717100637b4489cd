"""Local SGD of one peer after the other in compiled code, for stacks of linear layers under cross entropy.

A peer's weights are transposed once, stay in the second cache for all of its steps, and are transposed back. Then
whatever a step multiplies is a list of rows (``products.py``): examples are read where the pool has them, and features
that are 0 in a whole batch, the margins of images, are left out. Imported only where numba is installed.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from numba import njit
from torch import Tensor

from quidnunc.gossip.rules.registers import LANES, Floats, floats
from quidnunc.sim.batched.draws import Indices
from quidnunc.sim.batched.products import product, softmax_error, turned
from quidnunc.sim.batched.stacks import Linears

_TINY = 1e-30
_FLAT = -1e30
"""Added to outputs that only fill a register: their softmax is 0."""
_AT_ONCE = 8
"""So many probabilities of at least _TINY have a product that float64 holds: one logarithm for all."""


class Room(NamedTuple):
    """A stack of linear layers, and where a peer's params, activations and errors stand while it is trained.

    ``widths`` [layers + 1] are the features and the units, ``padded`` [layers] the units up to whole registers;
    ``weights`` and ``biases`` are numbers of slots, -1 for none; ``rectified`` is 1 where a relu follows. The others
    are addresses of rows: of ``turned`` weights and of weights as they were, ``back``, [layers, rows]; of biases,
    activations and errors by example, [layers, batch]; of zeros, [batch]. ``offsets`` are multiples of a float's size;
    ``seen``, ``used``, ``first`` are room for one number per feature, and one more.
    """

    widths: Indices
    padded: Indices
    weights: Indices
    biases: Indices
    rectified: Indices
    turned: Indices
    back: Indices
    shifts: Indices
    hidden: Indices
    errors: Indices
    zeros: Indices
    offsets: Indices
    seen: Floats
    used: Indices
    first: Indices


@njit(nogil=True)  # type: ignore[untyped-decorator]
def _bring(room: Room, params: Indices, peer: int, here: bool) -> None:
    """Bring a peer's params to the room, or back."""
    layers = len(room.padded)
    for n in range(layers):
        above, units, padded = room.widths[n], room.widths[n + 1], room.padded[n]
        weight, shifts = params[room.weights[n]] + 4 * peer * above * units, floats(room.shifts[n, 0], padded)
        if here:
            turned(weight, units, above, above, room.turned[n, 0], padded, True)
            for k in range(padded):
                shifts[k] = 0 if n + 1 < layers or k < units else _FLAT
        else:
            turned(room.turned[n, 0], above, units, padded, weight, above, False)
        if room.biases[n] >= 0:
            biases = floats(params[room.biases[n]] + 4 * peer * units, units)
            for k in range(units):
                if here:
                    shifts[k] = biases[k]
                else:
                    biases[k] = shifts[k]


@njit(nogil=True)  # type: ignore[untyped-decorator]
def _use(room: Room, examples: Indices, batch: int) -> int:
    """Find the features that are not 0 in some example: their offsets into ``used``, their weights into ``first``."""
    seen, count = room.seen, 0
    for k in range(len(seen)):
        seen[k] = 0
    for b in range(batch):
        values = floats(examples[b], len(seen))
        for k in range(len(seen)):
            seen[k] = seen[k] if values[k] == 0 else np.float32(1)
    for k in range(len(seen)):
        room.used[count] = room.offsets[k]
        room.first[count] = room.turned[0, k]
        count += seen[k] != 0
    return count


@njit(nogil=True)  # type: ignore[untyped-decorator]
def _forward(room: Room, examples: Indices, batch: int, count: int) -> None:
    for n in range(len(room.padded)):
        into, padded = room.hidden[n], room.padded[n]
        if n == 0:
            product(room.shifts[0], into, examples, batch, room.used, room.first, count, padded)
        else:
            left, above = room.hidden[n - 1], room.widths[n]
            product(room.shifts[n], into, left, batch, room.offsets, room.turned[n], above, padded)
        if room.rectified[n]:
            values = floats(into[0], batch * padded)
            for k in range(len(values)):
                values[k] = np.float32(0) if values[k] < 0 else values[k]


@njit(nogil=True)  # type: ignore[untyped-decorator]
def _error(room: Room, batch: int, goals: Indices, pick: Indices, rate: float) -> float:
    """Errors of the last layer: minus ``rate`` times the gradient of the mean loss, which is returned."""
    last, width = len(room.padded) - 1, room.padded[-1]
    outputs, errors = floats(room.hidden[last, 0], batch * width), floats(room.errors[last, 0], batch * width)
    for k in range(len(errors)):
        errors[k] = outputs[k]
    loss, chances = 0.0, 1.0
    for b in range(batch):
        chance = np.float64(softmax_error(room.errors[last, b], width, goals[pick[b]], np.float32(-rate / batch)))
        chances *= _TINY if chance < _TINY else chance
        if b % _AT_ONCE == _AT_ONCE - 1 or b == batch - 1:
            loss -= math.log(chances)
            chances = 1.0
    return loss / batch


@njit(nogil=True)  # type: ignore[untyped-decorator]
def _backward(room: Room, examples: Indices, batch: int, count: int) -> None:
    """Pass the errors on, and add to all params what follows from them."""
    for n in range(len(room.padded) - 1, -1, -1):
        errors, padded, above, units = room.errors[n], room.padded[n], room.widths[n], room.widths[n + 1]
        if n:
            below = room.padded[n - 1]
            turned(room.turned[n, 0], above, units, padded, room.back[n, 0], below, True)
            product(room.zeros, room.errors[n - 1], errors, batch, room.offsets, room.back[n], units, below)
            if room.rectified[n - 1]:
                passed = floats(room.errors[n - 1, 0], batch * below)
                values = floats(room.hidden[n - 1, 0], batch * below)
                for k in range(len(passed)):
                    passed[k] = np.float32(0) if values[k] <= 0 else passed[k]
            weights = room.turned[n]
            product(weights, weights, room.offsets, above, room.hidden[n - 1], errors, batch, padded)
        else:
            product(room.first, room.first, room.used, count, examples, errors, batch, padded)
        if room.biases[n] >= 0:
            shifts = floats(room.shifts[n, 0], padded)
            for b in range(batch):
                error = floats(errors[b], padded)
                for k in range(padded):
                    shifts[k] += error[k]


@njit(nogil=True)  # type: ignore[untyped-decorator]
def descend(
    room: Room, params: Indices, inputs: int, goals: Indices, picks: Indices, sizes: Indices, rate: float
) -> float:
    """Steps of SGD of many peers, in place: the sum over peers of the mean of their batches' mean losses.

    ``params`` [slots] and ``inputs`` are addresses of C-contiguous float32: what all peers have of a slot, the pool's
    examples. ``goals`` are the pool's labels, ``picks`` [steps, n, batch] the examples in it, of which the first
    ``sizes`` [n] of each peer count.
    """
    steps, peers, most = picks.shape
    examples = np.empty(most, np.int64)
    total = 0.0
    for peer in range(peers):
        batch = sizes[peer]
        _bring(room, params, peer, True)
        for step in range(steps):
            pick = picks[step, peer]
            for b in range(batch):
                examples[b] = inputs + 4 * room.widths[0] * pick[b]
            count = _use(room, examples, batch)
            _forward(room, examples, batch, count)
            total += _error(room, batch, goals, pick, rate) / steps
            _backward(room, examples, batch, count)
        _bring(room, params, peer, False)
    return total


class Descent:
    """Compiled steps of a stack, with room for batches of up to ``batch`` examples."""

    def __init__(self, stack: Linears, batch: int) -> None:
        widths = stack.widths
        padded = [-(-units // LANES) * LANES for units in widths[1:]]
        layers, most = len(padded), max(*widths, batch)
        # Of each layer: its weights turned, turned back, biases, activations, errors.
        rows = np.array([(widths[n], widths[n + 1], 1, batch, batch) for n in range(layers)])
        apart = np.array([(padded[n], padded[n - 1] if n else 0, *[padded[n]] * 3) for n in range(layers)])
        ends = np.cumsum(rows * apart)
        self._scratch = torch.zeros(int(ends[-1]) + max(padded))
        starts = self._scratch.data_ptr() + 4 * (ends.reshape(apart.shape) - rows * apart)
        addresses = starts[:, :, None] + 4 * np.where(rows > 1, apart, 0)[:, :, None] * np.arange(most)
        turned, back, shifts, hidden, errors = np.ascontiguousarray(addresses.swapaxes(0, 1))
        self._room = Room(
            widths=np.array(widths),
            padded=np.array(padded),
            weights=np.array(stack.weights),
            biases=np.array(stack.biases),
            rectified=np.array(stack.rectified, np.int64),
            turned=turned,
            back=back,
            shifts=shifts,
            hidden=hidden,
            errors=errors,
            zeros=np.full(most, self._scratch.data_ptr() + 4 * ends[-1]),
            offsets=4 * np.arange(most),
            seen=np.empty(widths[0], np.float32),
            used=np.empty(widths[0] + 1, np.int64),
            first=np.empty(widths[0] + 1, np.int64),
        )

    def descend(
        self, params: list[Tensor], inputs: Tensor, goals: Tensor, picks: Indices, sizes: Indices, rate: float
    ) -> float:
        """Train peers in place: see :func:`descend`; all tensors are contiguous and on the CPU."""
        assert all(tensor.is_contiguous() and tensor.dtype == torch.float32 for tensor in (*params, inputs))
        places = np.array([tensor.data_ptr() for tensor in params], dtype=np.int64)
        total = descend(self._room, places, inputs.data_ptr(), goals.numpy(), picks, sizes, rate)
        return float(total)
