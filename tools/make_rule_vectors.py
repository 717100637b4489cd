"""Freeze what ByzFL's aggregators say of seeded stacks, for tests/test_byzfl.py.

Run with byzfl 0.0.11, numpy and scipy installed: ``python tools/make_rule_vectors.py tests/vectors/byzfl.json``. Stacks
are numpy PCG64(seed).normal(size=(k, d)) rounded to float32; outputs are float64 as ByzFL computes them from float64.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import sys
import types
from importlib.metadata import version
from pathlib import Path

import numpy as np

D = 12
CASES = [(7, 1, 0), (8, 2, 1), (9, 2, 2), (12, 3, 3), (15, 4, 4)]


def load(module: str) -> types.ModuleType:
    """A part of byzfl without the package's own start, which loads torchvision and data sets."""
    if "byzfl" not in sys.modules:
        spec = importlib.util.find_spec("byzfl")
        if spec is None or spec.submodule_search_locations is None:
            raise SystemExit("byzfl is not installed")
        for name, tail in (("byzfl", ""), ("byzfl.aggregators", "/aggregators")):
            package = types.ModuleType(name)
            package.__path__ = [spec.submodule_search_locations[0] + tail]
            sys.modules[name] = package
    return importlib.import_module(module)


def main(target: Path) -> None:
    rules = load("byzfl.aggregators.aggregators")
    before = load("byzfl.aggregators.preaggregators")
    found = []
    for k, bad, seed in CASES:
        stack = np.random.Generator(np.random.PCG64(seed)).normal(size=(k, D)).astype(np.float32).astype(np.float64)
        calls = {
            "mean": rules.Average(),
            "median": rules.Median(),
            "trimmed_mean": rules.TrMean(f=bad),
            "geometric_median": rules.GeometricMedian(nu=0.1, T=3),
            "krum": rules.Krum(f=bad),
            "multi_krum": rules.MultiKrum(f=bad),
            "centered_clip": rules.CenteredClipping(m=None, L=2, tau=2.0),
        }
        outputs = {name: np.asarray(rule(stack.copy())).tolist() for name, rule in calls.items()}
        outputs["mixing"] = np.asarray(before.NNM(f=bad)(stack.copy())).tolist()
        found.append({"k": k, "d": D, "bad": bad, "seed": seed, "outputs": outputs})
    target.write_text(json.dumps({"source": f"byzfl {version('byzfl')}", "cases": found}, indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
