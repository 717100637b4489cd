"""Which rows train, judge neighbors or test: by hash, so that a row keeps its place when others come or go."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

TRAIN, HOLDOUT, TEST = 0, 1, 2
PARTS = ("train", "holdout", "test")

_LABEL = b"quidnunc/split/v1"
_SCALE = 2.0**-64


def split_rows(keys: Sequence[str], seed: int, holdout: float, test: float) -> NDArray[np.int8]:
    """The part of each row: TRAIN, HOLDOUT or TEST, int8 [n]. Rows with equal keys share their part.

    A key's place is SHA-256(label || seed, 8 bytes big-endian || key) as a number in [0, 1): below ``test`` it tests,
    then ``holdout``.
    """
    prefix = hashlib.sha256(_LABEL + seed.to_bytes(8, "big"))
    parts: dict[str, int] = {}
    for key in keys:
        if key not in parts:
            digest = prefix.copy()
            digest.update(key.encode("utf-8", "surrogatepass"))
            place = int.from_bytes(digest.digest()[:8], "big") * _SCALE
            parts[key] = TEST if place < test else HOLDOUT if place < test + holdout else TRAIN
    return np.array([parts[key] for key in keys], dtype=np.int8)


def row_keys(columns: Sequence[Iterable[str]]) -> list[str]:
    """A key per row from its own values and how many equal rows stand before it.

    So the order of the file does not matter, and equal rows, which are different people, are spread over the parts.
    """
    seen: Counter[str] = Counter()
    keys = []
    for row in zip(*columns, strict=True):
        content = "\x1f".join(row)
        keys.append(f"{content}\x1f{seen[content]}")
        seen[content] += 1
    return keys
