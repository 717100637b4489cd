"""Clipped gradient sums of stacks with convolutions, without running one example after the other.

A convolution is a product of its weights with the patches of its input, so that one example's gradient is the product
of the output's gradient with those patches (Rochette, Manoel and Tramel 2019). Linear layers take the ghost norm.
Backward runs once, for the gradients of outputs alone. Only layers that are known to take examples one by one are
accepted: a batch is evaluated together here, and a module that mixed examples would break the promise unseen.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, linear, pad

from quidnunc.gossip.learning.clipping import blanked, clip_factors, output_gradients

if TYPE_CHECKING:
    from quidnunc.gossip.learning.functional import Functional

NamedLayer = tuple[str, nn.Module]

_ROOM = 1 << 18
"""Numbers that patches are written to before they are multiplied: what the processor's cache holds."""


def conv_stack(module: nn.Module) -> tuple[NamedLayer, ...] | None:
    """The layers of ``module`` by name if it is a Sequential of known ones with a Conv2d among them, else None."""
    layers = tuple(_flattened(module, "")) if type(module) is nn.Sequential else ()
    if not all(_known(layer) and not hooked(layer) for _, layer in layers) or hooked(module):
        return None
    kinds = [type(layer) for _, layer in layers]
    flat = kinds.index(nn.Flatten) if nn.Flatten in kinds else len(kinds)
    if nn.Conv2d not in kinds or nn.Linear in kinds[:flat]:
        return None
    params = [param for _, layer in layers for param in layer.parameters()]
    alone = len({id(param) for param in params}) == len(params) and len({id(layer) for _, layer in layers}) == len(
        kinds
    )
    return layers if alone and all(param.requires_grad for param in params) else None


def patch_elements(net: Functional, inputs: Tensor) -> int:
    """The most numbers that the patches of one example have in any layer, or its gradients."""
    assert net.convolutions is not None
    most, hidden = net.dim, inputs.new_zeros((1, *inputs.shape[1:]))
    with torch.inference_mode():
        for _, layer in net.convolutions:
            before, hidden = hidden, layer(hidden)
            if isinstance(layer, nn.Conv2d):
                most = max(most, before.shape[1] * math.prod(layer.kernel_size) * math.prod(hidden.shape[2:]))
    return most


def convolved(net: Functional, flat: Tensor, inputs: Tensor, targets: Tensor, clip: float) -> tuple[Tensor, float]:
    """Sum over examples of the clipped gradients, float64 [d], and the sum of the losses, for ``net.convolutions``."""
    named = {slot.name: view for slot, view in zip(net.slots, net.views(flat), strict=True)}
    outputs, trail = _forward(net, named, inputs)
    errors, losses = output_gradients(net, outputs.detach(), targets)
    ends = [after for _, _, _, after in trail]
    backward = torch.autograd.grad(outputs, ends, grad_outputs=errors.float())
    square = torch.zeros(len(inputs), dtype=torch.float64)
    pieces: dict[str, tuple[Tensor, Tensor | None]] = {}
    for (name, layer, before, _), error in zip(trail, backward, strict=True):
        if isinstance(layer, nn.Conv2d):
            pieces[name + "weight"] = _conv_gradients(layer, before.contiguous(), error.contiguous()), None
            bias = error.sum((2, 3)).double()
        else:
            bias = error.double()
            pieces[name + "weight"] = bias, before.double()
        if layer.bias is not None:
            pieces[name + "bias"] = bias, None
    for rows, below in pieces.values():
        norms = rows.square().sum(1)
        square += norms if below is None else norms * below.square().sum(1)
    return _weighted(net, pieces, *clip_factors(square, clip)), float(losses.sum(dtype=torch.float64))


def _forward(
    net: Functional, named: dict[str, Tensor], inputs: Tensor
) -> tuple[Tensor, list[tuple[str, nn.Module, Tensor, Tensor]]]:
    """Outputs, and name, layer, input and output of every layer with params; the first of these starts the graph."""
    assert net.convolutions is not None
    hidden = inputs.contiguous(memory_format=torch.channels_last)
    trail: list[tuple[str, nn.Module, Tensor, Tensor]] = []
    for name, layer in net.convolutions:
        weight, bias = named.get(name + "weight"), named.get(name + "bias")
        before = hidden
        if weight is None:
            hidden = layer(hidden)
            continue
        if isinstance(layer, nn.Conv2d):
            assert not isinstance(layer.padding, str)
            hidden = conv2d(hidden, weight, bias, layer.stride, layer.padding, layer.dilation)
            # Pools and convolutions of few channels are many times as fast in this order.
            hidden = hidden.contiguous(memory_format=torch.channels_last)
        else:
            hidden = linear(hidden, weight, bias)
        if not trail:
            hidden.requires_grad_()
        trail.append((name, layer, before.detach(), hidden))
    return hidden, trail


def _conv_gradients(layer: nn.Conv2d, before: Tensor, error: Tensor) -> Tensor:
    """Every example's gradient of the weights, float64 [n, out * in * k * k]."""
    assert not isinstance(layer.padding, str)
    high, wide = layer.padding
    padded = pad(before, (wide, wide, high, high))
    size = error.shape[2:]
    if layer.stride == (1, 1):
        # With lines as long as those of the padded input, what a weight meets is one piece of it.
        places = (size[0] - 1) * padded.shape[3] + size[1]
        error = pad(error, (0, padded.shape[3] - size[1])).flatten(2)[:, :, :places]
    else:
        places, error = math.prod(size), error.flatten(2)
    weights = padded.shape[1] * math.prod(layer.kernel_size)
    rows = max(1, _ROOM // (weights * places))
    found = padded.new_empty((len(padded), error.shape[1], weights))
    room = padded.new_empty((min(rows, len(padded)), padded.shape[1], math.prod(layer.kernel_size), places))
    for some, errors, into in zip(*(torch.split(each, rows) for each in (padded, error, found)), strict=True):
        patches = room[: len(some)]
        _fill(patches, layer, some, size)
        torch.bmm(errors, patches.flatten(1, 2).mT, out=into)
    return found.flatten(1).double()


def _fill(patches: Tensor, layer: nn.Conv2d, padded: Tensor, size: torch.Size) -> None:
    """Write what each weight of ``layer`` meets at each place of the output to [n, in, k * k, places].

    ``torch.nn.functional.unfold`` takes longer.
    """
    width, lines = padded.shape[3], padded.flatten(2)
    for at in range(patches.shape[2]):
        row, column = (step * each for step, each in zip(layer.dilation, divmod(at, layer.kernel_size[1]), strict=True))
        if layer.stride == (1, 1):
            start = row * width + column
            patches[:, :, at].copy_(lines[:, :, start : start + patches.shape[3]])
        else:
            places = padded[:, :, row :: layer.stride[0], column :: layer.stride[1]]
            patches[:, :, at].copy_(places[:, :, : size[0], : size[1]].flatten(2))


def _weighted(
    net: Functional, pieces: dict[str, tuple[Tensor, Tensor | None]], factors: Tensor, broken: Tensor | None
) -> Tensor:
    total = torch.empty(net.dim, dtype=torch.float64)
    column = factors.unsqueeze(1)
    for slot, view in zip(net.slots, net.views(total), strict=True):
        rows, below = pieces[slot.name]
        if below is None:
            torch.mv(blanked(rows, broken).mT, factors, out=view.view(-1))
        else:
            torch.mm(blanked(rows * column, broken).mT, blanked(below, broken), out=view)
    return total


def _flattened(module: nn.Module, prefix: str) -> Iterator[NamedLayer]:
    for name, part in module._modules.items():
        assert part is not None
        if type(part) is nn.Sequential and not hooked(part):
            yield from _flattened(part, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}.", part


def _known(layer: nn.Module) -> bool:
    if type(layer) is nn.Conv2d:
        return layer.groups == 1 and layer.padding_mode == "zeros" and not isinstance(layer.padding, str)
    if type(layer) is nn.Flatten:
        return (layer.start_dim, layer.end_dim) == (1, -1)
    if type(layer) is nn.MaxPool2d:
        return not layer.return_indices
    if type(layer) is nn.ReLU:
        return not layer.inplace
    return type(layer) in (nn.Linear, nn.Tanh, nn.Sigmoid, nn.AvgPool2d)


def hooked(module: nn.Module) -> bool:
    """Whether anything watches or changes what ``module`` computes."""
    return bool(module._forward_hooks or module._forward_pre_hooks)
