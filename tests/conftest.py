"""What the whole session shares: with several workers, one seed of the fuzz tests, drawn before they start."""

from __future__ import annotations

import os
import secrets


def pytest_configure() -> None:
    os.environ.setdefault("QUIDNUNC_FUZZ_SEED", str(secrets.randbits(32)))
