"""A document with a transcript of several machines is its own test: it is played, and what is shown is compared.

In fenced blocks, ``A$ quidnunc ...`` is a command on machine A, followed by what its terminal showed, and
``by hand: B path -> A path`` is a file carried from one machine to another. What differs from one time to the next
(hashes, fingerprints, times, homes; in what a running peer says, every number) is not compared.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass, replace
from pathlib import Path

_COMMAND = re.compile(r"(?P<machine>[A-Z])\$ quidnunc (?P<words>.*)")
_CARRIED = re.compile(r"by hand: (?P<source>[A-Z]) (?P<path>\S+) +-> +(?P<target>[A-Z]) (?P<name>\S+)")
_MASKS = (
    (re.compile(r"\b[0-9a-f]{4}( [0-9a-f]{4}){7}\b"), "FINGERPRINT"),
    (re.compile(r"\b12D3Koo\w+"), "PEERID"),
    (re.compile(r"\b[0-9a-f]{16,64}\b"), "HASH"),
    (re.compile(r"\b\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d[.,]\d{3}Z?"), "TIME"),
    (re.compile(r"(?<=\s)/\S*(?=/\.local/share/quidnunc)"), "HOME"),
)
_MEMBER = re.compile(r"(un)?signed .* FINGERPRINT \d+ neighbors")
_NUMBER = re.compile(r"\d+(\.\d+)?( [kM]?B)?")
_LIVE = ("status", "peers", "ledger", "budget")


@dataclass(frozen=True)
class Command:
    """One command on one machine, and what its terminal showed."""

    machine: str
    words: tuple[str, ...]
    shown: str

    def masked(self, shown: str) -> str:
        """``shown`` without what differs from one time to the next."""
        for pattern, name in _MASKS:
            shown = pattern.sub(name, shown)
        if self.words[0] in _LIVE:
            shown = _NUMBER.sub("N", shown)
            for unseen in (", the last N entries not yet", ", the last one not yet"):
                shown = shown.replace(unseen, "")
        lines = [" ".join(line.split()) for line in shown.strip().splitlines()]
        lines = [line for line in lines if not line.startswith("was ")]  # what has passed, as long as it is remembered
        # Members stand in the order of their log ids, which are drawn anew each time.
        at = [number for number, line in enumerate(lines) if _MEMBER.fullmatch(line)]
        for number, line in zip(at, sorted(lines[number] for number in at), strict=True):
            lines[number] = line
        return "\n".join(lines)


@dataclass(frozen=True)
class Carried:
    """One file that goes by hand from one machine to another."""

    source: str
    path: str
    target: str
    name: str


Step = Command | Carried


def steps(document: Path) -> list[Step]:
    """The steps of a document, in order."""
    found: list[Step] = []
    for block in document.read_text("utf-8").split("```")[1::2]:
        for line in block.splitlines()[1:]:
            if command := _COMMAND.fullmatch(line):
                found.append(Command(command["machine"], tuple(shlex.split(command["words"])), ""))
            elif carried := _CARRIED.fullmatch(line):
                found.append(Carried(carried["source"], carried["path"], carried["target"], carried["name"]))
            elif found and isinstance(found[-1], Command):
                found[-1] = replace(found[-1], shown=f"{found[-1].shown}{line}\n")
    return found
