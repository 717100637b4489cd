"""Freeze what Opacus's accountants say of Poisson-sampled releases, for tests/test_sampled.py.

Run with opacus 1.6.0 installed: ``python tools/make_sampled_vectors.py tests/vectors/sampled.json``. PRV
(Gopi et al. 2021) is a second numerical accountant, independent of dp-accounting; GDP is kept to
show that it understates.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import opacus
from opacus.accountants import create_accountant

CASES = (
    (1.0, 0.0445, 69, 1e-5),
    (1.0, 0.1, 200, 1e-5),
    (2.0, 0.1, 200, 1e-5),
    (4.0, 0.25, 100, 1e-5),
    (0.7, 0.01, 500, 1e-6),
)


def epsilon(accountant: str, noise: float, rate: float, steps: int, delta: float) -> float:
    """What that accountant says."""
    made = create_accountant(accountant)
    made.history = [(noise, rate, steps)]
    return float(made.get_epsilon(delta))


def main() -> None:
    """Write the vectors to the file named."""
    rows = [
        {"noise": noise, "rate": rate, "steps": steps, "delta": delta}
        | {name: epsilon(name, noise, rate, steps, delta) for name in ("prv", "rdp", "gdp")}
        for noise, rate, steps, delta in CASES
    ]
    Path(sys.argv[1]).write_text(json.dumps({"opacus": opacus.__version__, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
