"""Whole stacks by compiled code, where numba is installed (extra ``[fast]``) and a stack is large enough to pay for it.

Each function gives what its numpy twin gives, or None where it does not apply: whoever calls it then goes on with
numpy. Medians, trimmed means and weighted differences have the same bits on either path, because ledgers state them;
sums of squares and products agree to rounding. Code is made at the first call for a number of rows, in about three
seconds for REPUTE, and kept by the process: nothing is written to disk.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from types import ModuleType

import numpy as np
from numpy.typing import NDArray

from quidnunc.gossip.rules.spans import SPAN, in_spans

LEAST_ELEMENTS = 1 << 22
"""Values in a stack from which on compiled code is used: it saves 12 ms of a merge by REPUTE then, against three
seconds once and 100 MB, so that it pays after some 250 merges; twice the values, half the merges."""

_LINE = 16
"""Values in a line of a cache."""

Floats = NDArray[np.float32]
Sums = NDArray[np.float64]
Indices = NDArray[np.intp]


@cache
def _kernels() -> ModuleType | None:
    """The compiled passes; None where numba is missing, refuses this numpy, or may not make code."""
    try:
        from quidnunc.gossip.rules import kernels
    except (ImportError, OSError):  # the latter where the system forbids writable memory to be executed
        return None
    return kernels


def kernels_for(own: Floats, others: Floats) -> ModuleType | None:
    """The compiled passes if they are there and apply to the rows ``own`` [d] and ``others`` [k-1, d]."""
    # Compiled code checks no bounds: shapes that do not fit are for numpy to refuse.
    if others.ndim != 2 or not len(others) or own.shape != others.shape[1:] or own.size + others.size < LEAST_ELEMENTS:
        return None
    for rows in (own, others):
        if rows.dtype != np.float32 or not (rows.flags.c_contiguous and rows.flags.aligned):
            return None
    return _kernels()


def median(stack: Floats) -> Floats | None:
    """:func:`quidnunc.gossip.rules.coordinate.median` of ``stack`` [k, d]."""
    own, others = stack[..., 0, :], stack[..., 1:, :]
    kernels = kernels_for(own, others)
    return None if kernels is None else _ranked(kernels, kernels.median_of(len(stack)), own, others)


def trimmed_mean(stack: Floats, bad: int) -> Floats | None:
    """:func:`quidnunc.gossip.rules.coordinate.trimmed_mean` of ``stack`` [k, d]."""
    own, others = stack[..., 0, :], stack[..., 1:, :]
    kernels = kernels_for(own, others)
    return None if kernels is None else _ranked(kernels, kernels.trimmed_mean_of(len(stack), bad), own, others)


def _ranked(kernels: ModuleType, rule: Callable[..., bool], own: Floats, others: Floats) -> Floats | None:
    """The rule in whole blocks; None for rows that are not finite, which numpy's order decides about."""
    whole, rows = len(own) - len(own) % kernels.BLOCK, (_fixed(own), _fixed(others))
    result = np.empty(len(own), np.float32)
    finite = all(in_spans(lambda begin, stop: rule(*rows, begin, stop, result), whole))
    if whole < len(own):
        last = np.empty(kernels.BLOCK, np.float32)
        finite &= rule(*_padded(own[whole:], others[:, whole:], kernels.BLOCK), 0, kernels.BLOCK, last)
        result[whole:] = last[: len(own) - whole]
    # A sum that is not finite may be one of huge values.
    return result if finite or (np.isfinite(own).all() and np.isfinite(others).all()) else None


def geometry_sums(own: Floats, others: Floats) -> Sums | None:
    """The sums [4, k] that :func:`quidnunc.gossip.rules.repute.geometry` is made of, for ``own`` [d] and ``others``
    [k-1, d]: see :func:`quidnunc.gossip.rules.kernels.geometry_of`.
    """
    kernels = kernels_for(own, others)
    if kernels is None:
        return None
    k, whole, rows = len(others) + 1, len(own) - len(own) % kernels.BLOCK, (_fixed(own), _fixed(others))
    geometry = kernels.geometry_of(k)
    sums = _summed((k, 4), lambda begin, stop, sums: geometry(*rows, begin, stop, sums), whole)
    if whole < len(own):
        # Padding adds nothing: where all are 0, so is their median.
        last = np.empty((k, 4))
        geometry(*_padded(own[whole:], others[:, whole:], kernels.BLOCK), 0, kernels.BLOCK, last)
        sums += last
    return sums.T


def square_distances(own: Floats, others: Floats) -> Sums | None:
    """:func:`quidnunc.gossip.rules.blocks.square_distances` of ``own`` [d] and ``others`` [k, d]."""
    kernels = kernels_for(own, others)
    if kernels is None:
        return None
    rows, squares = (_fixed(own), _fixed(others)), kernels.squares_of_rows(len(others))
    return _summed((len(others),), lambda begin, stop, sums: squares(*rows, begin, stop, sums), len(own))


def gram(own: Floats, others: Floats) -> Sums | None:
    """<x_i - own, x_j - own>, j <= i, float64 [k, k], of ``own`` [d] and ``others`` [k, d]; 0 above the diagonal."""
    kernels = kernels_for(own, others)
    if kernels is None:
        return None
    rows, k = (_fixed(own), _fixed(others)), len(others)
    whole = k + -k % kernels.TILE
    found = _summed((whole, whole), lambda begin, stop, sums: kernels.gram(*rows, begin, stop, sums), len(own))
    return np.tril(found[:k, :k])


def recompute(own: Floats, others: Floats, factors: Floats) -> Floats | None:
    """``own`` [d] plus factor * (row - own) for every row of ``others`` [k, d] whose factor is not 0, in order."""
    kernels = kernels_for(own, others)
    if kernels is None or factors.shape != others.shape[:1]:
        return None
    chosen = np.flatnonzero(factors)
    return _mixed(kernels, own, others, chosen, factors[chosen], None)


def weighted_sum(stack: Floats, factors: Floats) -> Floats | None:
    """factor * row, summed over the rows of ``stack`` [k, d], which are added in order, each in one multiply-add where
    the processor has it.
    """
    own, others = stack[..., 0, :], stack[..., 1:, :]
    kernels = kernels_for(own, others)
    if kernels is None:
        return None
    return _mixed(kernels, own, others, np.arange(len(others)), factors[1:], factors[0])


def _mixed(
    kernels: ModuleType, own: Floats, others: Floats, chosen: Indices, factors: Floats, share: np.float32 | None
) -> Floats:
    """What :func:`quidnunc.gossip.rules.kernels.mixed_by` makes, of differences where there is no ``share``."""
    rows, result = (_fixed(own), _fixed(others)), _at_a_line(len(own))
    mixed, part = kernels.mixed_by(share is None), np.float32(0) if share is None else share
    # From the end on: what was read last by whoever looked at the rows before may still be in a cache.
    in_spans(lambda begin, stop: mixed(*rows, begin, stop, chosen, factors, part, result), len(own), backward=True)
    return result


def _at_a_line(count: int) -> Floats:
    """Room for ``count`` values from the begin of a cache line on."""
    room = np.empty(count + _LINE - 1, np.float32)
    begin = -room.ctypes.data // room.itemsize % _LINE
    return room[begin : begin + count]


def _summed(shape: tuple[int, ...], add: Callable[[int, int, Sums], None], dim: int) -> Sums:
    """What ``add`` adds to zeros of that shape, span by span: the same bits whatever the number of threads."""
    sums = np.zeros((max(1, -(-dim // SPAN)), *shape))
    in_spans(lambda begin, stop: add(begin, stop, sums[begin // SPAN]), dim)
    total: Sums = np.add.reduce(sums, axis=0)
    return total


def _padded(own: Floats, others: Floats, count: int) -> tuple[Floats, Floats]:
    """Both, filled up with zeros to ``count`` coordinates."""
    rows = np.zeros((1 + len(others), count), np.float32)
    rows[0, : len(own)], rows[1:, : len(own)] = own, others
    return _fixed(rows[0]), _fixed(rows[1:])


def _fixed(rows: Floats) -> Floats:
    """A read-only view: one kind of array, so that one compilation serves states of any origin."""
    view = rows.view()
    view.flags.writeable = False
    return view
