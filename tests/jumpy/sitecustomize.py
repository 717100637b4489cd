"""Put on the path of a daemon under test: its wall clock is off by the seconds in the file ``JUMPY_CLOCK`` names."""

from __future__ import annotations

import os
import time
from pathlib import Path

_true = time.time
_offset = Path(os.environ.get("JUMPY_CLOCK", "/nonexistent"))


def _wall() -> float:
    try:
        return _true() + float(_offset.read_text() or 0.0)
    except OSError:
        return _true()


time.time = _wall
