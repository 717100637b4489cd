"""What was checked of a ledger, and what is wrong with it: problems by layer, never a bare "OK"."""

from __future__ import annotations

from dataclasses import dataclass, field

PROBLEMS_MAX = 100
"""Problems kept per layer; the others are counted."""

LAYERS = ("database", "chain", "canonical", "payloads", "merkle", "own signatures", "side tables")


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong. ``seq`` is the entry, or the size of the checkpoint, or -1."""

    code: str
    seq: int
    why: str

    @property
    def place(self) -> str:
        """``entry SEQ``, or the database as a whole."""
        return f"entry {self.seq}" if self.seq >= 0 else "the database"


@dataclass(slots=True)
class Layer:
    """One kind of check: how many things were checked, what is wrong with them, and a word (``note``) on them."""

    name: str
    checked: int = 0
    failed: int = 0
    problems: list[Problem] = field(default_factory=list)
    note: str = ""

    @property
    def ok(self) -> bool:
        return self.failed == 0

    def report(self, code: str, seq: int, why: str) -> None:
        """Note a problem; the list stops growing at PROBLEMS_MAX."""
        self.failed += 1
        if len(self.problems) < PROBLEMS_MAX:
            self.problems.append(Problem(code, seq, why))


@dataclass(frozen=True, slots=True)
class Report:
    """The outcome for one ledger: layers in the order of LAYERS, and size and Merkle root as recomputed."""

    log_id: bytes
    size: int
    root: bytes
    checkpoints: int
    layers: tuple[Layer, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing at all is wrong."""
        return all(layer.ok for layer in self.layers)

    def layer(self, name: str) -> Layer:
        """The layer called ``name``, one of LAYERS."""
        return self.layers[LAYERS.index(name)]
