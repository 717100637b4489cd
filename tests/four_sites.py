"""Four invented clinics: unequal sizes, skewed labels, missing cells, an unmeasured column, two visits each."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np

SITES = ("north", "east", "south", "west")
ROWS = {"north": 240, "east": 180, "south": 90, "west": 140}

SCHEMA = """\
version = 1
[target]
name = "readmitted"
positive = "= yes"
values = ["no", "yes"]
[columns.patient]
kind = "group"
[columns.age]
kind = "number"
unit = "years"
range = [18, 100]
[columns.pressure]
kind = "number"
unit = "mm Hg"
range = [60, 240]
missing = "indicator"
missing_values = [0]
[columns.sugar]
kind = "number"
unit = "mg/dl"
range = [40, 400]
missing = "median"
median = 110
[columns.sex]
kind = "category"
values = ["F", "M"]
[columns.ward]
kind = "category"
values = [1, 2, 3]
missing = "indicator"
[columns.remark]
kind = "ignore"
[split]
seed = 3
[limits]
rows_min = 30
"""

COLUMNS = ("patient", "age", "pressure", "sugar", "sex", "ward", "remark", "readmitted")
_SICKER = {"north": -0.5, "east": 0.3, "south": 1.8, "west": 0.6}


def rows(site: str, seed: int = 0) -> list[dict[str, str]]:
    """The rows of one site, as a CSV file would have them; the same seed gives the same rows."""
    index = SITES.index(site)
    draw = np.random.Generator(np.random.PCG64([seed, index]))
    found = []
    for number in range(ROWS[site]):
        age, pressure = int(draw.integers(20, 95)), int(draw.integers(90, 200))
        sugar, male = int(draw.integers(70, 300)), bool(draw.random() < 0.6)
        ward = int(draw.integers(1, 4))
        logit = 0.12 * (age - 60) + 0.04 * (pressure - 140) + 0.5 * male + _SICKER[site]
        ill = bool(draw.random() < 1 / (1 + np.exp(-logit)))
        row = {
            "patient": f"{site[0]}{number // 2:03d}",
            "age": f"{age}.0" if site == "north" else str(age),
            "pressure": "0" if site == "south" else "" if draw.random() < 0.1 else str(pressure),
            "sugar": "" if draw.random() < 0.2 else str(sugar),
            "sex": "M" if male else "F",
            "ward": "" if draw.random() < 0.1 else f"{ward}.0" if site == "north" else str(ward),
            "remark": "see file, page 2" if draw.random() < 0.1 else "",
            "readmitted": "yes" if ill else "no",
        }
        found.append(row)
    return found


def text_of(table: list[dict[str, str]], delimiter: str = ",") -> str:
    """Rows as delimited text with a header."""
    file = io.StringIO()
    writer = csv.DictWriter(file, list(table[0]), delimiter=delimiter, lineterminator="\n")
    writer.writeheader()
    writer.writerows(table)
    return file.getvalue()


def write(directory: Path, seed: int = 0) -> dict[str, Path]:
    """``schema.toml`` and a CSV file per site; the files by site."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "schema.toml").write_text(SCHEMA, "utf-8")
    paths = {site: directory / f"{site}.csv" for site in SITES}
    for site, path in paths.items():
        path.write_text(text_of(rows(site, seed)), "utf-8")
    return paths
