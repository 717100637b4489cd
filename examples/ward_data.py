"""Invented patients for ward.py: ``python examples/ward_data.py SEED ROWS > ward.csv``."""

from __future__ import annotations

import csv
import random
import sys
from math import exp
from typing import TextIO

COLUMNS = ("age", "heart_rate", "systolic", "oxygen", "stay_days", "readmitted")


def write(file: TextIO, seed: int, rows: int) -> None:
    """Write ``rows`` patients; the same ``seed`` gives the same ones. Old, breathless and long-lying ones return."""
    patients = random.Random(seed)
    table = csv.writer(file)
    table.writerow(COLUMNS)
    for _ in range(rows):
        age, heart, systolic = patients.randint(18, 95), patients.gauss(85, 15), patients.gauss(130, 20)
        oxygen, stay = min(100.0, patients.gauss(94, 4)), patients.expovariate(1 / 6)
        risk = 0.12 * (age - 60) + 0.08 * (heart - 85) - 0.5 * (oxygen - 94) + 0.2 * (stay - 6)
        back = patients.random() < 1 / (1 + exp(-risk))
        table.writerow([age, f"{heart:.0f}", f"{systolic:.0f}", f"{oxygen:.1f}", f"{stay:.1f}", int(back)])


if __name__ == "__main__":
    write(sys.stdout, int(sys.argv[1]), int(sys.argv[2]))
