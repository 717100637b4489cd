"""Gradient inversion: a record read back from the bytes of an update.

A linear first layer with inputs x and output gradients e has the weight gradient e x^T and the bias gradient e: one
update on one record holds x in every row (Phong et al. 2018). Rows are weighed by least squares, so that the codec's
rounding, and a little noise, do no harm.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from quidnunc.crypto.noise import NoiseStream
from quidnunc.gossip.jobs import PrivacyStep
from quidnunc.gossip.learning import codec
from quidnunc.gossip.learning.codec import Vector
from quidnunc.gossip.learning.functional import Functional
from quidnunc.gossip.learning.params import build
from quidnunc.gossip.privacy_audit.rounds import shown_rounds
from quidnunc.gossip.task import Plan, Task


class Inverted(NamedTuple):
    """How like the records are what was read: median cosine (absolute), and median peak signal-to-noise ratio in dB.

    ``chance`` is the median cosine of a guess in a random direction.
    """

    cosine: float
    psnr_db: float
    chance: float
    records: int


def invert(net: Functional, delta: Vector) -> NDArray[np.float64] | None:
    """The input [f] that led to an update ``delta`` [d], or None for a model that does not begin with a linear layer
    that has a bias.
    """
    first = None if net.layers is None else next((each for each in net.layers if each.kind != "flatten"), None)
    if first is None or first.kind != "linear" or first.bias < 0:
        return None
    slot, bias = net.slots[first.weight], net.slots[first.bias]
    rows = delta[slot.start : slot.stop].reshape(slot.shape).astype(np.float64)
    errors = delta[bias.start : bias.stop].astype(np.float64)
    read: NDArray[np.float64] = errors @ rows / max(float(errors @ errors), 1e-300)
    return read


def inverted(
    task: Task, plan: Plan, privacy: PrivacyStep | None, records: tuple[Tensor, Tensor], stream: NoiseStream
) -> Inverted | None:
    """Each of ``records`` [n, ...] trained on alone, from the genesis params, and read back from the coded update.

    None where no such attack is known (see :func:`invert`). A sample is taken to have caught the record.
    """
    step = None if privacy is None else replace(privacy, rate=1.0, steps=1)
    net = Functional(build(task, plan.seed), task)
    cosines, ratios = [], []
    for at in range(len(records[0])):
        alone = replace(task, train=(records[0][at : at + 1], records[1][at : at + 1]))
        round_ = next(shown_rounds(alone, plan, step, 1, stream.child(b"record/%d" % at)))
        read = invert(net, codec.decode(plan.codec, round_.delta, net.dim))
        if read is None:
            return None
        true = records[0][at].double().flatten().numpy()
        cosines.append(abs(float(read @ true)) / max(float(np.linalg.norm(read) * np.linalg.norm(true)), 1e-300))
        ratios.append(_psnr(read, true, _peak(task.train[0])))
    return Inverted(float(np.median(cosines)), float(np.median(ratios)), 0.6745 / len(true) ** 0.5, len(cosines))


def _peak(inputs: Tensor) -> float:
    return float(inputs.max() - inputs.min())


def _psnr(read: NDArray[np.float64], true: NDArray[np.float64], peak: float) -> float:
    error = float(((read - true) ** 2).mean())
    return 10 * float(np.log10(max(peak**2, 1e-300) / max(error, 1e-300)))
