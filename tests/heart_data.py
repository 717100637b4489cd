"""Where the four hospitals' files lie: test inputs that are no part of the project."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ROWS = {"cleveland": 303, "hungarian": 294, "switzerland": 123, "va": 200}


def heart(hospital: str) -> Path:
    """The CSV file of a hospital; skips the test where there is none."""
    base = Path(os.environ.get("QUIDNUNC_TEST_DATA", ROOT.parent / "shared" / "data"))
    path = base / "heart" / f"{hospital}.csv"
    if not path.exists():
        pytest.skip(f"{path} is not there (QUIDNUNC_TEST_DATA)")
    return path
