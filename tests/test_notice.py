"""NOTICE names every direct dependency, and nothing else."""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
LOCKED = (ROOT / "requirements.lock").read_text("utf-8")
LINES = dict(re.findall(r"^  (\S+) +(.+)$", (ROOT / "NOTICE").read_text("utf-8"), re.MULTILINE))


def required() -> set[str]:
    wanted = [*PROJECT["build-system"]["requires"], *PROJECT["project"]["dependencies"]]
    for extra in PROJECT["project"]["optional-dependencies"].values():
        wanted += extra
    return {re.split(r"[<>=~!\[; ]", each)[0].lower() for each in wanted}


def test_every_direct_dependency_is_named() -> None:
    assert LINES.keys() == required()


@pytest.mark.parametrize("name", sorted(LINES))
def test_the_licence_is_what_the_package_says(name: str) -> None:
    try:
        found = metadata(name)
    except PackageNotFoundError:
        if f"\n{name}==" in LOCKED:
            raise
        pytest.skip(f"the extra [{name}] is not installed, and not in the lock")
    said = found.get("License-Expression") or found.get("License") or ""
    # torch's wheels for other hardware bundle other parts.
    assert LINES[name].split(" AND ")[0] in said
