"""The columns that records of both engines share."""

from __future__ import annotations

from math import isfinite
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quidnunc.sim.batched.conditions import Flags
from quidnunc.sim.batched.witness import Held

PER_PEER_MAX = 256
"""Up to so many peers, records hold every peer's accuracy."""

Record = dict[str, Any]


def accuracies(accuracy: NDArray[np.float64], loss: NDArray[np.float64], judged: Flags) -> Record:
    """How good the peers are that are ``judged``; None where there are none, or where it is not finite."""
    there = accuracy[judged]
    if not len(there):
        names = ("accuracy_mean", "accuracy_median", "accuracy_worst", "accuracy_p10", "accuracy_best", "test_loss")
        return dict.fromkeys(names)
    return {
        "accuracy_mean": finite(there.mean()),
        "accuracy_median": finite(np.median(there)),
        "accuracy_worst": finite(there.min()),
        "accuracy_p10": finite(np.quantile(there, 0.1)),
        "accuracy_best": finite(there.max()),
        "test_loss": finite(loss[judged].mean()),
    }


def against_alone(accuracy: NDArray[np.float64], alone: NDArray[np.float64], judged: Flags) -> Record:
    """What peers that are ``judged`` reach ``alone``, and what joining gains them: on average, and at the least."""
    record: Record = dict.fromkeys(("alone_mean", "gain_mean", "gain_worst"))
    if judged.any():
        gain = accuracy[judged] - alone[judged]
        means = finite(alone[judged].mean()), finite(gain.mean()), finite(gain.min())
        record = dict(zip(record, means, strict=True))
    if len(alone) <= PER_PEER_MAX:
        record["alone"] = [round(float(value), 5) for value in alone]
    return record


def under_attack(held: Held | None, attackers: Flags) -> Record:
    """What the ``attackers`` that are there have achieved; None where it cannot be told."""
    record: Record = {
        "attackers_present": int(attackers.sum()),
        "attacker_weight": None if held is None else held.weight,
        "attacker_mixing_weight": None if held is None else held.given,
        "detection_auroc": None if held is None else held.detection,
    }
    if held is not None and len(held.kept) <= PER_PEER_MAX:
        record["weight_kept"] = [None if np.isnan(value) else round(float(value), 5) for value in held.kept]
        record["refused"] = [list(pair) for pair in held.refused]
    return record


def finite(value: float) -> float | None:
    """``value``, or None for what JSON has no number for."""
    return float(value) if isfinite(value) else None
