"""What may leave a peer about its records: example-level DP-SGD (Abadi et al. 2016), or a noised delta of the site.

One step is g = (sum_{i in S} clip(grad_i, C) + N(0, (m*C)^2)) / (q*n) with clip(v, C) = v * min(1, C/||v||) taken over
all trainable tensors jointly. S is a Poisson sample of the n local examples at rate q, all of them at q = 1. The
normalizer is the expected batch q*n, never the size of S, which is secret. Removing one example moves the sum by at
most C, so a step is a (sampled) Gaussian mechanism with noise multiplier m; ``gossip/learning/accountant.py`` and
``sampled.py`` say what it costs. The unit is one record of one peer, add or remove; n counts as public. Sample and
noise are drawn from the peer's own ChaCha20 stream, noise in float64.

With unit site a round releases clip(delta, C) + N(0, (m*C)^2) once, delta being what plain training made of the params
(McMahan et al. 2018, with every organization in every round). The unit is all training records of one peer, there or
absent: without them there is nothing to train on, and the delta is zero. So one release is a Gaussian mechanism with
noise multiplier m, whatever the training does inside; between any two data sets it is one with m/2.

With unit sum a step is (sum_i clip(grad_i, C) + N(0, (m*C)^2) + p*C*pairs) / N: ``pairs`` is the noise that members add
and subtract (``pair_noise.py``), N the same number of records for all of them.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap

from quidnunc.crypto.errors import ConfigError
from quidnunc.crypto.noise import NoiseStream
from quidnunc.gossip.jobs import PrivacyStep
from quidnunc.gossip.learning.blocks import clipped_in_blocks, fits
from quidnunc.gossip.learning.clipping import ROUNDING, blanked, clip_factors, output_gradients
from quidnunc.gossip.learning.codec import Vector
from quidnunc.gossip.learning.convolved import convolved, patch_elements
from quidnunc.gossip.learning.functional import Functional, activate

_ELEMENTS = 1 << 22
_ROWS = 4096
_CACHED = 1 << 17
_PATCHES = 1 << 20
_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


def private_gradient(
    net: Functional,
    vector: Vector,
    inputs: Tensor,
    targets: Tensor,
    step: PrivacyStep,
    noise: NoiseStream,
    pairs: NDArray[np.float64] | None = None,
) -> tuple[Vector, float]:
    """One noised gradient [d] at ``vector`` [d], and the (unprotected, local) mean loss on the sample, 0 on none.

    ``pairs`` [d] is the standard normal noise of a private sum's pairs. Raises ConfigError for a model in which one
    example's gradient depends on others (batch normalization).
    """
    if net.layers is None and net.convolutions is None:
        refuse_batch_statistics(net.module)
    expected = step.records or step.rate * len(inputs)
    if step.rate < 1:
        drawn = torch.from_numpy(poisson_sample(len(inputs), step.rate, noise.child(b"sample")))
        inputs, targets = inputs[drawn], targets[drawn]
    total, loss = _sum(net, vector, inputs, targets, step.clip)
    if pairs is not None:
        total = total + pairs * (step.pair_multiplier * step.clip)
    noise.add_noise(total, step.noise_multiplier * step.clip, 1.0 / expected)
    return total.astype(np.float32, copy=False), loss / max(1, len(inputs))


def private_delta(delta: NDArray[np.float64], step: PrivacyStep, noise: NoiseStream) -> NDArray[np.float64]:
    """The one release of a round with unit site: ``delta`` [d] clipped to ``step.clip`` and noised, float64 [d]."""
    released = clipped_delta(delta, step.clip)
    noise.add_noise(released, step.noise_multiplier * step.clip)
    return released


def clipped_delta(delta: NDArray[np.float64], clip: float) -> NDArray[np.float64]:
    """``delta`` [d] times min(1, clip/norm), a hair less so that rounding cannot exceed it; zero if not finite.

    A training that left the numbers must not show by failing: it releases noise alone.
    """
    if not np.isfinite(delta).all():
        return np.zeros_like(delta)
    # Scaled by its largest entry first: squares of what is left of a diverging training overflow.
    largest = float(np.abs(delta).max(initial=0.0))
    if largest == 0.0:
        return np.zeros_like(delta)
    norm = largest * float(np.linalg.norm(delta / largest))
    return delta * min(1.0, clip * ROUNDING / norm)


def poisson_sample(examples: int, rate: float, stream: NoiseStream) -> NDArray[np.int64]:
    """Indices of a sample in which each of ``examples`` is with probability ``rate``, independently; maybe none."""
    return np.flatnonzero(stream.uniform(examples) < rate).astype(np.int64)


def clipped_sum(
    net: Functional, vector: Vector, inputs: Tensor, targets: Tensor, clip: float
) -> tuple[NDArray[np.float64], float]:
    """Sum over examples of the clipped gradients, float64 [d], and the sum of the losses.

    An example whose gradient is not finite counts as zero. Examples are taken in parts, so that memory depends on the
    model and not on their number; none at all sum to zero.
    """
    total, loss = _sum(net, vector, inputs, targets, clip)
    return total.astype(np.float64, copy=False), loss


def _sum(
    net: Functional, vector: Vector, inputs: Tensor, targets: Tensor, clip: float
) -> tuple[NDArray[np.float64] | Vector, float]:
    """:func:`clipped_sum` as it was computed, which may be float32."""
    if fits(net, inputs, targets, clip):
        return clipped_in_blocks(net, vector, inputs, targets, clip)
    flat = torch.tensor(vector)
    total: NDArray[np.float64] | None = None
    loss = 0.0
    way, rows = _way(net, inputs)
    for at in range(0, len(inputs), rows):
        one = way(net, flat, inputs[at : at + rows], targets[at : at + rows], clip)
        total = one[0].numpy() if total is None else np.add(total, one[0].numpy(), out=total)
        loss += one[1]
    return np.zeros(net.dim) if total is None else total, loss


def _way(net: Functional, inputs: Tensor) -> tuple[Callable[..., tuple[Tensor, float]], int]:
    """How sums over ``inputs`` are computed, and over how many examples at once."""
    if net.layers is not None and (inputs.ndim == 2 or net.layers[0].kind == "flatten"):
        # As many as the processor's cache holds.
        widest = max(inputs[:1].numel(), *(slot.shape[0] for slot in net.slots))
        return _ghost, max(1, min(_ROWS, _CACHED // widest))
    if net.convolutions is not None and inputs.ndim == 4:
        return convolved, max(1, min(_ROWS, _PATCHES // patch_elements(net, inputs)))
    return per_example, max(1, min(_ROWS, _ELEMENTS // net.dim))


def per_example(net: Functional, flat: Tensor, inputs: Tensor, targets: Tensor, clip: float) -> tuple[Tensor, float]:
    """:func:`clipped_sum` for any module: every example's gradient is formed, by vmap. Returns float64 [d].

    Where vmap cannot go (recurrent layers, control flow that depends on data) they are formed one after the other; what
    the module itself raises comes out of that too.
    """
    if not net.loops:
        try:
            return _vectorized(net, flat, inputs, targets, clip)
        except RuntimeError:
            total = _one_by_one(net, flat, inputs, targets, clip)
            net.loops = True
            return total
    return _one_by_one(net, flat, inputs, targets, clip)


def _one_by_one(net: Functional, flat: Tensor, inputs: Tensor, targets: Tensor, clip: float) -> tuple[Tensor, float]:
    total, loss = torch.zeros(net.dim, dtype=torch.float64), 0.0
    for at in range(len(inputs)):
        gradient, one = net.gradient(flat, inputs[at : at + 1], targets[at : at + 1])
        row = gradient.double()
        factors, broken = clip_factors(row.square().sum().reshape(1), clip)
        if broken is None:
            total += row * factors
        loss += one
    return total, loss


def _vectorized(net: Functional, flat: Tensor, inputs: Tensor, targets: Tensor, clip: float) -> tuple[Tensor, float]:
    net.module.train()
    named = {slot.name: view for slot, view in zip(net.slots, net.views(flat), strict=True)}

    def one_loss(params: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        outputs = functional_call(net.module, params, (x.unsqueeze(0),))
        return net.losses(outputs, y.unsqueeze(0))[0]

    grads, losses = vmap(grad_and_value(one_loss), in_dims=(None, 0, 0), randomness="different")(named, inputs, targets)
    # One tensor after the other: float64 of all of them at once would be the largest array of the step.
    square = torch.zeros(len(inputs), dtype=torch.float64)
    for slot in net.slots:
        square += grads[slot.name].reshape(len(inputs), -1).double().square_().sum(1)
    factors, broken = clip_factors(square, clip)
    total = torch.empty(net.dim, dtype=torch.float64)
    for slot in net.slots:
        rows = grads.pop(slot.name).reshape(len(inputs), -1).double()
        torch.mv(blanked(rows, broken).mT, factors, out=total[slot.start : slot.stop])
    return total, float(losses.sum(dtype=torch.float64))


@torch.inference_mode()
def _ghost(net: Functional, flat: Tensor, inputs: Tensor, targets: Tensor, clip: float) -> tuple[Tensor, float]:
    """:func:`clipped_sum` for plain stacks without forming per-example gradients (Goodfellow 2015, Li et al.
    2022).

    For a linear layer with input a and output gradient e, one example's squared norm is |e|^2 * (|a|^2 + 1).
    The loss is differentiated one example at a time, so a loss that looks at its whole batch cannot leak
    across examples.
    """
    assert net.layers is not None
    tensors = net.views(flat.double())
    hidden, trail = inputs.double(), []
    for layer in net.layers:
        trail.append(hidden)
        if layer.kind != "linear":
            hidden = activate(layer.kind, hidden)
        elif layer.bias >= 0:
            hidden = torch.addmm(tensors[layer.bias], hidden, tensors[layer.weight].mT)
        else:
            hidden = hidden @ tensors[layer.weight].mT
    errors, losses = output_gradients(net, hidden, targets)
    pieces, square = _backward(net, tensors, trail, hidden, errors)
    factors, broken = clip_factors(square, clip)
    column = factors.unsqueeze(1)
    total = torch.empty(net.dim, dtype=torch.float64)
    views = net.views(total)
    for slot, error, source in pieces:
        if source is None:
            torch.mv(blanked(error, broken).mT, factors, out=views[slot])
        else:
            torch.mm(blanked(error * column, broken).mT, blanked(source, broken), out=views[slot])
    return total, float(losses.sum(dtype=torch.float64))


def _backward(
    net: Functional, tensors: list[Tensor], trail: list[Tensor], output: Tensor, error: Tensor
) -> tuple[list[tuple[int, Tensor, Tensor | None]], Tensor]:
    """Output gradients of every tensor, as (slot, error, layer input or None for a bias), and squared norms [n]."""
    assert net.layers is not None
    pieces: list[tuple[int, Tensor, Tensor | None]] = []
    square = torch.zeros(len(error), dtype=torch.float64)
    first = next((layer for layer in net.layers if layer.kind == "linear"), None)
    after = output
    for layer, before in zip(reversed(net.layers), reversed(trail), strict=True):
        if layer.kind == "linear":
            pieces.append((layer.weight, error, before))
            bias = 0.0
            if layer.bias >= 0:
                pieces.append((layer.bias, error, None))
                bias = 1.0
            square = square + error.square().sum(1) * before.square().sum(1).add_(bias)
            if layer is first:
                break  # nothing below has params, and this product would be as large as the whole sum
            error = error @ tensors[layer.weight]
        elif layer.kind == "relu":
            error = torch.ops.aten.threshold_backward(error, before, 0)
        elif layer.kind == "tanh":
            error = error * (1 - after.square())
        elif layer.kind == "sigmoid":
            error = error * after * (1 - after)
        else:
            error = error.reshape(before.shape)
        after = before
    return pieces, square


def refuse_batch_statistics(module: nn.Module) -> None:
    """Raise ConfigError, naming the layer and the remedy, if ``module`` computes statistics over a batch."""
    for name, part in module.named_modules():
        if isinstance(part, _BATCH_NORMS) or getattr(part, "running_mean", None) is not None:
            raise ConfigError(
                f"model layer {name or 'model'} is {type(part).__name__}, which mixes examples of a batch: "
                "no record-level privacy can be claimed",
                hint="use GroupNorm or LayerNorm, or train without privacy",
            )
