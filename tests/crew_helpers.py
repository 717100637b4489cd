"""The small ragged population that processes and clusters train in the tests of crews."""

from __future__ import annotations

from typing import Any

SHAPES = {"cnn": {"kind": "cnn", "channels": [3], "hidden": [8]}, "mlp": {"kind": "mlp", "hidden": [8]}}


def population(shape: str, engine: dict[str, Any], others: dict[str, Any]) -> dict[str, Any]:
    """A scenario of six peers and two rounds whose model is one of SHAPES."""
    return {
        "peers": 6,
        "rounds": 2,
        "evaluate_every": 1,
        "data": {"examples": 20, "partition": "by-quantity", "replacement": "always"},
        "model": SHAPES[shape],
        "engine": {"device": "cpu", **engine},
    } | others
