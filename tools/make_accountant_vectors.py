"""Freeze what Google's dp-accounting says of full-batch Gaussian releases, for tests/test_accountant.py.

Run with dp-accounting 0.6.0 installed: ``python tools/make_accountant_vectors.py tests/vectors/accountant.json``.
``delta`` is exact (GaussianPrivacyLoss); ``epsilon`` of composed releases is by PLD, pessimistic, interval 1e-4.
"""

from __future__ import annotations

import json
import sys
from importlib.metadata import version
from pathlib import Path

import dp_accounting
from dp_accounting.pld import PLDAccountant
from dp_accounting.pld.privacy_loss_mechanism import GaussianPrivacyLoss

RELEASES = [(4.24, 50), (7.64, 50), (14.1, 50), (26.4, 50), (1.0, 1), (2.0, 10), (10.0, 1000), (0.8, 3)]
DELTAS = [1e-3, 1e-5, 1e-8]
PAIRS = [(epsilon, sigma) for sigma in (0.3, 0.6, 1.0, 3.0, 10.0) for epsilon in (0.0, 0.1, 1.0, 4.0, 16.0)]


def composed(noise: float, releases: int, delta: float) -> float:
    accountant = PLDAccountant(value_discretization_interval=1e-4)
    accountant.compose(dp_accounting.GaussianDpEvent(noise), releases)
    return float(accountant.get_epsilon(delta))


def main(target: Path) -> None:
    single = [
        {"epsilon": epsilon, "sigma": sigma, "delta": float(GaussianPrivacyLoss(sigma).get_delta_for_epsilon(epsilon))}
        for epsilon, sigma in PAIRS
    ]
    several = [
        {
            "noise": noise,
            "releases": releases,
            "delta": delta,
            "epsilon": composed(noise, releases, delta),
        }
        for noise, releases in RELEASES
        for delta in DELTAS
    ]
    document = {"source": f"dp-accounting {version('dp-accounting')}", "single": single, "composed": several}
    target.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
