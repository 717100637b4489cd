"""Clipped gradient sums of stacks of linear layers in float32, in which one record moves the sum by the clip at most.

Why that takes care. In float32 the last bits of a row of a matrix product may depend on how many rows there are and
where a row stands. One record more would then move the gradients of all others, and where such a bit switches a relu,
by more than any rounding. So rows are evaluated in blocks of a few fixed shapes, filled up with rows of zeros, and it
is tried once for every net and number of threads that a row has the same bits in each shape, at any place and beside
any others (:func:`rows_stand_alone`). Where a BLAS does not keep that, ``privacy.py`` computes in float64.

Why the sum moves by no more than the clip C. With u = 2^-24, example i counts as g_i: for every layer the product of
the float32 vectors fl(f e) and a, which depend on that example and the params alone. (1) |g_i| <= C(1 - s): norms are
computed in float32, in which any order of summation is right to a factor 1 +- (w + 2)u for w numbers (Higham 2002,
section 3.1), and f e is rounded twice; f is less than C(1 - s)/norm by a factor 1 - (w + 32)u. What floating point
cannot show below 2^-63 is added to the norms as 2^-55, and a vector longer than 2^64 makes its example count as zero.
(2) The computed sum of n examples is off by at most b: if added in float64, (n/64 + 512) n C 2^-53, which what is left
of that factor covers up to 2^19 examples; in products of 64 rows in float32, at most 8 of them added in float32,
72 u n C, a way that is taken only for so few examples that this is at most s/2 of the clip. s is :data:`SPARE`.
(3) So with an example and without it the computed sums differ by at most |g_i| + 2b <= C, whatever the others hold and
whichever way each was taken. (4) The clip is within 2^+-24, which keeps what underflows far below all of these.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import pad

from quidnunc.gossip.learning.clipping import blanked, clip_factors
from quidnunc.gossip.learning.codec import Vector
from quidnunc.gossip.learning.functional import Functional, activate
from quidnunc.gossip.learning.losses import row_cross_entropy, row_cross_entropy_gradient
from quidnunc.gossip.learning.stack import COLUMNS, TOGETHER, Stack, Step

SPARE = 1 / 200
"""The share of the clip that is left to the roundings of float32 sums."""

_UNIT = 2.0**-24
_SMALLEST = TOGETHER
_LARGEST = 512
_WIDEST = 1 << 16
_CACHED = 1 << 19
_PRODUCTS = 1 << 17
_CLIPS = (2.0**-24, 2.0**24)
_FLOOR = 2.0**-55
_TRIALS = 3

_relu_backward = torch.ops.aten.threshold_backward.default
_tanh_backward = torch.ops.aten.tanh_backward.default
_sigmoid_backward = torch.ops.aten.sigmoid_backward.default


class _Rows(NamedTuple):
    """What a block of R rows has: per linear layer output gradients [R, out] and inputs [R, in]; the squared norm of
    each row's gradient, float64 [R], from above; and losses [R].
    """

    errors: list[Tensor]
    sources: list[Tensor]
    square: Tensor
    losses: Tensor


def fits(net: Functional, inputs: Tensor, targets: Tensor, clip: float) -> bool:
    """Whether :func:`clipped_in_blocks` can take these: a plain stack that ends in a linear layer, with a known loss.

    It depends on no record.
    """
    if net.layers is None or net.layers[-1].kind != "linear" or net.loss is not row_cross_entropy:
        return False
    if inputs.ndim != 2 and net.layers[0].kind != "flatten":
        return False
    known = inputs.dtype == torch.float32 and targets.dtype == torch.int64 and targets.ndim == 1
    return known and _CLIPS[0] <= clip <= _CLIPS[1] and _widest(net) <= _WIDEST and _tried(net)


def row_clip(net: Functional, clip: float) -> float:
    """What the gradient of one example is clipped to, so that it moves the sum by ``clip`` at most."""
    return clip * (1 - SPARE) * (1 - (_widest(net) + 32) * _UNIT)


@torch.inference_mode()
def clipped_in_blocks(
    net: Functional, vector: Vector, inputs: Tensor, targets: Tensor, clip: float
) -> tuple[NDArray[np.float32] | NDArray[np.float64], float]:
    """Sum over examples of the clipped gradients [d] at ``vector`` [d], and the sum of the losses; see the module.

    Of up to 512 examples it is float32, of more float64. ``net`` and the data must fit (:func:`fits`).
    """
    if not len(inputs):
        return np.zeros(net.dim), 0.0
    stack = _stack(net)
    steps, limit, loss = stack.load(vector), row_clip(net, clip), 0.0
    rows = inputs.flatten(1).contiguous()
    if rows.data_ptr() % 64:
        rows = rows.clone()  # where memory begins may decide how a product is computed
    short = (TOGETHER + _LARGEST // TOGETHER) * _UNIT * len(inputs) <= SPARE / 2
    total = torch.empty(net.dim, dtype=torch.float32 if len(inputs) <= _LARGEST else torch.float64)
    outs = stack.sums(total)
    for at, own, block, classes in _blocks(rows, targets, _largest(net)):
        net.evaluations += 1
        found = _rows(steps, block, classes)
        column, broken = _column(found.square, own, limit)
        for (out, bias), error, source in zip(outs, found.errors, found.sources, strict=True):
            scaled = _scaled(error, column, broken, out)
            _add(scaled, blanked(source, broken), out, short=short, first=at == 0)
            if bias is None:
                continue
            if at:
                bias.add_(scaled.sum(0, dtype=torch.float64))
            elif len(block) == TOGETHER and total.dtype == torch.float32:
                torch.mv(scaled.mT, stack.ones, out=bias)
            else:
                bias.copy_(scaled.sum(0, dtype=torch.float64))
        loss += float(found.losses.double()[:own].sum())
    return total.numpy(), loss


def _column(square: Tensor, own: int, limit: float) -> tuple[Tensor, Tensor | None]:
    """Factors of rows [R, 1], 0 from row ``own`` on, and which rows are broken."""
    factors, broken = clip_factors(square, limit)
    if own < len(factors):
        factors[own:] = 0.0
    return factors.float().unsqueeze(1), broken


def _scaled(error: Tensor, column: Tensor, broken: Tensor | None, out: Tensor) -> Tensor:
    """The output gradients that count, without what fills them up."""
    scaled = error * column
    if broken is not None:
        scaled = blanked(scaled, broken)
    return scaled if scaled.shape[1] == len(out) else scaled[:, : len(out)]


def _add(scaled: Tensor, source: Tensor, out: Tensor, *, short: bool, first: bool) -> None:
    """Add the product of ``scaled`` [R, out] and ``source`` [R, in] over rows to ``out`` [out, in], or write it there.

    The product of a short sum is float32.
    """
    if short and first and out.dtype == torch.float32:
        _short_product(scaled, source, out)
    elif short:
        total = _short_product(scaled, source, torch.empty(out.shape))
        out.copy_(total) if first else out.add_(total)
    elif first:
        torch.mm(scaled.double().mT, source.double(), out=out)
    else:
        out.addmm_(scaled.double().mT, source.double())


def _short_product(scaled: Tensor, source: Tensor, out: Tensor) -> Tensor:
    """The product of ``scaled`` [R, out] and ``source`` [R, in] over rows, written to ``out`` [out, in], float32.

    In parts of so few rows that their rounding is known. Small products are taken several at once, as many as stay in
    the cache.
    """
    if len(scaled) == TOGETHER:
        return torch.mm(scaled.mT, source, out=out)
    left = scaled.reshape(-1, TOGETHER, scaled.shape[1]).mT
    right = source.reshape(-1, TOGETHER, source.shape[1])
    if out.numel() * len(left) <= _PRODUCTS:
        return torch.sum(torch.bmm(left, right), 0, out=out)
    torch.mm(left[0], right[0], out=out)
    product = torch.empty_like(out)
    for at in range(1, len(left)):
        out += torch.mm(left[at], right[at], out=product)
    return out


def _stack(net: Functional) -> Stack:
    if net.stack is None:
        net.stack = Stack(net)
    return net.stack


def _rows(steps: list[Step], block: Tensor, classes: Tensor) -> _Rows:
    """Forward and backward of one ``block`` [R, in], row by row (Goodfellow 2015): no product mixes rows.

    One row's squared norm in a linear layer with input a and output gradient e is |e|^2 * (|a|^2 + 1).
    """
    hidden, afters, sources = block, [], []
    for step in steps:
        if step.kind != "linear":
            hidden = activate(step.kind, hidden)
        else:
            sources.append(hidden[:, : step.width] if step.cut else hidden)
            hidden = torch.addmm(step.bias, hidden, step.turned) if step.bias is not None else hidden @ step.turned
        afters.append(hidden)
    error, losses = row_cross_entropy_gradient(hidden, classes)
    errors: list[Tensor] = []
    for step, after in zip(reversed(steps), reversed(afters), strict=True):
        if step.kind == "linear":
            errors.append(error)
            if len(errors) == len(sources):
                break
            error = torch.mm(error, step.weight)
        elif step.kind == "relu":
            error = _relu_backward(error, after, 0)
        elif step.kind == "tanh":
            error = _tanh_backward(error, after)
        else:
            error = _sigmoid_backward(error, after)
    errors.reverse()
    return _Rows(errors, sources, _squares(steps, errors, sources), losses)


def _squares(steps: list[Step], errors: list[Tensor], sources: list[Tensor]) -> Tensor:
    norms = torch.empty((2 * len(errors), len(errors[0])))
    for vectors, norm in zip((*errors, *sources), norms.unbind(), strict=True):
        torch.linalg.vector_norm(vectors, dim=1, out=norm)
    squares = norms.numpy().astype(np.float64)
    squares += _FLOOR
    squares *= squares
    above, below = squares[: len(errors)], squares[len(errors) :]
    units = [step.unit for step in steps if step.kind == "linear"]
    below += 1.0 if all(units) else np.array(units)[:, None]
    above *= below
    return torch.from_numpy(above.sum(0))


def _blocks(rows: Tensor, classes: Tensor, largest: int) -> Iterator[tuple[int, int, Tensor, Tensor]]:
    """``rows`` [n, in] and ``classes`` [n] in blocks of known sizes: where each begins, how many of its rows are not
    zeros, and both of them.
    """
    at = 0
    while at < len(rows):
        left = len(rows) - at
        size = max(_SMALLEST, 1 << (left - 1).bit_length())
        if size > _SMALLEST and left <= size * 3 // 4:
            size //= 2
        size = min(size, largest)
        block, own = rows[at : at + size], classes[at : at + size]
        count = len(own)
        if count < size:
            block, own = pad(block, (0, 0, 0, size - count)), pad(own, (0, size - count))
        yield at, count, block, own
        at += count


def _widest(net: Functional) -> int:
    """The longest vector of any example, with what fills it up."""
    return max(-(-side // COLUMNS) * COLUMNS for slot in net.slots for side in slot.shape)


def _largest(net: Functional) -> int:
    """The rows of the largest block, a power of two: as many as the processor's cache holds, from 64 to 512."""
    return min(_LARGEST, max(_SMALLEST, 1 << ((_CACHED // _widest(net)).bit_length() - 1)))


def _tried(net: Functional) -> bool:
    threads = torch.get_num_threads()
    if threads not in net.alone:
        net.alone[threads] = rows_stand_alone(net)
    return net.alone[threads]


@torch.inference_mode()
def rows_stand_alone(net: Functional) -> bool:
    """Whether a row of ``net`` has the same bits in blocks of every size, at any place, beside any other rows.

    It is tried on made-up params and rows, among zeros, infinities and numbers that are none.
    """
    assert net.layers is not None
    generator = np.random.Generator(np.random.PCG64(0))
    linear = [net.slots[layer.weight].shape for layer in net.layers if layer.kind == "linear"]
    width, labels, largest = linear[0][1], linear[-1][0], _largest(net)

    def normal(*shape: int) -> Tensor:
        return torch.from_numpy(generator.standard_normal(shape, dtype=np.float32))

    steps = _stack(net).load((normal(net.dim) / _widest(net) ** 0.5).numpy())
    rows, classes = normal(largest, width), torch.from_numpy(generator.integers(0, labels, largest))
    whole = _rows(steps, rows, classes)
    size = _SMALLEST
    while size <= largest:
        for trial in range(_TRIALS):
            chosen = torch.from_numpy(generator.permutation(largest)[:size])
            kept = torch.from_numpy(generator.random(size) < (trial + 1) / (_TRIALS + 1))
            others = normal(size, width) * 100
            others[:3] = torch.tensor([[0.0], [torch.inf], [torch.nan]])
            part = _rows(steps, torch.where(kept.unsqueeze(1), rows[chosen], others), classes[chosen])
            pairs = zip(_all(whole), _all(part), strict=True)
            if not all(torch.equal(one[chosen][kept], other[kept]) for one, other in pairs):
                return False
        size *= 2
    return True


def _all(rows: _Rows) -> tuple[Tensor, ...]:
    return (*rows.errors, *rows.sources, rows.square, rows.losses)
