"""Losses of params on each peer's holdout, one peer after the other in compiled code, for stacks of linear layers.

A peer's examples are transposed, so that a register holds one feature of several of them, and weights are read as they
are and where they are. What lies between two peers' params is taken behind the first layer, which is affine in them.
Features that are 0 in all of a peer's examples are left out. Imported only where numba is installed.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from numba import njit
from torch import Tensor

from quidnunc.gossip.rules.linear import Reals
from quidnunc.gossip.rules.registers import LANES, Floats, floats
from quidnunc.sim.batched.draws import Indices
from quidnunc.sim.batched.products import powers, product, turned
from quidnunc.sim.batched.stacks import Linears

_AT_ONCE = 8
"""Sums of powers, each at least 1 and at most the number of outputs, whose product float64 holds: one logarithm."""


class Room(NamedTuple):
    """A stack of linear layers, and where examples and activations stand while a peer's neighborhood is measured.

    ``widths`` [layers + 1] are the features and the units; ``weights`` and ``biases`` are numbers of slots, -1 for
    none; ``rectified`` is 1 where a relu follows. ``taken`` and ``halfway`` are addresses of examples as they were and
    of params halfway; the next are addresses of rows ``apart`` floats from each other: of features, [features], of what
    the first layer makes by the own params, and of every layer's activations, [layers, units]. ``zeros`` [units] is one
    row. ``offsets`` are multiples of a float's size; ``left``, ``seen``, ``used``, ``rows`` are room for one number per
    unit and per feature; ``most`` and ``sums`` for one per example.
    """

    widths: Indices
    weights: Indices
    biases: Indices
    rectified: Indices
    apart: int
    taken: int
    halfway: int
    features: Indices
    own: Indices
    hidden: Indices
    zeros: Indices
    offsets: Indices
    left: Indices
    seen: Floats
    used: Indices
    rows: Indices
    most: Floats
    sums: Floats


@njit(nogil=True)  # type: ignore[untyped-decorator]
def _take(room: Room, inputs: int, picks: Indices) -> int:
    """Bring the examples ``picks`` of the pool to the room; how many features are not 0 in all of them."""
    width, seen, count = room.widths[0], room.seen, 0
    for k in range(width):
        seen[k] = 0
    for b in range(len(picks)):
        values, into = floats(inputs + 4 * width * picks[b], width), floats(room.taken + 4 * width * b, width)
        for k in range(width):
            into[k] = values[k]
            seen[k] = seen[k] if values[k] == 0 else np.float32(1)
    turned(room.taken, len(picks), width, width, room.features[0], room.apart, True)
    for k in range(width):
        room.used[count] = room.offsets[k]
        room.rows[count] = room.features[k]
        count += seen[k] != 0
    return count


@njit(nogil=True)  # type: ignore[untyped-decorator]
def _between(own: int, other: int, part: float, size: int, into: int) -> None:
    """Own params, and ``part`` of the way from them to others."""
    a, b, found = floats(own, size), floats(other, size), floats(into, size)
    for k in range(size):
        found[k] = a[k] + part * (b[k] - a[k])


@njit(nogil=True)  # type: ignore[untyped-decorator]
def _first(room: Room, params: Indices, row: int, part: float, used: int, padded: int, pivot: bool) -> None:
    """The first layer by the params in ``row``, and ``part`` of it from those of the ``pivot``, which come first."""
    above, units, shift = room.widths[0], room.widths[1], np.float32(0)
    start = params[room.weights[0]] + 4 * above * units * row
    for k in range(units):
        room.left[k] = start + 4 * above * k
    product(room.zeros, room.hidden[0], room.left, units, room.used, room.rows, used, padded)
    floor = np.float32(0) if room.rectified[0] else np.float32(-np.inf)
    for k in range(units):
        if room.biases[0] >= 0:
            shift = floats(params[room.biases[0]] + 4 * (units * row + k), 1)[0]
        values, own = floats(room.hidden[0, k], padded), floats(room.own[k], padded)
        if pivot:
            for b in range(padded):
                own[b] = values[b] + shift
        for b in range(padded):
            value = own[b] + part * (values[b] + shift - own[b])
            values[b] = floor if value < floor else value


@njit(nogil=True)  # type: ignore[untyped-decorator]
def _later(room: Room, params: Indices, own: int, row: int, part: float, padded: int) -> None:
    """The other layers by params ``part`` of the way from row ``own`` to ``row``."""
    for n in range(1, len(room.weights)):
        above, units = room.widths[n], room.widths[n + 1]
        size, place = above * units, params[room.weights[n]]
        _between(place + 4 * size * own, place + 4 * size * row, part, size, room.halfway)
        for k in range(units):
            room.left[k] = room.halfway + 4 * above * k
        product(room.zeros, room.hidden[n], room.left, units, room.offsets, room.hidden[n - 1], above, padded)
        if room.biases[n] >= 0:
            place = params[room.biases[n]]
            _between(place + 4 * units * own, place + 4 * units * row, part, units, room.halfway)
        shifts = floats(room.halfway, units)
        floor = np.float32(0) if room.rectified[n] else np.float32(-np.inf)
        for k in range(units):
            shift, values = shifts[k] if room.biases[n] >= 0 else np.float32(0), floats(room.hidden[n, k], padded)
            for b in range(padded):
                value = values[b] + shift
                values[b] = floor if value < floor else value


@njit(nogil=True)  # type: ignore[untyped-decorator]
def _loss(room: Room, goals: Indices, picks: Indices, padded: int) -> float:
    """The mean loss of the examples ``picks``, whose outputs are in the room."""
    outputs, many, count = room.hidden[-1], room.widths[-1], len(picks)
    for b in range(0, padded, LANES):
        powers(outputs[0] + 4 * b, 4 * room.apart, many, room.most, room.sums, b)
    loss, summed = 0.0, 1.0
    for b in range(count):
        loss += room.most[b] - floats(outputs[goals[picks[b]]] + 4 * b, 1)[0]
        summed *= room.sums[b]
        if b % _AT_ONCE == _AT_ONCE - 1 or b == count - 1:
            loss += math.log(summed)
            summed = 1.0
    return loss / count if count else math.nan


@njit(nogil=True)  # type: ignore[untyped-decorator]
def measure(
    room: Room,
    params: Indices,
    index: Indices,
    parts: Floats,
    inputs: int,
    goals: Indices,
    picks: Indices,
    starts: Indices,
    sizes: Indices,
    found: Reals,
) -> None:
    """Set ``found`` [m, b] to the mean loss of each peer b on its holdout, by m params each: those in row index[0, b],
    and those ``parts`` [m, b] of the way from there to the rows index[1:, b].

    ``params`` [slots] and ``inputs`` are addresses of C-contiguous float32, rows of params and the pool's examples;
    ``goals`` are the pool's labels, and the examples of b the ``sizes`` [b] of ``picks`` from ``starts`` [b] on.
    """
    many, peers = index.shape
    for peer in range(peers):
        some = picks[starts[peer] : starts[peer] + sizes[peer]]
        padded = -(-len(some) // LANES) * LANES
        used, own = _take(room, inputs, some), index[0, peer]
        for m in range(many):
            _first(room, params, index[m, peer], parts[m, peer], used, padded, m == 0)
            _later(room, params, own, index[m, peer], parts[m, peer], padded)
            found[m, peer] = _loss(room, goals, some, padded)


class Probe:
    """Compiled losses of a stack under cross entropy on holdouts of up to ``most`` examples of a pool."""

    def __init__(self, stack: Linears, most: int) -> None:
        widths = stack.widths
        layers, apart = len(widths) - 1, -(-most // LANES) * LANES
        units, later = max(widths[1:]), max(a * b for a, b in pairwise((1, *widths[1:])))
        # Examples, params halfway, and rows of: features, the first layer, all layers, zeros.
        sizes = np.array([most * widths[0], later + units, *(apart * n for n in (widths[0], units, layers * units, 1))])
        self._scratch = torch.zeros(int(sizes.sum()))
        starts = self._scratch.data_ptr() + 4 * (np.cumsum(sizes) - sizes)
        rows = 4 * apart * np.arange(max(layers * units, widths[0]))
        self._room = Room(
            widths=np.array(widths),
            weights=np.array(stack.weights),
            biases=np.array(stack.biases),
            rectified=np.array(stack.rectified, np.int64),
            apart=apart,
            taken=int(starts[0]),
            halfway=int(starts[1]),
            features=starts[2] + rows[: widths[0]],
            own=starts[3] + rows[:units],
            hidden=(starts[4] + rows[: layers * units]).reshape(layers, units),
            zeros=np.full(units, starts[5]),
            offsets=4 * np.arange(max(widths)),
            left=np.empty(units, np.int64),
            seen=np.empty(widths[0], np.float32),
            used=np.empty(widths[0] + 1, np.int64),
            rows=np.empty(widths[0] + 1, np.int64),
            most=np.empty(apart, np.float32),
            sums=np.empty(apart, np.float32),
        )

    def losses(
        self,
        params: list[Tensor],
        index: Indices,
        parts: Reals,
        examples: tuple[Tensor, Tensor],
        picks: Indices,
        starts: Indices,
        sizes: Indices,
    ) -> Reals:
        """Mean losses [k+1, b] by the params in rows ``index`` [k+1, b]: the own, and ``parts`` [k, b] of the way to
        the others: see :func:`measure`. All tensors are contiguous and on the CPU.
        """
        inputs, goals = examples
        assert all(tensor.is_contiguous() and tensor.dtype == torch.float32 for tensor in (*params, inputs))
        places = np.array([tensor.data_ptr() for tensor in params], dtype=np.int64)
        every = np.concatenate([np.zeros((1, index.shape[1])), parts]).astype(np.float32)
        found = np.empty(index.shape)
        where = np.ascontiguousarray(index, dtype=np.int64)
        measure(self._room, places, where, every, inputs.data_ptr(), goals.numpy(), picks, starts, sizes, found)
        return found
