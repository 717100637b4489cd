"""docs/wire.md as data: its tables by heading, its hex blocks by name."""

from __future__ import annotations

import re
from pathlib import Path

WIRE = Path(__file__).resolve().parent.parent / "docs" / "wire.md"

_HEX_LINE = re.compile(r"    (?P<name>\S.*?)? +(?P<hex>[0-9a-f]{2,})")


def sections() -> dict[str, str]:
    """The text under every heading, of whatever level, up to the next one."""
    found: dict[str, str] = {}
    heading = ""
    for line in WIRE.read_text("utf-8").splitlines():
        if line.startswith("#"):
            heading = line.lstrip("#").strip()
            assert heading not in found, f"two sections are called {heading!r}"
            found[heading] = ""
        elif heading:
            found[heading] += line + "\n"
    return found


def section(start: str) -> str:
    """The text of the one section whose heading starts with ``start``."""
    texts = [text for heading, text in sections().items() if heading.startswith(start)]
    assert len(texts) == 1, f"{len(texts)} sections start with {start!r}"
    return texts[0]


def table(start: str) -> list[dict[str, str]]:
    """The rows of the first table in that section, by column; backticks are dropped."""
    lines = section(start).splitlines()
    first = next(i for i, line in enumerate(lines) if line.startswith("|"))
    rows = []
    for line in lines[first:]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip().replace("`", "") for cell in line.strip("|").split("|")])
    head, _, *body = rows
    assert all(len(row) == len(head) for row in body), f"table of {start!r} is ragged"
    return [dict(zip(head, row, strict=True)) for row in body]


def blocks(start: str) -> dict[str, bytes]:
    """The named hex values of that section; a value may go on over several lines."""
    found: dict[str, str] = {}
    name = ""
    for line in section(start).splitlines():
        match = _HEX_LINE.fullmatch(line)
        if match is None:
            continue
        if match["name"]:
            name = match["name"]
            assert name not in found, f"two values are called {name!r}"
            found[name] = ""
        found[name] += match["hex"]
    return {name: bytes.fromhex(digits) for name, digits in found.items()}
