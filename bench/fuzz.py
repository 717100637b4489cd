"""Decoder fuzz: mutated messages against every decoder of crypto/, 10 million in all.

Every accepted input must be written again byte for byte (a policy, which people write, must read back), every refusal
must be the decoder's one exception type; the first input that breaks this ends the run. ``--quick``: 40 seconds.
QUIDNUNC_FUZZ_SEED repeats a run; QUIDNUNC_FUZZ_SECONDS ends it after that time, each decoder having had its share.
"""

from __future__ import annotations

import os
import random
import sys
import time
from pathlib import Path

from common import Row, main

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from fuzzing import SEED, Decoder, decoders, mutate

TOTAL = 10_000_000
QUICK_S = 40.0
SECONDS = float(os.environ.get("QUIDNUNC_FUZZ_SECONDS") or 0)
_BATCH = 500


def measure(quick: bool) -> list[Row]:
    """Inputs, accepted share and speed of each decoder."""
    known = decoders()
    rows: list[Row] = []
    total = 0
    within = SECONDS or (QUICK_S if quick else None)
    share = within / len(known) if within else None
    for decoder in known:
        done, accepted, seconds = _fuzz(decoder, known, share, TOTAL // len(known) + 1)
        total += done
        name = decoder.name
        rows += [
            Row(f"{name}: inputs", done, "inputs"),
            Row(f"{name}: accepted, all canonical", accepted, "inputs", "inputs", done),
            Row(f"{name}: speed with mutation", done / seconds, "inputs/s"),
        ]
    goal = None if quick else TOTAL
    note = f"seed {SEED}; every acceptance canonical, every refusal of one type"
    return [*rows, Row("all decoders: inputs", total, "inputs", at_least=goal, note=note)]


def _fuzz(decoder: Decoder, known: list[Decoder], seconds: float | None, limit: int) -> tuple[int, int, float]:
    """Inputs, accepted ones and seconds; stops at ``limit`` inputs or after ``seconds``."""
    rng = random.Random(f"{SEED} bench {decoder.name}")
    everything = [data for each in known for data in each.golden]
    golden = decoder.golden
    accepted = done = 0
    begun = time.perf_counter()
    while done < limit and (seconds is None or time.perf_counter() - begun < seconds):
        for number in range(min(_BATCH, limit - done)):
            corpus = golden if number % 4 else everything
            accepted += decoder.try_one(mutate(golden[number % len(golden)], corpus, rng))
        done += min(_BATCH, limit - done)
    return done, accepted, time.perf_counter() - begun


if __name__ == "__main__":
    raise SystemExit(main(__doc__, measure))
