"""Freeze what jax_privacy says of one-run audits, for tests/test_privacy_audit_bound.py.

Run with jax_privacy's ``auditing.py`` (Google DeepMind; commit 8967688c26d4 was used) on the path, which needs
dp-accounting and scipy only: ``PYTHONPATH=DIR python tools/make_one_run_vectors.py tests/vectors/one_run.json``.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import auditing

CASES = (
    (300, 290, 290, 1e-5),
    (300, 290, 271, 1e-5),
    (300, 75, 70, 1e-5),
    (300, 37, 37, 1e-5),
    (300, 150, 108, 1e-5),
    (1000, 250, 229, 1e-5),
    (1000, 1000, 640, 1e-3),
    (64, 16, 9, 1e-5),
)
LEVEL = 0.05


def main() -> None:
    """Write the vectors to the file named."""
    rows = []
    for canaries, guesses, right, delta in CASES:
        # One-sided guesses at a threshold: those above it are guessed to be in.
        wrong = guesses - right
        outside = max(wrong, (canaries - right) // 2)
        inside = [1.0] * right + [0.0] * (canaries - outside - right)
        auditor = auditing.CanaryScoreAuditor(inside, [1.0] * wrong + [0.0] * (outside - wrong))
        at = auditing.Explicit(0.5)
        rows.append(
            {
                "canaries": canaries,
                "guesses": guesses,
                "right": right,
                "delta": delta,
                "any": float(auditor.epsilon_one_run(LEVEL, delta, threshold_strategy=at)),
                "gaussian": float(auditor.epsilon_one_run_fdp(LEVEL, delta, threshold_strategy=at)),
            }
        )
    Path(sys.argv[1]).write_text(json.dumps({"level": LEVEL, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
