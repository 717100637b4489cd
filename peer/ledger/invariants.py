"""What must hold of every ledger, by the codes that ``ledger verify`` and ``ledger fsck`` report (docs/wire.md)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from quidnunc.peer.ledger.findings import Layer, Problem

INVARIANTS = {
    "I1": "entries are numbered from 0 without a gap",
    "I2": "every entry names the one before it by its hash",
    "I3": "claimed times never go back",
    "I4": "headers and payloads are canonical, of this log and of known form",
    "I5": "payloads, private parts and salts are those committed to",
    "I6": "the database and its stored subtrees are sound",
    "I7": "checkpoints are signed by the log key, over the root of their size",
    "I8": "the newest checkpoint covers the last entry",
    "I9": "nothing follows a retirement, which the root key signed",
    "I10": "every private update was paid for, once and within the cap",
    "I11": "merges weigh one, and read own and accepted updates only",
    "I12": "own updates follow each other, from states this log led to",
    "I13": "accepted updates follow each other",
    "I15": "what is kept beside the entries is there, as it was written",
    "I16": "cosignatures are members', under own checkpoints",
    "I17": "the last entry is the last leaf of the signed tree",
    "I18": "every checkpoint that was signed is kept",
    "I19": "derived columns agree with the headers",
    "I20": "no payload is above its limit",
    "I21": "claimed contributions follow from those of the inputs",
    "I22": "log keys change by the root key only, and every entry is of the epoch that was valid",
}
"""I14, that a rollback leads to an ancestor, has no subject: there are no rollbacks in this version."""


class Verdict(NamedTuple):
    """One invariant: how often it was broken, and the first of these times."""

    code: str
    about: str
    failed: int
    problems: tuple[Problem, ...]


def verdicts(layers: Iterable[Layer]) -> list[Verdict]:
    """The findings of all ``layers`` by invariant, in the order of :data:`INVARIANTS`."""
    found: dict[str, list[Problem]] = {code: [] for code in INVARIANTS}
    for layer in layers:
        for problem in layer.problems:
            found[problem.code].append(problem)
    return [Verdict(code, INVARIANTS[code], len(each), tuple(each)) for code, each in found.items()]
